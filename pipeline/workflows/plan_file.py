"""``runs/plan.json``: what a dry run said, for the run that follows to be compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.storage import absolute, one_line, public_uri
from pipeline.features.base import stable_key
from pipeline.workflows.config import ExtractConfig

PATH = "runs/plan.json"


def fingerprint(config: ExtractConfig, keys: Mapping[str, str], todo: int) -> str:
    """What a plan and a run must have in common to be compared: what is computed, of which source, and how much.

    Args:
        keys: extractor → key.
        todo: files that something is to be computed of.
    """
    source = config.source
    places = [public_uri(absolute(uri)) if uri else None for uri in (source.uri, source.manifest)]
    about = {"keys": dict(keys), "source": [*places, source.glob, source.limit], "todo": todo}
    return stable_key(about)


def save_plan(output: Output, numbers: Mapping[str, Any]) -> str | None:
    """Write the plan. Returns why it could not be written, or None."""
    text = json.dumps(numbers, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    try:
        output.write(PATH, text.encode())
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def adopt_plan(config: ExtractConfig, keys: Mapping[str, str], todo: int, folder: RunFolder) -> bool:
    """Copy the plan of this very run into its folder, for its report. Returns whether there was one."""
    try:
        text = folder.output.read(PATH).decode()
        found = json.loads(text)
    except (FileNotFoundError, ValueError):
        return False
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        folder.log("plan", f"{PATH} cannot be read ({one_line(error)}): nothing to compare this run with")
        return False
    if not isinstance(found, dict) or found.get("fingerprint") != fingerprint(config, keys, todo):
        return False
    folder.write("plan.json", text)
    folder.log("plan", f"planned on {found.get('date')}: the report will compare", file=PATH)
    return True
