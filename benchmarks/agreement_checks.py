"""What `benchmarks/agreement.py` measures: one function per extractor, which compares it with its reference."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import librosa
import numpy as np
import soundfile
import soxr
import torch
from feature_peers import DSP_RATE

from pipeline.audio import synth
from pipeline.audio.resample import make_view
from pipeline.dsp.stft import hann_window
from pipeline.features import REGISTRY, Extraction
from pipeline.features.hpss import Masking, masks
from pipeline.features.spectra import SharedSpectra
from pipeline.optional import look_up
from pipeline.workflows import demo_data

BEAT_TOLERANCE_SECONDS = 0.07
TEMPI = (60.0, 90.0, 128.0, 174.0)
EVERY_FRAME = 1e9
SILENT_DBFS = -100.0


@dataclass(frozen=True)
class Clip:
    """One excerpt: ``native`` ``[channels, samples]`` at ``rate``, ``mono`` ``[samples]`` at the DSP rate."""

    name: str
    native: np.ndarray
    rate: int
    mono: np.ndarray

    @staticmethod
    def of(name: str, native: np.ndarray, rate: int) -> Clip:
        native = np.ascontiguousarray(native, dtype=np.float32)
        return Clip(name, native, rate, make_view(native, rate, DSP_RATE, 1)[0])

    def extract(self, extractor: str, **parameters: object) -> Extraction:
        spectra = SharedSpectra(self.mono, DSP_RATE, self.native, self.rate)
        return REGISTRY[extractor](**parameters).extract(spectra)


@dataclass(frozen=True)
class Figure:
    """What was measured on one excerpt or set. ``worse`` picks the worse of two; ``aim`` is a bound or None."""

    extractor: str
    quantity: str
    reference: str
    value: float
    unit: str = ""
    _: KW_ONLY
    aim: float | None = None
    worse: Callable[[float, float], float] = max

    def is_nan(self) -> bool:
        return self.value != self.value

    def met(self) -> bool:
        """Whether the aim is reached; NaN reaches none."""
        return self.aim is None or (self.value <= self.aim if self.worse is max else self.value >= self.aim)


def largest(found: object, expected: object) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max())


def mel(clip: Clip) -> Iterator[Figure]:
    found = clip.extract("mel", series_rate_hz=EVERY_FRAME).arrays["mel"]
    power = librosa.feature.melspectrogram(y=clip.mono, sr=DSP_RATE)
    reference = float(hann_window(2048).double().sum() / 2) ** 2
    expected = np.maximum(librosa.power_to_db(power / reference, amin=1e-30, top_db=None), -100.0)
    yield Figure(
        "mel",
        "level of any band and frame",
        "librosa melspectrogram",
        largest(found, expected),
        "dB",
        aim=0.01,
    )


def mfcc(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("mfcc").values
    frames = librosa.feature.mfcc(y=clip.mono, sr=DSP_RATE, n_mfcc=20)
    error = max(
        largest(values["mfcc_mean"], frames.mean(axis=1)), largest(values["mfcc_std"], frames.std(axis=1))
    )
    yield Figure("mfcc", "mean and deviation of any coefficient", "librosa mfcc", error, "dB", aim=0.01)


def chroma(clip: Clip) -> Iterator[Figure]:
    audio = {"y": clip.mono, "sr": DSP_RATE}
    tuning = librosa.estimate_tuning(**audio)
    fine = librosa.estimate_tuning(**audio, bins_per_octave=36)
    same = {"tuning": fine + round(3 * tuning - fine)}
    peers = (
        ("cqt", "librosa chroma_cqt, in the same tuning", same, 0.995),
        ("cqt", "librosa chroma_cqt, in its own tuning", {}, None),
        ("stft", "librosa chroma_stft", {}, 0.995),
    )
    for method, reference, parameters, aim in peers:
        extraction = clip.extract("chroma", method=method, series_rate_hz=EVERY_FRAME)
        expected = getattr(librosa.feature, f"chroma_{method}")(**audio, **parameters)
        cosine = mean_cosine(extraction.arrays["chroma"], expected)
        yield Figure("chroma", f"mean cosine per frame, {method}", reference, cosine, "", aim=aim, worse=min)
    error = abs(extraction.values["chroma_tuning"] - tuning)
    # -0.5 and 0.5 are the same.
    yield Figure("chroma", "tuning", "librosa estimate_tuning", min(error, 1 - error), "semitone", aim=0.02)


def mean_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    """Over the frames that sound."""
    lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(expected, axis=0)
    return float(((found * expected).sum(axis=0)[lengths > 0] / lengths[lengths > 0]).mean())


def hpss(clip: Clip) -> Iterator[Figure]:
    spectrum = librosa.stft(clip.mono)
    expected = librosa.decompose.hpss(np.abs(spectrum), mask=True)
    energy = [float(np.square(np.abs(spectrum) * mask, dtype=np.float64).sum()) for mask in expected]
    share = clip.extract("hpss").values["hpss_harmonic_share"]
    yield Figure(
        "hpss", "shares", "librosa decompose.hpss", abs(share - energy[0] / sum(energy)), "", aim=0.002
    )
    # Of the same magnitudes: where nothing sounds, rounding in the transform alone would decide the mask.
    chunks = list(masks(torch.from_numpy(np.abs(spectrum)).square(), Masking()))
    harmonic = torch.cat([chunk[1] for chunk in chunks], dim=1).numpy()
    yield Figure("hpss", "masks", "librosa decompose.hpss", largest(harmonic, expected[0]), "", aim=1e-3)


def loudness(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("loudness").values
    found = values["loudness_integrated_lufs"]
    if look_up("pyloudnorm").available:
        import pyloudnorm

        # Whole steps of 100 ms: pyloudnorm rounds the number of blocks, and may read beyond the end.
        samples = clip.native[:, : clip.native.shape[1] * 10 // clip.rate * clip.rate // 10]
        expected = pyloudnorm.Meter(clip.rate).integrated_loudness(samples.T.astype(np.float64))
        yield Figure("loudness", "integrated loudness", "pyloudnorm", abs(found - expected), "LU", aim=0.1)
    if shutil.which("ffmpeg"):
        reference = "ffmpeg ebur128" if clip.rate >= 44100 else "ffmpeg ebur128 at 48 kHz"
        integrated, range_, peak = by_ffmpeg(clip)
        yield Figure("loudness", "integrated loudness", reference, abs(found - integrated), "LU", aim=0.1)
        error = abs(values["loudness_range_lu"] - range_)
        yield Figure("loudness", "loudness range", reference, error, "LU", aim=0.2)
        error = abs(values["loudness_true_peak_dbtp"] - peak)
        yield Figure("loudness", "true peak", reference, error, "dB", aim=0.2)


def by_ffmpeg(clip: Clip) -> tuple[float, float, float]:
    """Integrated loudness, loudness range and true peak; ffmpeg tells one decimal of each.

    Its filter bends at low rates (0.2 LU at 8 kHz), so that those are resampled for it.
    """
    meter = "ebur128=peak=true" if clip.rate >= 44100 else "aresample=48000,ebur128=peak=true"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        soundfile.write(path, clip.native.T, clip.rate, subtype="FLOAT")
        command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(path), "-af", meter]
        done = subprocess.run(  # noqa: S603
            [*command, "-f", "null", "-"], capture_output=True, text=True, check=True
        )
    summary = done.stderr.rpartition("Summary:")[2]
    found = [re.search(rf"{name}:\s+(-?[\d.]+|-inf)", summary) for name in ("I", "LRA", "Peak")]
    return tuple(float(match[1]) for match in found)


def tempo(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("tempo").values
    bpm, beats = librosa.beat.beat_track(y=clip.mono, sr=DSP_RATE, units="time")
    bpm = float(np.squeeze(bpm))
    if values["tempo_bpm"] is None:
        words = f"{clip.name}: no steady beat, {bpm:.1f} BPM by librosa"
        yield Figure("tempo", words, "librosa beat_track", float("nan"))
        return
    # Track by track: the worst of a few says little where a song may be counted at half the tempo.
    error = 100 * abs(values["tempo_bpm"] / bpm - 1)
    words = f"{clip.name}: {values['tempo_bpm']:.1f} BPM, {bpm:.1f} by librosa"
    yield Figure("tempo", words, "librosa beat_track", error, "%")
    f_measure = matched(values["tempo_beats_s"], beats, BEAT_TOLERANCE_SECONDS)
    words = f"{clip.name}: beats, F-measure at ±70 ms"
    yield Figure("tempo", words, "librosa beat_track", f_measure, "", aim=None, worse=min)


def matched(found: np.ndarray, expected: np.ndarray, tolerance: float) -> float:
    """F-measure of two ascending series of times, each time paired at most once."""
    pairs = i = j = 0
    while i < len(found) and j < len(expected):
        if abs(found[i] - expected[j]) <= tolerance:
            pairs, i, j = pairs + 1, i + 1, j + 1
        elif found[i] < expected[j]:
            i += 1
        else:
            j += 1
    return 2 * pairs / (len(found) + len(expected))


def spectral(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("spectral").values
    magnitude = np.abs(librosa.stft(clip.mono))
    weights = float(hann_window(2048).double().square().sum())
    mean_square = (2 * np.square(magnitude).sum(axis=0) - magnitude[0] ** 2) / (2048 * weights)
    sounding = mean_square >= 10 ** (SILENT_DBFS / 10)
    parameters = {"S": magnitude, "sr": DSP_RATE}
    for name in ("centroid", "bandwidth", "rolloff"):
        frames = getattr(librosa.feature, f"spectral_{name}")(**parameters)[0, sounding]
        expected = {"mean": frames.mean(dtype=np.float64), "std": frames.std(dtype=np.float64)}
        error = max(abs(values[f"spectral_{name}_{s}_hz"] / v - 1) for s, v in expected.items())
        yield Figure("spectral", f"{name}, relative", f"librosa spectral_{name}", float(error), "", aim=1e-3)
    flatness = librosa.feature.spectral_flatness(S=magnitude)[0, sounding].mean(dtype=np.float64)
    error = abs(values["spectral_flatness_mean"] / flatness - 1)
    yield Figure("spectral", "flatness, relative", "librosa spectral_flatness", float(error), "", aim=1e-3)
    frames = librosa.feature.spectral_contrast(**parameters)[:, sounding]
    errors = np.abs(values["spectral_contrast_mean"] - frames.mean(axis=1))
    # Above the cut of a codec or of an old sample rate the weakest bins lie below the rounding of a transform in
    # float32, which is what is computed here; librosa's is in float64. Told by another float32 transform.
    window = torch.hann_window(2048)
    single = torch.stft(
        torch.from_numpy(clip.mono), 2048, 512, window=window, pad_mode="constant", return_complex=True
    )
    rounded = librosa.feature.spectral_contrast(S=single.abs().numpy(), sr=DSP_RATE)[:, sounding]
    resolved = np.abs(rounded - frames).mean(axis=1) <= 0.01
    for words, bands, aim in (("resolves", resolved, 0.01), ("does not resolve", ~resolved, None)):
        if bands.any():
            quantity, error = f"contrast of any band that float32 {words}", float(errors[bands].max())
            yield Figure("spectral", quantity, "librosa spectral_contrast", error, "dB", aim=aim)


def band_energy(clip: Clip) -> Iterator[Figure]:
    # Edges halfway between bins, so that a band is a sum of whole bins.
    bin_hz = DSP_RATE / 2048
    bounds = np.array([1, 10, 30, 100, 300, 1000])
    values = clip.extract("band_energy", edges_hz=[float(b - 0.5) * bin_hz for b in bounds]).values
    power = np.square(np.abs(librosa.stft(clip.mono)), dtype=np.float64)
    energy = np.add.reduceat(power, bounds, axis=0)[:-1]
    reference = 2048 * float(hann_window(2048).double().square().sum()) / 4
    levels = 10 * np.log10(np.maximum(energy / reference, 1e-10)).mean(axis=1)
    error = largest(values["band_energy_mean_db"], levels)
    yield Figure("band_energy", "mean level of any band", "sums over librosa stft", error, "dB", aim=0.01)
    shares = energy.sum(axis=1) / energy.sum()
    error = largest(values["band_energy_share"], shares)
    yield Figure("band_energy", "share of any band", "sums over librosa stft", error, "", aim=1e-4)


def synthetic_tempo() -> Iterator[Figure]:
    for bpm in TEMPI:
        clip = Clip.of("drums", synth.drum_pattern(bpm, 20, 44100)[None], 44100)
        error = 100 * abs(clip.extract("tempo").values["tempo_bpm"] / bpm - 1)
        yield Figure("tempo", f"{bpm:g} BPM", "known tempo of drums", error, "%", aim=1.0)


def synthetic_key() -> Iterator[Figure]:
    """The demo tracks as they are, then each of them in all 24 keys: 12 s, mono, at the DSP rate."""
    songs = [(seed, track) for seed, track in enumerate(demo_data.TRACKS) if track.key]
    right = sum(heard(seed, track)["cqt"] for seed, track in songs)
    yield Figure(
        "key", f"right of the {len(songs)} demo tracks", "synthetic", right, "", aim=len(songs), worse=min
    )
    keys = [f"{tonic} {mode}" for tonic in synth.PITCH_CLASSES for mode in ("major", "minor")]
    results = [
        heard(
            seed,
            dataclasses.replace(track, key=key, seconds=12.0, sample_rate=DSP_RATE, channels=1, lufs=-23.0),
        )
        for seed, track in songs
        for key in keys
    ]
    for method, aim in (("cqt", len(results)), ("stft", None)):
        right = sum(result[method] for result in results)
        words = f"right of {len(results)}: each demo track in 24 keys, {method}"
        yield Figure("key", words, "synthetic", right, "", aim=aim, worse=min)


def heard(seed: int, track: demo_data.DemoTrack) -> dict[str, bool]:
    """Whether each method finds the key of a demo track."""
    clip = Clip.of(track.name, demo_data.render(track, seed), track.sample_rate)
    return {m: clip.extract("key", method=m).values["key_top"][0] == track.key for m in ("cqt", "stft")}


def known_quality() -> Iterator[Figure]:
    """Signals whose quality is known in closed form: 4 s at 44.1 kHz."""
    rate = 44100
    time = np.arange(4 * rate) / rate
    sine = 0.5 * np.sin(2 * np.pi * 997 * time)
    left, right = np.random.default_rng(0).standard_normal((2, len(time)))
    right -= left * (left @ right) / (left @ left)
    right *= np.linalg.norm(left) / np.linalg.norm(right)
    half = np.where(time < 2, sine, 0.0)
    clipped = np.where(np.arange(len(time)) % 100 < 10, 1.0, 0.1)
    low = soxr.resample(left, 2 * 8000, rate)[: len(time)]
    cases = (
        ("dc_offset", "a sine + 0.1", sine[None] + 0.1, 0.1, 1e-4),
        ("clipping_ratio", "10 of 100 samples at 1", clipped[None], 0.1, 1e-4),
        ("crest_factor_db", "a sine", sine[None], 20 * np.log10(2) / 2, 0.01),
        ("silence_ratio", "silent after 2 of 4 s", half[None], 0.5, 0.01),
        ("stereo_width", "L and R independent", np.stack([left, right]) / 10, 0.5, 1e-4),
        ("stereo_width", "R = -L", np.stack([sine, -sine]), 1.0, 1e-4),
        ("phase_correlation", "L and R independent", np.stack([left, right]) / 10, 0.0, 1e-4),
        ("phase_correlation", "R = -L / 2", np.stack([sine, -sine / 2]), -1.0, 1e-4),
        ("bandwidth_hz", "noise up to 8 kHz", low[None] / 10, 8000.0, 250.0),
    )
    for column, signal, samples, expected, aim in cases:
        found = Clip.of(signal, samples, rate).extract("quality").values[f"quality_{column}"]
        yield Figure("quality", column, signal, abs(found - expected), "", aim=aim)


ON_CLIPS = (mel, mfcc, chroma, hpss, loudness, band_energy, spectral)
SYNTHETIC = (synthetic_tempo, synthetic_key, known_quality)
