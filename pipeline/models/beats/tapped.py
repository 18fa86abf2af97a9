"""Which tempo a listener would tap: the networks' odds of a beat hardly tell it from half and twice as much. How
accents recur tells more, see `pipeline.dsp.beat_period`, and where there are no drums how turns of the harmony do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.audio.reader import AudioReader
from pipeline.dsp.beat_period import (
    LAGS_PER_FRAME,
    RELATIVES,
    PeriodOdds,
    Periods,
    TempoSearch,
    correlations,
    evidence,
    periods,
)
from pipeline.dsp.filterbanks import apply_bands, mel_filterbank
from pipeline.dsp.stft import power_spectrogram
from pipeline.models.beats.front_end import FRAMES_PER_SECOND
from pipeline.models.beats.heard import Heard
from pipeline.models.beats.names import SAMPLE_RATE

SAME = 0.04
"""Tempi within this share of each other are one."""
ODDS = PeriodOdds(
    (
        *(-0.56, -0.75, 0.03, 2.75, -0.81, 0.55, -2.87, -0.49, -1.83, 2.54, 1.38, -1.69),
        *(0.98, 1.03, -0.45, 1.32, -1.12, 0.89, 1.08, -2.79, 2.02, 1.42, -3.47, -0.18),
        *(2.94, 1.63, 0.78, 0.12, -0.50, -0.33, 3.10, -2.09, -0.47, -1.44, -0.42, 0.98),
    ),
    no_beat=2.44,
    surer=0.52,
)
"""Of accents, turns and rises, by ``benchmarks/tempo_fit.py --of beats`` on the half of the music with known beats that
things are developed on."""
# As of the extractor `tempo`.
_N_FFT, _HOP, _N_MELS = 2048, 512, 128
ACCENTS_PER_SECOND = SAMPLE_RATE / _HOP
_FRAMES = 1024  # at a time


@dataclass(frozen=True, eq=False)
class TappedTempi:
    """The tempi that may be the one.

    Args:
        bpm: beats per minute, float64 ``[n]``; empty where accents do not recur.
        chances: probability of each.
    """

    bpm: np.ndarray
    chances: np.ndarray

    @property
    def likeliest(self) -> float | None:
        """Beats per minute; None without any."""
        return float(self.bpm[np.argmax(self.chances)]) if len(self.bpm) else None

    def confidence(self, bpm: float) -> float:
        """Probability that ``bpm`` is right, 0..1."""
        near = np.abs(self.bpm / bpm - 1.0) <= SAME
        return ODDS.confidence(min(1.0, float(self.chances[near].sum())))


def tapped(track: AudioReader, heard: Heard, min_bpm: float, max_bpm: float) -> TappedTempi:
    """The tempi at which a track's accents recur.

    Args:
        track: mono at `SAMPLE_RATE`.
        heard: what was heard of it.
        min_bpm, max_bpm: that are considered, beats per minute.
    """
    search = TempoSearch(min_bpm, max_bpm)
    found = tapped_periods(accents(track), [heard.turns, heard.rises], search)
    if found is None:
        return TappedTempi(np.empty(0), np.empty(0))
    return TappedTempi(60.0 / found.seconds, ODDS.likelihood(found, search))


def tapped_periods(strokes: np.ndarray, curves: Sequence[np.ndarray], search: TempoSearch) -> Periods | None:
    """The periods at which accents recur, and how these and what else is heard correlate there.

    Args:
        strokes: of `accents`.
        curves: `FRAMES_PER_SECOND` values a second each; one that is constant or too short says nothing, which is 0.
        search: range and prior.
    """
    fine = correlations(strokes, ACCENTS_PER_SECOND)
    found = None if fine is None else periods(fine, ACCENTS_PER_SECOND, search)
    if found is None:
        return None
    said = [found.evidence]
    for curve in curves:
        fine = correlations(np.asarray(curve, np.float64), FRAMES_PER_SECOND)
        lags = found.seconds * (FRAMES_PER_SECOND * LAGS_PER_FRAME)
        nothing = np.zeros((len(lags), len(RELATIVES)))
        said.append(nothing if fine is None else evidence(fine, lags))
    return Periods(found.seconds, np.concatenate(said, axis=1))


def accents(track: AudioReader) -> np.ndarray:
    """By how much the amplitude of the mel bands rises into each frame but the first, read in pieces: float64
    ``[samples // 512]``, of which only the course counts."""
    bank = mel_filterbank(SAMPLE_RATE, _N_FFT, _N_MELS, 0.0, SAMPLE_RATE / 2)
    frames = 1 + track.samples // _HOP if track.samples else 0
    rises, last = [np.empty(0)], torch.empty((_N_MELS, 0))
    for first in range(0, frames, _FRAMES):
        count = min(_FRAMES, frames - first)
        start = max(0, first * _HOP - _N_FFT // 2)
        stop = min(track.samples, (first + count - 1) * _HOP + _N_FFT // 2)
        samples = torch.from_numpy(np.ascontiguousarray(track.read(start, stop)[0], np.float32))
        power = power_spectrogram(samples, _N_FFT, _HOP, first * _HOP - start, count)
        amplitude = torch.cat([last, apply_bands(bank, power).sqrt()], dim=1)
        rises.append((amplitude[:, 1:] - amplitude[:, :-1]).clamp_min(0.0).mean(dim=0).double().numpy())
        last = amplitude[:, -1:]
    return np.concatenate(rises)
