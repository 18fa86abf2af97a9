"""The fingerprint: each number against a formula of its own, whatever the blocks, and what is undefined."""

from __future__ import annotations

import dataclasses
import itertools
import math

import librosa
import numpy as np
import pyarrow as pa
import pytest
from scipy import signal

from pipeline.audio import synth
from pipeline.audio.resample import resample
from pipeline.features.extraction import TrackAudio, run_extractors
from pipeline.features.fingerprint import Fingerprint
from pipeline.features.fingerprint_parts import BAND_EDGES_HZ, ratio_db, rhythm_stability
from pipeline.features.hpss import Hpss
from pipeline.features.loudness import Loudness
from pipeline.features.quality import Quality
from pipeline.features.spectra import SharedSpectra
from pipeline.features.spectral import Spectral
from pipeline.features.tempo import Tempo

DSP_RATE = 22050
NAMES = [f.name.removeprefix("fingerprint_") for f in Fingerprint().columns()]
SHARES = NAMES[:7]
# The same number under another name.
TWINS = {
    "loudness_lufs": (Loudness, "loudness_integrated_lufs"),
    "loudness_range_lu": (Loudness, "loudness_range_lu"),
    "crest_db": (Quality, "quality_crest_factor_db"),
    "silence_ratio": (Quality, "quality_silence_ratio"),
    "stereo_width": (Quality, "quality_stereo_width"),
    "phase_correlation": (Quality, "quality_phase_correlation"),
    "tempo_bpm": (Tempo, "tempo_bpm"),
    "onset_rate_hz": (Tempo, "onset_rate_hz"),
    "centroid_hz": (Spectral, "spectral_centroid_mean_hz"),
    "rolloff_hz": (Spectral, "spectral_rolloff_mean_hz"),
    "flatness": (Spectral, "spectral_flatness_mean"),
    "harmonic_share": (Hpss, "hpss_harmonic_share"),
}


def audio_of(samples: np.ndarray, rate: int, block_seconds: float = 1000.0) -> TrackAudio:
    native = np.ascontiguousarray(np.atleast_2d(samples), np.float32)
    mono = native.mean(axis=0)[None]
    if rate != DSP_RATE:
        mono = resample(mono, rate, DSP_RATE)
    context = Fingerprint().context_seconds(DSP_RATE)
    return TrackAudio(mono[0], DSP_RATE, native, rate, block_seconds=block_seconds, context_seconds=context)


def fingerprint(samples: np.ndarray, rate: int = 44100, block_seconds: float = 1000.0) -> dict:
    audio = audio_of(samples, rate, block_seconds)
    [outcome] = run_extractors([Fingerprint()], audio.track, audio.blocks)
    if outcome.error is not None:
        raise outcome.error
    return {name.removeprefix("fingerprint_"): value for name, value in outcome.extraction.values.items()}


def sine(frequency: float, seconds: float, rate: int = 44100, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def noise(seed: int, channels: int, seconds: float, rate: int = 44100) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.3, 0.3, (channels, round(seconds * rate)))


@pytest.fixture(scope="module")
def band() -> np.ndarray:
    """12 s of chords and drums in stereo with a rest of a second in them: float32 ``[2, samples]``, 44.1 kHz."""
    chords = synth.chord_progression("D", "minor", 12, 44100, bpm=120, seed=1)
    drums = synth.drum_pattern(120, 12, 44100, 1)
    stereo = synth.mixture([(chords, 0.5, -0.4), (drums, 0.7, 0.3)])[:, : 12 * 44100]
    stereo[:, 5 * 44100 : 6 * 44100] = 0.0
    return (0.4 * stereo).astype(np.float32)


@pytest.fixture(scope="module", params=["band", "feelings", "escape_from_chaosland"])
def song(request, band) -> np.ndarray:
    if request.param == "band":
        return band
    return request.getfixturevalue("music")[request.param][:, : 12 * 44100]


@pytest.fixture(scope="module")
def found(song) -> dict:
    return fingerprint(song)


def test_there_are_25_numbers_each_with_unit_definition_and_range():
    columns = Fingerprint().columns()
    assert len(columns) == len(set(NAMES)) == 25
    for field in columns:
        assert field.type == pa.float32()
        assert field.metadata[b"unit"]
        assert any(
            word in field.metadata[b"description"] for word in (b"..", b"at least 0", b"0 to half", b"LUFS")
        )
    assert not Fingerprint.by_default


def test_band_shares_are_welchs(song, found):
    # The first window is centred on the first sample.
    padded = np.pad(song, ((0, 0), (2048, 2048)))
    frequencies, power = signal.welch(padded, 44100, "hann", 4096, detrend=False, scaling="spectrum")
    power = power.sum(axis=0)
    energies = np.array(
        [
            power[(frequencies >= low) & (frequencies < high)].sum()
            for low, high in itertools.pairwise(BAND_EDGES_HZ)
        ]
    )
    shares = [found[name] for name in SHARES]
    np.testing.assert_allclose(shares, energies / energies.sum(), atol=1e-5)
    assert sum(shares) == pytest.approx(1.0, abs=1e-9)
    assert found["bass_to_mid_db"] == pytest.approx(10 * np.log10(energies[1] / energies[3]), abs=1e-3)


def test_levels_are_what_pyloudnorm_and_numpy_say(song, found):
    pyloudnorm = pytest.importorskip("pyloudnorm")
    meter = pyloudnorm.Meter(44100, filter_class="DeMan")
    assert found["loudness_lufs"] == pytest.approx(
        meter.integrated_loudness(song.T.astype(np.float64)), abs=0.01
    )
    samples = song.astype(np.float64)
    rms = np.sqrt(np.mean(samples**2))
    assert found["crest_db"] == pytest.approx(20 * np.log10(np.abs(samples).max() / rms), abs=1e-4)
    # Plain RMS is another number.
    assert abs(found["loudness_lufs"] - 20 * np.log10(rms)) > 0.3
    left, right = samples
    assert found["stereo_width"] == pytest.approx(
        np.square(left - right).sum() / (np.square(left - right).sum() + np.square(left + right).sum()),
        abs=1e-6,
    )
    assert found["phase_correlation"] == pytest.approx(
        left @ right / (np.linalg.norm(left) * np.linalg.norm(right)), abs=1e-6
    )


def test_pieces_are_what_a_loop_says(song, found):
    frames = [song[:, i : i + 2205] for i in range(0, song.shape[1] - 2204, 2205)]
    silent = [np.sqrt(np.mean(f.astype(np.float64) ** 2)) < 1e-3 for f in frames]
    assert found["silence_ratio"] == pytest.approx(np.mean(silent))
    seconds = [song[:, i : i + 44100].astype(np.float64) for i in range(0, song.shape[1] - 44099, 44100)]
    sounding = [s for s in seconds if np.sqrt(np.mean(s**2)) >= 1e-3]
    levels = [10 * np.log10(np.mean(s**2)) for s in sounding]
    assert found["level_spread_db"] == pytest.approx(np.std(levels), abs=1e-4)
    peaks = [np.abs(s).max() for s in sounding]
    assert found["peak_consistency"] == pytest.approx(np.mean(peaks) / np.abs(song).max(), abs=1e-6)


def test_timbre_is_librosas(song, found):
    mono = audio_of(song, 44100).mono
    spectrum = np.abs(librosa.stft(mono, n_fft=2048, hop_length=512))
    power = np.square(spectrum)
    sounding = power.sum(axis=0) > 1e-10 * 2048 * 768 / 2
    for name, series in {
        "centroid_hz": librosa.feature.spectral_centroid(S=spectrum, sr=DSP_RATE),
        "rolloff_hz": librosa.feature.spectral_rolloff(S=spectrum, sr=DSP_RATE, roll_percent=0.85),
        "flatness": librosa.feature.spectral_flatness(S=spectrum),
    }.items():
        assert found[name] == pytest.approx(series[0][sounding].mean(), rel=1e-3), name
    harmonic, percussive = librosa.decompose.hpss(spectrum)
    energies = np.square(harmonic).sum(), np.square(percussive).sum()
    assert found["harmonic_share"] == pytest.approx(energies[0] / sum(energies), abs=1e-4)


def test_pitch_is_that_of_librosas_chroma(song, found):
    mono = audio_of(song, 44100).mono
    power = np.square(np.abs(librosa.stft(mono, n_fft=2048, hop_length=512)))
    bank = librosa.filters.chroma(sr=DSP_RATE, n_fft=2048)
    chroma = bank @ power / bank.sum(axis=1, keepdims=True)
    steps = [chroma[:, i : i + 22].mean(axis=1) for i in range(0, chroma.shape[1], 22)]
    loudest = max(s.sum() for s in steps)
    heard = [s / s.sum() if s.sum() >= 1e-6 * loudest else None for s in steps]
    alike = []
    for a, b in itertools.pairwise(heard):
        if a is not None and b is not None:
            a, b = a - 1 / 12, b - 1 / 12
            alike.append(max(0.0, a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 0.005)))
    assert found["pitch_stability"] == pytest.approx(np.mean(alike), abs=2e-3)
    strongest = np.mean([np.sort(s)[-3:].sum() for s in heard if s is not None])
    assert found["chroma_peakiness"] == pytest.approx((strongest - 0.25) / 0.75, abs=2e-3)


def test_numbers_that_others_have_are_theirs_and_nothing_is_computed_twice(song):
    native = np.ascontiguousarray(song)
    spectra = SharedSpectra(audio_of(song, 44100).mono, DSP_RATE, native, 44100)
    own = Fingerprint().extract(spectra).values
    others = {cls: cls().extract(spectra).values for cls in {cls for cls, _ in TWINS.values()}}
    for name, (cls, column) in TWINS.items():
        assert own[f"fingerprint_{name}"] == others[cls][column], name
    assert max(spectra.counts.values()) == max(spectra.track.counts.values()) == 1
    shared = {key[0] for key in spectra.counts}
    assert {"loudness_steps", "cross_energy", "spectral", "hpss_energy", "rises", "frame_power"} <= shared


@pytest.mark.parametrize("block_seconds", [1.0, 2.6, 5.1])
def test_blocks_equal_the_whole(song, found, block_seconds):
    assert_alike(fingerprint(song, block_seconds=block_seconds), found)


def assert_alike(found: dict, expected: dict) -> None:
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(value, rel=2e-5, abs=1e-5), name


@pytest.mark.parametrize("extra", [0, 1, 3, 1000])
def test_a_tail_of_a_few_samples_changes_nothing(extra):
    # Blocks of 5 * 4096 samples at the DSP rate: the last one has so many samples.
    rate, step = DSP_RATE, 5 * 4096
    samples = noise(4, 2, 5) * np.where(np.arange(5 * 44100) % 11025 < 1500, 1.0, 0.2)
    cut = samples[:, : 4 * step + extra]
    blocks = fingerprint(cut, rate, block_seconds=step / rate)
    assert audio_of(cut, rate, step / rate).track.one_block is False
    assert_alike(blocks, fingerprint(cut, rate))


def test_a_burst_after_silence_is_the_songs_peak_and_no_blocks():
    samples = 0.02 * noise(5, 2, 9)
    samples[:, 3 * 44100 : 6 * 44100] = 0.0
    samples[:, 6 * 44100 + 50 : 6 * 44100 + 80] = 0.9
    whole = fingerprint(samples)
    assert_alike(fingerprint(samples, block_seconds=1.5), whole)
    rms = np.sqrt(np.mean(samples**2))
    assert whole["crest_db"] == pytest.approx(20 * np.log10(0.9 / rms), abs=1e-3)
    # Of nine seconds three are silent, and one has the peak.
    quiet = np.abs(samples[:, :44100]).max() / 0.9
    assert whole["peak_consistency"] == pytest.approx((1 + 5 * quiet) / 6, rel=1e-3)
    assert whole["silence_ratio"] == pytest.approx(1 / 3, abs=0.02)


def test_levels_follow_the_input():
    quiet, loud = (fingerprint(gain * noise(6, 2, 4), DSP_RATE) for gain in (0.1, 1.0))
    assert loud["loudness_lufs"] - quiet["loudness_lufs"] == pytest.approx(20.0, abs=0.01)
    for name in NAMES:
        if name != "loudness_lufs" and loud[name] is not None:
            assert quiet[name] == pytest.approx(loud[name], rel=1e-3, abs=1e-3), name
    clicks = noise(6, 2, 4)
    clicks[:, 1000] = 3.0
    assert fingerprint(clicks, DSP_RATE)["crest_db"] - loud["crest_db"] == pytest.approx(20.0, abs=0.1)


def test_chroma_is_of_pitch_and_not_of_level():
    tone, hiss = fingerprint(sine(440.0, 6)), fingerprint(noise(7, 1, 6))
    assert tone["chroma_peakiness"] > 0.95
    assert tone["pitch_stability"] > 0.95
    assert hiss["chroma_peakiness"] < 0.1
    assert hiss["pitch_stability"] < 0.1
    assert tone["harmonic_share"] > 0.95 > 0.6 > hiss["harmonic_share"]
    notes = np.concatenate([sine(440 * 2 ** (6 * (i % 2) / 12), 0.51085) for i in range(12)])
    assert fingerprint(notes)["pitch_stability"] < 0.3


@pytest.mark.parametrize(
    ("frequency", "band"), [(40, 0), (150, 1), (370, 2), (1000, 3), (3000, 4), (6000, 5), (12000, 6)]
)
def test_a_tone_is_in_its_band(frequency, band):
    found = fingerprint(np.stack([sine(frequency, 1.5)] * 2))
    assert found[SHARES[band]] > 0.97
    if band in (1, 3):
        assert found["bass_to_mid_db"] * (2 - band) > 40
    assert found["centroid_hz"] == pytest.approx(frequency, abs=60) or band == 6


def test_channels_that_cancel_have_energy():
    tone = sine(1000.0, 1.0)
    found = fingerprint(np.stack([tone, -tone]))
    assert found[SHARES[3]] > 0.97
    assert found["stereo_width"] == pytest.approx(1.0)
    assert found["phase_correlation"] == pytest.approx(-1.0)
    assert found["centroid_hz"] is None, "the mix is silent"


def clicks(times: np.ndarray, seconds: float) -> np.ndarray:
    samples = 1e-4 * noise(8, 1, seconds)
    for time in times:
        samples[0, int(time * 44100) : int(time * 44100) + 400] += 0.5 * np.exp(-np.arange(400) / 60)
    return samples


def test_rhythm():
    times = np.arange(0.5, 14.5, 0.5)
    steady = fingerprint(clicks(times, 15))
    assert steady["tempo_bpm"] == pytest.approx(120, abs=0.5)
    assert steady["rhythm_stability"] > 0.9
    assert steady["onset_rate_hz"] == pytest.approx(len(times) / 15, abs=0.1)
    jitter = np.random.default_rng(0).uniform(-0.04, 0.04, len(times))
    assert 0.0 < fingerprint(clicks(times + jitter, 15))["rhythm_stability"] < 0.8
    hiss = fingerprint(noise(9, 1, 6))
    assert hiss["tempo_bpm"] is None
    assert hiss["rhythm_stability"] == 0.0


def test_rhythm_stability_is_a_correlation():
    beat = np.tile([1.0, 0.0, 0.2, 0.0, 0.5, 0.0, 0.1, 0.0], 20)
    assert rhythm_stability(beat, 8.0) == pytest.approx(1.0, abs=0.02)
    assert rhythm_stability(np.ones(100), 8.0) == 0.0
    assert rhythm_stability(beat[:10], 8.0) == 0.0, "no two beats to compare"
    off = rhythm_stability(beat, 3.0)
    smooth = np.convolve(beat, (0.25, 0.5, 0.25), "same")
    assert off == pytest.approx(
        max(np.corrcoef(smooth[lag:], smooth[:-lag])[0, 1] for lag in (3, 6, 9, 12)), abs=1e-9
    )


def test_silence_is_silent_and_nothing_else():
    for channels in (1, 2):
        found = fingerprint(np.zeros((channels, 3 * 44100)))
        assert found.pop("silence_ratio") == 1.0
        assert set(found.values()) == {None}
    assert set(fingerprint(np.zeros((2, 0))).values()) == {None}


def test_mono_has_no_width_and_is_in_phase():
    samples = noise(10, 1, 1)
    mono, twice = fingerprint(samples), fingerprint(np.concatenate([samples, samples]))
    assert (mono["stereo_width"], mono["phase_correlation"]) == (0.0, 1.0)
    for name in set(NAMES) - {"loudness_lufs"}:
        if twice[name] is None:
            assert mono[name] is None, name
        else:
            assert mono[name] == pytest.approx(twice[name], rel=1e-5, abs=1e-6), name


def test_one_sample_and_one_second():
    [one, second] = fingerprint(np.full((2, 1), 0.5)), fingerprint(noise(11, 2, 1.0))
    assert one["crest_db"] == 0.0
    assert one["silence_ratio"] == 0.0
    assert one["peak_consistency"] == 1.0
    assert sum(one[name] for name in SHARES) == pytest.approx(1.0)
    assert [one[n] for n in ("loudness_lufs", "tempo_bpm", "level_spread_db", "pitch_stability")] == [
        None
    ] * 4
    undefined = {name for name, value in second.items() if value is None}
    assert undefined == {
        "tempo_bpm",
        "rhythm_stability",
        "onset_rate_hz",
        "level_spread_db",
        "loudness_range_lu",
    }


@pytest.mark.parametrize(("rate", "present"), [(8000, 5), (11025, 6), (22050, 7), (192000, 7)])
def test_bands_above_the_rate_are_empty(rate, present):
    found = fingerprint(noise(12, 2, 3.2, rate), rate)
    shares = [found[name] for name in SHARES]
    assert all(share > 0 for share in shares[:present])
    assert shares[present:] == [0.0] * (7 - present)
    # White noise has as much in each Hz.
    top = min(rate / 2, 20000.0)
    expected = [
        max(0.0, min(high, top) - low) / (top - 20) for low, high in itertools.pairwise(BAND_EDGES_HZ)
    ]
    np.testing.assert_allclose(shares, expected, atol=0.01)
    assert all(value is None or math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e12])
@pytest.mark.parametrize("blocks", [1.0, 1000.0])
def test_audio_that_is_none_is_refused(bad, blocks):
    samples = noise(13, 2, 3)
    samples[1, 70000] = bad
    with pytest.raises(ValueError, match="NaN, infinite or beyond"):
        fingerprint(samples, DSP_RATE, blocks)


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 32768.0])
def test_any_level_is_finite_or_undefined(scale):
    found = fingerprint(scale * noise(14, 2, 2, DSP_RATE), DSP_RATE)
    table = pa.array([found[name] for name in NAMES], pa.float32())
    assert all(x is None or math.isfinite(x) for x in table.to_pylist())
    assert found["crest_db"] > 0


def test_it_has_no_parameters():
    assert dataclasses.fields(Fingerprint) == ()


def test_a_ratio_of_bands_has_an_end():
    assert [ratio_db(*pair) for pair in ((1.0, 1e-9), (1e-300, 1e300), (2.0, 0.0), (0.0, 2.0))] == [
        60,
        -60,
        60,
        -60,
    ]
    assert ratio_db(10.0, 1.0) == pytest.approx(10.0)
    assert ratio_db(0.0, 0.0) is None
