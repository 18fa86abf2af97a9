"""When a mono mix has cancelled, and what is taken instead."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from pipeline.audio.mixing import MixMeter, channel_of_mix, for_mono
from pipeline.audio.stream import AudioFile
from pipeline.audio.views import View, Wanted, decode_views

RATE = 44100


def tone(frequency: float = 440.0, seconds: float = 2.0) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)


def in_memory(data: bytes, name: str) -> AudioFile:
    return AudioFile(name, len(data), data)


def noise(seed: int, seconds: float = 2.0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def stack(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "channel"),
    [
        (stack(tone(), -tone()), 0),
        (stack(0.97 * tone(), -tone()), 1),
        (stack(1e-6 * tone(), -1e-6 * tone()), 0),
        (stack(tone(), -0.5 * tone(), -0.5 * tone()), 0),
        (stack(*[(-1) ** n * (1 + 0.001 * n) * tone() for n in range(8)]), 7),
        # A centre 30 dB below what cancels is not what is heard.
        (stack(tone() + 0.0316 * tone(660), -tone() + 0.0316 * tone(660)), 0),
    ],
    ids=["opposite", "nearly", "quiet", "three", "eight", "faint centre"],
)
def test_what_cancels_is_stood_in_for_by_the_loudest(samples, channel):
    assert channel_of_mix(samples) == channel
    np.testing.assert_array_equal(for_mono(samples, channel), samples[channel : channel + 1])


@pytest.mark.parametrize(
    "samples",
    [
        stack(tone()),
        stack(tone(), tone()),
        stack(tone(), tone(660)),
        stack(noise(0), noise(1)),
        stack(tone(), 0 * tone()),
        stack(*[noise(n) for n in range(16)]),
        stack(tone(), *[0 * tone()] * 31),
        # Partly cancelled: what is left is a fifth of the level, or a centre 15 dB below the sides.
        stack(tone(), -0.67 * tone()),
        stack(tone() + 0.178 * tone(660), -tone() + 0.178 * tone(660)),
        stack(0 * tone(), 0 * tone()),
        np.zeros((2, 0), np.float32),
    ],
    ids=["mono", "alike", "unlike", "noise", "one of two", "16", "one of 32", "in part", "centre", "silence", "none"],
)  # fmt: skip
def test_any_other_mix_is_left_alone(samples):
    assert channel_of_mix(samples) is None
    assert for_mono(samples, None) is samples


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")],
)
def test_what_a_codec_leaves_is_no_mix(container, subtype):
    chord = sum(tone(f) for f in (220, 277.18, 329.63)) / 3 + 0.02 * noise(0)
    data = io.BytesIO()
    soundfile.write(data, stack(chord, -chord).T, RATE, format=container, subtype=subtype)
    wanted = Wanted((View("native", None, None), View("mono", 22050, 1)), 1 << 28, 3600.0)
    found = decode_views(in_memory(data.getvalue(), f"x.{container.lower()}"), wanted)
    assert found.mono_channel in (0, 1)
    level = np.sqrt(np.mean(found.stored["mono"] ** 2) / np.mean(chord**2))
    assert level == pytest.approx(1.0, abs=0.1)


def test_blocks_tell_the_same_as_the_whole():
    samples = stack(tone(), -1.01 * tone())
    meter = MixMeter(2)
    for start in range(0, samples.shape[1], 1000):
        meter.add(samples[:, start : start + 1000])
    assert meter.channel() == channel_of_mix(samples) == 1


def test_nothing_is_measured_where_no_view_is_mono():
    data = io.BytesIO()
    soundfile.write(data, stack(tone(), -tone()).T, RATE, format="WAV")
    for limit in (1 << 28, 1000):
        wanted = Wanted((View("native", None, None), View("separation", RATE, 2)), limit, 3600.0)
        found = decode_views(in_memory(data.getvalue(), "x.wav"), wanted)
        assert (found.mono_channel, found.long) == (None, limit == 1000)
