"""``hardware=auto``: which stages share the cards, as exact fractions, and how much each takes in one batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from pipeline.counting import plural
from pipeline.engine.declare import Gpu, Stage
from pipeline.engine.vram import CONTEXT_BYTES, GIB, batch_bytes
from pipeline.errors import UserError

# It holds several blocks in flight and fills its batches from all of them.
ACTORS_PER_CARD = 1
# Powers of two leave no gaps on a card where each is put where it fits best, as Ray does within a node.
SMALLEST_SHARE = 16


@dataclass(frozen=True)
class Sizing:
    """What takes the place of a hardware profile.

    Args:
        gpu_shares: stage → the n of 1/n GPU per actor; 0 is the CPU.
        actors: stage → actors of the pool, for the stages on a GPU; 0 sizes it from the cluster.
        batch_items: stage → clips or windows in one batch, for the stages on a GPU; 0 leaves it to the stage.
        block_audio_seconds, max_files_per_block: what travels together.
        reasons: one line per decision, for the log.
    """

    gpu_shares: dict[str, int]
    actors: dict[str, int]
    batch_items: dict[str, int]
    block_audio_seconds: float
    max_files_per_block: int
    _: KW_ONLY
    reasons: tuple[str, ...]


def size_for_cpu(stages: Sequence[Stage], reason: str) -> Sizing:
    """The CPU profile, because of ``reason``."""
    return _on_the_cpu(stages, (f"hardware=auto takes the CPU: {reason}",))


def _on_the_cpu(stages: Sequence[Stage], reasons: tuple[str, ...]) -> Sizing:
    none = dict.fromkeys(_on_cards(stages), 0)
    return Sizing(none, dict(none), dict(none), 300.0, 32, reasons=reasons)


def _on_cards(stages: Sequence[Stage]) -> dict[str, Stage]:
    """Name → stage, of those that can use a card; that which leaves a full one first comes first."""
    return {s.name: s for s in sorted((s for s in stages if s.gpu is not None), key=lambda s: s.gpu.leaves)}


def size_for_cards(
    stages: Sequence[Stage],
    cards: Sequence[int],
    memory_fraction: float,
    *,
    vram_bytes: Mapping[str, int] | None = None,
    fixed_actors: Mapping[str, int] | None = None,
    fixed_items: Mapping[str, int] | None = None,
) -> Sizing:
    """Divide ``cards`` among the stages that can use one.

    Each gets the smallest power-of-two share whose part of the budget (``memory_fraction`` of the smallest card, and no
    more than the CUDA contexts leave) holds the least batch. Where the cards cannot hold one actor of each, the stage
    with least to gain goes to the CPU. What is left over goes to an actor on every card, then to larger shares, the
    heaviest stage first; batches are as large as the shares then allow.

    Args:
        stages: of the graph.
        cards: bytes of each card in the cluster; at least one.
        memory_fraction: of a card that all processes on it may use together, 0..1.
        vram_bytes: stage → bytes that one actor needs, instead of what was measured, whatever its batch; 0 is none.
        fixed_actors: stage → number of actors that the user has fixed; 0 is automatic.
        fixed_items: stage → clips or windows in a batch that the user has fixed; 0 is automatic.

    Raises:
        UserError: the actors that the user has fixed do not fit the cards.
    """
    told, fixed, items = dict(vram_bytes or {}), dict(fixed_actors or {}), dict(fixed_items or {})
    able = _on_cards(stages)
    needs = {
        name: told.get(name)
        or stage.gpu.needs_bytes
        or batch_bytes(stage.gpu.networks, items.get(name) or stage.gpu.least)
        for name, stage in able.items()
    }
    shares, actors, budget, reasons = _who_stays(needs, cards, memory_fraction, fixed)
    if not shares:
        return _on_the_cpu(stages, tuple(reasons))
    _fill(shares, actors, fixed, {name: stage.weight for name, stage in able.items()}, len(cards))
    batches = {
        s: items.get(s) or (0 if told.get(s) or able[s].gpu.needs_bytes else _batch(able[s].gpu, budget / n))
        for s, n in shares.items()
    }
    for stage, n in shares.items():
        if told.get(stage):
            need = f"it needs {needs[stage] / GIB:.1f} GiB (hardware.vram_bytes)"
        elif able[stage].gpu.needs_bytes:
            need = f"it needs {needs[stage] / GIB:.1f} GiB, as its model's authors say"
        else:
            size = batches[stage]
            gpu = able[stage].gpu
            need = f"{size} {gpu.unit} at a time take {batch_bytes(gpu.networks, size) / GIB:.1f} GiB"
        reasons.append(
            f"{stage}: {plural(actors[stage], 'actor')} of 1/{n} GPU, {budget / n / GIB:.1f} GiB each; {need}"
        )
    everyone = dict.fromkeys(needs, 0)
    return Sizing(everyone | shares, everyone | actors, everyone | batches, 300.0, 64, reasons=tuple(reasons))


def _who_stays(
    needs: Mapping[str, int], cards: Sequence[int], memory_fraction: float, fixed: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int], int, list[str]]:
    """The least shares and actors of the stages that fit, the budget of a card, and why others do not."""
    reasons: list[str] = []
    staying = dict(needs)
    while staying:
        wanted = sum(fixed.get(s) or ACTORS_PER_CARD * len(cards) for s in staying)
        contexts = CONTEXT_BYTES * math.ceil(wanted / len(cards))
        budget = int(min(memory_fraction * min(cards), min(cards) - contexts))
        shares = {
            s: _largest_power_of_two(min(budget // need, SMALLEST_SHARE))
            for s, need in staying.items()
            if need <= budget
        }
        actors = {s: fixed.get(s) or 1 for s in shares}
        too_large = next((s for s in staying if s not in shares), None)
        if too_large is None and _used(shares, actors) <= len(cards):
            return shares, actors, budget, reasons
        leaving = too_large or next(iter(staying))
        need = f"{needs[leaving] / GIB:.1f} GiB"
        if too_large:
            why = (
                f"it needs {need} of a card whose budget is {max(0, budget) / GIB:.1f} GiB "
                f"(hardware.vram_bytes.{leaving}, hardware.gpu_memory_fraction)"
            )
        elif fixed.get(leaving):
            raise UserError(
                f"hardware.actors.{leaving}={fixed[leaving]} of 1/{shares[leaving]} GPU each and the other stages "
                f"need {plural(_used(shares, actors), 'GPU')}, the cluster has {len(cards)}: lower "
                f"hardware.actors.{leaving}, or hardware.vram_bytes.{leaving} if it needs less than {need}"
            )
        else:
            why = f"the other stages fill the {plural(len(cards), 'GPU')}"
        reasons.append(f"{leaving} runs on the CPU: {why}")
        del staying[leaving]
    return {}, {}, 0, reasons


def _batch(gpu: Gpu, room: float) -> int:
    """The largest power of two that fits, see `Gpu`; ``room`` holds the least."""
    items = gpu.least
    while 2 * items <= gpu.most and batch_bytes(gpu.networks, 2 * items) <= room:
        items *= 2
    return items


def _largest_power_of_two(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def _used(shares: Mapping[str, int], actors: Mapping[str, int]) -> float:
    return sum(actors[stage] / n for stage, n in shares.items())


def _fill(
    shares: dict[str, int],
    actors: dict[str, int],
    fixed: Mapping[str, int],
    weights: Mapping[str, float],
    cards: int,
) -> None:
    """Use what is left of the cards, in place: more actors, then larger shares."""
    heaviest_first = sorted(shares, key=lambda s: -weights[s])
    # Else two of a stage would lie on one card, and none of it on another.
    alike = sum(1 / n for n in shares.values()) <= 1
    grew = True
    while grew:
        grew = False
        for stage in heaviest_first:
            room = not fixed.get(stage) and actors[stage] < ACTORS_PER_CARD * cards
            room = room and (alike or shares[stage] == 1)
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
