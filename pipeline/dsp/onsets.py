"""Onsets and beats from a mel power spectrogram: functions without state, numpy and torch in and out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.dsp.beat_period import TempoEstimate, TempoSearch, estimate_tempo
from pipeline.late import torch

# Frames of the spectrogram per pass: they bound the memory of temporaries.
_CHUNK_FRAMES = 1024

# Levels this far below the loudest one of the track count as equal, as in librosa.power_to_db.
_DYNAMIC_RANGE_DB = 80.0

# The peak picking of librosa.onset.onset_detect, tuned by its authors on a set of annotated onsets.
_PEAK_SECONDS = 0.03
_MEAN_SECONDS = 0.1
_PEAK_OVER_MEAN = 0.07

# Of the onsets of notes: what counts as a large rise, and how far a peak stands out of its surroundings, as a part of
# that. Chosen on music with known onsets (`benchmarks/truth.py`, the half to develop on). librosa compares with the
# largest rise of all, which is one loud beat: where there was one, softer notes were no onsets any more.
_LARGE_RISE_PERCENTILE = 95.0
_NOTE_OVER_MEAN = 0.12

LEAST_RISE_DB = 0.7
"""An onset raises the mel bands by so much, on average. The ripple of windows over a steady sine, chord, organ tone or
slow sweep stays below 0.65 dB; of the onsets of orchestral music 0.2 % do, of other music none."""


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
    return _peaks(x, frame_rate, _PEAK_OVER_MEAN, envelope >= least)


def note_onsets(strength: np.ndarray, frame_rate: float) -> np.ndarray:
    """When notes begin, s: peaks as `pick_onsets` has them, by what is a large rise in this music and not the largest.

    The rise is largest one frame after a note begins: that is taken back.

    Args:
        strength: from `OnsetCurve.strength`, ``[frames]``.
        frame_rate: frames per second.

    Returns:
        float64 ``[onsets]``, ascending.
    """
    rising = strength[strength > 0]
    if not len(rising):
        return np.zeros(0)
    large = max(float(np.percentile(rising, _LARGE_RISE_PERCENTILE)), LEAST_RISE_DB)
    frames = _peaks(strength / large, frame_rate, _NOTE_OVER_MEAN, strength >= LEAST_RISE_DB)
    return np.maximum(frames - 1, 0) / frame_rate


def _peaks(x: np.ndarray, frame_rate: float, over_mean: float, may: np.ndarray) -> np.ndarray:
    """Frames of the peaks, int64: the largest of what came just before, and by ``over_mean`` above what is around."""
    before, around = int(_PEAK_SECONDS * frame_rate), int(_MEAN_SECONDS * frame_rate)
    largest = sliding_window_view(np.pad(x, (before, 0)), before + 1).max(axis=1)
    total = sliding_window_view(np.pad(x, around), 2 * around + 1).sum(axis=1)
    count = sliding_window_view(np.pad(np.ones(len(x)), around), 2 * around + 1).sum(axis=1)
    onsets: list[int] = []
    for frame in np.flatnonzero((x == largest) & (x >= total / count + over_mean) & may):
        if not onsets or frame - onsets[-1] > before:
            onsets.append(int(frame))
    return np.array(onsets, dtype=np.int64)


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
