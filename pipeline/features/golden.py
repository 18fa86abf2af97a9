"""Golden vectors: what the extractors say of a fixed signal, so that two machines can tell whether they agree.

An extractor's key says which algorithm and parameters made a column. It cannot say that a library beneath it computes
something else since its last release. The values of a signal that everybody can make can.
"""

from __future__ import annotations

import hashlib
import math
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.audio.resample import make_view
from pipeline.features.base import Extractor
from pipeline.features.extraction import TrackAudio, run_extractors
from pipeline.optional import installed_versions

SECONDS = 3.0
NATIVE_RATE = 44100
SOFT = 0.004
RELATIVE, ABSOLUTE = 1e-4, 1e-4
"""Where two values are called equal. Other CPUs sum in another order and with other instructions, which changes float32
sums in the 6th or 7th digit and levels in dB by some 1e-5; another window, filter, norm or resampler changes the 3rd
digit or more of something."""

PACKAGES = ("torch", "numpy", "librosa", "scipy", "soxr", "llvmlite")
# Of a list: enough of it to see any change of the algorithm, little enough to be read by people.
_PICKED = 16
_UNDEFINED = -1e9


class OtherNumbersError(Exception):
    """This process computes other values than the one that leads the job."""


@dataclass(frozen=True)
class Golden:
    """Golden vectors and what made them.

    Args:
        values: extractor → numbers, see `golden_values`.
        versions: package → version, see `versions`.
    """

    values: Mapping[str, Sequence[float]]
    versions: Mapping[str, str | None]

    def refusal(self, extractors: Sequence[Extractor], sample_rate: int) -> OtherNumbersError | None:
        """Why this process must not write: its numbers are others. None where they are the same."""
        if _of_this_process.get(_what(extractors, sample_rate)) == self:
            return None
        apart = compare(self.values, golden_values(extractors, sample_rate))
        if not apart:
            return None
        return OtherNumbersError(
            f"{socket.gethostname()} computes other numbers than the driver ({'; '.join(apart)}); "
            f"{told_versions(self.versions, versions())}: every node needs the same"
        )


def golden_of(extractors: Sequence[Extractor], sample_rate: int) -> Golden:
    """The golden vectors of this process: `golden_values` and `versions`."""
    found = Golden(golden_values(extractors, sample_rate), versions())
    _of_this_process[_what(extractors, sample_rate)] = found
    return found


# What `golden_of` has computed here, by `_what`: workers of the same process need not compute it again.
_of_this_process: dict[tuple[str, ...], Golden] = {}


def _what(extractors: Sequence[Extractor], sample_rate: int) -> tuple[str, ...]:
    return tuple(extractor.key(sample_rate) for extractor in extractors)


def golden_signal() -> np.ndarray:
    """Three seconds of something like music, the same everywhere: float32 ``[2, samples]`` at `NATIVE_RATE`.

    A chord 13 cents above A = 440 Hz, so that no tuning lies between two bins; noise bursts on a beat of 120 per
    minute; a voice left of the centre; soft noise beneath it all, so that no value is made of rounding errors.
    """
    time = np.arange(round(SECONDS * NATIVE_RATE)) / NATIVE_RATE
    # The stream of RandomState is frozen; those of newer generators may change with numpy.
    noise = np.random.RandomState(20260).uniform(-1, 1, (3, len(time)))
    chord = sum(
        np.sin(2 * np.pi * n * f * 2 ** (0.13 / 12) * time) / n**1.5
        for f in (130.8128, 261.6256, 329.6276, 391.9954)
        for n in range(1, 7)
    )
    beat = time % 0.5
    bursts = noise[0] * np.exp(-beat / 0.03) * np.where(time % 1.0 < 0.5, 1.0, 0.6)
    voice = np.sin(2 * np.pi * 523.2511 * time + 3 * np.sin(2 * np.pi * 5 * time)) * (
        0.5 + 0.5 * np.cos(np.pi * time)
    )
    left = 0.12 * chord + 0.3 * bursts + 0.2 * voice + SOFT * noise[1]
    right = 0.12 * chord + 0.3 * bursts + 0.05 * voice + SOFT * noise[2]
    return np.stack([left, right]).astype(np.float32)


def _resampled(native: np.ndarray, sample_rate: int, channels: int | None) -> np.ndarray:
    """A view with soft noise up to its edge: beyond a resampler's passband there are rounding errors only."""
    view = make_view(native, NATIVE_RATE, sample_rate, channels)
    noise = np.random.RandomState(20261).uniform(-1, 1, view.shape)
    return (view + SOFT * noise).astype(np.float32)


def golden_values(extractors: Sequence[Extractor], sample_rate: int) -> dict[str, list[float]]:
    """What ``extractors`` say of `golden_signal`.

    Costs about 0.7 s for all of them on one core in a process that has run none yet, most of which the first track
    would cost instead; then 0.15 s.

    Args:
        extractors: with their parameters.
        sample_rate: the DSP rate, Hz.

    Returns:
        name → finite numbers: of every column, its length and up to 16 of its elements, evenly spaced; texts as
        numbers made of their letters; a large negative number where undefined. Of an extractor that raises, the
        class of its error: it will do the same to every track.
    """
    native = golden_signal()
    audio = TrackAudio(
        mono=_resampled(native, sample_rate, 1)[0],
        sample_rate=sample_rate,
        native=native,
        native_rate=NATIVE_RATE,
        every_channel=_resampled(native, sample_rate, None)
        if any("channels" in e.views for e in extractors)
        else None,
    )
    found = {}
    for outcome in run_extractors(extractors, audio.track, audio.blocks):
        failed = outcome.extraction is None
        values = {"error": type(outcome.error).__name__} if failed else outcome.extraction.values
        found[outcome.extractor.name] = [x for name in sorted(values) for x in _numbers(values[name])]
    return found


def compare(expected: Mapping[str, Sequence[float]], found: Mapping[str, Sequence[float]]) -> list[str]:
    """The extractors of both whose values differ by more than `RELATIVE` and `ABSOLUTE`, one line each."""
    lines = []
    for name in sorted(expected.keys() & found.keys()):
        if len(expected[name]) != len(found[name]):
            lines.append(f"{name}: {len(found[name])} numbers instead of {len(expected[name])}")
            continue
        pairs = list(zip(expected[name], found[name], strict=True))
        apart = [(_distance(a, b), a, b) for a, b in pairs]
        worst, a, b = max(apart, default=(0.0, 0.0, 0.0))
        if worst > 1:
            lines.append(f"{name}: {_told(b)} instead of {_told(a)}")
    return lines


def versions() -> dict[str, str | None]:
    """Of the packages that the numbers come from."""
    return installed_versions(PACKAGES)


def told_versions(there: Mapping[str, str | None], here: Mapping[str, str | None]) -> str:
    """Which packages differ: ``"torch 2.11 here, 2.10 there"``."""
    apart = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if not apart:
        return "the versions of " + ", ".join(sorted(here)) + " are the same, so it is a build or the CPU"
    return ", ".join(f"{n} {here.get(n) or 'missing'} here, {there.get(n) or 'missing'} there" for n in apart)


def _distance(a: float, b: float) -> float:
    """In units of what is allowed."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return 0.0 if a == b else math.inf
    return abs(a - b) / (ABSOLUTE + RELATIVE * max(abs(a), abs(b)))


def _told(value: float) -> str:
    return "undefined" if value == _UNDEFINED else f"{value:.6g}"


def _numbers(value: Any) -> list[float]:
    if value is None:
        return [_UNDEFINED]
    if isinstance(value, str):
        return [float(int.from_bytes(hashlib.sha256(value.encode()).digest()[:2], "little"))]
    if isinstance(value, (list, tuple, np.ndarray)) and np.ndim(value):
        places = np.unique(np.linspace(0, len(value) - 1, _PICKED).round().astype(int)) if len(value) else ()
        return [float(len(value)), *(x for place in places for x in _numbers(value[place]))]
    number = float(value)
    return [number if math.isfinite(number) else _UNDEFINED]
