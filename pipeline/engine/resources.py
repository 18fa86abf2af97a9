"""How many actors each stage gets, and which share of the cluster each of them reserves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.counting import plural
from pipeline.errors import UserError

# Relative cost of a second of audio on a CPU, of what every job does; a stage declares its own. It decides how the
# cores are split. Alone, one core decodes at 450 times real time and writes at 1,200; writing has half again for
# waiting for the store.
DECODE_WEIGHT, WRITE_WEIGHT = 1.0, 0.6
# Core seconds per second of audio that a weight of 1 stands for: one core decodes at 450 times real time.
CORE_SECONDS = 1 / 450
PER_FILE_S = 0.05
"""Of one core through all stages, whatever is in the file: rows, parts, a process's turn."""

# An actor takes two to four seconds of a core to start: it is for this much work, at least.
LEAST_WORK_S = 1.0
# This share of the CPUs no actor reserves: Ray's own tasks must find a slot or nothing moves.
SPARE = 0.1
# Actors with less of a core than this spend their memory and start-up for nothing.
SMALLEST_CPU_SHARE = 0.1


@dataclass(frozen=True)
class Workload:
    """What is to be computed, roughly.

    Args:
        audio_s: seconds of audio.
        files: so many of them: of very many tiny ones it is they that take the time.
    """

    audio_s: float
    files: int = 0

    def core_seconds(self, weight: float) -> float:
        """What one core would take for it through stages of this weight in all."""
        return self.audio_s * weight * CORE_SECONDS + PER_FILE_S * self.files


@dataclass(frozen=True)
class StageResources:
    """What one stage's actor pool reserves.

    Args:
        actors: size of the pool.
        num_cpus: per actor; 0 for one on a GPU, which goes where a card is and would find no place beside CPU actors.
        num_gpus: per actor, exactly 1/n, or 0.
    """

    actors: int
    num_cpus: float
    num_gpus: float = 0.0


def plan_resources(
    stages: Sequence[str],
    cluster_cpus: float,
    cluster_gpus: float,
    gpu_shares: Mapping[str, int],
    fixed_actors: Mapping[str, int],
    *,
    blocks: int,
    threads: int = 1,
    node_cpus: Sequence[float] = (),
    work: Workload | None = None,
    weights: Mapping[str, float] | None = None,
) -> dict[str, StageResources]:
    """Size the pools of ``stages`` for a cluster.

    The stages on CPUs share the cores by their weights, and so are done at the same time; each actor on a GPU has a
    core of its own, to prepare what the card is given. No pool is larger than the cores, nor than its work feeds: a
    process that starts for a handful of files only delays the others that start. The shares that actors reserve are
    scaled so that all pools fit with room to spare.

    Args:
        stages: of the graph.
        cluster_cpus, cluster_gpus: of the cluster.
        gpu_shares: stage → the n of 1/n GPU per actor; 0 is the CPU.
        fixed_actors: stage → size of its pool; 0 is automatic.
        blocks: a pool larger than this would idle.
        threads: of each actor; so many cores take one actor.
        node_cpus: of each node, for an actor does not lie across two; empty for one node with all of them.
        work: to be done, roughly; None where it is not known.
        weights: stage → relative cost of a second of audio on a CPU; 1 where nothing is said.

    Raises:
        UserError: a GPU is asked for where there is none, the shares exceed the cards, or so many actors are
            asked for that none would get a useful part of a core.
    """
    wanted = {s: gpu_shares.get(s, 0) for s in stages}
    on_gpu = {s: n for s, n in wanted.items() if n > 0}
    if on_gpu and cluster_gpus < 1:
        raise UserError(
            f"hardware.gpu_shares asks for a GPU ({', '.join(on_gpu)}) and there is none",
            "Ray sees no CUDA device on any node",
            "hardware=cpu, hardware=auto, or ray.address=HOST:PORT of a cluster with GPUs",
        )
    actors = {s: fixed_actors.get(s) or max(1, int(cluster_gpus)) for s in on_gpu}
    cores = max(1.0, cluster_cpus / threads - sum(actors.values()))
    costs = weights or {}
    weigh = {stage: costs.get(stage, 1.0) for stage in stages if stage not in on_gpu}
    total = sum(weigh.values())
    work_s = work.core_seconds(total) if work is not None else math.inf
    for stage, weight in weigh.items():
        part = weight / total
        actors[stage] = fixed_actors.get(stage) or _automatic(stage, part, cores, work_s * part)
    actors = {stage: min(actors[stage], max(1, blocks)) for stage in stages}
    needed = sum(actors[s] / n for s, n in on_gpu.items())
    if needed > cluster_gpus:
        raise UserError(
            f"hardware.gpu_shares and hardware.actors need {plural(needed, 'GPU')} and the cluster has "
            f"{cluster_gpus:g}",
            "actors of a stage × 1/n, summed over the stages, must fit the cards",
            "a larger hardware.gpu_shares.<stage> (the n of 1/n), or a smaller hardware.actors.<stage>",
        )
    share = _largest_share(sum(actors.values()), node_cpus or (cluster_cpus,))
    if share < SMALLEST_CPU_SHARE:
        raise _starving(actors, fixed_actors, cluster_cpus)
    return {
        stage: StageResources(actors[stage], 0.0, 1.0 / on_gpu[stage])
        if stage in on_gpu
        else StageResources(actors[stage], share)
        for stage in stages
    }


def _automatic(stage: str, part: float, cores: float, work_s: float) -> int:
    """Actors of a stage on CPUs that does this part of the work, where the config fixes none.

    All pools together have an eighth more than there are cores, one at least: a stage that waits for another one
    leaves its own idle.
    """
    wanted = math.ceil(max(1.125 * cores, cores + 1) * part - 0.35)
    most = math.ceil(cores / 4 if stage == "write" else cores)
    return max(1, math.ceil(min(wanted, most, work_s / LEAST_WORK_S)))


def _largest_share(actors: int, node_cpus: Sequence[float]) -> float:
    """Hundredths of a CPU, at most one, of which ``actors`` fit on the nodes whole: one that fits nowhere would be
    waited for as long as the job lasts."""
    usable = [(1 - SPARE) * cpus for cpus in node_cpus]
    hundredths = min(100, math.floor(sum(usable) / actors * 100))
    while hundredths > 0 and sum(math.floor(cpus * 100 / hundredths + 1e-9) for cpus in usable) < actors:
        hundredths -= 1
    return hundredths / 100


def _starving(actors: Mapping[str, int], fixed: Mapping[str, int], cpus: float) -> UserError:
    most = max(actors, key=lambda stage: actors[stage])
    pools = ", ".join(f"{stage}×{count}" for stage, count in actors.items())
    fits = int((1 - SPARE) * cpus / SMALLEST_CPU_SHARE)
    # Only a size that the user has fixed gets this far, except on a machine of a fraction of a core.
    remedy = f"hardware.actors.{most}=0, or fewer" if fixed.get(most) else "a larger ray.num_cpus"
    return UserError(
        f"hardware.actors: {plural(sum(actors.values()), 'actor')} ({pools}) on {plural(cpus, 'CPU')}, "
        f"where {fits} fit",
        "they would starve Ray's own tasks and each other",
        remedy,
    )
