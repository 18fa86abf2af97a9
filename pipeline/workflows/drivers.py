"""Which driver a run gets: Ray, or one process beside the job where the work is done before Ray would be up."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.counting import plural
from pipeline.dataset.sources.items import SourceItem
from pipeline.engine.driver import INLINE, Driver, has_card, local_cpus
from pipeline.engine.inline import InlineDriver
from pipeline.engine.packing import estimated_seconds
from pipeline.engine.ray_driver import RayDriver
from pipeline.engine.resources import CORE_SECONDS
from pipeline.workflows.job import Found, Job
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.stages import DECODE_WORKER, SINK, stage_weights

RAY_START_S = 10.0
"""What Ray, its actors and their imports take longer to be up than one process, and to end: `benchmarks/small.py`."""

PER_FILE_S = 0.05
"""Of one core, whatever is in the file: rows, parts, a process's turn."""

GOLDEN = "pipeline.features.golden:golden_of"
"""Asked of the driver before anything is computed, see `pipeline.workflows.golden_job`."""


@dataclass(frozen=True)
class DriverChoice:
    """Whether Ray is done without, and why, in words that follow "because"."""

    inline: bool
    why: str


def by_config(config: RunConfig) -> DriverChoice | None:
    """What the config alone decides; None where the work does."""
    address = config.ray.address
    if address == INLINE:
        return DriverChoice(True, f"ray.address={INLINE}")
    if address:
        return DriverChoice(False, f"ray.address={address}")
    shares = [f"hardware.gpu_shares.{stage}={n}" for stage, n in config.hardware.gpu_shares.items() if n]
    if shares:
        return DriverChoice(False, f"{shares[0]} asks for a GPU")
    if config.hardware.name == "auto" and has_card():
        return DriverChoice(False, "hardware=auto, and this machine has a card")
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return DriverChoice(False, "this process has a Ray already")
    return None


def by_work(items: Sequence[SourceItem], weights: Mapping[str, float], cores: float) -> DriverChoice:
    """What the work decides: which of the two is done first.

    Args:
        items: something is to be computed of these.
        weights: stage → cost, as `pipeline.workflows.stages.stage_weights`.
        cores: that Ray would have on this machine. Of one alone it would never be the quicker one; but where files come
            from afar it waits for several at once, and so it counts as two.
    """
    audio_s = sum(map(estimated_seconds, items))
    alone = audio_s * sum(weights.values()) * CORE_SECONDS + PER_FILE_S * len(items)
    together = RAY_START_S + alone / max(2.0, cores)
    work = f"{plural(len(items), 'file')}, some {audio_s:.0f} s of audio"
    why = f"{work}, would take one process {alone:.0f} s, and Ray, which takes {RAY_START_S:.0f} s to start, "
    return DriverChoice(alone < together, f"{why}{together:.0f} s")


class Drivers:
    """The driver of a run, begun as soon as it is clear that there will be one, and chosen when the work is known.

    Args:
        config: checked.
    """

    def __init__(self, config: RunConfig, job: Job) -> None:
        self._config, self._job = config, job
        self._driver: Driver | None = None
        self.choice = by_config(config)

    def begin_early(self, items: Sequence[SourceItem]) -> None:
        """Begin with the driver that it will most likely be, while models are still looked for.

        Networks that are not found yet only add to the work: one process may be begun for nothing, Ray is not.
        """
        choice = self.choice or self._by_work(items, self._job.unsought())
        self._driver = self._driver or self._made(choice.inline)
        self._begin(self._driver)

    def settle(self, items: Sequence[SourceItem], models: Found) -> Driver:
        """The driver, begun, now that the work is known; ``choice`` says why it is that one."""
        self.choice = self.choice or self._by_work(items, models)
        if self._driver is not None and isinstance(self._driver, InlineDriver) != self.choice.inline:
            self._driver.close()
            self._driver = None
        self._driver = self._driver or self._made(self.choice.inline)
        self._begin(self._driver)
        return self._driver

    def _by_work(self, items: Sequence[SourceItem], models: Found) -> DriverChoice:
        cores = self._config.ray.num_cpus or local_cpus()
        return by_work(items, stage_weights(self._config, models), cores / self._config.perf.threads)

    def close(self) -> None:
        """End what was begun."""
        if self._driver is not None:
            self._driver.close()

    def _made(self, inline: bool) -> Driver:
        config = self._config
        if inline:
            wants_cards = config.hardware.name == "auto" or any(config.hardware.gpu_shares.values())
            modules = worker_modules(config, self._job.unsought())
            return InlineDriver(config.ray.num_cpus, config.perf.threads, modules, wants_cards)
        arguments = {
            "address": config.ray.address or None,
            "num_cpus": config.ray.num_cpus,
            "object_store_memory": config.ray.object_store_memory,
            "threads": config.perf.threads,
        }
        return RayDriver(arguments, ask_cards=config.hardware.name == "auto")

    def _begin(self, driver: Driver) -> None:
        driver.begin(golden_calls(self._config, self._job.unsought()))


def worker_modules(config: RunConfig, unsought: Found) -> list[str]:
    """What the workers of this config are in, as far as no model has to be found for them."""
    stages = unsought.pipeline(config).stages
    return [worker.partition(":")[0] for worker in (DECODE_WORKER, *(s.worker for s in stages), SINK)]


def golden_calls(config: RunConfig, unsought: Found) -> list[tuple[Any, ...]]:
    """What will be asked of the driver first, see `pipeline.engine.driver.Driver.begin`."""
    extractors, rate = unsought.extractors(config)
    return [(GOLDEN, extractors, rate)] if extractors else []
