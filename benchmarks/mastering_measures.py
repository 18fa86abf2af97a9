"""Meters of `benchmarks/mastering.py`, none of them the project's own.

Loudness is pyloudnorm's, the loudness range that of FFmpeg's ebur128 filter, the true peak that between the samples by
a filter of scipy, eight times oversampled; lossy encodings are FFmpeg's. The rest is written out here.
Audio is float ``[channels, samples]``, full scale ±1, the rate in Hz.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import av.filter
import numpy as np
import pyloudnorm
import scipy.linalg
import scipy.signal
import scipy.stats

OVERSAMPLING = 8
SILENT_DB = -200.0
"""What stands for the level of nothing."""
SETTLED_S = (3.0, 5.0)
"""The stretch of a test tone that is analysed: whole periods of all tones, clear of the beginning and the end."""
TONE_S = 6.0
IMD_HZ = (60.0, 7000.0)
IMD_ORDERS = 8
"""Sidebands counted on either side of the upper tone."""

_PIECE = 1 << 16
# Half a filter, in samples of the input: 96 dB down where the images begin, flat to 20 kHz at 44.1 kHz.
_REACH = 64
_TAPS = scipy.signal.firwin(2 * _REACH * OVERSAMPLING + 1, 1.0 / OVERSAMPLING, window=("kaiser", 9.0))


def decibels(amplitude: float) -> float:
    """20 lg of an amplitude; `SILENT_DB` for 0."""
    return float(20.0 * np.log10(max(abs(amplitude), 10.0 ** (SILENT_DB / 20.0))))


def loudness(audio: np.ndarray, rate: int) -> float:
    """Integrated loudness, LUFS."""
    return float(pyloudnorm.Meter(rate).integrated_loudness(np.asarray(audio, np.float64).T))


def loudness_range(audio: np.ndarray, rate: int) -> float:
    """EBU Tech 3342, LU."""
    graph = av.filter.Graph()
    layout = {1: "mono", 2: "stereo"}[audio.shape[0]]
    source = graph.add_abuffer(format="fltp", sample_rate=rate, layout=layout, time_base=Fraction(1, rate))
    meter, sink = graph.add("ebur128", "metadata=1"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    found = 0.0
    for start in [*range(0, audio.shape[1], _PIECE), None]:
        graph.push(None if start is None else _frame(audio[:, start : start + _PIECE], rate, start, layout))
        while True:
            try:
                found = float(graph.pull().metadata.get("lavfi.r128.LRA", found))
            except (av.BlockingIOError, av.EOFError):
                break
    return found


def _frame(audio: np.ndarray, rate: int, start: int, layout: str) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(audio, dtype=np.float32), format="fltp", layout=layout
    )
    frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
    return frame


def true_peak_db(audio: np.ndarray) -> float:
    """Largest magnitude of any channel at eight times the rate, dBTP."""
    padded = np.pad(np.asarray(audio, np.float64), ((0, 0), (_REACH, _REACH)))
    peak = 0.0
    for start in range(0, audio.shape[1], _PIECE):
        # The ends of a stretch are the ringing of its cut: they belong to the neighbours.
        stretch = padded[:, start : start + _PIECE + 2 * _REACH]
        sparse = np.zeros((len(stretch), OVERSAMPLING * stretch.shape[1]))
        sparse[:, ::OVERSAMPLING] = stretch
        # What scipy.signal.resample_poly gives, by spectra, which is several times faster with so many taps.
        dense = scipy.signal.oaconvolve(sparse, OVERSAMPLING * _TAPS[None], mode="same", axes=1)
        inner = dense[:, _REACH * OVERSAMPLING : -_REACH * OVERSAMPLING]
        peak = max(peak, float(np.max(np.abs(inner), initial=0.0)))
    return decibels(peak)


def coded(audio: np.ndarray, rate: int, codec: str, bit_rate: int = 128_000) -> np.ndarray:
    """What comes out of a lossy encoding, not clipped; a little longer and later than what went in.

    Args:
        audio: mono or stereo.
        rate: Hz.
        codec: ``libmp3lame``, ``aac`` or any other that FFmpeg encodes.
        bit_rate: of all channels together, bit/s.
    """
    layout = {1: "mono", 2: "stereo"}[audio.shape[0]]
    form = {"libmp3lame": "mp3", "aac": "mp4"}.get(codec, "matroska")
    held = io.BytesIO()
    with av.open(held, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = bit_rate
        for start in range(0, audio.shape[1], _PIECE):
            container.mux(stream.encode(_frame(audio[:, start : start + _PIECE], rate, start, layout)))
        container.mux(stream.encode(None))
    held.seek(0)
    with av.open(held) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def third_octaves(samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the third-octave bands from 25 Hz to 16 kHz, and the mean power in each, of float ``[samples]``."""
    frequencies, density = scipy.signal.welch(
        np.asarray(samples, np.float64), rate, nperseg=min(16384, len(samples))
    )
    middles = 1000.0 * 2.0 ** (np.arange(-16, 13) / 3.0)
    middles = middles[middles * 2.0 ** (1 / 6) < rate / 2]
    # A band takes its share of the bins that lie across its borders: the lowest are narrower than a bin is wide.
    width = frequencies[1]
    power = np.concatenate([[0.0], np.cumsum(density) * width])
    edges = np.concatenate([frequencies - width / 2, [frequencies[-1] + width / 2]])
    below, above = (np.interp(middles * 2.0**step, edges, power) for step in (-1 / 6, 1 / 6))
    return middles, above - below


def spectral_distance(audio: np.ndarray, reference: np.ndarray, rate: int) -> tuple[float, float]:
    """RMS over third-octave bands of the difference in level, dB: of the middle, and of the sides.

    Both are moved by the one number that makes the mean difference of the middle 0, so that loudness does not count and
    width does. A band that lies 60 dB below the loudest of the reference's middle is left out.
    """
    first, second = ([_band_levels(part, rate) for part in _mid_side(one)] for one in (audio, reference))
    floor = second[0].max() - 60.0
    kept = [(one - other)[other > floor] for one, other in zip(first, second, strict=True)]
    mid, side = (part - kept[0].mean() for part in kept)
    return tuple(float(np.sqrt(np.mean(np.square(part)))) if part.size else 0.0 for part in (mid, side))


def _mid_side(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (audio[0] + audio[-1]) / 2, (audio[0] - audio[-1]) / 2


def _band_levels(samples: np.ndarray, rate: int) -> np.ndarray:
    return 10.0 * np.log10(np.maximum(third_octaves(samples, rate)[1], 10.0 ** (SILENT_DB / 10.0)))


def tones(rate: int, *parts: tuple[float, float]) -> np.ndarray:
    """Both channels the sum of sines, float32, `TONE_S` long; a frequency in Hz and an amplitude each."""
    time = np.arange(round(TONE_S * rate)) / rate
    return np.tile(sum(peak * np.sin(2 * np.pi * hz * time) for hz, peak in parts).astype(np.float32), (2, 1))


def _settled_spectrum(audio: np.ndarray, rate: int) -> np.ndarray:
    """Complex amplitude by half a hertz, of the first channel."""
    first, last = (round(second * rate) for second in SETTLED_S)
    stretch = np.asarray(audio[0, first:last], np.float64)
    return np.fft.rfft(stretch) / len(stretch) * 2.0


def _bin(hz: float) -> int:
    return round(hz * (SETTLED_S[1] - SETTLED_S[0]))


def amplitude(audio: np.ndarray, rate: int, hz: float) -> float:
    """Of the sine of that frequency, a multiple of 0.5 Hz, in the settled stretch."""
    return float(abs(_settled_spectrum(audio, rate)[_bin(hz)]))


def thd_n_db(audio: np.ndarray, rate: int, hz: float) -> float:
    """All that is not the sine (nor a constant) by all there is, dB, in the settled stretch."""
    power = np.square(np.abs(_settled_spectrum(audio, rate)[1:]))
    total = float(power.sum())
    # Summed without the sine: a difference of two sums would lose what lies 150 dB down.
    rest = float(np.delete(power, _bin(hz) - 1).sum())
    return decibels(np.sqrt(rest / total)) if total else SILENT_DB


def imd_db(audio: np.ndarray, rate: int) -> float:
    """SMPTE: sidebands of the upper tone, at multiples of the lower, by the upper tone, dB."""
    spectrum = np.abs(_settled_spectrum(audio, rate))
    low, high = IMD_HZ
    sides = [spectrum[_bin(high + sign * n * low)] for n in range(1, IMD_ORDERS + 1) for sign in (-1, 1)]
    return decibels(np.sqrt(np.sum(np.square(sides))) / max(float(spectrum[_bin(high)]), 1e-30))


_LPC_BLOCK, _LPC_ORDER = 2048, 24


def unpredicted(samples: np.ndarray) -> np.ndarray:
    """How much a sample departs from what a linear prediction of its block expects, by the block's median departure.

    Args:
        samples: float ``[samples]``.

    Returns:
        Float64 of the same length; 0 where the block is silent. A click is a value far above the music's.
    """
    samples = np.asarray(samples, np.float64)
    score = np.zeros(len(samples))
    history = np.zeros(_LPC_ORDER)
    for start in range(0, len(samples), _LPC_BLOCK):
        block = samples[start : start + _LPC_BLOCK]
        windowed = block * np.hanning(len(block))
        if len(block) > _LPC_ORDER and block.any():
            lags = np.array([windowed[lag:] @ windowed[: len(block) - lag] for lag in range(_LPC_ORDER + 1)])
            lags[0] *= 1.0 + 1e-9
            taps = scipy.linalg.solve_toeplitz(lags[:-1], lags[1:])
            joined = np.concatenate([history, block])
            departure = np.abs(np.convolve(joined, np.concatenate([[1.0], -taps]), "valid"))
            score[start : start + len(block)] = departure / max(float(np.median(departure)), 1e-12)
        history = np.concatenate([history, block])[-_LPC_ORDER:]
    return score


@dataclass(frozen=True)
class Seams:
    """Clicks at the borders of chunks and elsewhere.

    Args:
        borders, clicked_borders: how many there are, and how many of them have a click.
        places, clicked_places: the same of places between borders.
    """

    borders: int
    clicked_borders: int
    places: int
    clicked_places: int

    @classmethod
    def joined(cls, parts: Sequence[Seams]) -> Seams:
        """Those of several songs."""
        return cls(*(sum(counts) for counts in zip(*map(dataclasses.astuple, parts), strict=True)))

    @property
    def at_borders(self) -> float:
        """Share of the borders with a click."""
        return self.clicked_borders / max(1, self.borders)

    @property
    def elsewhere(self) -> float:
        """Share of the places between them."""
        return self.clicked_places / max(1, self.places)

    @property
    def chance(self) -> float:
        """Of a share at the borders as large as this, were they places like any other (Fisher's exact test)."""
        table = [
            [self.clicked_borders, self.borders - self.clicked_borders],
            [self.clicked_places, self.places - self.clicked_places],
        ]
        return float(scipy.stats.fisher_exact(table, alternative="greater").pvalue)


def seams(audio: np.ndarray, borders: Sequence[int], *, reach: int = 32, threshold: float = 15.0) -> Seams:
    """Clicks within ``reach`` samples of the borders, and of ten places between any two of them.

    Args:
        audio: all channels count.
        borders: samples, ascending.
        reach: samples on either side.
        threshold: of `unpredicted`, from which it counts as a click.
    """
    score = np.max([unpredicted(channel) for channel in audio], axis=0)
    clicks = np.flatnonzero(score >= threshold)

    def hit(place: int) -> bool:
        return bool(np.searchsorted(clicks, place - reach) < np.searchsorted(clicks, place + reach))

    at = [hit(border) for border in borders]
    # The clicks of a border itself do not count for its neighbourhood.
    between = [
        hit(round(left + (right - left) * part / 11))
        for left, right in itertools.pairwise(borders)
        for part in range(1, 11)
    ]
    return Seams(len(at), sum(at), len(between), sum(between))
