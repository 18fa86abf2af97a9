from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from helpers.speech_like import SAMPLE_RATE, stored, syllables

from pipeline.errors import UserError
from pipeline.models.speech import diarize
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize import HOP, HOP_FRAMES, DiarizationStream, Heard, load_backend, to_embed
from pipeline.models.speech.diarize_names import BACKEND_NAMES, OWN_MODELS
from pipeline.models.speech.segmentation_network import FRAME_STEP, FRAMES, WINDOW
from pipeline.speech import diarization

LENGTH = 23.3
"""Seconds: more than one group of chunks and a part of a chunk."""


class Energy:
    """In place of segmentation: the first local speaker speaks where it is loud, the second where that is positive."""

    def powerset_probabilities(self, windows: np.ndarray) -> np.ndarray:
        result = np.zeros((len(windows), FRAMES, 7), np.float32)
        for probabilities, window in zip(result, windows, strict=True):
            starts = 360 + FRAME_STEP * np.arange(FRAMES)
            values = np.array([window[start : start + FRAME_STEP].mean() for start in starts])
            probabilities[np.arange(FRAMES), np.where(values > 0.1, 2, np.where(values < -0.1, 1, 0))] = 1
        return result


class Mean:
    """In place of CAM++: a vector of what the stretch is like on the whole."""

    dimensions = 2
    cosines: ClassVar = {}

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []

    def embed(self, windows: list[np.ndarray]) -> np.ndarray:
        self.windows += windows
        return np.array([[window.mean(), 1 - abs(window.mean())] for window in windows], np.float32)


def talk(seconds: float) -> np.ndarray:
    """Two people, one at -0.5 and one at 0.5, three seconds each and one second of silence between them."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.where(times % 4 < 1, 0, np.where(times % 8 < 4, -0.5, 0.5)).astype(np.float32)


def heard(samples: np.ndarray, size: int, segmentation=None, embedder=None) -> Heard:
    stream = DiarizationStream(segmentation or Energy(), embedder or Mean())
    for first in range(0, len(samples), size):
        stream.push(samples[first : first + size])
    return stream.finish()


def assert_equal(first: Heard, second: Heard) -> None:
    for name in ("activities", "spans", "embeddings"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.duration_s == second.duration_s


@pytest.mark.parametrize("seconds", [0.0, 1 / SAMPLE_RATE, 5.0, 10.0, 17.4925, 17.5, 27.4825, 60.3])
def test_the_size_of_pieces_changes_nothing(seconds):
    samples = talk(seconds)
    whole = heard(samples, max(len(samples), 1))
    for size in (1600, 16000, 99_991):
        assert_equal(whole, heard(samples, size))


def test_chunks_cover_the_recording():
    for samples, chunks in (
        (0, 0),
        (1, 1),
        (WINDOW, 1),
        (WINDOW + 1, 2),
        (WINDOW + HOP, 2),
        (WINDOW + HOP + 1, 3),
    ):
        assert heard(np.zeros(samples, np.float32), 50_000).activities.shape == (chunks, FRAMES, 3)


def test_what_is_embedded_is_of_one_speaker_and_covers_all_speech():
    embedder, samples = Mean(), talk(60.0)
    result = heard(samples, 7777, embedder=embedder)
    assert len(embedder.windows) == len(result.spans) == len(result.embeddings)
    covered = np.zeros(len(samples), bool)
    for (_, local, first, end), window in zip(result.spans, embedder.windows, strict=True):
        start = round((result.first_s + first * result.frame_s) * SAMPLE_RATE)
        assert len(window) == (end - first) * FRAME_STEP
        part = samples[start : start + len(window)]
        assert np.array_equal(part, window[: len(part)])
        assert abs(window.mean() - (0.5 if local == 1 else -0.5)) < 0.02
        covered[start : start + len(window)] = True
    assert covered[np.abs(samples) > 0.1].mean() > 0.97


def test_its_evidence_becomes_turns():
    turns = diarization.diarize(heard(talk(60.0), 16000)).turns()
    assert [turn.speaker for turn in turns] == ["S1", "S2"] * 7 + ["S1"]
    for index, turn in enumerate(turns):
        assert turn.start_s == pytest.approx(4 * index + 1, abs=0.02)
        assert turn.end_s == pytest.approx(4 * index + 4, abs=0.02)


def test_memory_is_bounded():
    stream = DiarizationStream(Energy(), Mean())
    for _ in range(60):
        stream.push(np.zeros(2 * SAMPLE_RATE, np.float32))
        assert sum(map(len, stream._pieces)) <= diarize._GROUP_SAMPLES
    stream.finish()


def test_overlap_is_not_embedded():
    activity = np.zeros((FRAMES, 3), bool)
    activity[:300, 0] = True
    activity[200:500, 2] = True
    spans = to_embed(activity, is_first=True, is_last=True)
    assert {local for _, _, local in spans} == {0, 2}
    assert all(end <= 200 if local == 0 else start >= 300 for start, end, local in spans)
    assert max(end for _, end, local in spans if local == 0) == 200


def test_each_stretch_is_embedded_in_one_chunk_only():
    samples = talk(60.0)
    spans = heard(samples, 16000).spans
    middles = spans[:, 2:].mean(axis=1)
    chunks = np.clip((middles - (FRAMES - HOP_FRAMES) // 2) // HOP_FRAMES, 0, spans[:, 0].max())
    assert np.array_equal(chunks.astype(int), spans[:, 0])


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 8), np.float32), np.zeros(8, np.int16), np.array([0.0, np.nan]), np.array([np.inf])],
)
def test_what_is_no_recording_is_refused(wrong):
    with pytest.raises(ValueError, match="samples"):
        DiarizationStream(Energy(), Mean()).push(wrong)


def test_a_finished_recording_takes_no_more():
    stream = DiarizationStream(Energy(), Mean())
    stream.finish()
    with pytest.raises(ValueError, match="finished"):
        stream.push(np.zeros(8, np.float32))
    with pytest.raises(ValueError, match="finished"):
        stream.finish()


def test_the_real_networks_in_pieces():
    stored("segmentation-3.0"), stored("campplus-zh-en")
    backend = load_backend("campplus")
    samples = syllables(LENGTH)
    whole = heard(samples, len(samples), backend.segmentation, backend.embedder)
    assert len(whole.spans) > 8
    assert whole.embeddings.shape == (len(whole.spans), 192)
    assert_equal(whole, heard(samples, 31_234, backend.segmentation, backend.embedder))
    assert len(diarization.diarize(whole).seconds) >= 1
    assert backend.model_id().startswith("segmentation-3.0:")
    assert "campplus-zh-en:" in backend.model_id()


def test_without_weights_it_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="fetch segmentation-3.0"):
        load_backend("campplus")


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match="no diarization backend 'camplus'"):
        load_backend("camplus")


def test_each_name_has_a_loader():
    assert tuple(diarize.REGISTRY) == BACKEND_NAMES
    assert set(OWN_MODELS) < set(BACKEND_NAMES)


@pytest.mark.parametrize("name", ["campplus", "resemblyzer"])
def test_a_backend_with_one_model_takes_no_other(name):
    with pytest.raises(UserError, match=f"{name} has one model only"):
        load_backend(name, model="some/other")
