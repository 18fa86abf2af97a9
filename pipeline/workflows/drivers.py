"""Which driver a run gets: Ray, or a process or a few beside the job where the work is done before Ray would be up."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pipeline.counting import plural
from pipeline.dataset.sources.items import SourceItem
from pipeline.engine.driver import INLINE, Driver, has_card, local_cpus
from pipeline.engine.inline import DoesNotStart, InlineDriver
from pipeline.engine.packing import estimated_seconds
from pipeline.engine.ray_driver import RayDriver
from pipeline.engine.resources import Workload
from pipeline.engine.worker_process import end_ahead
from pipeline.workflows.job import Found, Job
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.stages import DECODE_WORKER, SINK, stage_weights

RAY_START_S = 11.0
"""What Ray, its actors and their imports take longer to be up than one process, and to end: `benchmarks/small.py`."""

PROCESS_WORK_S = 6.0
"""A process takes three to four seconds of a core to start: another one is for this much work, at least."""

SMALL_S = 60.0
"""Work that takes longer is for Ray, on few cores too: there a stage has one process, and memory for one network."""

MOST_PROCESSES = 4
"""Each loads every model; beyond that Ray, which shares them out by stage, is the better one."""

GOLDEN = "pipeline.features.golden:golden_of"
"""Asked of the driver before anything is computed, see `pipeline.workflows.golden_job`."""


@dataclass(frozen=True)
class DriverChoice:
    """Whether Ray is done without, and why, in words that follow "because".

    Args:
        processes: most of them that work side by side without Ray.
    """

    inline: bool
    why: str
    processes: int = 1

    @property
    def place(self) -> str:
        """Where the workers are without Ray, in words."""
        return "one process" if self.processes == 1 else f"{self.processes} processes"


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
    core_s = Workload(audio_s, len(items)).core_seconds(sum(weights.values()))
    choice = DriverChoice(True, "", processes_for(core_s, len(items), cores))
    alone, together = core_s / choice.processes, RAY_START_S + core_s / max(2.0, cores)
    why = (
        f"{plural(len(items), 'file')}, some {audio_s:.0f} s of audio, would take {choice.place} {alone:.0f} s, "
        f"and Ray, which takes {RAY_START_S:.0f} s to start, {together:.0f} s"
    )
    return replace(choice, inline=alone < min(together, SMALL_S), why=why)


def processes_for(core_s: float, files: int, cores: float) -> int:
    """How many processes work side by side: as many as there are cores and files, and work that they are worth.

    Args:
        core_s: seconds that one core would take.
        cores: that one job may use, a core being what one process uses.
    """
    return max(1, min(MOST_PROCESSES, int(cores), files, math.ceil(core_s / PROCESS_WORK_S)))


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
        self._begin(self._driver, find=choice.inline)

    def find(self) -> Found:
        """The models that the config asks for. Raises `UserError`.

        In the process that was begun early, where there is one and something has to be looked for: it needs torch
        anyway, and this one then does not.
        """
        if isinstance(self._driver, InlineDriver) and self._job.seeks(self._config):
            with suppress(DoesNotStart):  # whatever ended it, it is started again when there is work
                return self._driver.call(*self._find_call())
        return self._job.find(self._config)

    def _find_call(self) -> tuple[Any, ...]:
        return f"{self._job.find.__module__}:{self._job.find.__qualname__}", self._config

    def settle(self, items: Sequence[SourceItem], models: Found) -> Driver:
        """The driver, begun, now that the work is known; ``choice`` says why it is that one."""
        by_work = self._by_work(items, models)
        self.choice = replace(self.choice or by_work, processes=by_work.processes)
        if self._driver is not None and isinstance(self._driver, InlineDriver) != self.choice.inline:
            self._driver.close()
            self._driver = None
        self._driver = self._driver or self._made(self.choice.inline)
        if isinstance(self._driver, InlineDriver):
            self._driver.processes = self.choice.processes
        else:
            end_ahead()
        self._begin(self._driver)
        return self._driver

    def on_cards(self, gpu_shares: Mapping[str, int]) -> None:
        """One process without Ray where it works on a card: it takes the whole of what the job may have of it."""
        if any(gpu_shares.values()) and isinstance(self._driver, InlineDriver):
            self.choice = replace(self.choice, processes=1)
            self._driver.processes = 1

    def _by_work(self, items: Sequence[SourceItem], models: Found) -> DriverChoice:
        usable = self._usable()
        most = self._config.hardware.processes or usable
        return by_work(items, stage_weights(self._config, models), min(usable, most))

    def _usable(self) -> float:
        """Cores that this job may use, a core being what one process uses."""
        return (self._config.ray.num_cpus or local_cpus()) / self._config.perf.threads

    def cut(self) -> str:
        """That there are fewer cores than processes that were asked for, in one line; empty where that is not so."""
        asked, usable = self._config.hardware.processes, max(1, int(self._usable()))
        if not self.choice.inline or asked <= usable:
            return ""
        why = f"so many may this job use of the cores, with perf.threads={self._config.perf.threads}"
        return f"hardware.processes={asked}: {plural(usable, 'process', 'processes')} at most, {why}"

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

    def _begin(self, driver: Driver, find: bool = False) -> None:
        calls = golden_calls(self._config, self._job.unsought())
        driver.begin([self._find_call(), *calls] if find and self._job.seeks(self._config) else calls)


def worker_modules(config: RunConfig, unsought: Found) -> list[str]:
    """What the workers of this config are in, as far as no model has to be found for them."""
    stages = unsought.pipeline(config).stages
    return [worker.partition(":")[0] for worker in (DECODE_WORKER, *(s.worker for s in stages), SINK)]


def golden_calls(config: RunConfig, unsought: Found) -> list[tuple[Any, ...]]:
    """What will be asked of the driver first, see `pipeline.engine.driver.Driver.begin`."""
    extractors, rate = unsought.extractors(config)
    return [(GOLDEN, extractors, rate)] if extractors else []
