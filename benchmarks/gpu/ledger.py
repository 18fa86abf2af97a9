"""The results of a measurement as one JSON file that is whole at any moment."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from pathlib import Path
from typing import Any

SCHEMA = "gpu_results_v1"


class Ledger:
    """``results.json``: a header, and rows under (label, step).

    Every change replaces the file by a new one, so whatever ends the process leaves all that came before. A step
    that is measured again under the same label takes the place of its earlier rows; others are kept.

    Args:
        path: of the file; one that is there is continued.
        label: of what is measured, to tell one state of the project from another.

    Raises:
        ValueError: the file is there and holds something else.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label
        self.content: dict[str, Any] = {"schema": SCHEMA, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text())
            if self.content.get("schema") != SCHEMA:
                raise ValueError(f"{path} is not a file of {SCHEMA}")

    def begin(self, step: str) -> None:
        """Forget what an earlier measurement of the step said."""
        rows = self.content["rows"]
        self.content["rows"] = [r for r in rows if (r["label"], r["step"]) != (self.label, step)]

    def add(self, step: str, row: dict[str, Any]) -> dict[str, Any]:
        """Append a row, and save."""
        full = {"label": self.label, "step": step, **row}
        self.content["rows"].append(full)
        self.save()
        return full

    def describe(self, **facts: Any) -> None:
        """Facts of this label for the header: date, revision, machine."""
        self.content.setdefault("about", {}).setdefault(self.label, {}).update(facts)
        self.save()

    def save(self) -> None:
        """Write the whole file beside itself, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".results-", suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(self.content, file, indent=1)
        Path(name).replace(self.path)


def read_results(path: Path) -> dict[str, Any]:
    """A results file.

    Raises:
        ValueError: it is no such file.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a file of {SCHEMA}")
    return content


def today() -> str:
    """The date, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
