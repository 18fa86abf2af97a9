"""How good speech sounds: DNSMOS (Reddy et al. 2022), which predicts what listeners say, and how loud the noise is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.onnx_session import onnx_session
from pipeline.models.speech.samples import mono_samples

WEIGHTS = "dnsmos"
SAMPLE_RATE = 16_000
MIN_SECONDS = 1.0
"""Shorter clips have no value: the networks want 9 s, and a clip is repeated until it has them."""

_WINDOW = int(9.01 * SAMPLE_RATE)
_HOP = SAMPLE_RATE
_FFT = 321
_FFT_HOP = 160
_BANDS = 120
# From what the network says to what listeners would (ITU-T P.835), highest power first.
_SIG = (-0.08397278, 1.22083953, 0.0052439)
_BAK = (-0.13166888, 1.60915514, -0.39604546)
_OVRL = (-0.06766283, 1.11546468, 0.04602535)


class Quality(NamedTuple):
    """What listeners would say, from 1 (bad) to 5 (excellent).

    Args:
        sig: of the speech itself (ITU-T P.835).
        bak: of the background.
        ovrl: of all together.
        p808: of all together, by another network (ITU-T P.808).
    """

    sig: float
    bak: float
    ovrl: float
    p808: float


class Dnsmos:
    """DNSMOS of clips.

    Args:
        p835: session of onnxruntime for the first three values.
        p808: the one for the last.
        weights_hash: sha256 of the first one's weights, hex.
    """

    name = "dnsmos"
    version = "1"
    sample_rate = SAMPLE_RATE

    def __init__(self, p835: Any, p808: Any, weights_hash: str = "") -> None:
        self._p835 = p835
        self._p808 = p808
        self.weights_hash = weights_hash

    @classmethod
    def load(cls, *, threads: int = 1) -> Dnsmos:
        """Build it with its weights from the store. Raises `BackendUnavailable` where it cannot run."""
        path = weights.find(WEIGHTS)
        if path is None:
            raise BackendUnavailable(weights.missing(WEIGHTS))
        try:
            digest = weights.weights_hash(path)
            other = weights.checked_file(WEIGHTS, "model_v8.onnx")
        except UserError as error:
            raise BackendUnavailable(str(error)) from error
        return cls(onnx_session(path, threads), onnx_session(other, threads), digest)

    def model_id(self) -> str:
        """Name and weights hash."""
        return f"{WEIGHTS}:{self.weights_hash[:12]}"

    def quality(self, samples: np.ndarray, hop_seconds: int = 1) -> Quality | None:
        """Values of a clip: the means over windows of 9 s, one second apart.

        They are the published driver's, but for clips of 17 s and more, of which it loses windows in rounding.

        Args:
            samples: floats ``[n]``, 16 kHz; what lies outside -1..1 is clipped.
            hop_seconds: of so many windows one is looked at, evenly over the clip: at 3 values of clips of 5 to 20 s
                are 0.02 away on average, and come more than twice as fast.

        Returns:
            None of a clip below `MIN_SECONDS` and of one that is silent throughout.

        Raises:
            ValueError: another shape or type, or samples that are no finite numbers.
        """
        samples = mono_samples(samples)
        if len(samples) < MIN_SECONDS * SAMPLE_RATE or not samples.any():
            return None
        samples = np.clip(samples, -1, 1)
        while len(samples) < _WINDOW:
            samples = np.concatenate([samples, samples])
        # As the driver does, which rounds the length down to seconds.
        count = int(len(samples) // SAMPLE_RATE - _WINDOW / SAMPLE_RATE) + 1
        starts = [index * _HOP for index in range(count) if index * _HOP + _WINDOW <= len(samples)]
        starts = _evenly(starts, hop_seconds)
        values = np.mean([self._window(samples[start : start + _WINDOW]) for start in starts], axis=0)
        return Quality(*map(float, values))

    def _window(self, samples: np.ndarray) -> tuple[float, float, float, float]:
        said = self._p835.run(None, {"input_1": samples[None]})[0][0]
        features = _log_mel(samples[:-_FFT_HOP])
        (p808,) = self._p808.run(None, {"input_1": features[None]})[0][0]
        sig, bak, ovrl = (
            np.polyval(curve, value) for curve, value in zip((_SIG, _BAK, _OVRL), said, strict=True)
        )
        return float(sig), float(bak), float(ovrl), float(p808)


def _evenly(starts: list[int], hop: int) -> list[int]:
    """One of each ``hop``, in the middle of equal parts."""
    kept = -(-len(starts) // hop)
    return [starts[(2 * part + 1) * len(starts) // (2 * kept)] for part in range(kept)]


def snr_db(samples: np.ndarray, regions: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float | None:
    """Power of speech over that of what is heard beside it, dB: estimated from where nobody speaks.

    Args:
        samples: floats ``[n]``.
        regions: of speech, ``[regions, 2]``, seconds.
        sample_rate: Hz.

    Returns:
        None without speech, without anything beside it (or with digital silence there), and where speech is no louder.

    Raises:
        ValueError: another shape or type, or samples that are no finite numbers.
    """
    samples = mono_samples(samples)
    speech = np.zeros(len(samples), bool)
    for start, end in np.asarray(regions, np.float64).reshape(-1, 2):
        speech[max(0, round(start * sample_rate)) : max(0, round(end * sample_rate))] = True
    if not speech.any() or speech.all():
        return None
    noise = float(np.mean(np.square(samples[~speech], dtype=np.float64)))
    both = float(np.mean(np.square(samples[speech], dtype=np.float64)))
    return float(10 * np.log10((both - noise) / noise)) if both > noise > 0 else None


def _log_mel(samples: np.ndarray) -> np.ndarray:
    """Mel energies as librosa 0.11 computes them, dB below the loudest, 40 dB to a unit; float32 ``[frames, 120]``."""
    padded = np.pad(samples, _FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_FFT_HOP]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT) / _FFT)).astype(np.float32)
    spectrum = np.fft.rfft(frames * window)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) @ _mel_bank()
    decibels = 10 * np.log10(np.maximum(power, 1e-10)) - 10 * np.log10(max(power.max(), 1e-10))
    return ((np.maximum(decibels, -80.0) + 40) / 40).astype(np.float32)


@lru_cache
def _mel_bank() -> np.ndarray:
    """Slaney's triangles of equal area, ``[161, 120]``."""
    break_hz, step_hz, step_log = 1000.0, 200.0 / 3, np.log(6.4) / 27.0
    top = break_hz / step_hz + np.log(SAMPLE_RATE / 2 / break_hz) / step_log
    mels = np.linspace(0, top, _BANDS + 2)
    above = break_hz * np.exp(step_log * (mels - break_hz / step_hz))
    edges = np.where(mels < break_hz / step_hz, mels * step_hz, above)
    bins = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE)[:, None]
    lower, middle, upper = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins - lower) / (middle - lower), (upper - bins) / (upper - middle)
    return np.maximum(np.minimum(rising, falling), 0) * 2 / (upper - lower)
