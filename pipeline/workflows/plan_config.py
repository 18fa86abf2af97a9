"""``plan.*``: how closely a dry run looks before it says what the run would take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional

from pipeline.errors import UserError
from pipeline.report.money import Prices

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class PlanConfig:
    """The dry run.

    Args:
        sample: files that the real stages are run on; 0 reads headers only, and estimates no time.
        headers: of more files than this the headers of a sample are read.
        max_minutes: most audio in the sample, never more than a quarter of all; no file longer than half of it.
        stage_seconds: after so much work on the sample a stage begins no further block.
        seed: of the choice of files: the same gives the same sample.
        price_cpu_hour, price_gpu_hour: of one core and of one card for an hour, in any currency: the plan then says
            what the run will cost, and the run what it did cost, see `pipeline.report.money`.
    """

    sample: int = 24
    headers: int = 500
    max_minutes: float = 10.0
    stage_seconds: float = 60.0
    seed: int = 0
    price_cpu_hour: Optional[float] = None
    price_gpu_hour: Optional[float] = None

    def prices(self) -> Prices:
        """What an hour costs."""
        return Prices(self.price_cpu_hour, self.price_gpu_hour)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if self.sample < 0:
            raise UserError(
                f"plan.sample={self.sample} must be 0 (headers only) or a number of files",
                do=f"plan.sample={PlanConfig.sample}",
            )
        if self.headers < 1:
            raise UserError(
                f"plan.headers={self.headers} must be at least 1", do=f"plan.headers={PlanConfig.headers}"
            )
        for name in ("max_minutes", "stage_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                default = getattr(PlanConfig, name)
                raise UserError(
                    f"plan.{name}={value:g} must be greater than 0", do=f"plan.{name}={default:g}"
                )
        for name in ("price_cpu_hour", "price_gpu_hour"):
            price = getattr(self, name)
            if price is not None and not (math.isfinite(price) and price >= 0):
                of = "core" if name == "price_cpu_hour" else "card"
                raise UserError(
                    f"plan.{name}={price:g} must be 0 or more",
                    f"it is what one {of} costs for an hour, in any currency",
                    f"plan.{name}=0.04, or plan.{name}=null to reckon without it",
                )
