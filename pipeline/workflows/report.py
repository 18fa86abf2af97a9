"""The report of an output once more: for old outputs, and with what other runs added since."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.storage import explain, is_local
from pipeline.dataset.verify.runs import run_ids
from pipeline.errors import UserError
from pipeline.report.html import render


def run(output: Output) -> str:
    """Write ``report.html`` into the folder of the newest run that measured something; return its location.

    Raises:
        UserError: there are no tables, or no run here got so far.
    """
    if is_local(output.uri) and not Path(output.uri).is_dir():
        raise UserError(f"output.uri={output.uri} does not exist: type the output.uri of a run")
    try:
        if not output.parts("tracks"):
            raise UserError(f"output.uri={output.uri} holds no tables: type the output.uri of a run")
        for run_id in reversed(run_ids(output)):
            performance = _read(output, f"runs/{run_id}/performance.json")
            if isinstance(performance.get("stages"), dict):
                performance["run_id"] = run_id
                page = render(output, performance, _read(output, f"runs/{run_id}/environment.json"))
                output.write(f"runs/{run_id}/report.html", page.encode())
                return f"{output.uri}/runs/{run_id}/report.html"
    except UserError:
        raise
    except OSError as error:
        raise explain(f"output.uri={output.uri}", error) from None
    raise UserError(
        f"no run below {output.uri}/runs has a performance.json: run the main job, which finishes what is left"
    )


def _read(output: Output, name: str) -> dict[str, Any]:
    """A JSON object; empty where there is none."""
    try:
        found = json.loads(output.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
