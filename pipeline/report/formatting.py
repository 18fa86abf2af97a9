"""Numbers as people read them."""

from __future__ import annotations

import math

from pipeline.counting import THIN, count, plural

__all__ = [
    "THIN",
    "clock",
    "count",
    "decimal",
    "factor",
    "key_label",
    "memory",
    "percent",
    "plural",
    "size",
]

FLATS = {"C#": "D♭", "D#": "E♭", "F#": "F♯", "G#": "A♭", "A#": "B♭"}


def clock(seconds: float | None) -> str:
    """Seconds: ``0.42 s``, ``3 min 05 s``, ``2 h 14 min``, ``1 204 h``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds == 0:
        return "0 s"
    if seconds < 0.01:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 59.5:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 100 else f"{count(hours)} h"


def decimal(value: float | None, places: int = 1) -> str:
    """A number with fixed decimals, thin spaces and a real minus sign; ``–`` for None and what is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{places}f}".replace(",", THIN).replace("-", "−")


def factor(value: float | None) -> str:
    """A multiple, such as of real time: one decimal, none from 100 on."""
    return decimal(value, 0 if value is not None and value >= 100 else 1)


def percent(share: float | None, places: int = 1) -> str:
    """A share of 1 as percent."""
    return "–" if share is None else f"{decimal(100 * share, places)}{THIN}%"


def size(value: float | None) -> str:
    """Bytes: ``312 MB``, ``4.2 GB`` (powers of 1000)."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{decimal(value, 0 if value >= 10 or unit == 'B' else 1)}{THIN}{unit}"
        value /= 1000
    return f"{decimal(value, 1)}{THIN}TB"


def memory(value: float | None) -> str:
    """Bytes of memory in MiB."""
    return "–" if value is None else f"{count(value / 2**20)}{THIN}MiB"


def key_label(tonic: str, mode: str) -> str:
    """``C# minor`` as musicians write it, ``D♭ major`` and ``C♯ minor``."""
    spelled = FLATS.get(tonic, tonic) if mode == "major" else _MINOR.get(tonic, tonic)
    return f"{spelled} {mode}"


_MINOR = {"C#": "C♯", "D#": "E♭", "F#": "F♯", "G#": "G♯", "A#": "B♭"}
