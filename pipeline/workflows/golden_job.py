"""Golden vectors of an output: does this machine compute what its tables hold? Asked before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.errors import Fallback, UserError
from pipeline.features.base import Extractor
from pipeline.features.golden import Golden, compare, golden_of, told_versions
from pipeline.workflows.job import Found
from pipeline.workflows.run_config import RunConfig

PATH = "golden.json"
"""Extractor key → ``extractor`` and ``vectors``, a list of ``values``, ``versions`` and ``run_id``: one, and one more
each time that others were accepted."""


def settle_golden(
    config: RunConfig,
    models: Found,
    output: Output,
    folder: RunFolder,
    compute: Callable[[list[Extractor], int], Golden] = golden_of,
) -> Golden | None:
    """Compare this machine's vectors with those of the output, and add those that are new. Holds the output's lock.

    What is accepted goes into ``models.fallbacks``, and so into every row.

    Args:
        compute: `golden_of`, or what asks another process for it.

    Returns:
        what the actors' own vectors are compared with; None without extractors.

    Raises:
        UserError: they differ, and ``output.accept_other_numbers`` is false.
    """
    enabled, rate = models.extractors(config)
    extractors = {e.name: e for e in enabled}
    if not extractors:
        return None
    mine = compute(list(extractors.values()), rate)
    stored = {} if config.output.overwrite else _read(output)
    changed = False
    for name, extractor in extractors.items():
        entry = stored.setdefault(extractor.key(rate), {"extractor": name, "vectors": []})
        apart = _differences(name, mine, entry["vectors"])
        if apart is None:
            continue
        if apart:
            _accept_or_refuse(config, models, folder, apart)
        entry["vectors"].append(
            {"values": mine.values[name], "versions": dict(mine.versions), "run_id": folder.run_id}
        )
        changed = True
    if changed:
        output.write(PATH, (json.dumps(stored, indent=1, allow_nan=False) + "\n").encode())
    return mine


def _differences(name: str, mine: Golden, vectors: list[dict[str, Any]]) -> str | None:
    """How this machine's values of an extractor differ from the newest ones; None where they are known already,
    empty where there are none yet."""
    told = ""
    for vector in reversed(vectors):
        lines = compare({name: vector["values"]}, {name: mine.values[name]})
        if not lines:
            return None
        told = told or f"features.{lines[0]}; {told_versions(vector['versions'], mine.versions)}"
    return told


def _accept_or_refuse(config: RunConfig, models: Found, folder: RunFolder, apart: str) -> None:
    if not config.output.accept_other_numbers:
        raise UserError(
            f"this machine computes other numbers than those in {config.output.uri} ({apart}): install the versions "
            "from there, or type another output.uri, or output.accept_other_numbers=true to have both in one table"
        )
    models.fallbacks.append(Fallback("features", "the numbers of earlier runs", "other numbers", apart))
    folder.log("fallback", f"other numbers than those of earlier runs are accepted: {apart}", level="warning")


def _read(output: Output) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(output.read(PATH))
        for entry in found.values():
            for vector in entry["vectors"]:
                [float(number) for number in vector["values"]]
                dict(vector["versions"])
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{output.uri}/{PATH} is not what a run wrote: put it back, or remove it to do without its check"
        ) from None
    return found
