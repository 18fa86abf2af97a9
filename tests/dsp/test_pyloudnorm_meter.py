"""pyloudnorm as a meter: our own figures on real recordings, in every layout it can be made to measure."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from pipeline.dsp import bs1770
from pipeline.dsp.pyloudnorm_meter import pyloudnorm_loudness, pyloudnorm_obstacle

pyloudnorm = pytest.importorskip("pyloudnorm")


def own(samples: np.ndarray, rate: int) -> float | None:
    return bs1770.integrated_loudness(bs1770.measure_steps([samples], len(samples), rate))


def channels_apart(count: int, rate: int, seconds: float = 3.0) -> np.ndarray:
    """Noise that is 2 dB louder from channel to channel, so that each one's weight tells."""
    levels = 10 ** (np.arange(count)[:, None] / 10)
    noise = np.random.default_rng(count).standard_normal((count, round(seconds * rate)))
    return (0.01 * levels * noise).astype(np.float32)


def test_agrees_with_the_own_meter_on_every_spoken_prompt(shared_audio):
    import soundfile

    prompts = sorted((shared_audio / "speech").glob("*/*.wav"))
    assert len(prompts) >= 100
    for path in prompts:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        found = pyloudnorm_loudness(samples.T, rate)
        assert found == pytest.approx(own(np.ascontiguousarray(samples.T), rate), abs=0.1), path.name


def test_agrees_with_the_own_meter_on_music(music):
    for name, song in music.items():
        assert pyloudnorm_loudness(song, 44100) == pytest.approx(own(song, 44100), abs=0.1), name


@pytest.mark.parametrize("rate", [44100, 48000, 96000])
@pytest.mark.parametrize("channels", range(1, 7))
def test_channels_have_the_weights_of_their_layout(channels, rate):
    samples = channels_apart(channels, rate, 1.0)
    # Its default filter reads white noise 0.04 LU lower; a surround taken for the centre tells by more than 0.3 LU.
    assert pyloudnorm_obstacle(channels) is None
    assert pyloudnorm_loudness(samples, rate) == pytest.approx(own(samples, rate), abs=0.06)


def test_scaling_matters_where_pyloudnorm_would_take_a_surround_for_the_centre():
    samples = channels_apart(4, 48000)
    as_it_is = pyloudnorm.Meter(48000).integrated_loudness(samples.T.astype(np.float64))
    assert abs(as_it_is - own(samples, 48000)) > 0.3


@pytest.mark.parametrize("channels", [7, 8, 12])
def test_more_channels_than_it_has_positions_are_refused_in_words(channels):
    heard = {7: 6, 8: 7, 12: 12}[channels]
    assert pyloudnorm_obstacle(channels) == f"pyloudnorm measures at most 5 channels, not {heard}"


def test_the_end_of_a_track_counts_as_in_the_standard():
    # 60 ms of an incomplete step: pyloudnorm alone rounds it up to a block that is not there.
    samples = channels_apart(1, 48000, 0.86)
    whole = pyloudnorm_loudness(samples[:, : 48000 * 8 // 10], 48000)
    assert pyloudnorm_loudness(samples, 48000) == whole
    assert pyloudnorm.Meter(48000).integrated_loudness(samples[0].astype(np.float64)) != pytest.approx(whole)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 192000])
def test_four_steps_are_enough_and_less_is_undefined(rate):
    samples = channels_apart(1, rate)
    enough = -(-4 * rate // 10)
    assert pyloudnorm_loudness(samples[:, :enough], rate) == pytest.approx(
        own(samples[:, :enough], rate), abs=0.25
    )
    for count in (0, 1, enough - 1):
        assert pyloudnorm_loudness(samples[:, :count], rate) is None


@pytest.mark.parametrize("level", [0.0, 1e-5])
def test_silence_and_what_no_gate_lets_pass_is_undefined(level):
    assert pyloudnorm_loudness(np.full((2, 48000), level, np.float32), 48000) is None


def test_without_pyloudnorm_there_is_something_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)
    assert pyloudnorm_obstacle(2) == (
        "pyloudnorm is not installed; type `pip install 'pyloudnorm>=0.2,<0.3'`"
    )
