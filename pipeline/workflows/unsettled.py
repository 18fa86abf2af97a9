"""What a run means to tidy up at its end, on record before it begins: should it be killed, the next one does it.

While rows are written, what belongs to a content that other files may have stays where it is, though the file that it
lies with has another content now. Only at the end it is known who has it, see `pipeline.workflows.aftercare`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.store import Store
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

    def take_over(self, run_ids: Iterable[str], folder: RunFolder) -> None:
        """What earlier runs left, which is this run's to tidy up from here on."""
        output = folder.output
        taken = [run_id for run_id in run_ids if self._add_of(output, run_id)]
        self.record(folder)  # first, lest it be on record nowhere
        for run_id in taken:
            output.discard(f"runs/{run_id}/{PATH}")

    def _add_of(self, output: Store, run_id: str) -> bool:
        try:
            found = json.loads(output.read(f"runs/{run_id}/{PATH}"))
            parts, assets = set(found["parts"]), set(found["assets"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return False
        self.parts |= parts
        self.assets |= assets
        return True

    def record(self, folder: RunFolder) -> None:
        """Write it down, where there is something."""
        if self:
            folder.write_json(PATH, {"parts": sorted(self.parts), "assets": sorted(self.assets)})
