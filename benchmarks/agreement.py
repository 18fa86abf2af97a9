"""How far the descriptors are from their references, on real music and speech, as a Markdown table.

    python benchmarks/agreement.py --audio ../shared/audio --seconds 30

Music is an excerpt from the middle of each track, speech a few prompts of each speaker, whole; both are faded
over 10 ms at the ends, because meters differ in what they take to lie beyond a cut. Each figure is the worst of
all excerpts. Where a reference is not installed the row says so and nothing is compared. Keys and tempi are those
of synthetic songs; quality has no peer and is compared with what its signals have by construction.

The exit code is 1 where an aim is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from pipeline.features import REGISTRY, Extraction
from pipeline.features.hpss import Masking, masks
from pipeline.features.spectra import SharedSpectra
from pipeline.features.stft import hann_window
from pipeline.optional import look_up
from pipeline.workflows import demo_data

SUFFIXES = {".ogg", ".flac", ".wav", ".mp3"}
FADE_SECONDS = 0.01
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
    """What was measured on one excerpt or set. ``aim`` is a bound, of which side says ``better``, or None."""

    extractor: str
    quantity: str
    reference: str
    value: float
    unit: str = ""
    aim: float | None = None
    better: Callable[[float, float], float] = max  # of two figures the worse one

    def is_nan(self) -> bool:
        return self.value != self.value

    def met(self) -> bool:
        """Whether the aim is reached; NaN reaches none."""
        return self.aim is None or (self.value <= self.aim if self.better is max else self.value >= self.aim)


def read(path: Path, seconds: float) -> Clip:
    """An excerpt from the middle, all of it where ``seconds`` is 0."""
    info = soundfile.info(path)
    count = min(info.frames, round(seconds * info.samplerate)) if seconds else info.frames
    samples, rate = soundfile.read(path, count, (info.frames - count) // 2, dtype="float32", always_2d=True)
    fade = np.linspace(0, 1, round(FADE_SECONDS * rate), dtype=np.float32)[:, None]
    samples[: len(fade)] *= fade
    samples[-len(fade) :] *= fade[::-1]
    return Clip.of(f"{path.parent.name}/{path.name}", samples.T, rate)


def largest(found: object, expected: object) -> float:
    """Largest absolute difference."""
    return float(np.abs(np.asarray(found, np.float64) - np.asarray(expected, np.float64)).max())


def mel(clip: Clip) -> Iterator[Figure]:
    found = clip.extract("mel", series_rate_hz=EVERY_FRAME).arrays["mel"]
    power = librosa.feature.melspectrogram(y=clip.mono, sr=DSP_RATE)
    reference = float(hann_window(2048).double().sum() / 2) ** 2
    expected = np.maximum(librosa.power_to_db(power / reference, amin=1e-30, top_db=None), -100.0)
    yield Figure(
        "mel", "level of any band and frame", "librosa melspectrogram", largest(found, expected), "dB", 0.01
    )


def mfcc(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("mfcc").values
    frames = librosa.feature.mfcc(y=clip.mono, sr=DSP_RATE, n_mfcc=20)
    error = max(
        largest(values["mfcc_mean"], frames.mean(axis=1)), largest(values["mfcc_std"], frames.std(axis=1))
    )
    yield Figure("mfcc", "mean and deviation of any coefficient", "librosa mfcc", error, "dB", 0.01)


def chroma(clip: Clip) -> Iterator[Figure]:
    peers = {"cqt": librosa.feature.chroma_cqt, "stft": librosa.feature.chroma_stft}
    for method, peer in peers.items():
        extraction = clip.extract("chroma", method=method, series_rate_hz=EVERY_FRAME)
        found, expected = extraction.arrays["chroma"], peer(y=clip.mono, sr=DSP_RATE)
        sounding = found.any(axis=0)
        found, expected = found[:, sounding], expected[:, : len(sounding)][:, sounding]
        lengths = np.linalg.norm(found, axis=0) * np.linalg.norm(expected, axis=0)
        cosine = float(((found * expected).sum(axis=0) / lengths).mean())
        yield Figure(
            "chroma", f"mean cosine per frame, {method}", f"librosa chroma_{method}", cosine, "", 0.995, min
        )
    tuning = librosa.estimate_tuning(y=clip.mono, sr=DSP_RATE)
    error = abs(extraction.values["chroma_tuning"] - tuning)
    # -0.5 and 0.5 are the same.
    yield Figure("chroma", "tuning", "librosa estimate_tuning", min(error, 1 - error), "semitone", 0.02)


def hpss(clip: Clip) -> Iterator[Figure]:
    spectrum = librosa.stft(clip.mono)
    expected = librosa.decompose.hpss(np.abs(spectrum), mask=True)
    energy = [float(np.square(np.abs(spectrum) * mask, dtype=np.float64).sum()) for mask in expected]
    share = clip.extract("hpss").values["hpss_harmonic_share"]
    yield Figure("hpss", "shares", "librosa decompose.hpss", abs(share - energy[0] / sum(energy)), "", 0.002)
    # Of the same magnitudes: where nothing sounds, rounding in the transform alone would decide the mask.
    chunks = list(masks(torch.from_numpy(np.abs(spectrum)).square(), Masking()))
    harmonic = torch.cat([chunk[1] for chunk in chunks], dim=1).numpy()
    yield Figure("hpss", "masks", "librosa decompose.hpss", largest(harmonic, expected[0]), "", 1e-3)


def loudness(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("loudness").values
    found = values["loudness_integrated_lufs"]
    if look_up("pyloudnorm").available:
        import pyloudnorm

        # Whole steps of 100 ms: pyloudnorm rounds the number of blocks, and may read beyond the end.
        samples = clip.native[:, : clip.native.shape[1] * 10 // clip.rate * clip.rate // 10]
        expected = pyloudnorm.Meter(clip.rate).integrated_loudness(samples.T.astype(np.float64))
        yield Figure("loudness", "integrated loudness", "pyloudnorm", abs(found - expected), "LU", 0.1)
    if shutil.which("ffmpeg"):
        integrated, range_, peak = by_ffmpeg(clip)
        yield Figure("loudness", "integrated loudness", "ffmpeg ebur128", abs(found - integrated), "LU", 0.1)
        error = abs(values["loudness_range_lu"] - range_)
        yield Figure("loudness", "loudness range", "ffmpeg ebur128", error, "LU", 0.2)
        error = abs(values["loudness_true_peak_dbtp"] - peak)
        yield Figure("loudness", "true peak", "ffmpeg ebur128", error, "dB", 0.2)


def by_ffmpeg(clip: Clip) -> tuple[float, float, float]:
    """Integrated loudness, loudness range and true peak; ffmpeg tells one decimal of each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        soundfile.write(path, clip.native.T, clip.rate, subtype="FLOAT")
        command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(path), "-af", "ebur128=peak=true"]
        done = subprocess.run(  # noqa: S603
            [*command, "-f", "null", "-"], capture_output=True, text=True, check=True
        )
    summary = done.stderr.rpartition("Summary:")[2]
    found = [re.search(rf"{name}:\s+(-?[\d.]+|-inf)", summary) for name in ("I", "LRA", "Peak")]
    return tuple(float(match[1]) for match in found)


def tempo(clip: Clip) -> Iterator[Figure]:
    values = clip.extract("tempo").values
    bpm, beats = librosa.beat.beat_track(y=clip.mono, sr=DSP_RATE, units="time")
    if values["tempo_bpm"] is None or not len(beats):
        return
    error = 100 * abs(values["tempo_bpm"] / float(np.squeeze(bpm)) - 1)
    yield Figure("tempo", "tempo of music", "librosa beat_track", error, "%")
    f_measure = matched(values["tempo_beats_s"], beats, BEAT_TOLERANCE_SECONDS)
    yield Figure(
        "tempo", "beats of music, F-measure at ±70 ms", "librosa beat_track", f_measure, "", None, min
    )


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
        yield Figure("spectral", f"{name}, relative", f"librosa spectral_{name}", float(error), "", 1e-3)
    flatness = librosa.feature.spectral_flatness(S=magnitude)[0, sounding].mean(dtype=np.float64)
    error = abs(values["spectral_flatness_mean"] / flatness - 1)
    yield Figure("spectral", "flatness, relative", "librosa spectral_flatness", float(error), "", 1e-3)
    contrast = librosa.feature.spectral_contrast(**parameters)[:, sounding].mean(axis=1)
    error = largest(values["spectral_contrast_mean"], contrast)
    yield Figure("spectral", "contrast of any band", "librosa spectral_contrast", error, "dB", 0.01)


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
    yield Figure("band_energy", "mean level of any band", "sums over librosa stft", error, "dB", 0.01)
    shares = energy.sum(axis=1) / energy.sum()
    error = largest(values["band_energy_share"], shares)
    yield Figure("band_energy", "share of any band", "sums over librosa stft", error, "", 1e-4)


def synthetic_tempo() -> Iterator[Figure]:
    for bpm in TEMPI:
        clip = Clip.of("drums", synth.drum_pattern(bpm, 20, 44100)[None], 44100)
        error = 100 * abs(clip.extract("tempo").values["tempo_bpm"] / bpm - 1)
        yield Figure("tempo", f"{bpm:g} BPM", "known tempo of drums", error, "%", 1.0)


def synthetic_key() -> Iterator[Figure]:
    """The demo tracks as they are, then each of them in all 24 keys: 12 s, mono, at the DSP rate."""
    songs = [(seed, track) for seed, track in enumerate(demo_data.TRACKS) if track.key]
    right = sum(heard(seed, track)["cqt"] for seed, track in songs)
    yield Figure("key", f"right of the {len(songs)} demo tracks", "synthetic", right, "", len(songs), min)
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
        yield Figure("key", words, "synthetic", right, "", aim, min)


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
        yield Figure("quality", column, signal, abs(found - expected), "", aim)


ON_CLIPS = (mel, mfcc, chroma, hpss, loudness, band_energy, spectral)
SYNTHETIC = (synthetic_tempo, synthetic_key, known_quality)


def worst(figures: list[Figure]) -> list[Figure]:
    """The worst figure of each quantity, in the order of their first."""
    kept: dict[tuple[str, str, str], Figure] = {}
    for figure in figures:
        key = (figure.extractor, figure.quantity, figure.reference)
        # NaN is worse than anything.
        if key not in kept or figure.better(figure.value, kept[key].value) == figure.value or figure.is_nan():
            kept[key] = figure
    return list(kept.values())


def rows(material: str, figures: list[Figure]) -> list[str]:
    lines = []
    for f in worst(figures):
        sign = "≤" if f.better is max else "≥"
        aim = "" if f.aim is None else f"{sign} {f.aim:g}"
        passed = "" if f.aim is None else "yes" if f.met() else "**no**"
        cells = (
            f.extractor,
            f.quantity,
            f.reference,
            material,
            f"{f.value:.4g} {f.unit}".strip(),
            aim,
            passed,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def material(folder: Path, seconds: float, prompts: int) -> dict[str, list[Clip]]:
    """Music and speech below ``folder``."""
    tracks = sorted(p for p in (folder / "music").rglob("*") if p.suffix.lower() in SUFFIXES)
    speakers = sorted(p for p in (folder / "speech").glob("*") if p.is_dir())
    spoken = [path for speaker in speakers for path in sorted(speaker.glob("*.wav"))[:prompts]]
    if not tracks or not spoken:
        raise SystemExit(f"no music/ and speech/ with audio below {folder}; pass --audio FOLDER")
    return {"music": [read(path, seconds) for path in tracks], "speech": [read(path, 0) for path in spoken]}


def report(options: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    clips = material(options.audio, options.seconds, options.prompts)
    names = ("torch", "numpy", "librosa", "pyloudnorm")
    found = [f"{name} {look_up(name).version}" for name in names if look_up(name).available]
    print(f"Python {platform.python_version()}, {', '.join(found)}, {ffmpeg_version() or 'no ffmpeg'}\n")
    print(
        f"{len(clips['music'])} excerpts of music of {options.seconds:g} s, {len(clips['speech'])} prompts.\n"
    )
    print("| extractor | quantity | reference | material | worst | aim | met |")
    print("| --- | --- | --- | --- | ---: | ---: | --- |")
    everything: list[Figure] = []
    for name, checks in (("music", (*ON_CLIPS, tempo)), ("speech", ON_CLIPS)):
        for check in checks:
            figures = [figure for clip in clips[name] for figure in check(clip)]
            everything += figures
            print("\n".join(rows(name, figures)), flush=True)
    for check in SYNTHETIC:
        figures = list(check())
        everything += figures
        print("\n".join(rows("synthetic", figures)), flush=True)
    missed = [f for f in worst(everything) if not f.met()]
    print(f"\n{len(missed)} aims missed." if missed else "\nAll aims met.")
    for name, there in (("pyloudnorm", look_up("pyloudnorm").available), ("ffmpeg", ffmpeg_version())):
        if not there:
            print(f"- {name}: not installed, not compared with")
    return 1 if missed else 0


def ffmpeg_version() -> str | None:
    """Such as ``ffmpeg 5.1.8``; None where it is not installed."""
    path = shutil.which("ffmpeg")
    if path is None:
        return None
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=True)  # noqa: S603
    return " ".join(done.stdout.split()[:3:2])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[2] / "shared" / "audio"
    parser.add_argument("--audio", type=Path, default=default, help="folder with music/ and speech/")
    parser.add_argument("--seconds", type=float, default=30.0, help="excerpt of each track; 0 is all of it")
    parser.add_argument("--prompts", type=int, default=5, help="spoken prompts per speaker")
    sys.exit(report(parser.parse_args()))


if __name__ == "__main__":
    main()
