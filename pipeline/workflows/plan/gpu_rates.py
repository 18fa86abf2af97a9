"""What a card takes, for plans that are made where there is none: the rates that were measured on one.

``gpu_rates.json`` is written by ``benchmarks/gpu/adopt.py`` and says on which card, and when. What it has no rate for
keeps what the CPU took.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.audio.windows import window_spans
from pipeline.workflows.config import ClapConfig
from pipeline.workflows.plan.cost import StageSample

FILE = Path(__file__).with_name("gpu_rates.json")
_CLAP_RATE = 48000


@dataclass(frozen=True)
class GpuRates:
    """Rates of the stages' own calls on one card.

    Args:
        card: its name.
        clap_windows_per_s: architecture → windows per second.
        separation_times_real_time: backend → seconds of audio per second, statistics only.
    """

    card: str
    clap_windows_per_s: Mapping[str, float]
    separation_times_real_time: Mapping[str, float]


def read_rates(path: Path = FILE) -> GpuRates | None:
    """The rates that this version comes with; None where it comes with none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not found.get("card"):
        return None
    date = f" ({found['date']})" if found.get("date") else ""
    return GpuRates(
        f"{found['card']}{date}",
        found.get("clap_windows_per_s") or {},
        found.get("separation_times_real_time") or {},
    )


def as_on_a_card(
    stage: str,
    sample: StageSample,
    backends: Mapping[str, int],
    clap: ClapConfig,
    rates: GpuRates | None = None,
) -> StageSample:
    """``sample`` with the seconds that a card takes for its files, where there is a rate for the stage.

    Args:
        stage: ``clap`` or ``separation``; others have no rate.
        backends: as measured, names → files; those of CLAP begin with the architecture.
        rates: None takes `read_rates`.
    """
    rates = rates or read_rates()
    if rates is None or not backends:
        return sample
    backend = max(backends, key=lambda name: backends[name])
    if stage == "clap":
        rate = rates.clap_windows_per_s.get(backend.split(" ", 1)[0])
        work = [_windows(seconds, clap) for seconds, _ in sample.files]
    elif stage == "separation":
        rate = rates.separation_times_real_time.get(backend)
        work = [seconds for seconds, _ in sample.files]
    else:
        return sample
    if not rate:
        return sample
    files = tuple((seconds, each / rate) for (seconds, _), each in zip(sample.files, work, strict=True))
    # The host prepares and waits by turns: at most one core, which errs on the side of caution.
    return replace(sample, files=files, cpu_ratio=1.0, rated_on=rates.card)


def _windows(seconds: float, clap: ClapConfig) -> int:
    """Windows of a track."""
    window, hop = (round(s * _CLAP_RATE) for s in (clap.window_seconds, clap.hop_seconds))
    return len(list(window_spans(round(seconds * _CLAP_RATE), window, hop)))
