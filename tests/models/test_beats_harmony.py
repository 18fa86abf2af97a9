"""When the harmony turns: at the change of a chord, and not where a tone or silence goes on."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.audio.reader import ArrayReader
from pipeline.models.beats.front_end import BANDS, SAMPLE_RATE, FrontEnd, frame_count
from pipeline.models.beats.harmony import CLASSES, Turns, folding


def chroma_of(samples: np.ndarray) -> np.ndarray:
    reader = ArrayReader(samples[None].astype(np.float32))
    inputs = FrontEnd().features(reader, 0, frame_count(reader.samples))
    return (inputs[:, :BANDS].numpy() @ folding()).astype(np.float32)


def turns(chroma: np.ndarray, size: int = 1000) -> np.ndarray:
    """Told in blocks of that size."""
    run = Turns()
    blocks = [run.push(chroma[start : start + size]) for start in range(0, len(chroma), size)]
    return np.concatenate([*blocks, run.finish()])


def chord(*hz: float, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return 0.2 * sum(np.sin(2 * np.pi * each * time) for each in hz)


def test_a_tone_is_in_its_class_in_every_octave():
    classes = [int(np.argmax(chroma_of(chord(hz, seconds=0.5))[10])) for hz in (440.0, 880.0, 1760.0)]
    assert len(set(classes)) == 1
    other = int(np.argmax(chroma_of(chord(440.0 * 2 ** (4 / 12), seconds=0.5))[10]))
    assert (other - classes[0]) % CLASSES in (7, 8, 9)


def test_it_turns_where_the_chord_changes_and_nowhere_else():
    audio = np.concatenate(
        [chord(523.3, 659.3, 784.0, seconds=1), np.zeros(SAMPLE_RATE), chord(587.3, 698.5, 880.0, seconds=1),
         chord(523.3, 659.3, 784.0, seconds=1)]
    )  # fmt: skip
    found = turns(chroma_of(audio))
    assert abs(int(np.argmax(found)) - 150) <= 1
    assert found[150] > 0.4
    assert found[12:40].max() < 0.02, "a chord that goes on"
    assert found[70:82].max() == 0.0, "silence"


@pytest.mark.parametrize("frames", [0, 1, 12, 13, 500])
def test_blocks_make_no_difference_and_few_frames_turn_nowhere(frames):
    chroma = np.random.default_rng(0).random((frames, CLASSES)).astype(np.float32)
    whole = turns(chroma)
    assert whole.shape == (frames,)
    assert frames > 12 or not whole.any()
    for size in (1, 7, 50):
        np.testing.assert_allclose(turns(chroma, size), whole, atol=1e-6)


def test_little_is_kept_of_a_long_track():
    run = Turns()
    for _ in range(5):
        run.push(np.ones((1000, CLASSES), np.float32))
    assert len(run._kept) < 50
