"""``hardware=auto``: which stages share the cards, as exact fractions, from what each of them needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.engine.resources import WEIGHTS
from pipeline.errors import UserError

GIB = 1 << 30
# Estimates, not measurements: no figure of a real card went into them. Each is weights, activations of the
# stage's usual batch (16 clips of HTSAT-base; 8 blocks of Spleeter or a few windows of htdemucs; the spectra of
# a track of ten minutes), and some 0.6 GiB for a CUDA context and its libraries, rounded up generously. What
# `benchmarks/cpu_gpu.py` reports as VRAM peak on your card belongs into hardware.vram_bytes.<stage>.
VRAM_ESTIMATES = {"features": 2 * GIB, "clap": 2 * GIB, "separation": 6 * GIB}
# Who leaves a full card first: the stage that has least to gain.
LEAVES_FIRST = ("features", "clap", "separation")
# One actor computes while the other prepares and hands on; a third would only wait for the same card.
ACTORS_PER_CARD = 2
# Powers of two leave no gaps on a card where each is put where it fits best, as Ray does within a node.
SMALLEST_SHARE = 16
LARGE_CARD = 60 * GIB


@dataclass(frozen=True)
class Sizing:
    """What takes the place of a hardware profile.

    Args:
        gpu_shares: stage → the n of 1/n GPU per actor; 0 is the CPU.
        actors: stage → actors of the pool, for the stages on a GPU; 0 sizes it from the cluster.
        block_audio_seconds, max_files_per_block: what travels together.
        reasons: one line per decision, for the log.
    """

    gpu_shares: dict[str, int]
    actors: dict[str, int]
    block_audio_seconds: float
    max_files_per_block: int
    reasons: tuple[str, ...]


def size_for_cpu(stages: Sequence[str], reason: str) -> Sizing:
    """The CPU profile, because of ``reason``."""
    none = dict.fromkeys((s for s in LEAVES_FIRST if s in stages), 0)
    return Sizing(none, dict(none), 300.0, 32, (f"hardware=auto takes the CPU: {reason}",))


def size_for_cards(
    stages: Sequence[str],
    cards: Sequence[int],
    memory_fraction: float,
    vram_bytes: Mapping[str, int] | None = None,
    fixed_actors: Mapping[str, int] | None = None,
) -> Sizing:
    """Divide ``cards`` among the stages that can use one.

    Each gets the smallest power-of-two share whose part of the budget (``memory_fraction`` of the smallest
    card) holds what an actor needs. Where the cards cannot hold one actor of each, the stage with least to gain
    goes to the CPU. What is left over goes to second actors, then to larger shares, the heaviest stage first.

    Args:
        stages: of the graph.
        cards: bytes of each card in the cluster; at least one.
        memory_fraction: of a card that all processes on it may use together, 0..1.
        vram_bytes: stage → bytes that one actor needs, instead of `VRAM_ESTIMATES`; 0 takes the estimate.
        fixed_actors: stage → number of actors that the user has fixed; 0 is automatic.

    Raises:
        UserError: the actors that the user has fixed do not fit the cards.
    """
    budget, fixed = int(memory_fraction * min(cards)), dict(fixed_actors or {})
    needs = {s: (vram_bytes or {}).get(s) or VRAM_ESTIMATES[s] for s in LEAVES_FIRST if s in stages}
    reasons: list[str] = []
    shares: dict[str, int] = {}
    for stage, need in needs.items():
        if need > budget:
            reasons.append(
                f"{stage} runs on the CPU: it needs {need / GIB:.1f} GiB of a card whose budget is "
                f"{budget / GIB:.1f} GiB (hardware.vram_bytes.{stage}, hardware.gpu_memory_fraction)"
            )
        else:
            shares[stage] = _largest_power_of_two(min(budget // need, SMALLEST_SHARE))
    actors = {stage: fixed.get(stage) or 1 for stage in shares}
    for stage in LEAVES_FIRST:
        if _used(shares, actors) <= len(cards) or stage not in shares:
            continue
        if fixed.get(stage):
            raise UserError(
                f"hardware.actors.{stage}={fixed[stage]} actors of 1/{shares[stage]} GPU and the other stages need "
                f"{_used(shares, actors):g} GPUs, the cluster has {len(cards)}: lower hardware.actors.{stage}, or "
                f"hardware.vram_bytes.{stage} if it needs less than {needs[stage] / GIB:.1f} GiB"
            )
        reasons.append(f"{stage} runs on the CPU: the other stages fill the {len(cards)} GPU(s)")
        del shares[stage], actors[stage]
    _fill(shares, actors, fixed, len(cards))
    for stage, n in shares.items():
        source = "hardware.vram_bytes" if (vram_bytes or {}).get(stage) else "an estimate"
        reasons.append(
            f"{stage}: {actors[stage]} actor(s) of 1/{n} GPU, {budget / n / GIB:.1f} GiB each; "
            f"it needs {needs[stage] / GIB:.1f} GiB ({source})"
        )
    if not shares:
        return Sizing(dict.fromkeys(needs, 0), dict.fromkeys(needs, 0), 300.0, 32, tuple(reasons))
    seconds, files = (1800.0, 128) if min(cards) >= LARGE_CARD else (600.0, 64)
    everyone = dict.fromkeys(needs, 0)
    return Sizing(everyone | shares, everyone | actors, seconds, files, tuple(reasons))


def _largest_power_of_two(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _used(shares: Mapping[str, int], actors: Mapping[str, int]) -> float:
    return sum(actors[stage] / n for stage, n in shares.items())


def _fill(shares: dict[str, int], actors: dict[str, int], fixed: Mapping[str, int], cards: int) -> None:
    """Use what is left of the cards, in place: more actors, then larger shares."""
    heaviest_first = sorted(shares, key=lambda s: -WEIGHTS[s])
    grew = True
    while grew:
        grew = False
        for stage in heaviest_first:
            room = not fixed.get(stage) and actors[stage] < ACTORS_PER_CARD * cards
            if room and _used(shares, actors) + 1 / shares[stage] <= cards:
                actors[stage] += 1
                grew = True
    grew = True
    while grew:
        grew = False
        for stage in heaviest_first:
            # Halving n doubles what the stage's actors take.
            if shares[stage] > 1 and _used(shares, actors) + actors[stage] / shares[stage] <= cards:
                shares[stage] //= 2
                grew = True
