"""A stage that hangs in one file, in a module that a child imports."""

from __future__ import annotations

import time
from typing import Any

from pipeline.engine import time_limit
from pipeline.engine.time_limit import TimeLimit, TookTooLong
from pipeline.stages.features.worker import FeaturesWorker


class HangingStage(FeaturesWorker):
    """The descriptors', but that it never comes back from the file ``hangs_at``, and is given little time."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        time_limit.LEAST_S = time_limit.GRACE_S = 0.0
        self.limit = TimeLimit(self.stage, 0.01, every_s=0.05, hung=self.hung)

    def process(self, tracks, clock) -> None:
        for track in tracks:
            try:
                with self.limit.of(track.index, track.duration_s):
                    time.sleep(600 if track.index == self.hangs_at else 0)
            except TookTooLong as error:
                self.fail(track, "loudness", error)
        super().process([track for track in tracks if track.index != self.hangs_at], clock)
