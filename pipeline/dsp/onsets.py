"""Onsets, tempo and beats from a mel power spectrogram: functions without state, numpy and torch in and out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.late import torch

# Frames of the spectrogram and windows of the tempogram per pass: they bound the memory of temporaries.
_CHUNK_FRAMES = 1024
_CHUNK_WINDOWS = 256

# Levels this far below the loudest one of the track count as equal, as in librosa.power_to_db.
_DYNAMIC_RANGE_DB = 80.0

# The peak picking of librosa.onset.onset_detect, tuned by its authors on a set of annotated onsets.
_PEAK_SECONDS = 0.03
_MEAN_SECONDS = 0.1
_PEAK_OVER_MEAN = 0.07

LEAST_RISE_DB = 0.7
"""An onset raises the mel bands by so much, on average. The ripple of windows over a steady sine, chord, organ tone or
slow sweep stays below 0.65 dB; of the onsets of orchestral music 0.2 % do, of other music none."""

LEAST_SECONDS = 2.0
"""Four beats at 120 BPM: a shorter clip does not repeat often enough to tell a tempo."""

_TEMPOGRAM_SECONDS = 8.0
_TEMPOGRAM_HOP_SECONDS = 0.1
# The envelope is sampled more coarsely than an attack lasts. Without smoothing, the correlation at a period
# of a whole number of frames would exceed that halfway between two.
_SMOOTHING_SECONDS = 0.025
_LAGS_PER_FRAME = 8
# Onsets that a window must hold: two periods that could be alike.
_LEAST_ONSETS = 3

# Standard deviations of the correlation of white noise with itself that a tempo must reach.
_SIGNIFICANCE = 4.0
# Tempi closer than this factor are the same peak, not rivals.
_SAME_TEMPO = 1.12


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
    prior_bpm: float = 120.0
    prior_octaves: float = 1.0
    tightness: float = 100.0


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
class Rhythm:
    """A tempo and its beats.

    Args:
        tempo: the tempo.
        beats: frames of the beats, ascending, int64 ``[beats]``.
    """

    tempo: TempoEstimate
    beats: np.ndarray


@dataclass(frozen=True)
class Rises:
    """How much louder each frame is than the one before it, mean over the mel bands; falls count as 0.

    Args:
        level: rise of the level, in units of 10 dB, float64 ``[frames]``.
        amplitude: rise of the amplitude, relative to the loudest band of the track, float64 ``[frames]``.
    """

    level: np.ndarray
    amplitude: np.ndarray


def rises(mel: torch.Tensor, loudest: float) -> Rises:
    """`Rises` of a mel power spectrogram from each frame to the next.

    Args:
        mel: power, ``[n_mels, frames]``.
        loudest: largest value of the whole track.

    Returns:
        one value fewer than there are frames; all 0 for silence.
    """
    pairs = max(0, mel.shape[1] - 1)
    level, amplitude = np.zeros(pairs), np.zeros(pairs)
    if not loudest > 0.0:
        return Rises(level, amplitude)
    least = 10.0 ** (-_DYNAMIC_RANGE_DB / 10.0)
    for start in range(0, pairs, _CHUNK_FRAMES):
        chunk = mel[:, start : start + _CHUNK_FRAMES + 1] / loudest
        piece = slice(start, start + chunk.shape[1] - 1)
        level[piece] = _mean_rise(chunk.clamp_min(least).log10())
        amplitude[piece] = _mean_rise(chunk.sqrt())
    return Rises(level, amplitude)


def _mean_rise(values: torch.Tensor) -> np.ndarray:
    return (values[:, 1:] - values[:, :-1]).clamp_min(0.0).mean(dim=0).double().numpy()


class OnsetCurve:
    """The onset envelope of a track, gathered block by block: 16 bytes a frame.

    Args:
        n_fft: FFT length behind the mel spectrogram, samples.
        hop_length: samples between frames.
    """

    def __init__(self, n_fft: int, hop_length: int) -> None:
        self.delay = 1 + n_fft // (2 * hop_length)
        self._parts: list[Rises] = []

    def add(self, part: Rises) -> None:
        """The rises of the next block, the one into its first frame included."""
        self._parts.append(part)

    def strength(self) -> np.ndarray:
        """How much louder the mel bands get from frame to frame: ``librosa.onset.onset_strength``.

        The rise of each band in dB, zero where it falls, averaged over the bands. It comes half a window late,
        so that an attack shows in the frame it is at the centre of. The level of the track does not matter.

        Returns:
            float64 ``[frames]``, dB, not negative; all zero for silence.
        """
        return 10.0 * self._delayed([part.level for part in self._parts])

    def accents(self) -> np.ndarray:
        """Like `strength`, of the amplitude instead of the level: loud onsets stand out from soft ones.

        Returns:
            float64 ``[frames]``, 1 where all bands rise from nothing to the loudest amplitude of the track.
        """
        return self._delayed([part.amplitude for part in self._parts])

    def _delayed(self, parts: list[np.ndarray]) -> np.ndarray:
        joined = np.concatenate(parts or [np.zeros(0)])
        curve = np.zeros(len(joined) + 1)
        curve[self.delay :] = joined[: max(0, len(curve) - self.delay)]
        return curve

    def rhythm(self, frame_rate: float, search: TempoSearch) -> Rhythm | None:
        """Tempo and beats of the track, or None where it has no steady beat.

        Args:
            frame_rate: frames per second.
            search: range, prior and tightness.
        """
        strength = self.strength()
        onsets = pick_onsets(strength, frame_rate, LEAST_RISE_DB)
        tempo = estimate_tempo(strength, self.accents(), onsets, frame_rate, search)
        if tempo is None:
            return None
        return Rhythm(tempo, track_beats(strength, tempo.bpm, frame_rate, search.tightness))


def pick_onsets(envelope: np.ndarray, frame_rate: float, least: float = 0.0) -> np.ndarray:
    """Frames of the onsets, as ``librosa.onset.onset_detect`` picks them, of those that reach ``least``.

    librosa's conditions are relative to the envelope's own range, and find onsets in rounding errors too.

    An onset is the largest value of the last 30 ms, exceeds the mean of 100 ms on either side by 0.07 of the
    range of the envelope, and comes more than 30 ms after the one before (Böck, Krebs and Schedl, "Evaluating
    the online capabilities of onset detection methods", 2012).

    Shape: ``[frames]`` → int64 ``[onsets]``.
    """
    if not len(envelope) or not envelope.max() > envelope.min():
        return np.zeros(0, dtype=np.int64)
    x = (envelope - envelope.min()) / (envelope.max() - envelope.min())
    before, around = int(_PEAK_SECONDS * frame_rate), int(_MEAN_SECONDS * frame_rate)
    largest = sliding_window_view(np.pad(x, (before, 0)), before + 1).max(axis=1)
    total = sliding_window_view(np.pad(x, around), 2 * around + 1).sum(axis=1)
    count = sliding_window_view(np.pad(np.ones(len(x)), around), 2 * around + 1).sum(axis=1)
    onsets: list[int] = []
    peaks = (x == largest) & (x >= total / count + _PEAK_OVER_MEAN) & (envelope >= least)
    for frame in np.flatnonzero(peaks):
        if not onsets or frame - onsets[-1] > before:
            onsets.append(int(frame))
    return np.array(onsets, dtype=np.int64)


def estimate_tempo(
    strength: np.ndarray, accents: np.ndarray, onsets: np.ndarray, frame_rate: float, search: TempoSearch
) -> TempoEstimate | None:
    """The tempo at which accents recur, or None where they do not.

    As in Ellis, "Beat tracking by dynamic programming", 2007, a period is as good as its autocorrelation times
    a log-normal prior, plus half of that of twice the period. The autocorrelation is the mean over windows of
    8 s, each with its mean removed; those with fewer than three onsets have no say, be their ripple ever so regular.
    It is that of the amplitude of the onsets: in decibels, soft off-beats are nearly as strong as beats, which makes
    octave errors. The best period is then refined on its multiples.

    The confidence is ``r * (1 - s2 / s1)``: ``r`` is the autocorrelation coefficient of ``strength`` at the
    period, ``s1`` the score of the tempo and ``s2`` that of the best rival, often half or twice the tempo. A
    tempo exists where ``r`` is at least ``4 / sqrt(n)`` for ``n`` pairs of frames, which that of noise is not,
    and in clips of at least 2 s.

    Args:
        strength: from `OnsetCurve.strength`, ``[frames]``.
        accents: from `OnsetCurve.accents`, ``[frames]``.
        onsets: from `pick_onsets`, frames, ascending.
        frame_rate: frames per second.
        search: range and prior.
    """
    if len(strength) < LEAST_SECONDS * frame_rate:
        return None
    window = min(round(_TEMPOGRAM_SECONDS * frame_rate), len(accents))
    slowest = min(int(60.0 * frame_rate / search.min_bpm), window // 2)
    fastest = max(2, math.ceil(60.0 * frame_rate / search.max_bpm))
    smooth = _smooth(accents, _SMOOTHING_SECONDS * frame_rate)
    spectrum = _tempogram_spectrum(smooth, onsets, frame_rate, window)
    if spectrum is None:
        return None
    score = _scores(np.fft.irfft(spectrum)[:window], frame_rate, search)
    lags = np.arange(fastest, slowest + 1)
    peaks = lags[(score[lags] >= score[lags - 1]) & (score[lags] > score[lags + 1]) & (score[lags] > 0.0)]
    if not len(peaks):
        return None
    best = peaks[np.argmax(score[peaks])]
    rivals = peaks[np.abs(np.log(peaks / best)) > math.log(_SAME_TEMPO)]
    clarity = 1.0 - float(score[rivals].max(initial=0.0) / score[best])
    period = _refine(spectrum, int(best), window)
    pairs = len(strength) - math.ceil(period)
    correlation = max(_correlation(strength, lag) for lag in (math.floor(period), math.ceil(period)))
    if correlation < _SIGNIFICANCE / math.sqrt(pairs):
        return None
    bpm = min(max(60.0 * frame_rate / period, search.min_bpm), search.max_bpm)
    return TempoEstimate(bpm, min(correlation, 1.0) * clarity)


def _smooth(x: np.ndarray, deviation: float) -> np.ndarray:
    reach = max(1, round(3.0 * deviation))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    return np.convolve(x, kernel / kernel.sum())[reach : reach + len(x)]


def _tempogram_spectrum(
    x: np.ndarray, onsets: np.ndarray, frame_rate: float, window: int
) -> np.ndarray | None:
    """Power spectrum of the mean autocorrelation over all windows with onsets, 1 at lag 0; None without any."""
    taper = _hann(window)
    step = max(1, round(_TEMPOGRAM_HOP_SECONDS * frame_rate))
    frames = sliding_window_view(x, window)[::step]
    starts = np.arange(0, len(x) - window + 1, step)
    held = np.searchsorted(onsets, starts + window) - np.searchsorted(onsets, starts)
    least_energy = 1e-9 * window * float(x.var())
    total, count = np.zeros(_fft_length(window) // 2 + 1), 0
    for start in range(0, len(frames), _CHUNK_WINDOWS):
        part = frames[start : start + _CHUNK_WINDOWS]
        part = (part - (part @ taper)[:, None] / taper.sum()) * taper
        energy = np.einsum("ij,ij->i", part, part)
        heard = (energy > least_energy) & (held[start : start + len(part)] >= _LEAST_ONSETS)
        part, energy = part[heard], energy[heard]
        spectrum = np.fft.rfft(part, _fft_length(window))
        total += ((spectrum.real**2 + spectrum.imag**2) / energy[:, None]).sum(axis=0)
        count += len(part)
    return total / count if count else None


def _hann(window: int) -> np.ndarray:
    # Not zero at its ends, so that a window of a few frames has energy.
    return np.sin(np.pi * (np.arange(window) + 0.5) / window) ** 2


def _fft_length(window: int) -> int:
    return 1 << (2 * window - 1).bit_length()


def _scores(correlation: np.ndarray, frame_rate: float, search: TempoSearch) -> np.ndarray:
    """How good each lag is as a beat period: float64 ``[lags + 1]``, 0 at lag 0 and at the end."""
    lags = np.arange(1, len(correlation))
    octaves = np.log2(60.0 * frame_rate / lags / search.prior_bpm)
    prior = np.exp(-0.5 * (octaves / search.prior_octaves) ** 2)
    score = np.zeros(len(correlation) + 1)
    score[lags] = np.maximum(correlation[lags], 0.0) * prior
    doubled = np.arange(1, (len(correlation) - 1) // 2 + 1)
    half_tempo = np.zeros_like(score)
    half_tempo[doubled] = score[2 * doubled]
    return score + 0.5 * half_tempo


def _refine(spectrum: np.ndarray, lag: int, window: int) -> float:
    """The period within a frame of ``lag`` whose multiples, up to half a window, correlate best."""
    size = _LAGS_PER_FRAME * 2 * (len(spectrum) - 1)
    taper = np.abs(np.fft.rfft(_hann(window), 2 * (len(spectrum) - 1))) ** 2
    reach = (window // 2 + 1) * _LAGS_PER_FRAME
    # The taper pulls peaks towards shorter lags.
    fine = np.fft.irfft(spectrum, size)[:reach] / np.fft.irfft(taper, size)[:reach]
    periods = np.linspace(lag - 1.0, lag + 1.0, 401)
    multiples = np.arange(1, max(1, int(window // 2 / (lag + 1))) + 1)
    comb = np.interp(np.outer(multiples, periods) * _LAGS_PER_FRAME, np.arange(reach), fine).sum(axis=0)
    return float(periods[np.argmax(comb)])


def _correlation(x: np.ndarray, lag: int) -> float:
    """Autocorrelation coefficient of ``x`` at ``lag``; 0 where it is undefined."""
    x = x - x.mean()
    earlier, later = x[: len(x) - lag], x[lag:]
    energy = math.sqrt(float(earlier @ earlier) * float(later @ later))
    return float(earlier @ later) / energy if energy > 0.0 else 0.0


def track_beats(envelope: np.ndarray, bpm: float, frame_rate: float, tightness: float = 100.0) -> np.ndarray:
    """Beats at a steady tempo that fall on strong onsets: the tracker of ``librosa.beat.beat_track``.

    Dynamic programming after Ellis, "Beat tracking by dynamic programming", 2007: each frame is linked to the
    best predecessor between half and two periods before it, a score that rewards onsets and punishes the
    squared logarithm of the deviation from the period; weak beats at both ends are cut off.

    Args:
        envelope: from `OnsetCurve.strength`, ``[frames]``.
        bpm: tempo, beats per minute.
        frame_rate: frames per second.
        tightness: weight of the deviation from the period.

    Returns:
        frames of the beats, ascending, int64 ``[beats]``.
    """
    deviation = float(envelope.std(ddof=1)) if len(envelope) > 1 else 0.0
    if deviation == 0.0:
        return np.zeros(0, dtype=np.int64)
    period = max(1, round(60.0 * frame_rate / bpm))
    window = np.exp(-0.5 * (np.arange(-period, period + 1) * 32.0 / period) ** 2)
    local = np.convolve(envelope / deviation, window)[period : period + len(envelope)]
    links, score = _link_beats(local, period, tightness)
    beats = [_last_beat(score)]
    while links[beats[-1]] >= 0:
        beats.append(int(links[beats[-1]]))
    return _trim(np.array(beats[::-1], dtype=np.int64), local)


def _link_beats(local: np.ndarray, period: int, tightness: float) -> tuple[np.ndarray, np.ndarray]:
    """Best predecessor of each frame, -1 for none, and the score of the best path that ends there.

    No predecessor is nearer than half a period, so that many frames are done at once.
    """
    nearest = max(1, round(period / 2))
    distance = np.arange(nearest, 2 * period + 1)
    penalty = tightness * np.log(distance / period) ** 2
    padded = np.full(2 * period + len(local), -np.inf)
    score = padded[2 * period :]
    predecessors = sliding_window_view(padded, len(distance))[:, ::-1]
    links = np.full(len(local), -1, dtype=np.int64)
    for start in range(0, len(local), nearest):
        frames = np.arange(start, min(start + nearest, len(local)))
        candidates = predecessors[frames] - penalty
        choice = candidates.argmax(axis=1)
        best = candidates[np.arange(len(frames)), choice]
        linked = np.isfinite(best)
        links[frames[linked]] = frames[linked] - distance[choice[linked]]
        score[frames] = local[frames] + np.where(linked, best, 0.0)
    # Beats do not start before the first onset.
    links[: np.argmax(local >= 0.01 * local.max())] = -1
    return links, score


def _last_beat(score: np.ndarray) -> int:
    """The last peak of the score that reaches half the median of its peaks."""
    rises = np.append(False, score[1:] > score[:-1])
    peaks = np.flatnonzero(rises & np.append(score[:-1] >= score[1:], True))
    high = peaks[score[peaks] >= 0.5 * np.median(score[peaks])] if len(peaks) else peaks
    return int(high[-1]) if len(high) else len(score) - 1


def _trim(beats: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Leave out leading and trailing beats beyond all onsets of half the RMS of the smoothed beats."""
    smooth = np.convolve(local[beats], np.hanning(5))[2 : len(local) + 2]
    strong = np.flatnonzero(local > 0.5 * math.sqrt(float(np.mean(smooth**2))))
    if not len(strong):
        return beats[:0]
    return beats[(beats >= strong[0]) & (beats <= strong[-1])]
