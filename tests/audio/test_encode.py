from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from helpers.flac import encode_flac24

from pipeline.audio.decode import decode
from pipeline.audio.encode import CONTAINERS, EncodeError, encode

RATE = 48000
STEP = 2.0**-23


def noise(channels: int = 2, samples: int = RATE) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_can_be_decoded(container):
    x = noise()
    decoded = decode(encode(x, RATE, container))
    assert (decoded.sample_rate, decoded.channels) == (RATE, 2)
    assert decoded.duration_s == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("container", [name for name in CONTAINERS if name != "ogg"])
def test_same_input_same_bytes(container):
    assert encode(noise(), RATE, container) == encode(noise(), RATE, container)


def test_ogg_differs_in_its_serial_number_only():
    first, second = (decode(encode(noise(), RATE, "ogg")).samples for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_long_ogg():
    # libsndfile overflows its stack when it gets this much in one write.
    x = noise(1, 60 * RATE)
    assert decode(encode(x, RATE, "ogg")).duration_s == 60.0


def test_integers_clip_instead_of_wrapping():
    loud = decode(encode(np.array([[2.0, -2.0]], np.float32), RATE, "wav")).samples
    np.testing.assert_allclose(loud, [[1 - 2**-15, -1.0]])


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_flac24_leaves_what_fits_alone(channels):
    x = np.clip(noise(channels), -1, 1)
    x[:, :2] = 1.0, -1.0
    data, gain_db = encode_flac24(x, 44100)
    assert gain_db == 0.0
    assert soundfile.info(io.BytesIO(data)).subtype == "PCM_24"
    assert np.abs(decode(data).samples - x).max() <= STEP


@pytest.mark.parametrize("peak", [1.0001, 4.0, 1e6])
def test_flac24_scales_peaks_down_and_says_by_how_much(peak):
    x = noise()
    x[0, 100] = -peak
    data, gain_db = encode_flac24(x, RATE)
    assert gain_db == pytest.approx(-20 * np.log10(peak), abs=1e-5)
    decoded = decode(data).samples
    assert np.abs(decoded).max() == pytest.approx(1.0, abs=2 * STEP)
    np.testing.assert_allclose(decoded, x * 10 ** (gain_db / 20), atol=2 * STEP)


def test_flac24_of_silence():
    data, gain_db = encode_flac24(np.zeros((2, 100), np.float32), RATE)
    assert gain_db == 0.0
    assert not decode(data).samples.any()


@pytest.mark.parametrize(
    ("samples", "rate", "container", "words"),
    [
        (noise(), RATE, "mp5", "known: wav"),
        (noise()[0], RATE, "wav", "channels, samples"),
        (np.full((1, 10), np.nan), RATE, "wav", "NaN"),
        (noise(9), RATE, "flac", "9 channels"),
        (noise(3), RATE, "m4a", "not 3"),
        (noise(), 44100, "opus", "44100 Hz"),
        (noise(), 192000, "mp3", "192000 Hz"),
        (noise(2, 0), RATE, "flac", "without samples"),
    ],
)
def test_what_encode_refuses(samples, rate, container, words):
    with pytest.raises(EncodeError, match=words) as caught:
        encode(samples, rate, container)
    assert "\n" not in str(caught.value)


def test_flac24_refuses_what_is_no_number():
    with pytest.raises(EncodeError, match="NaN"):
        encode_flac24(np.array([[0.0, np.inf]]), RATE)
    with pytest.raises(EncodeError, match="NaN"):
        encode_flac24(np.array([[0.0, np.nan]]), RATE)
