"""How busy the cards were in a run, and what they waited for: the ``gpu`` section of ``performance.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.formatting import clock

# Of a process on a card: work in flight on it; none, but the stage prepares some; none, and nothing to prepare.
SPENT = ("device_s", "host_s", "starved_s")


def gpu_section(processes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the notes of the run's processes say of cards; None where none ran on one.

    Returns:
        ``cards``: one per card, the busiest first, as the process that watched it longest saw it, with the
        ``node`` and the ``stages`` on it. ``stages``: `SPENT` seconds of each, summed over its processes.
    """
    cards: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, float]] = {}
    for process in processes:
        seen = process.get("card")
        if not seen:
            continue
        known = cards.get(seen["card"])
        names = sorted({process["stage"], *(known["stages"] if known else ())})
        if known is None or seen["seconds"] > known["seconds"]:
            known = {**seen, "node": process["node"]}
        cards[seen["card"]] = {**known, "stages": names}
    for process in processes:
        if any(name in process for name in SPENT):
            sums = stages.setdefault(process["stage"], {**dict.fromkeys(SPENT, 0.0), "processes": 0})
            sums["processes"] += 1
            for name in SPENT:
                sums[name] += float(process.get(name) or 0.0)
    if not cards and not stages:
        return None
    ranked = sorted(cards.values(), key=lambda card: (-card["busy_share"], card["card"]))
    return {"cards": ranked, "stages": dict(sorted(stages.items()))}


def sentences(gpu: Mapping[str, Any] | None) -> list[str]:
    """The same in words, a sentence per card and per stage; none without a card."""
    if not gpu:
        return []
    said = []
    for number, card in enumerate(gpu["cards"], 1):
        which = "The card" if len(gpu["cards"]) == 1 else f"Card {number}"
        text = f"{which} ({card['name']}) was busy {_share(card['busy_share'])} of {clock(card['seconds'])}"
        if len(card["stages"]) == 1 and len(gpu["stages"]) == 1 and card["stages"][0] in gpu["stages"]:
            text += f"; it waited {_share(_parts(gpu['stages'][card['stages'][0]])[2])} for earlier stages"
        said.append(f"{text}.")
    for name, sums in gpu["stages"].items():
        if not sum(sums[part] for part in SPENT):
            continue
        work, host, starved = map(_share, _parts(sums))
        said.append(
            f"{name} had work on the card {work} of its time, prepared the next {host}, and waited {starved} for "
            "earlier stages."
        )
    return said


def markdown_lines(gpu: Mapping[str, Any] | None) -> list[str]:
    """A section of ``PERFORMANCE_METRICS.md``; nothing without a card."""
    if not gpu:
        return []
    lines = ["", "## How busy the card was", "", " ".join(sentences(gpu))]
    if gpu["cards"]:
        lines += ["", "| card | node | stages | busy | samples | watched, s | most memory, MiB |"]
        lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {c['name']} | {c['node']} | {', '.join(c['stages'])} | {c['busy_share']:.1%} | {c['samples']} | "
            f"{c['seconds']:.1f} | {c['memory_bytes'] / 2**20:.0f} of {c['memory_total_bytes'] / 2**20:.0f} |"
            for c in gpu["cards"]
        ]
    if gpu["stages"]:
        lines += ["", "| stage | processes | on the card, s | preparing, s | waiting for earlier stages, s |"]
        lines += ["| --- | ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {name} | {s['processes']} | {s['device_s']:.1f} | {s['host_s']:.1f} | {s['starved_s']:.1f} |"
            for name, s in gpu["stages"].items()
        ]
    lines += ["", "Busy is the share of time in which any kernel ran, as the card's driver says."]
    return lines


def _parts(sums: Mapping[str, float]) -> list[float]:
    total = sum(sums[part] for part in SPENT)
    return [sums[part] / total if total else 0.0 for part in SPENT]


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"
