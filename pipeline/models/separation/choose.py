"""Which backend separates a track, and why that one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.counting import plural
from pipeline.errors import Fallback, UserError
from pipeline.models.backends import LoadedBackends, first_that_runs, no_backend
from pipeline.models.separation import demucs, midside, openunmix, spleeter  # noqa: F401  each registers itself
from pipeline.models.separation.base import (
    REGISTRY,
    SAMPLE_RATE,
    BackendUnavailable,
    Separator,
)
from pipeline.models.separation.names import AUTO, AUTO_CPU_SECONDS, BACKEND_NAMES, STEMS, SeparationOptions

# On a CPU `auto` takes whatever runs this many times faster than the music, however long the track is.
AUTO_SPEED = 4.0

_LOADED = LoadedBackends()
forget_backends = _LOADED.forget


class BackendChoice(NamedTuple):
    """What `choose` decided.

    Args:
        separator: None where no backend takes the track.
        reason: why it was this one, with what was passed over.
        fallback: the step away from the first backend that was listed; None where there is none. Under
            ``auto`` only having none at all is such a step.
    """

    separator: Separator | None
    reason: str
    fallback: Fallback | None


def load_backend(name: str, device: str = "cpu", options: SeparationOptions | None = None) -> Separator:
    """The backend called ``name``, loaded once per process and device; so is the reason why it is not there.

    Raises:
        BackendUnavailable: it cannot run here.
        UserError: there is no such name, or what ``options`` name is not there.
    """
    if name not in REGISTRY:
        raise no_backend("separation.backends: there is no backend {}", name, [*BACKEND_NAMES, AUTO])
    options = options or SeparationOptions()
    return _LOADED.get(f"separation:{name}", repr(options), device, lambda: _load(name, device, options))


def _load(name: str, device: str, options: SeparationOptions) -> Separator:
    separator = REGISTRY[name].load(device, options)
    if separator.sample_rate != SAMPLE_RATE:
        raise BackendUnavailable(f"its model works at {separator.sample_rate} Hz and not at {SAMPLE_RATE}")
    strange = [stem for stem in separator.sources if stem not in STEMS]
    if strange:
        raise BackendUnavailable(f"its model has stems without a column: {', '.join(strange)}")
    return separator


def choose(
    backends: Sequence[str],
    load: Callable[[str], Separator] = load_backend,
    channels: int = 2,
    samples: int = 0,
    *,
    threads: int = 1,
    auto_cpu_seconds: float = AUTO_CPU_SECONDS,
    side_db: Callable[[], float | None] | None = None,
) -> BackendChoice:
    """Walk an ordered list and take the first backend that runs here and accepts the track.

    ``auto`` walks `BACKEND_NAMES`, best first, and on a CPU also passes over what would take too long. A list
    of names is obeyed, however long it takes.

    Args:
        backends: names, the wanted one first, or ``["auto"]``.
        load: name → backend; raises `BackendUnavailable`.
        channels: native channel count of the track.
        samples: its length at `SAMPLE_RATE`.
        threads: torch threads of this process.
        auto_cpu_seconds: what a backend slower than four times real time may take for a track, s.
        side_db: level of its side over its mid, dB, None for silence; asked where a backend needs the stereo image. By
            default such a backend takes whatever has two channels.

    Raises:
        UserError: the list is empty, or holds an unknown name.
    """
    if not backends:
        raise UserError("separation.backends is empty: name a backend or type separation.enabled=false")
    auto = list(backends) == [AUTO]

    def refuses(separator: Separator) -> str | None:
        refusal = separator.refuses(channels, samples)
        if refusal is None and side_db is not None and separator.least_side_db is not None:
            refusal = near_mono(separator, side_db())
        if refusal is None and auto:
            refusal = too_slow(separator, samples, threads, auto_cpu_seconds)
        return refusal

    name, separator, reasons = first_that_runs(BACKEND_NAMES if auto else backends, load, refuses)
    if separator is None:
        return BackendChoice(None, "; ".join(reasons), _fallback(backends[0], name, reasons))
    fallback = None if auto or not reasons else _fallback(backends[0], name, reasons)
    return BackendChoice(separator, "; ".join([AUTO if auto else "listed", *reasons]), fallback)


def near_mono(separator: Separator, side_db: float | None) -> str | None:
    """Why a track with so much side over its mid, dB, is not for this backend, or None."""
    if side_db is None or separator.least_side_db is None or side_db >= separator.least_side_db:
        return None
    if side_db == -math.inf:
        return "both channels are the same, so there is no stereo image to find the centre of"
    level = f"the side lies {-side_db:.0f} dB below the mid"
    return f"both channels are nearly the same ({level}), so there is no stereo image to find the centre of"


def too_slow(separator: Separator, samples: int, threads: int, limit_s: float) -> str | None:
    """Why ``auto`` does not give this track to this backend on a CPU, or None."""
    if separator.device.type != "cpu":
        return None
    speed = separator.cpu_speed * threads
    seconds = samples / separator.sample_rate / speed
    if speed >= AUTO_SPEED or seconds <= limit_s:
        return None
    return (
        f"about {seconds:.0f} s on {plural(threads, 'CPU thread')}, over separation.auto_cpu_seconds={limit_s:g}; "
        f"separation.backends=[{separator.name}] insists"
    )


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback:
    return Fallback("separation", wanted, used, "; ".join(reasons))
