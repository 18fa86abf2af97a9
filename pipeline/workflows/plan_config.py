"""``plan.*``: how closely a dry run looks before it says what the run would take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.errors import UserError


@dataclass
class PlanConfig:
    """The dry run.

    Args:
        sample: files that the real stages are run on; 0 reads headers only, and estimates no time.
        headers: of more files than this the headers of a sample are read.
        max_minutes: most audio in the sample, never more than a quarter of all; no file longer than half of it.
        stage_seconds: after so much work on the sample a stage begins no further block.
        seed: of the choice of files: the same gives the same sample.
    """

    sample: int = 24
    headers: int = 500
    max_minutes: float = 10.0
    stage_seconds: float = 60.0
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if self.sample < 0:
            raise UserError(f"plan.sample={self.sample} must be 0 (headers only) or a number of files")
        if self.headers < 1:
            raise UserError(f"plan.headers={self.headers} must be at least 1")
        for name in ("max_minutes", "stage_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"plan.{name}={value:g} must be greater than 0")
