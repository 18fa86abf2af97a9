"""Fingerprint of a track: 25 numbers that say how it is mixed and mastered, and how it moves."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp import bs1770
from pipeline.dsp.beat_period import LEAST_SECONDS
from pipeline.dsp.onsets import OnsetCurve, note_onsets
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.fingerprint_parts import (
    BAND_EDGES_HZ,
    BASS,
    LARGEST_RATIO_DB,
    MID,
    BandEnergies,
    Pieces,
    PitchClasses,
    ratio_db,
    rhythm_stability,
)
from pipeline.features.hpss import Hpss
from pipeline.features.loudness import measure_block
from pipeline.features.quality import pair_energy, stereo_image
from pipeline.features.running import RunningSummary
from pipeline.features.spectra import ChannelLevels, SharedSpectra
from pipeline.features.spectral import Spectral, shared_frames
from pipeline.features.statistics import decibels
from pipeline.features.tempo import Tempo, shared_rhythm
from pipeline.features.track import TrackInfo

# The parameters of the parts are their defaults: fingerprints are there to be compared.
_SPECTRAL, _TEMPO, _HPSS = Spectral(), Tempo(), Hpss()

_WELCH = "Welch, The use of fast Fourier transform for the estimation of power spectra, 1967"
_BS1770 = "ITU-R BS.1770-4"
_CHROMA = "librosa.feature.chroma_stft with norm=None and tuning=0, over its mean response to white noise"
_SOUNDING = f"over the frames with an RMS of at least {_SPECTRAL.silence_dbfs:g} dBFS, at the DSP rate"
_PIECES = "pieces of 1 s with an RMS of at least -60 dBFS"

# Quantity, unit, definition, source; in the order of the vector, after the shares of the bands.
_QUANTITIES = (
    (
        "loudness_lufs",
        "LUFS",
        "gated programme loudness, as loudness_integrated_lufs; undefined under 400 ms, below -70 LUFS, under 4 kHz",
        _BS1770,
    ),
    (
        "crest_db",
        "dB",
        "largest sample over the RMS of all channels, at least 0, a sine has 3.01, as quality_crest_factor_db; "
        "undefined for silence",
        "",
    ),
    (
        "bass_to_mid_db",
        "dB",
        f"energy at 60..250 Hz over that at 500..2000 Hz, within -{LARGEST_RATIO_DB:g}..{LARGEST_RATIO_DB:g}; "
        "undefined where both are silent",
        _WELCH,
    ),
    (
        "tempo_bpm",
        "1/min",
        f"beats per minute within {_TEMPO.min_bpm:g}..{_TEMPO.max_bpm:g}, as tempo_bpm; undefined without a steady "
        "beat",
        "Ellis, Beat tracking by dynamic programming, 2007",
    ),
    (
        "rhythm_stability",
        "ratio",
        "largest correlation, in 0..1, of the onset envelope with itself one, two, three or four beats later; 0 "
        f"without a steady beat; undefined for silence and under {LEAST_SECONDS:g} s",
        "",
    ),
    (
        "onset_rate_hz",
        "Hz",
        "transient density, onsets per second, at least 0, as onset_rate_hz; undefined for silence and under "
        f"{LEAST_SECONDS:g} s",
        "Böck, Krebs and Schedl, Evaluating the online capabilities of onset detection methods, 2012",
    ),
    (
        "silence_ratio",
        "ratio",
        "share, in 0..1, of the frames of 50 ms with an RMS below -60 dBFS, as quality_silence_ratio; 1 for silence",
        "",
    ),
    (
        "centroid_hz",
        "Hz",
        f"mean frequency weighted by magnitude, 0 to half the rate: mean {_SOUNDING}, as spectral_centroid_mean_hz",
        "Klapuri and Davy, Signal Processing Methods for Music Transcription, 2006, chapter 5",
    ),
    (
        "rolloff_hz",
        "Hz",
        f"least frequency with {_SPECTRAL.roll_percent:g} of the magnitude at and below it, 0 to half the rate: mean "
        f"{_SOUNDING}, as spectral_rolloff_mean_hz",
        "librosa.feature.spectral_rolloff",
    ),
    (
        "flatness",
        "ratio",
        "geometric over arithmetic mean of the power of the bins, in 0..1: mean "
        f"{_SOUNDING}, as spectral_flatness_mean",
        "Dubnov, Generalization of spectral flatness measure for non-Gaussian linear processes, 2004",
    ),
    (
        "harmonic_share",
        "ratio",
        "energy of the harmonic part over that of the harmonic and the percussive part, in 0..1, as "
        "hpss_harmonic_share; undefined for silence",
        "Fitzgerald, 2010; librosa.decompose.hpss",
    ),
    (
        "pitch_stability",
        "ratio",
        "a.b / (|a| |b| + 0.005) of the shares of the 12 pitch classes less 1/12, of each half second and of the "
        "next one, at least 0: mean over the track, in 0..1; a held note has 1, noise about 0; undefined for silence "
        "and under 0.5 s",
        _CHROMA,
    ),
    (
        "chroma_peakiness",
        "ratio",
        "energy of the 3 strongest of the 12 pitch classes in half a second, over that of all, in 0..1: 0 where it is "
        "their even share, 1 where it is all; mean over the track; undefined for silence",
        _CHROMA,
    ),
    (
        "level_spread_db",
        "dB",
        f"dynamic-range variation: standard deviation, at least 0, of the RMS level of the {_PIECES}; undefined where "
        "there are fewer than two",
        "",
    ),
    (
        "loudness_range_lu",
        "LU",
        "loudness spread: 10th to 95th percentile of the gated 3 s loudness, at least 0, as loudness_range_lu; "
        "undefined under 3 s, below -70 LUFS, under 4 kHz",
        "EBU Tech 3342",
    ),
    (
        "peak_consistency",
        "ratio",
        f"mean of the sample peaks of the {_PIECES}, over the peak of the whole track, in 0..1; 1 where all are as "
        "high; undefined where there are none",
        "",
    ),
    (
        "stereo_width",
        "ratio",
        "energy of (L-R)/2 over that of (L-R)/2 and (L+R)/2 of the first two channels, in 0..1, as "
        "quality_stereo_width, and 0 for mono; undefined for silence",
        "",
    ),
    (
        "phase_correlation",
        "1",
        "sum of L R over the root of the energies of L and R, in -1..1, as quality_phase_correlation, and 1 for mono; "
        "undefined for silence in either channel",
        "",
    ),
)


def _band_columns() -> list[pa.Field]:
    """The shares of the bands."""
    total = f"{BAND_EDGES_HZ[0]:g}..{BAND_EDGES_HZ[-1]:g} Hz"
    return [
        column(
            f"fingerprint_share_{low:g}_{high:g}",
            pa.float32(),
            "ratio",
            f"share of the energy at {low:g}..{high:g} Hz in that at {total} of all channels at the native rate, in "
            "0..1; the seven add up to 1; 0 where the rate ends below it, undefined for silence",
            _WELCH,
        )
        for low, high in itertools.pairwise(BAND_EDGES_HZ)
    ]


@register
@dataclass(frozen=True)
class Fingerprint(Extractor):
    """25 numbers in a fixed order, without parameters, so that any two fingerprints can be compared.

    Seven shares of energy, loudness and levels, rhythm, timbre, pitch, dynamics and stereo image. Those that other
    extractors have, too, are the same numbers with the defaults of these, and are computed once where both run.
    Mono has a width of 0 and a correlation of 1. `pipeline.mastering.distance` compares two of them.
    """

    name: ClassVar[str] = "fingerprint"
    version: ClassVar[str] = "3"
    views: ClassVar[tuple[str, ...]] = ("mono", "native")
    description: ClassVar[str] = (
        "25 numbers for mastering: balance, loudness, rhythm, timbre, dynamics and width"
    )
    # Most of it is in other columns already: who masters, or looks for alike masters, asks for it.
    by_default: ClassVar[bool] = False

    def columns(self) -> tuple[pa.Field, ...]:
        return (
            *_band_columns(),
            *(
                column(f"fingerprint_{name}", pa.float32(), unit, definition, source)
                for name, unit, definition, source in _QUANTITIES
            ),
        )

    def context_seconds(self, sample_rate: int) -> float:
        """The medians of the harmonic part look farthest."""
        return _HPSS.context_seconds(sample_rate)

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None without samples."""
        return _FingerprintRun(track)


class _FingerprintRun(Running):
    def __init__(self, track: TrackInfo) -> None:
        self.track = track
        self.levels: ChannelLevels | None = None
        self.cross = 0.0
        self.bands = BandEnergies(track.native_rate)
        self.pieces = Pieces(track.native_rate)
        self.steps: list[bs1770.Steps] = []
        self.onsets = OnsetCurve(_TEMPO.n_fft, _TEMPO.hop_length)
        self.timbre = RunningSummary(("mean",))
        self.pitches = PitchClasses(track, _SPECTRAL.n_fft, _SPECTRAL.hop_length)
        self.parts = _HPSS.start(track)

    def add(self, block: SharedSpectra) -> None:
        # First, as it depends on the loudest band of the track; nothing else does on more than a block.
        self.onsets.add(block.rises(_TEMPO.n_fft, _TEMPO.hop_length, _TEMPO.n_mels))
        self._add_mono(block)
        levels = block.levels()
        if levels is None:
            return
        self.levels = levels if self.levels is None else self.levels + levels
        if len(block.native) >= 2:
            self.cross += pair_energy(block)
        self.bands.add(block)
        self.pieces.add(block)
        if block.native_rate >= bs1770.LOWEST_RATE:
            self.steps.append(measure_block(block))

    def _add_mono(self, block: SharedSpectra) -> None:
        frames = shared_frames(block, _SPECTRAL)
        sounding = frames.mean_square >= 10.0 ** (_SPECTRAL.silence_dbfs / 10.0)
        self.timbre.add(np.stack([frames.centroid, frames.rolloff, frames.flatness])[:, sounding])
        self.pitches.add(block)
        self.parts.add(block)

    def finish(self) -> Extraction:
        names = [f.name for f in Fingerprint().columns()]
        if self.levels is None:
            return Extraction(dict.fromkeys(names))
        found = {
            **self._levels(self.levels),
            **self._rhythm(),
            "harmonic_share": self.parts.finish().values["hpss_harmonic_share"],
            "pitch_stability": self.pitches.stability(),
            "chroma_peakiness": self.pitches.peakiness(),
            "silence_ratio": self.pieces.silence_ratio(),
            "level_spread_db": self.pieces.level_spread_db(),
            "peak_consistency": self.pieces.peak_consistency(),
        }
        timbre = ("centroid_hz", "rolloff_hz", "flatness")
        means = self.timbre.values()["mean"] if self.timbre.frames else (None,) * len(timbre)
        found |= {name: None if x is None else float(x) for name, x in zip(timbre, means, strict=True)}
        energies = self.bands.energies()
        total = float(energies.sum())
        shares = [float(x) / total if total > 0.0 else None for x in energies]
        found["bass_to_mid_db"] = ratio_db(energies[BASS], energies[MID])
        quantities = [found[name] for name, *_ in _QUANTITIES]
        return Extraction(dict(zip(names, [*shares, *quantities], strict=True)))

    def _levels(self, levels: ChannelLevels) -> dict[str, float | None]:
        """Loudness, peak and image."""
        steps = bs1770.Steps.joined(self.steps)
        power, peak = decibels(float(levels.mean_square.mean())), float(levels.peak.max())
        if len(levels.peak) >= 2:
            width, correlation = stereo_image(*(float(x) for x in levels.square[:2]), self.cross)
        else:
            width, correlation = (None, None) if power is None else (0.0, 1.0)
        return {
            "loudness_lufs": bs1770.integrated_loudness(steps),
            "loudness_range_lu": bs1770.loudness_range(steps),
            "crest_db": None if power is None else max(0.0, 20.0 * math.log10(peak) - power),
            "stereo_width": width,
            "phase_correlation": correlation,
        }

    def _rhythm(self) -> dict[str, float | None]:
        """Tempo, its stability and how often notes begin."""
        track, tempo = self.track, _TEMPO
        found: dict[str, float | None] = dict.fromkeys(("tempo_bpm", "rhythm_stability", "onset_rate_hz"))
        strength = self.onsets.strength()
        if track.seconds < LEAST_SECONDS or not strength.any():
            return found
        frame_rate = track.sample_rate / tempo.hop_length
        found["onset_rate_hz"] = len(note_onsets(strength, frame_rate)) / track.seconds
        found["rhythm_stability"] = 0.0
        rhythm = shared_rhythm(
            track, self.onsets, tempo.n_fft, tempo.hop_length, tempo.n_mels, search=tempo.search()
        )
        if rhythm is not None:
            period = 60.0 * frame_rate / rhythm.tempo.bpm
            found["tempo_bpm"] = rhythm.tempo.bpm
            found["rhythm_stability"] = rhythm_stability(strength, period)
        return found
