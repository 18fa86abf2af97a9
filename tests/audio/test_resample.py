from __future__ import annotations

import librosa
import numpy as np
import pytest
import soundfile

from pipeline.audio import resample as module
from pipeline.audio.resample import make_view, resample, to_mono, to_stereo

SQRT_HALF = np.float32(np.sqrt(0.5))


def noise(*shape: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44100, 48000), (48000, 22050), (8000, 48000), (192000, 44100), (44100, 44101)]
)
@pytest.mark.parametrize("shape", [(20011,), (2, 9999)])
def test_equals_librosa(from_rate, to_rate, shape):
    x = noise(*shape)
    expected = librosa.resample(x, orig_sr=from_rate, target_sr=to_rate)
    np.testing.assert_array_equal(resample(x, from_rate, to_rate), expected)


def test_equals_librosa_on_music(shared_audio):
    path = min((shared_audio / "music").rglob("*.ogg"))
    x, rate = soundfile.read(path, frames=10 * 44100, dtype="float32", always_2d=True)
    view = make_view(np.ascontiguousarray(x.T), rate, 48000, 1)[0]
    expected = librosa.resample(librosa.to_mono(x.T), orig_sr=rate, target_sr=48000)
    # librosa rounds 480000.00000000006 up and appends a zero.
    assert len(view) == 480_000
    np.testing.assert_array_equal(view, expected[:480_000])
    assert not expected[480_000:].any()


def test_is_deterministic_and_independent_of_other_channels():
    x = noise(3, 5000)
    together = resample(x, 44100, 48000)
    np.testing.assert_array_equal(together, resample(x, 44100, 48000))
    for row, alone in zip(together, x, strict=True):
        np.testing.assert_array_equal(row, resample(alone, 44100, 48000))


def test_a_tone_keeps_its_frequency_and_level():
    t = np.arange(44100) / 44100
    y = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44100, 16000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(y - expected)[500:-500].max() < 1e-4


@pytest.mark.parametrize("samples", [0, 1, 2, 441, 44100])
@pytest.mark.parametrize("to_rate", [8000, 44100, 48000])
def test_length_is_rounded_up(samples, to_rate):
    y = resample(noise(2, samples), 44100, to_rate)
    assert y.shape == (2, -(-samples * to_rate // 44100))
    assert y.dtype == np.float32
    assert np.isfinite(y).all()


def test_equal_rates_return_the_input_itself():
    x = noise(2, 100)
    assert resample(x, 44100, 44100) is x
    assert make_view(x, 44100, 44100, None) is x
    assert make_view(x, 44100, 44100, 2) is x
    assert make_view(x[:1], 44100, 44100, 1).base is x


@pytest.mark.parametrize("rates", [(0, 44100), (44100, 0), (-1, 44100)])
def test_rates_are_positive(rates):
    with pytest.raises(ValueError, match="positive"):
        resample(noise(10), *rates)


def test_mono_is_the_mean():
    x = noise(5, 1000)
    np.testing.assert_array_equal(to_mono(x), librosa.to_mono(x)[None])


def test_stereo_of_mono_is_the_same_twice():
    x = noise(1, 100)
    np.testing.assert_array_equal(to_stereo(x), np.concatenate([x, x]))


@pytest.mark.parametrize(
    ("channels", "left", "right"),
    [
        (6, [1, 0, SQRT_HALF, 0, SQRT_HALF, 0], [0, 1, SQRT_HALF, 0, 0, SQRT_HALF]),
        (
            8,
            [1, 0, SQRT_HALF, 0, SQRT_HALF, 0, SQRT_HALF, 0],
            [0, 1, SQRT_HALF, 0, 0, SQRT_HALF, 0, SQRT_HALF],
        ),
        (3, [0.5, 0, 0.5], [0, 1, 0]),
        (4, [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5]),
    ],
)
def test_weight_of_every_channel_in_stereo(channels, left, right):
    # One channel after the other sounds alone.
    mixed = to_stereo(np.eye(channels, dtype=np.float32))
    np.testing.assert_allclose(mixed, [left, right], atol=1e-7)


@pytest.mark.parametrize(("channels", "calls"), [(1, 1), (2, 2), (None, 6)])
def test_only_the_mix_is_resampled(monkeypatch, channels, calls):
    counted = []
    real = module.soxr.resample

    def counting(*args, **kwargs):
        counted.append(args[0].shape)
        return real(*args, **kwargs)

    monkeypatch.setattr(module.soxr, "resample", counting)
    x = noise(6, 4410)
    view = make_view(x, 44100, 48000, channels)
    assert counted == [(4410,)] * calls
    assert view.shape == (channels or 6, 4800)
    mixed = {1: to_mono, 2: to_stereo, None: lambda same: same}[channels](x)
    np.testing.assert_array_equal(view, resample(mixed, 44100, 48000))


def test_a_view_in_the_form_of_the_file_is_the_file():
    x = noise(2, 4410)
    assert make_view(x, 44100, 44100, None) is x


@pytest.mark.parametrize("samples", [0, 1])
def test_nearly_nothing_has_all_views(samples):
    for channels in (1, 2, None):
        assert make_view(noise(3, samples), 8000, 8000, channels).shape == (channels or 3, samples)


def test_what_make_view_refuses():
    with pytest.raises(ValueError, match="1, 2 or None"):
        make_view(noise(2, 10), 8000, 8000, 3)
    with pytest.raises(ValueError, match="channels, samples"):
        make_view(noise(10), 8000, 8000, 1)
    with pytest.raises(ValueError, match="channels, samples"):
        make_view(noise(0, 10), 8000, 8000, 1)
