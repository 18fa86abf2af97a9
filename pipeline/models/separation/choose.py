"""Which backend separates a track, and what its stems amount to."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.errors import Fallback, UserError
from pipeline.models.separation.base import REGISTRY, BackendUnavailable, Separator

# In the order of preference; a name without a file of its own is valid and never available.
BACKEND_NAMES = ("demucs", "openunmix", "spleeter", "midside")

_LOADED: dict[tuple[str, str], Separator | BackendUnavailable] = {}


class Choice(NamedTuple):
    """What `choose` decided.

    Args:
        separator: None where no backend takes the track.
        fallback: None where the first backend does.
    """

    separator: Separator | None
    fallback: Fallback | None


def load_backend(name: str, device: str = "cpu") -> Separator:
    """The backend called ``name``, loaded once per process and device; so is the reason why it is not there.

    Raises:
        BackendUnavailable: it cannot run here.
        UserError: there is no such name.
    """
    if name not in BACKEND_NAMES and name not in REGISTRY:
        near = difflib.get_close_matches(name, BACKEND_NAMES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(BACKEND_NAMES)}"
        raise UserError(f"separation.backends: there is no backend {name!r}: {hint}")
    key = (name, device)
    if key not in _LOADED:
        _LOADED[key] = _load(name, device)
    outcome = _LOADED[key]
    if isinstance(outcome, BackendUnavailable):
        # A new one each time: a raised exception keeps the frames of whoever caught it.
        raise BackendUnavailable(str(outcome))
    return outcome


def _load(name: str, device: str) -> Separator | BackendUnavailable:
    if name not in REGISTRY:
        return BackendUnavailable("not part of this version")
    try:
        return REGISTRY[name].load(device)
    except BackendUnavailable as error:
        return error.with_traceback(None)


def forget_backends() -> None:
    """Load afresh from now on, for example after weights were fetched."""
    _LOADED.clear()


def choose(
    backends: Sequence[str],
    load: Callable[[str], Separator] = load_backend,
    channels: int = 2,
    samples: int = 0,
) -> Choice:
    """Walk an ordered list and take the first backend that runs here and accepts the track.

    Args:
        backends: names, the wanted one first.
        load: name → backend; raises `BackendUnavailable`.
        channels: native channel count of the track.
        samples: its length at the backend's rate.

    Returns:
        the backend, and, unless it is the first, a fallback with the reason of each one passed over
        (``demucs: …; spleeter: …``).

    Raises:
        UserError: the list is empty, or holds an unknown name.
    """
    if not backends:
        raise UserError("separation.backends is empty: name a backend or type separation.enabled=false")
    reasons = []
    for name in backends:
        try:
            separator = load(name)
        except BackendUnavailable as error:
            reasons.append(f"{name}: {error}")
            continue
        refusal = separator.refuses(channels, samples)
        if refusal is None:
            return Choice(separator, _fallback(backends[0], name, reasons))
        reasons.append(f"{name}: {refusal}")
    return Choice(None, _fallback(backends[0], "none", reasons))


def _fallback(wanted: str, used: str, reasons: list[str]) -> Fallback | None:
    return Fallback("separation", wanted, used, "; ".join(reasons)) if reasons else None


class StemStatistics(NamedTuple):
    """Shares and levels of the stems of one track, by stem name.

    Args:
        shares: share of the stems' summed energy, summing to 1; None for each where all are silent.
        rms_dbfs: RMS level over all samples and channels; None for a silent stem. A sine of full scale has
            -3.01 dBFS.
    """

    shares: dict[str, float | None]
    rms_dbfs: dict[str, float | None]


def stem_statistics(
    blocks: Iterable[np.ndarray],
    sources: Sequence[str],
    on_block: Callable[[np.ndarray], None] | None = None,
) -> StemStatistics:
    """Drain a backend's stream, keeping only sums.

    Args:
        blocks: what `Separator.stream` yields, ``[sources, channels, n]``.
        sources: stem names in the order of the first axis.
        on_block: is handed each block, for example to write it to a file.

    Raises:
        ValueError: a block has another number of stems, or holds NaN or infinity.
    """
    energy, values = np.zeros(len(sources)), 0
    for block in blocks:
        if block.ndim != 3 or len(block) != len(sources):
            raise ValueError(f"a block of shape {list(block.shape)} is not one of the stems {tuple(sources)}")
        energy += np.square(block, dtype=np.float64).sum(axis=(1, 2))
        values += block.shape[1] * block.shape[2]
        if on_block is not None:
            on_block(block)
    if not np.isfinite(energy).all():
        raise ValueError("the stems hold NaN or infinity")
    total = float(energy.sum())
    shares = {name: float(e) / total if total > 0 else None for name, e in zip(sources, energy, strict=True)}
    levels = {
        name: 10.0 * math.log10(float(e) / values) if e > 0 else None
        for name, e in zip(sources, energy, strict=True)
    }
    return StemStatistics(shares, levels)
