"""The tempo of an onset envelope: the period at which accents recur and that a listener would tap.

An accent that recurs after a period recurs after its multiples, and often after parts of it, too: the highest peak of
the autocorrelation may as well be half, double or three quarters of the beat. How the correlations at multiples and
parts of a period tell them apart was learnt, by ``benchmarks/tempo_fit.py``, on the half of the music with known beats
that ``benchmarks/truth.py`` develops on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

LEAST_SECONDS = 2.0
"""Four beats at 120 BPM: a shorter clip does not repeat often enough to tell a tempo."""

RELATIVES = (1, 2, 3, 4, 6, 8, 1 / 2, 1 / 3, 1 / 4, 2 / 3, 3 / 4, 3 / 2)
"""At these multiples of a period correlations are looked at."""
LAGS_PER_FRAME = 8
"""Values of `correlations` for each frame."""

_CHUNK_WINDOWS = 256
"""Windows per pass: they bound the memory of temporaries."""
_WINDOW_SECONDS = 8.0
_HOP_SECONDS = 0.1
# Beyond this share of a window the correlation is one of its few last frames.
_FAR = 0.8
# The envelope is sampled more coarsely than an attack lasts. Without smoothing, the correlation at a period
# of a whole number of frames would exceed that halfway between two.
_SMOOTHING_SECONDS = 0.025
# Onsets that a window must hold: two periods that could be alike.
_LEAST_ONSETS = 3
_MOST_PERIODS = 12
_LEAST_CORRELATION = 0.02
# Below it, a correlation says no more than that accents do not recur. Above 1 it is one of a window's last frames.
_FLOOR = -0.2

# Standard deviations of the correlation of white noise with itself that a tempo must reach.
_SIGNIFICANCE = 4.0


@dataclass(frozen=True)
class TempoSearch:
    """Where to look for a tempo.

    Args:
        min_bpm: slowest, beats per minute.
        max_bpm: fastest.
        prior_bpm: the most likely tempo before listening.
        prior_octaves: standard deviation of the logarithm of the tempo around it, octaves.
        tightness: how much a beat off the tempo costs the beat tracker.
    """

    min_bpm: float = 40.0
    max_bpm: float = 300.0
    prior_bpm: float = 130.0
    prior_octaves: float = 0.6
    tightness: float = 100.0

    def prior(self, bpm: np.ndarray) -> np.ndarray:
        """Log odds of tempi before listening, of the same shape."""
        return -0.5 * (np.log2(bpm / self.prior_bpm) / self.prior_octaves) ** 2


@dataclass(frozen=True)
class TempoEstimate:
    """A tempo, and how sure it is.

    Args:
        bpm: beats per minute.
        confidence: in [0, 1], see `estimate_tempo`.
    """

    bpm: float
    confidence: float


@dataclass(frozen=True)
class PeriodOdds:
    """What correlations say of a period.

    Args:
        weights: what a correlation of 1 at each of `RELATIVES` adds to the log odds of a period.
        no_beat: log odds of there being no beat to tap, of which the best period has to be ahead to be sure.
        surer: log odds by which the best period of pieces that the weights were not fitted on is right more often
            than they say.
    """

    weights: tuple[float, ...]
    no_beat: float = 0.0
    surer: float = 0.0

    def likelihood(self, found: Periods, search: TempoSearch) -> np.ndarray:
        """Probability of each period, ``[periods]``; what is missing to 1 is that of there being no beat."""
        logits = found.evidence @ self.weights + search.prior(60.0 / found.seconds)
        odds = np.append(logits, self.no_beat)
        odds = np.exp(odds - odds.max())
        return (odds / odds.sum())[:-1]

    def confidence(self, chance: float) -> float:
        """How sure a period of this likelihood is, 0..1."""
        odds = chance * math.exp(self.surer)
        return odds / (odds + 1.0 - chance)


ODDS = PeriodOdds(
    (1.97, 0.60, 1.23, 4.22, -1.49, 1.08, 0.16, -2.24, -1.22, 0.43, 0.15, -0.29), no_beat=1.90, surer=0.64
)
"""Of the accents of onsets."""


@dataclass(frozen=True)
class Periods:
    """Periods that may be the beat's.

    Args:
        seconds: float64 ``[periods]``, ascending.
        evidence: correlations at `RELATIVES`, float64 ``[periods, 12]``, -0.2..1; of each of several curves.
    """

    seconds: np.ndarray
    evidence: np.ndarray


def estimate_tempo(
    strength: np.ndarray, accents: np.ndarray, onsets: np.ndarray, frame_rate: float, search: TempoSearch
) -> TempoEstimate | None:
    """The tempo at which accents recur, or None where they do not.

    The accents are the amplitude of the onsets: in decibels, soft off-beats are nearly as strong as beats. Of the
    periods that their autocorrelation shows the likeliest is refined on its multiples. A tempo exists where the
    autocorrelation coefficient of ``strength`` there is at least ``4 / sqrt(n)`` for ``n`` pairs of frames, which that
    of noise is not, and in clips of at least 2 s.

    The confidence is the probability that this period is the beat's, and that there is a beat at all.

    Args:
        strength: from `pipeline.dsp.onsets.OnsetCurve.strength`, ``[frames]``.
        accents: from `pipeline.dsp.onsets.OnsetCurve.accents`, ``[frames]``.
        onsets: from `pipeline.dsp.onsets.pick_onsets`, frames, ascending.
        frame_rate: frames per second.
        search: range and prior.
    """
    if len(strength) < LEAST_SECONDS * frame_rate:
        return None
    fine = correlations(accents, frame_rate, onsets)
    found = None if fine is None else periods(fine, frame_rate, search)
    if found is None:
        return None
    chances = ODDS.likelihood(found, search)
    best = int(np.argmax(chances))
    period = _refined(fine, found.seconds[best] * frame_rate)
    pairs = len(strength) - math.ceil(period)
    correlation = max(_correlation(strength, lag) for lag in (math.floor(period), math.ceil(period)))
    if correlation < _SIGNIFICANCE / math.sqrt(pairs):
        return None
    bpm = min(max(60.0 * frame_rate / period, search.min_bpm), search.max_bpm)
    return TempoEstimate(bpm, ODDS.confidence(float(chances[best])))


def periods(fine: np.ndarray, frame_rate: float, search: TempoSearch) -> Periods | None:
    """The highest peaks of correlations, and what these are at their multiples and parts.

    Where a multiple is beyond what a short track has, the next smaller one stands for it.

    Args:
        fine: of `correlations`.
        frame_rate: frames per second, of which each has `LAGS_PER_FRAME` values.
        search: range and prior.

    Returns:
        None where there is no peak in the range of the search.
    """
    rate = frame_rate * LAGS_PER_FRAME
    slowest = min(int(60.0 / search.min_bpm * rate), int(len(fine) / _FAR) // 2, len(fine) - 2)
    fastest = max(2 * LAGS_PER_FRAME, math.ceil(60.0 / search.max_bpm * rate))
    lags = np.arange(fastest, slowest + 1)
    rises, falls = fine[lags] >= fine[lags - 1], fine[lags] > fine[lags + 1]
    peaks = lags[rises & falls & (fine[lags] > _LEAST_CORRELATION)]
    if not len(peaks):
        return None
    peaks = np.sort(peaks[np.argsort(-fine[peaks], kind="stable")[:_MOST_PERIODS]])
    return Periods(peaks / rate, evidence(fine, peaks))


def evidence(fine: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Correlations at `RELATIVES` of some lags; where a multiple is beyond them, at the next smaller one.

    Args:
        fine: of `correlations`.
        lags: of `LAGS_PER_FRAME` to a frame, ``[n]``.

    Returns:
        float64 ``[n, 12]``, -0.2..1.
    """
    found = np.empty((len(lags), len(RELATIVES)))
    nearest = np.interp(lags, np.arange(len(fine)), fine)
    for column, relative in enumerate(RELATIVES):
        at = lags * relative
        there = np.interp(at, np.arange(len(fine)), fine)
        found[:, column] = np.where(at <= len(fine) - 1, there, nearest)
        if float(relative).is_integer():
            nearest = found[:, column]
    return np.clip(found, _FLOOR, 1.0)


def correlations(curve: np.ndarray, frame_rate: float, onsets: np.ndarray | None = None) -> np.ndarray | None:
    """The mean autocorrelation over windows of 8 s, each with its mean removed, 1 at lag 0.

    Args:
        curve: float64 ``[frames]``.
        frame_rate: frames per second.
        onsets: windows with fewer than three of these frames have no say, be their ripple ever so regular.

    Returns:
        float64, `LAGS_PER_FRAME` values a frame, up to four fifths of a window; None without a window.
    """
    window = min(round(_WINDOW_SECONDS * frame_rate), len(curve))
    if window < 2:
        return None
    smooth = _smooth(curve, _SMOOTHING_SECONDS * frame_rate)
    spectrum = _spectrum(smooth, onsets, frame_rate, window)
    if spectrum is None:
        return None
    points = 2 * (len(spectrum) - 1)
    taper = np.abs(np.fft.rfft(_hann(window), points)) ** 2
    size, reach = LAGS_PER_FRAME * points, int(_FAR * window * LAGS_PER_FRAME)
    # The taper pulls peaks towards shorter lags.
    fine, tapered = (np.fft.irfft(s, size)[:reach] for s in (spectrum, taper))
    return fine / fine[0] / (tapered / tapered[0])


def _smooth(x: np.ndarray, deviation: float) -> np.ndarray:
    reach = max(1, round(3.0 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.convolve(x, kernel / kernel.sum())[reach : reach + len(x)]


def _spectrum(x: np.ndarray, onsets: np.ndarray | None, frame_rate: float, window: int) -> np.ndarray | None:
    """Power spectrum of that autocorrelation, or None."""
    taper = _hann(window)
    step = max(1, round(_HOP_SECONDS * frame_rate))
    frames = sliding_window_view(x, window)[::step]
    starts = np.arange(0, len(x) - window + 1, step)
    held = np.full(len(starts), _LEAST_ONSETS)
    if onsets is not None:
        held = np.searchsorted(onsets, starts + window) - np.searchsorted(onsets, starts)
    least_energy = 1e-9 * window * float(x.var())
    points = 1 << (2 * window - 1).bit_length()
    total, count = np.zeros(points // 2 + 1), 0
    for start in range(0, len(frames), _CHUNK_WINDOWS):
        part = frames[start : start + _CHUNK_WINDOWS]
        part = (part - (part @ taper)[:, None] / taper.sum()) * taper
        energy = np.einsum("ij,ij->i", part, part)
        heard = (energy > least_energy) & (held[start : start + len(part)] >= _LEAST_ONSETS)
        part, energy = part[heard], energy[heard]
        spectrum = np.fft.rfft(part, points)
        total += ((spectrum.real**2 + spectrum.imag**2) / energy[:, None]).sum(axis=0)
        count += len(part)
    return total / count if count else None


def _hann(window: int) -> np.ndarray:
    # Not zero at its ends, so that a window of a few frames has energy.
    return np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2


def _refined(fine: np.ndarray, lag: float) -> float:
    """The period within a frame of ``lag`` whose multiples, up to half a window, correlate best; frames."""
    half = len(fine) / _FAR / LAGS_PER_FRAME / 2
    around = np.linspace(lag - 1.0, lag + 1.0, 401)
    multiples = np.arange(1, max(1, int(half / (lag + 1))) + 1)
    at = np.outer(multiples, around) * LAGS_PER_FRAME
    comb = np.interp(at, np.arange(len(fine)), fine).sum(axis=0)
    return float(around[np.argmax(comb)])


def _correlation(x: np.ndarray, lag: int) -> float:
    """Autocorrelation coefficient of ``x`` at ``lag``; 0 where it is undefined."""
    x = x - x.mean()
    earlier, later = x[: len(x) - lag], x[lag:]
    energy = math.sqrt(float(earlier @ earlier) * float(later @ later))
    return float(earlier @ later) / energy if energy > 0.0 else 0.0
