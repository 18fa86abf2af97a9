"""Quality columns on signals whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, oaconvolve

from pipeline.features.quality import Bandwidth, ClippedRuns, Quality
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import Axis

RATE = 8000


def quality(samples: np.ndarray, rate: int = RATE, **parameters) -> dict:
    native = np.atleast_2d(samples).astype(np.float32)
    values = Quality(**parameters).extract(SharedSpectra(native.mean(axis=0), rate, native, rate)).values
    return {name.removeprefix("quality_"): value for name, value in values.items()}


def noise(seed: int, channels: int = 1, samples: int = 2 * RATE) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples))


def test_dc_offset_is_that_of_the_worst_channel_with_its_sign():
    assert quality(np.stack([np.full(100, 0.1), np.full(100, -0.3)]))["dc_offset"] == pytest.approx(-0.3)


def test_crest_factor():
    time = np.arange(RATE)
    assert quality(np.sin(2 * np.pi * time / 100))["crest_factor_db"] == pytest.approx(3.01, abs=0.01)
    assert quality(np.where(time % 100 < 50, 0.2, -0.2))["crest_factor_db"] == pytest.approx(0.0, abs=1e-5)


def test_clipping_counts_the_samples_of_long_enough_runs():
    samples = np.zeros(1000)
    samples[10:12] = 1.0  # two: too short
    samples[20:23] = 1.0  # three
    samples[30:36] = [1, 1, 1, -1, -1, -1]  # two runs of three
    samples[40:44] = [1, -1, 1, -1]  # no run of one sign
    samples[50:55] = 2.5  # floats beyond full scale
    samples[-4:] = -1.0  # the end
    assert quality(samples)["clipping_ratio"] == pytest.approx(18 / 1000)
    assert quality(samples, clip_run=2)["clipping_ratio"] == pytest.approx(20 / 1000)
    assert quality(samples, clip_level=1.5)["clipping_ratio"] == pytest.approx(5 / 1000)


def test_clipped_16_bit_audio_counts_on_both_sides():
    time = np.arange(RATE)
    clipped = np.clip(np.round(60000 * np.sin(2 * np.pi * time / 200)), -32768, 32767) / 32768
    flat = (np.abs(clipped) >= 32767 / 32768).mean()
    assert flat > 0.5
    assert quality(clipped)["clipping_ratio"] == pytest.approx(flat)


def test_an_unclipped_sine_at_full_scale_does_not_clip():
    sine = np.sin(2 * np.pi * 100 * np.arange(44100) / 44100)
    assert quality(sine, rate=44100)["clipping_ratio"] == 0.0


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=1, max_size=60), st.integers(1, 5))
def test_clipped_runs_equal_a_plain_loop(samples, run):
    expected, start = 0, 0
    for stop in range(1, len(samples) + 1):
        if stop == len(samples) or samples[stop] != samples[start]:
            if abs(samples[start]) == 1.0 and stop - start >= run:
                expected += stop - start
            start = stop
    runs = ClippedRuns(0.999, run)
    runs.add(np.array(samples, dtype=np.float32), max(map(abs, samples)))
    assert runs.total() == expected


def test_silence_ratio_counts_frames():
    samples = np.concatenate([noise(0)[0], np.zeros(RATE), 0.0009 * np.ones(RATE)])
    assert quality(samples)["silence_ratio"] == pytest.approx(0.5)
    assert quality(samples, silence_dbfs=-62.0)["silence_ratio"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("pair", "width", "correlation"),
    [
        (lambda a, b: (a, a), 0.0, 1.0),
        (lambda a, b: (a, -a), 1.0, -1.0),
        (lambda a, b: (a, b), 0.5, 0.0),
        (lambda a, b: (a, 0 * a), 0.5, None),
        (lambda a, b: (a, 0.5 * a), 0.1, 1.0),
    ],
)
def test_stereo_image(pair, width, correlation):
    a, b = noise(1, 2)
    values = quality(np.stack(pair(a, b)))
    assert values["stereo_width"] == pytest.approx(width, abs=0.02)
    assert values["phase_correlation"] == (
        None if correlation is None else pytest.approx(correlation, abs=0.03)
    )


def test_correlation_equals_numpy_on_real_music(music):
    for song in music.values():
        left, right = song.astype(np.float64)
        values = quality(song, rate=44100)
        expected = (left @ right) / np.sqrt((left @ left) * (right @ right))
        assert values["phase_correlation"] == pytest.approx(expected, abs=1e-9)
        side, mid = np.square(left - right).sum(), np.square(left + right).sum()
        assert values["stereo_width"] == pytest.approx(side / (side + mid), abs=1e-9)


def test_more_than_two_channels_use_the_first_two():
    a, b, c = noise(2, 3)
    assert quality(np.stack([a, a, b, c]))["stereo_width"] == pytest.approx(0.0, abs=1e-6)


def test_mono_has_no_stereo_image():
    values = quality(noise(3))
    assert values["stereo_width"] is None
    assert values["phase_correlation"] is None


def test_silence_is_silent_and_otherwise_undefined():
    assert quality(np.zeros((2, RATE))) == {
        "dc_offset": 0.0,
        "clipping_ratio": 0.0,
        "crest_factor_db": None,
        "silence_ratio": 1.0,
        "bandwidth_hz": None,
        "stereo_width": None,
        "phase_correlation": None,
    }
    assert set(quality(np.zeros((2, 0))).values()) == {None}


def low_passed(cut: float, rate: int = 44100, seconds: float = 5.0) -> np.ndarray:
    white = noise(4, 2, int(seconds * rate))
    return oaconvolve(white, firwin(801, cut, fs=rate)[None], mode="same", axes=1)


@pytest.mark.parametrize("bits", [None, 16])
@pytest.mark.parametrize("seconds", [0.05, 5.0])
@pytest.mark.parametrize("cut", [4000, 8000, 16000])
def test_bandwidth_is_the_cut_of_a_low_pass(cut, seconds, bits):
    samples = low_passed(cut)[:, : int(seconds * 44100)]
    if bits:
        samples = np.round(samples * 2 ** (bits - 1)) / 2 ** (bits - 1)
    assert quality(samples, rate=44100)["bandwidth_hz"] == pytest.approx(cut, rel=0.05)


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_bandwidth_of_white_noise_is_half_the_rate(rate):
    assert quality(noise(5, 2, rate), rate=rate)["bandwidth_hz"] == pytest.approx(rate / 2, rel=1e-3)


def test_bandwidth_of_upsampled_speech_is_that_of_its_old_rate(speech):
    soxr = pytest.importorskip("soxr")
    for name, prompt in speech.items():
        wide = soxr.resample(prompt[0], 8000, 44100)
        sixteen_bits = np.round(0.1 * wide * 32768) / 32768
        for samples in (wide, sixteen_bits):
            assert 3500 < quality(samples, rate=44100)["bandwidth_hz"] < 4200, name


def test_bandwidth_of_real_music_is_above_that_of_its_low_passed_copy(music):
    for song in music.values():
        cut = oaconvolve(song.astype(np.float64), firwin(801, 11000, fs=44100)[None], mode="same", axes=1)
        assert quality(song, rate=44100)["bandwidth_hz"] > 17000
        assert quality(cut, rate=44100)["bandwidth_hz"] == pytest.approx(11000, rel=0.05)


def test_a_click_and_a_pause_have_no_say_in_the_bandwidth():
    samples = low_passed(4000)
    before = quality(samples, rate=44100)["bandwidth_hz"]
    samples[:, 100000] = 1.0
    assert quality(samples, rate=44100)["bandwidth_hz"] == pytest.approx(before, rel=0.01)
    paused = np.concatenate([samples, np.zeros((2, 20 * 44100))], axis=1)
    assert quality(paused, rate=44100)["bandwidth_hz"] == pytest.approx(before, rel=0.01)


def test_bandwidth_range_decides_how_faint_counts():
    faint = low_passed(4000) + 10 ** (-65 / 20) * noise(6, 2, 5 * 44100)
    bandwidth = Bandwidth(faint.shape[1])
    bandwidth.add(faint.astype(np.float32), Axis.whole(faint.shape[1]))
    assert bandwidth.hertz(44100, 50.0) == pytest.approx(4000, rel=0.05)
    assert bandwidth.hertz(44100, 80.0) == pytest.approx(22050, rel=0.01)


@pytest.mark.parametrize("samples", [np.zeros((2, RATE)), np.full((1, 255), 0.1), np.full((1, 1), 0.5)])
def test_bandwidth_of_silence_and_of_a_few_samples_is_undefined(samples):
    assert quality(samples)["bandwidth_hz"] is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(1e-15, 1e5), balance=st.floats(-1, 1))
def test_ranges_hold_at_any_gain(seed, gain, balance):
    a, b = noise(seed, 2, 400)
    values = quality(gain * np.stack([a, balance * a + 1e-3 * b]))
    for name in ("clipping_ratio", "silence_ratio", "stereo_width"):
        assert 0.0 <= values[name] <= 1.0, name
    assert -1.0 <= values["phase_correlation"] <= 1.0
    assert values["crest_factor_db"] >= 0.0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"clip_level": 0.0}, "clip_level=0.0 must"),
        ({"clip_run": 0}, "clip_run=0 must"),
        ({"frame_seconds": 60.0}, "frame_seconds=60.0 must"),
        ({"silence_dbfs": 0.0}, "silence_dbfs=0.0 must"),
        ({"bandwidth_range_db": 0.0}, "bandwidth_range_db=0.0 must"),
    ],
)
def test_impossible_parameters_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Quality(**parameters).check()
