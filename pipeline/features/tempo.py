"""Tempo, beats and how often notes begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.beat_period import LEAST_SECONDS, TempoSearch
from pipeline.dsp.onsets import LEAST_RISE_DB, OnsetCurve, Rhythm, note_onsets
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import TrackInfo

_ELLIS = "Ellis, Beat tracking by dynamic programming, 2007"


@register
@dataclass(frozen=True)
class Tempo(Extractor):
    """Tempo and beats from onsets in the mel spectrogram.

    Onsets are those of ``librosa.onset`` that raise the mel bands by a least amount, so that a steady tone has none,
    and no tempo; beats are those of ``librosa.beat`` at the same tempo. The tempo itself is found by
    `pipeline.dsp.beat_period.estimate_tempo`, finer than a frame and with fewer errors of an octave, or of three for
    two. Many tracks can be counted at half or twice the tempo; ``tempo_confidence`` says how sure the choice is.

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames; beats are a multiple of it.
        n_mels: mel bands from 0 Hz to half the sample rate.
        min_bpm: slowest tempo, beats per minute.
        max_bpm: fastest tempo.
        prior_bpm: most likely tempo.
        prior_octaves: standard deviation of the prior, octaves.
        tightness: how closely beats keep to the tempo; 100 is librosa's default.
    """

    name: ClassVar[str] = "tempo"
    version: ClassVar[str] = "5"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "tempo, beats and the rate of onsets"

    n_fft: int = 2048
    hop_length: int = 512
    n_mels: int = 128
    min_bpm: float = 40.0
    max_bpm: float = 300.0
    prior_bpm: float = 130.0
    prior_octaves: float = 0.6
    tightness: float = 100.0

    def check(self) -> None:
        for parameter in ("hop_length", "n_mels", "min_bpm", "prior_bpm", "prior_octaves", "tightness"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")
        if self.n_fft < 16:
            raise ValueError(f"n_fft={self.n_fft} must be at least 16")
        if not self.max_bpm > self.min_bpm:
            raise ValueError(f"max_bpm={self.max_bpm} must exceed min_bpm={self.min_bpm}")

    def columns(self) -> tuple[pa.Field, ...]:
        return (
            column(
                "tempo_bpm",
                pa.float32(),
                "1/min",
                f"beats per minute within {self.min_bpm:g}..{self.max_bpm:g}; undefined without a steady beat",
                _ELLIS,
            ),
            column(
                "tempo_confidence",
                pa.float32(),
                "ratio",
                "probability that tempo_bpm is the tempo that a listener would tap, 0..1, learnt on music with known "
                "beats; low where half or twice the tempo is as good; undefined without a tempo",
            ),
            column(
                "tempo_beats_s",
                pa.list_(pa.float32()),
                "s",
                "times of the beats; undefined without a tempo",
                f"{_ELLIS}; librosa.beat.beat_track",
            ),
            column(
                "onset_rate_hz",
                pa.float32(),
                "Hz",
                f"onsets per second, rises of the mel bands by {LEAST_RISE_DB:g} dB on average or more; 0 for a steady "
                f"sound, undefined for silence and under {LEAST_SECONDS:g} s",
                "Böck, Krebs and Schedl, Evaluating the online capabilities of onset detection methods, 2012; as "
                "librosa.onset.onset_detect, by what is a large rise in the track and not the largest",
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None for silence and under 2 s."""
        return _TempoRun(self, track)

    def search(self) -> TempoSearch:
        """Where to look for the tempo."""
        return TempoSearch(self.min_bpm, self.max_bpm, self.prior_bpm, self.prior_octaves, self.tightness)


class _TempoRun(Running):
    def __init__(self, tempo: Tempo, track: TrackInfo) -> None:
        self.tempo, self.track = tempo, track
        self.curve = OnsetCurve(tempo.n_fft, tempo.hop_length)

    def add(self, block: SharedSpectra) -> None:
        if block.track.one_block and block.track.seconds < LEAST_SECONDS:
            return
        self.curve.add(block.rises(self.tempo.n_fft, self.tempo.hop_length, self.tempo.n_mels))

    def finish(self) -> Extraction:
        tempo, track = self.tempo, self.track
        values: dict[str, float | np.ndarray | None] = {f.name: None for f in tempo.columns()}
        if track.seconds < LEAST_SECONDS:
            return Extraction(values, backend="numpy")
        frame_rate = track.sample_rate / tempo.hop_length
        strength = self.curve.strength()
        if strength.any():
            values["onset_rate_hz"] = len(note_onsets(strength, frame_rate)) / track.seconds
        rhythm = shared_rhythm(
            track, self.curve, tempo.n_fft, tempo.hop_length, tempo.n_mels, search=tempo.search()
        )
        if rhythm is not None:
            values["tempo_bpm"] = rhythm.tempo.bpm
            values["tempo_confidence"] = rhythm.tempo.confidence
            values["tempo_beats_s"] = (rhythm.beats / frame_rate).astype(np.float32)
        return Extraction(values, backend="numpy")


def shared_rhythm(
    track: TrackInfo, curve: OnsetCurve, n_fft: int, hop_length: int, n_mels: int, *, search: TempoSearch
) -> Rhythm | None:
    """`OnsetCurve.rhythm`, found once for all who ask with the same parameters."""
    return track.once(
        ("rhythm", n_fft, hop_length, n_mels, search),
        lambda: curve.rhythm(track.sample_rate / hop_length, search),
    )
