"""What a run means to tidy up at its end, on record before it begins: should it be killed, the next one does it.

While rows are written, the rows, arrays and artifacts of a content that other files may have stay where they are, though
the file that they lie with has another content now. Only at the end it is known who has it, see `aftercare`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.workflows.resume import WorkPlan

PATH = "unsettled.json"
"""Below a run's folder."""


@dataclass
class Unsettled:
    """Parts that may hold rows of contents which none of their files has, and the contents."""

    parts: set[str] = field(default_factory=set)
    assets: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def add(self, work: WorkPlan) -> None:
        """What of ``work`` may leave something behind."""
        left = [f for f in work.files if f.elsewhere and f.part is not None]
        self.parts |= {f.part for f in left if f.part is not None}
        self.assets |= {f.known_asset for f in left if f.known_asset is not None}

    def add_of(self, output: Output, run_id: str) -> None:
        """What a run that was killed left."""
        try:
            found = json.loads(output.read(f"runs/{run_id}/{PATH}"))
            self.parts |= set(found["parts"])
            self.assets |= set(found["assets"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return

    def record(self, folder: RunFolder) -> None:
        """Write it down, where there is something."""
        if self:
            folder.write_json(PATH, {"parts": sorted(self.parts), "assets": sorted(self.assets)})
