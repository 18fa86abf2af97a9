"""What a decoder makes of a lossy encode, against FFmpeg's own way through a file."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from pipeline.audio.encode import EncodeError
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.trial_encode import TRIAL_FORMATS, TrialEncode

RATES = {"mp3": 44100, "m4a": 44100, "opus": 48000}
CODECS = {"mp3": ("libmp3lame", "mp3"), "m4a": ("aac", "adts"), "opus": ("libopus", "ogg")}


def music(channels: int, rate: int, seconds: float = 2.0) -> np.ndarray:
    """Chords and noise that rise and fall, float32 ``[channels, samples]``."""
    t = np.arange(int(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * hz * t) for hz in (220.0, 277.2, 329.6, 4400.0))
    noise = np.random.default_rng(3).standard_normal((channels, len(t)))
    return (0.15 * chord + 0.1 * noise * np.sin(2 * np.pi * 3 * t)).astype(np.float32)


def through(samples: np.ndarray, form: SongFormat, rate: int, piece: int, later: float = 0.0) -> np.ndarray:
    trial = TrialEncode(form, rate, len(samples), later=later)
    parts = [trial.push(samples[:, start : start + piece]) for start in range(0, samples.shape[1], piece)]
    return np.concatenate([*parts, trial.finish()], axis=1)


def through_a_file(samples: np.ndarray, name: str, rate: int) -> np.ndarray:
    """By a container, as the command ``ffmpeg -b:a 128k`` does it."""
    codec, container = CODECS[name]
    layout, held = "mono" if len(samples) == 1 else "stereo", io.BytesIO()
    with av.open(held, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000
        if name == "opus":
            stream.format = "flt"  # not in 16 bits, which PyAV chooses first
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    held.seek(0)
    with av.open(held) as file:
        parts = [frame.to_ndarray() for frame in file.decode(audio=0)]
    return np.concatenate(parts, axis=1)


def lag(one: np.ndarray, other: np.ndarray) -> int:
    """Samples by which the first is later."""
    size = 1 << (one.shape[1] + other.shape[1]).bit_length()
    spectra = [np.fft.rfft(audio[0], size) for audio in (one, other)]
    found = int(np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))))
    return found if found < size // 2 else found - size


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", TRIAL_FORMATS)
def test_it_is_what_a_file_gives(name, channels):
    rate = RATES[name]
    samples = music(channels, rate)
    found = through(samples, SongFormat(name, bit_rate=128_000), rate, samples.shape[1])
    expected = through_a_file(samples, name, rate)
    shift = lag(found, expected)
    assert abs(shift) <= 2400
    count = samples.shape[1] - 2 * 2400
    one = found[:, 2400 + max(shift, 0) :][:, :count]
    other = expected[:, 2400 + max(-shift, 0) :][:, :count]
    assert np.abs(one - other).max() < 1e-6


@pytest.mark.parametrize("name", TRIAL_FORMATS)
def test_pieces_do_not_matter(name):
    rate = RATES[name]
    samples, form = music(2, rate), SongFormat(name, bit_rate=128_000)
    np.testing.assert_array_equal(through(samples, form, rate, 4097), through(samples, form, rate, 1 << 20))


@pytest.mark.parametrize("name", TRIAL_FORMATS)
def test_another_grid_is_the_same_song_and_not_the_same_encode(name):
    rate = RATES[name]
    samples, form = music(2, rate), SongFormat(name, bit_rate=128_000)
    here, later = (through(samples, form, rate, 1 << 20, share) for share in (0.0, 0.25))
    shift = lag(later, here)
    assert 0 < shift < 1152
    count = samples.shape[1] - 4800
    difference = here[:, 2400:][:, :count] - later[:, 2400 + shift :][:, :count]
    assert 0 < np.sqrt(np.mean(difference**2)) < 0.5 * np.sqrt(np.mean(samples**2))


def test_what_no_encoder_is_given():
    with pytest.raises(EncodeError):
        TrialEncode(SongFormat("mp3", bit_rate=128_000), 96000, 2)


def test_nothing_in_nothing_out_but_the_delay():
    trial = TrialEncode(SongFormat("mp3", bit_rate=128_000), 44100, 2)
    assert trial.push(np.zeros((2, 0), np.float32)).shape == (2, 0)
    assert not np.any(trial.finish())
