"""Which tempo a listener would tap: the networks' odds of a beat hardly tell it from half and twice as much, and how
accents recur tells more, see `pipeline.dsp.beat_period`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.audio.reader import AudioReader
from pipeline.dsp.beat_period import ODDS, TempoSearch, correlations, periods
from pipeline.dsp.filterbanks import apply_bands, mel_filterbank
from pipeline.dsp.stft import power_spectrogram
from pipeline.models.beats.names import SAMPLE_RATE

SAME = 0.04
"""Tempi within this share of each other are one."""
# As of the extractor `tempo`, on whose accents the odds were fitted.
_N_FFT, _HOP, _N_MELS = 2048, 512, 128
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


def tapped(track: AudioReader, min_bpm: float, max_bpm: float) -> TappedTempi:
    """The tempi at which a track's accents recur.

    Args:
        track: mono at `SAMPLE_RATE`.
        min_bpm, max_bpm: that are considered, beats per minute.
    """
    search = TempoSearch(min_bpm, max_bpm)
    fine = correlations(accents(track), SAMPLE_RATE / _HOP)
    found = None if fine is None else periods(fine, SAMPLE_RATE / _HOP, search)
    if found is None:
        return TappedTempi(np.empty(0), np.empty(0))
    return TappedTempi(60.0 / found.seconds, ODDS.likelihood(found, search))


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
