"""The loudness columns: against pyloudnorm on real recordings, levels of known signals, edges."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.features.loudness import Loudness
from pipeline.features.spectra import SharedSpectra

pyloudnorm = pytest.importorskip("pyloudnorm")


def pyloudnorm_lufs(samples: np.ndarray, rate: int, filter_class: str = "K-weighting") -> float:
    return pyloudnorm.Meter(rate, filter_class=filter_class).integrated_loudness(samples.T.astype(np.float64))


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("kind", ["music", "speech"])
def test_agrees_with_pyloudnorm_on_real_recordings(kind, rate, music, speech, at_rate, spectra_of):
    recordings = [(song[:, : 20 * 44100], 44100) for song in music.values()]
    if kind == "speech":
        recordings = [(prompt, 8000) for prompt in speech.values()]
    for recording, recorded_rate in recordings:
        samples = at_rate(recording, recorded_rate, rate)
        found = Loudness().extract(spectra_of(samples, rate)).values["loudness_integrated_lufs"]
        assert found == pytest.approx(pyloudnorm_lufs(samples, rate), abs=0.1)
        if rate >= 44100:
            assert found == pytest.approx(pyloudnorm_lufs(samples, rate, "DeMan"), abs=0.01)


def test_agrees_with_pyloudnorm_on_every_spoken_prompt(shared_audio, spectra_of):
    import soundfile

    prompts = sorted((shared_audio / "speech").glob("*/*.wav"))
    assert len(prompts) >= 100
    for path in prompts:
        samples, rate = soundfile.read(path, dtype="float32")
        # pyloudnorm rounds the number of blocks, so that it may measure half a block beyond the end, where
        # BS.1770 leaves the incomplete block out: up to 0.18 LU on prompts of 6 s. Whole steps are common ground.
        samples = samples[: len(samples) // (rate // 10) * (rate // 10)]
        found = Loudness().extract(spectra_of(samples, rate)).values["loudness_integrated_lufs"]
        assert found == pytest.approx(pyloudnorm_lufs(samples, rate), abs=0.1), path.name


def test_low_rates_read_what_the_standard_reads_after_resampling(speech, at_rate, spectra_of):
    # The coefficients of the standard are at 48 kHz. De Man's formulas alone would read 0.2 LU more at 8 kHz.
    for name, prompt in speech.items():
        found = Loudness().extract(spectra_of(prompt, 8000)).values["loudness_integrated_lufs"]
        expected = pyloudnorm_lufs(at_rate(prompt, 8000, 48000), 48000, "DeMan")
        assert found == pytest.approx(expected, abs=0.05), name


def test_levels_of_a_full_scale_sine(spectra_of):
    sine = np.sin(2 * np.pi * 997 * np.arange(5 * 48000) / 48000)
    values = Loudness().extract(spectra_of(np.stack([sine, sine]), 48000)).values
    assert values["loudness_integrated_lufs"] == pytest.approx(0.0, abs=0.01)
    assert values["loudness_range_lu"] == pytest.approx(0.0, abs=0.01)
    assert values["loudness_sample_peak_dbfs"] == pytest.approx(0.0, abs=0.01)
    assert values["loudness_true_peak_dbtp"] == pytest.approx(0.0, abs=0.01)
    for name in ("loudness_rms_dbfs", "loudness_frame_rms_mean_dbfs", "loudness_frame_rms_median_dbfs"):
        assert values[name] == pytest.approx(-3.01, abs=0.01), name
    assert values["loudness_frame_rms_std_dbfs"] == pytest.approx(0.0, abs=0.05)


def test_frame_levels_of_a_track_that_falls_silent(spectra_of):
    samples = np.concatenate([np.full(8000, 0.1), np.zeros(2000)])
    values = Loudness(frame_seconds=0.1, floor_dbfs=-80.0).extract(spectra_of(samples, 1000)).values
    assert values["loudness_frame_rms_mean_dbfs"] == pytest.approx(-20 * 0.8 - 80 * 0.2, abs=1e-3)
    assert values["loudness_frame_rms_median_dbfs"] == pytest.approx(-20.0, abs=1e-3)
    assert values["loudness_frame_rms_p10_dbfs"] == pytest.approx(-80.0)
    assert values["loudness_frame_rms_p90_dbfs"] == pytest.approx(-20.0, abs=1e-3)
    # The rate of 1 kHz is below the K-weighting shelf.
    assert values["loudness_integrated_lufs"] is None
    assert values["loudness_range_lu"] is None


@settings(max_examples=15, deadline=None)
@given(gain_db=st.floats(-20, 40), seed=st.integers(0, 1000), channels=st.integers(1, 8))
def test_gain_shifts_every_level(gain_db, seed, channels):
    generator = np.random.default_rng(seed)
    envelope = np.repeat(10 ** (generator.uniform(-30, -10, 16) / 20), 2000)
    noise = (generator.standard_normal((channels, 32000)) * envelope).astype(np.float32)
    louder = noise * np.float32(10 ** (gain_db / 20))
    before = Loudness().extract(SharedSpectra(noise[0], 8000, noise, 8000)).values
    after = Loudness().extract(SharedSpectra(louder[0], 8000, louder, 8000)).values
    for name, value in before.items():
        shift = 0.0 if name in ("loudness_range_lu", "loudness_frame_rms_std_dbfs") else gain_db
        assert after[name] - value == pytest.approx(shift, abs=0.01), name


@pytest.mark.parametrize("samples", [0, 1, 48000])
def test_silence_is_undefined(samples, spectra_of):
    assert set(Loudness().extract(spectra_of(np.zeros((2, samples)), 48000)).values.values()) == {None}


def test_one_sample_has_levels_but_no_loudness(spectra_of):
    values = Loudness().extract(spectra_of(np.array([0.5]), 44100)).values
    assert values["loudness_sample_peak_dbfs"] == pytest.approx(-6.02, abs=0.01)
    assert values["loudness_rms_dbfs"] == pytest.approx(-6.02, abs=0.01)
    assert values["loudness_integrated_lufs"] is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"frame_seconds": 0.0}, "frame_seconds=0.0 must"), ({"floor_dbfs": 3.0}, "floor_dbfs=3.0 must")],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Loudness(**parameters).check()


def test_pyloudnorm_as_backend(chord, spectra_of):
    own = Loudness().extract(spectra_of(chord, 22050))
    asked = Loudness(backend="pyloudnorm").extract(spectra_of(chord, 22050))
    assert (own.backend, asked.backend, asked.fallbacks) == ("torch", "pyloudnorm", [])
    name = "loudness_integrated_lufs"
    assert asked.values[name] == pytest.approx(own.values[name], abs=0.1)
    assert asked.values[name] != own.values[name]
    assert {k: v for k, v in asked.values.items() if k != name} == {
        k: v for k, v in own.values.items() if k != name
    }


def test_without_pyloudnorm_the_own_meter_is_used_and_it_is_on_record(monkeypatch, chord, spectra_of):
    eight = np.tile(chord, (8, 1))
    seven = Loudness(backend="pyloudnorm").extract(spectra_of(eight, 22050))
    assert [f.used for f in seven.fallbacks] == ["own"]
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    found = Loudness(backend="pyloudnorm").extract(spectra_of(chord, 22050))
    assert found.fallbacks[0].wanted == "loudness.backend=pyloudnorm"
    assert found.values == Loudness().extract(spectra_of(chord, 22050)).values
    with pytest.raises(ValueError, match="backend=none must be one of"):
        Loudness(backend="none").check()
