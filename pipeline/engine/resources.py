"""How many actors each stage gets, and which share of the cluster each of them reserves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import UserError

# Relative cost of a second of audio on a CPU, measured on two cores with all stages on: it decides how the
# actors of a small machine are split, nothing else.
WEIGHTS = {"decode": 1.0, "features": 3.0, "clap": 4.0, "separation": 8.0, "write": 0.5}
# This share of the CPUs no actor reserves: Ray's own tasks must find a slot or nothing moves.
SPARE = 0.1
# Actors with less of a core than this spend their memory and start-up for nothing.
SMALLEST_CPU_SHARE = 0.1


@dataclass(frozen=True)
class StageResources:
    """What one stage's actor pool reserves.

    Args:
        actors: largest size of the pool; it starts with one and grows on demand.
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
    blocks: int,
    threads: int = 1,
    node_cpus: Sequence[float] = (),
) -> dict[str, StageResources]:
    """Size the pools of ``stages`` for a cluster.

    Every pool starts with one actor, so the sum over one actor per stage must fit; CPU stages oversubscribe
    the cores by up to half, because a pipeline's stages are rarely all busy, and the shares they reserve are
    scaled so that all pools at full size fit with room to spare.

    Args:
        stages: of the graph.
        cluster_cpus, cluster_gpus: of the cluster.
        gpu_shares: stage → the n of 1/n GPU per actor; 0 is the CPU.
        fixed_actors: stage → size of its pool; 0 is automatic.
        blocks: a pool larger than this would idle.
        threads: of each actor; so many cores take one actor.
        node_cpus: of each node, for an actor does not lie across two; empty for one node with all of them.

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
    total = sum(weight for stage, weight in WEIGHTS.items() if stage in stages and stage not in on_gpu)
    actors: dict[str, int] = {}
    for stage in stages:
        automatic = max(1, math.ceil(1.5 * cluster_cpus / threads * WEIGHTS.get(stage, 1.0) / total - 0.25))
        if stage in on_gpu:
            automatic = max(1, int(cluster_gpus))
        actors[stage] = min(fixed_actors.get(stage) or automatic, max(1, blocks))
    needed = sum(actors[s] / n for s, n in on_gpu.items())
    if needed > cluster_gpus:
        raise UserError(
            f"hardware.gpu_shares and hardware.actors need {needed:g} GPUs and the cluster has {cluster_gpus:g}",
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
        f"hardware.actors: {sum(actors.values())} actors ({pools}) on {cpus:g} CPUs, where {fits} fit",
        "they would starve Ray's own tasks and each other",
        remedy,
    )
