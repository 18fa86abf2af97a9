"""What a run costs: what the job holds, for as long as it holds it, at a price per core-hour and per GPU-hour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.counting import THIN, plural

HOW = (
    "All cores and cards of the cluster are held from the command to its end, start-up included, whether they work or "
    "wait; the cores' price is split among the stages by their busy time, that of the cards among those on a card."
)


@dataclass(frozen=True)
class Prices:
    """Of one hour, in any currency; None where nobody said.

    Args:
        cpu_hour: of one core.
        gpu_hour: of one card.
    """

    cpu_hour: float | None = None
    gpu_hour: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is anything to reckon with."""
        return self.cpu_hour is not None or self.gpu_hour is not None


def cost(
    prices: Prices,
    cpus: float,
    gpus: float,
    command_s: float | Mapping[str, float],
    audio_hours: float | None,
    *,
    stages: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    """What a run costs, for ``performance.json`` and ``plan.json``; None without prices.

    Args:
        prices: whichever is None counts nothing.
        cpus, gpus: of the cluster.
        command_s: from the command to its end, or ``low``, ``expected`` and ``high`` of it.
        audio_hours: hours of audio that it computes.
        stages: name → its ``device`` and ``compute_s``; without the latter it has no part.

    Returns:
        ``total`` (or ``low``, ``expected`` and ``high``), ``per_audio_hour`` (None without audio) and ``stages``,
        name → its part, which sum to the total (to what is expected), and what they were worked out from.
    """
    if not prices.known:
        return None
    ends = dict(command_s) if isinstance(command_s, Mapping) else {"total": command_s}
    by_core, by_card = cpus * (prices.cpu_hour or 0.0), gpus * (prices.gpu_hour or 0.0)
    totals = {name: seconds / 3600 * (by_core + by_card) for name, seconds in ends.items()}
    hours = ends.get("expected", ends.get("total", 0.0)) / 3600
    said = totals.get("expected", totals.get("total", 0.0))
    return {
        **totals,
        "per_audio_hour": said / audio_hours if audio_hours else None,
        "stages": _parts(stages, hours * by_core, hours * by_card),
        "cpus": cpus,
        "gpus": gpus,
        "price_cpu_hour": prices.cpu_hour,
        "price_gpu_hour": prices.gpu_hour,
    }


def _parts(stages: Mapping[str, Mapping[str, Any]], of_cores: float, of_cards: float) -> dict[str, float]:
    busy = {name: s["compute_s"] for name, s in stages.items() if s.get("compute_s")}
    carded = {name: s for name, s in busy.items() if stages[name].get("device") == "cuda"} or busy
    parts = dict.fromkeys(busy, 0.0)
    for money, whose in ((of_cores, busy), (of_cards, carded)):
        total = sum(whose.values())
        for name, seconds in whose.items():
            parts[name] += money * seconds / total
    return parts


def money(value: float | None) -> str:
    """An amount without a currency: ``1 204``, ``12.35``, ``0.043``; ``–`` for None."""
    if value is None or not math.isfinite(value):
        return "–"
    if value >= 999.5:
        return f"{value:,.0f}".replace(",", THIN)
    if value >= 1 or value == 0:
        return f"{value:.2f}"
    return f"{value:.{1 - math.floor(math.log10(value))}f}"


def held(c: Mapping[str, Any]) -> str:
    """What is paid for: ``48 cores at 0.04 an hour and 8 cards at 2.50 an hour``."""
    return " and ".join(
        f"{plural(c[many], one)} {'without a price' if c[price] is None else f'at {money(c[price])} an hour'}"
        for many, one, price in (("cpus", "core", "price_cpu_hour"), ("gpus", "card", "price_gpu_hour"))
        if c[many]
    )


def sentences(c: Mapping[str, Any] | None) -> list[str]:
    """What a run did cost, for people; nothing without prices."""
    if not c:
        return []
    hour = f", {money(c['per_audio_hour'])} per hour of audio" if c["per_audio_hour"] is not None else ""
    return [f"The run cost {money(c['total'])}{hour}: {held(c)}.", HOW]


def markdown_lines(c: Mapping[str, Any] | None) -> list[str]:
    """The section of ``PERFORMANCE_METRICS.md``; nothing without prices."""
    if not c:
        return []
    parts = sorted(c["stages"].items(), key=lambda item: -item[1])
    return [
        "",
        "## Cost",
        "",
        " ".join(sentences(c)),
        "",
        "| stage | cost |",
        "| --- | ---: |",
        *(f"| {name} | {money(part)} |" for name, part in parts),
        f"| all | {money(c['total'])} |",
    ]
