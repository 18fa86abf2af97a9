"""From what a sample took to what the run will take: seconds per stage, wall time, and how far to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.dataset.sources.sampling import CONFIDENCE, RESAMPLES, Range
from pipeline.engine.resources import StageResources

# `benchmarks/overhead.py`: wall time of the Ray pipeline over that of the same stages in a process pool.
RAY_OVERHEAD = 1.15
# Ray Data plans and starts its operators, see `benchmarks/plan.py`.
FIRST_BLOCK_S = 3.0
# Of Ray's own tasks per block, in the driver, whatever the block holds.
PER_BLOCK_S = 0.025
# What the model leaves out: other load on the machine, caches that several processes share, an unlucky last block,
# stages that overlap better or worse than they are taken to. The range is made wider by it.
UNMODELLED = (0.8, 1.35)


# Of the cores, for whoever competes with others for them.
LEAST_LEFT = 0.25


@dataclass(frozen=True)
class StageSample:
    """What one stage took on a sample.

    Args:
        files: seconds of audio of each file, and the seconds that it took the stage.
        cpu_ratio: CPU seconds per second of the stage.
        startup_s, startup_cpu_s: of one actor.
        on_gpu: whether it runs on a card.
        skipped: share of the work that the result cache saves, 0..1.
        rated_on: the card whose published rates ``files`` come from; empty where they were measured.
    """

    files: tuple[tuple[float, float], ...]
    cpu_ratio: float = 1.0
    startup_s: float = 0.0
    startup_cpu_s: float = 0.0
    on_gpu: bool = False
    skipped: float = 0.0
    rated_on: str = ""


@dataclass(frozen=True)
class Load:
    """What is to be done.

    Args:
        files: number of them that can be decoded.
        audio_s: in all of them.
        longest_s: of the longest.
        blocks: they are packed into.
        largest_block_s: audio in the block that has most of it.
    """

    files: float
    audio_s: Range
    longest_s: float
    blocks: int
    largest_block_s: float = 0.0


@dataclass(frozen=True)
class Machine:
    """What the run has.

    Args:
        cpus, gpus: of the cluster.
        pools: stage → actors and their shares.
        crowding: CPU time of the same work with all cores at work, over that of one alone, see
            `pipeline.engine.cpu_contention`.
        taken: cores that other processes had while the sample ran. They may end before the run, or go on.
    """

    cpus: float
    gpus: float
    pools: Mapping[str, StageResources]
    crowding: float = 1.0
    taken: float = 0.0

    @property
    def left(self) -> Machine:
        """With what the others leave, if they go on."""
        return replace(self, cpus=max(LEAST_LEFT * self.cpus, self.cpus - self.taken), taken=0.0)


@dataclass
class Estimate:
    """What the run will take.

    Args:
        wall_s: from the first block to the last receipt.
        compute_s: stage → seconds in it, summed over files, as `performance.json` counts them.
        alone_s: stage → the same on an idle machine.
        gpus: cards that the pools reserve, 0 without.
        limit: what the wall time is bound by: ``cores``, ``start-up``, ``cards``, or the name of a stage.
    """

    wall_s: Range
    compute_s: dict[str, float] = field(default_factory=dict)
    alone_s: dict[str, float] = field(default_factory=dict)
    gpus: float = 0.0
    limit: str = "cores"


def fit(audio_s: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cost per file and per second of audio, neither negative: weighted least squares along the last axis.

    The weights are those of costs whose spread grows with the audio, so that no long file decides alone.

    Args:
        audio_s, seconds: of each file.
    """
    x, y = np.asarray(audio_s, float), np.asarray(seconds, float)
    mean = x.mean(axis=-1, keepdims=True)
    w = 1.0 / (x + np.where(mean > 0, mean, 1.0))
    sw, sx, sy = w.sum(axis=-1), (w * x).sum(axis=-1), (w * y).sum(axis=-1)
    sxx, sxy = (w * x * x).sum(axis=-1), (w * x * y).sum(axis=-1)
    scale = sw * sxx
    determinant = scale - sx * sx
    usable = determinant > 1e-9 * np.where(scale > 0, scale, 1.0)
    safe = np.where(usable, determinant, 1.0)
    each, per_s = (sxx * sy - sx * sxy) / safe, (sw * sxy - sx * sy) / safe
    ratio = np.where(sx > 0, sy / np.where(sx > 0, sx, 1.0), 0.0)
    flat = sy / sw
    # One of the two alone where the best of both would be negative, or where all files are equally long.
    no_audio = sx <= 0
    only_audio = ~no_audio & (~usable | (each < 0))
    only_files = no_audio | (usable & (per_s < 0) & ~only_audio)
    each = np.where(only_audio, 0.0, np.where(only_files, flat, each))
    per_s = np.where(only_files, 0.0, np.where(only_audio, ratio, per_s))
    return each, per_s


def estimate(stages: Mapping[str, StageSample], load: Load, machine: Machine, seed: int = 0) -> Estimate:
    """The run's cost. Ranges are a bootstrap over the sample's files, made wider by `UNMODELLED`.

    Args:
        stages: in the order of the graph; each with the same files, in the same order.
    """
    rng = np.random.default_rng(seed)
    spread = np.linspace(load.audio_s.low, load.audio_s.high, RESAMPLES)
    expected = {n: _total(s, load.files, np.array([load.audio_s.expected])) for n, s in stages.items()}
    drawn: dict[str, np.ndarray] = {}
    picks: dict[int, np.ndarray] = {}
    audio = rng.permutation(spread)
    for name, stage in stages.items():
        count = len(stage.files)
        if count not in picks and count:
            picks[count] = rng.integers(0, count, (RESAMPLES, count))
        drawn[name] = _total(stage, load.files, audio, picks.get(count))
    walls, limits = _wall(stages, expected, load, machine)
    many, _ = _wall(stages, drawn, load, machine)
    slow, _ = _wall(stages, drawn, load, machine.left)
    low, high = np.quantile(many, (1 - CONFIDENCE) / 2), np.quantile(slow, (1 + CONFIDENCE) / 2)
    wall = float(walls[0])
    alone = {name: float(seconds[0]) for name, seconds in expected.items()}
    found = Range(min(float(low), wall), wall, max(float(high), wall)).times(*UNMODELLED)
    busy = _busy(stages, alone, machine)
    slower = busy * machine.crowding
    compute = {name: s * (1.0 if stages[name].on_gpu else slower) for name, s in alone.items()}
    reserved = sum(r.actors * r.num_gpus for r in machine.pools.values())
    return Estimate(found, compute, alone, float(min(machine.gpus, np.ceil(reserved))), limits[0])


def _total(
    stage: StageSample, files: float, audio: np.ndarray, picks: np.ndarray | None = None
) -> np.ndarray:
    """Seconds of the stage over all files, for each of ``audio``; with ``picks``, from so many resamples."""
    if not stage.files:
        return np.zeros(len(audio))
    x, y = np.array(stage.files, float).T
    each, per_s = fit(x, y) if picks is None else fit(x[picks], y[picks])
    return (each * files + per_s * audio) * (1.0 - stage.skipped)


def _wall(
    stages: Mapping[str, StageSample], seconds: Mapping[str, np.ndarray], load: Load, machine: Machine
) -> tuple[np.ndarray, list[str]]:
    """Wall seconds, and what they are bound by.

    The cores share all CPU work, that of starting the actors included; no stage is faster than its pool, no card
    than the work on it; and the last block goes through all stages while other cores have nothing left to do.
    """
    blocks = max(1, load.blocks)
    cores = max(1.0, min(machine.cpus, blocks * len(stages)))
    pools = machine.pools
    work = sum(s * stages[n].cpu_ratio for n, s in seconds.items())
    booting = sum(pools[n].actors * s.startup_cpu_s for n, s in stages.items())
    booting /= min(machine.cpus, sum(p.actors for p in pools.values()))
    ready = max(booting, *(s.startup_s for s in stages.values()))
    one_block = sum(seconds.values()) / blocks
    share = load.longest_s / load.audio_s.expected if load.audio_s.expected else 0.0
    longest = sum(seconds.values()) * max(share, 1.0 / blocks)
    tail = one_block * (1.0 - 1.0 / cores)
    rays = PER_BLOCK_S * blocks
    bounds = {
        "cores": booting + RAY_OVERHEAD * machine.crowding * work / cores + rays + tail,
        "the longest file": ready + longest,
    }
    for name, s in seconds.items():
        slower = 1.0 if stages[name].on_gpu else machine.crowding
        bounds[name] = ready + slower * s / min(pools[name].actors, blocks) + tail
    on_gpu = [s for n, s in seconds.items() if stages[n].on_gpu]
    if on_gpu and machine.gpus:
        bounds["cards"] = ready + sum(on_gpu) / machine.gpus + tail
    names = list(bounds)
    table = np.stack([np.broadcast_to(bounds[n], np.shape(next(iter(seconds.values())))) for n in names])
    return FIRST_BLOCK_S + table.max(axis=0), [names[i] for i in table.argmax(axis=0)]


def _busy(stages: Mapping[str, StageSample], alone: Mapping[str, float], machine: Machine) -> float:
    """How much longer than alone a stage takes by the clock, because more actors are ready than there are cores.

    The actors of the slowest stage always are. Those of the others are as long as their share of the work lasts:
    of ``r`` ready ones, ``r`` times that share.
    """
    work = {n: alone[n] * s.cpu_ratio for n, s in stages.items() if not s.on_gpu}
    total = sum(work.values())
    if not total or not machine.cpus:
        return 1.0
    slowest = max(work, key=lambda n: work[n] / machine.pools[n].actors)
    ready = machine.pools[slowest].actors * total / work[slowest]
    ready = min(ready, sum(machine.pools[n].actors for n in work))
    return max(1.0, ready / machine.cpus)


def better_actors(
    stages: Mapping[str, StageSample], load: Load, machine: Machine, threads: int, gain: float = 0.1
) -> dict[str, int]:
    """Pool sizes by what was measured, where they would save more than ``gain`` of the wall time; else nothing."""
    now = estimate(stages, load, machine)
    on_cpu = [n for n in stages if not stages[n].on_gpu]
    total = sum(now.alone_s[n] for n in on_cpu)
    if total <= 0 or now.limit not in on_cpu:
        return {}
    wanted = {
        n: max(1, int(np.ceil(1.5 * machine.cpus / threads * now.alone_s[n] / total - 0.25))) for n in on_cpu
    }
    pools = {
        n: StageResources(wanted.get(n, p.actors), p.num_cpus, p.num_gpus) for n, p in machine.pools.items()
    }
    then = estimate(stages, load, replace(machine, pools=pools))
    if then.wall_s.expected > (1 - gain) * now.wall_s.expected:
        return {}
    return {n: c for n, c in wanted.items() if c != machine.pools[n].actors and n != "write"}


def memory_bytes(ready: int, peak: int, sample_block_s: float, block_s: float) -> int:
    """Peak memory of an actor: what it has once it is ready, and the rest by the audio of its largest block."""
    grown = max(0, peak - ready)
    return peak if sample_block_s <= 0 else round(ready + grown * max(1.0, block_s / sample_block_s))


def per_hour(stage: StageSample) -> float | None:
    """Seconds that the stage takes per hour of audio, of files as long as those of the sample."""
    audio = sum(a for a, _ in stage.files)
    return 3600 * sum(s for _, s in stage.files) / audio if audio else None
