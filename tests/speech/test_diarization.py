from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipeline.dsp.runs import runs, without_gaps
from pipeline.speech.clustering import SpeakerCounts, unit
from pipeline.speech.diarization import ALL, Diarization, diarize

STEP, FIRST, LENGTH, HOP = 0.016875, 0.0225, 589, 148
WINDOW, WINDOW_HOP = 89, 44


@dataclass(frozen=True)
class Heard:
    activities: np.ndarray
    spans: np.ndarray
    embeddings: np.ndarray
    duration_s: float
    hop_frames: int = HOP
    frame_s: float = STEP
    first_s: float = FIRST


def heard(turns: list[tuple[float, float, int]], seconds: float, *, merge: tuple[int, ...] = ()) -> Heard:
    """What perfect networks would say of these turns.

    Who is which local speaker changes from chunk to chunk; those in ``merge`` are one local speaker to them.
    """
    rng = np.random.default_rng(0)
    people = max((who for _, _, who in turns), default=0) + 1
    means = unit(rng.standard_normal((people, 192)))
    chunks = 1 + max(0, -(-(round(seconds / STEP) - LENGTH) // HOP))
    total = (chunks - 1) * HOP + LENGTH
    truth = np.zeros((total, people), bool)
    for start, end, who in turns:
        truth[round((start - FIRST) / STEP) : round((end - FIRST) / STEP), who] = True
    activities, spans, embeddings = np.zeros((chunks, LENGTH, 3), np.uint8), [], []
    margin = (LENGTH - HOP) // 2
    for chunk in range(chunks):
        part = truth[chunk * HOP : chunk * HOP + LENGTH]
        present = [who for who in range(people) if part[:, who].any()]
        slots = [merge[0] if who in merge else who for who in present]
        order = rng.permutation(list(dict.fromkeys(slots))).tolist()
        own = (0 if chunk == 0 else margin, LENGTH if chunk == chunks - 1 else margin + HOP)
        for who, slot in zip(present, slots, strict=True):
            local = order.index(slot)
            activities[chunk, part[:, who], local] = ALL
            alone = part[:, who] & (part.sum(axis=1) == 1)
            for start, stop in runs(alone).tolist():
                for at in range(start, max(stop - WINDOW, start) + 1, WINDOW_HOP):
                    end = min(at + WINDOW, stop)
                    if end - at >= 24 and own[0] <= (at + end) / 2 < own[1]:
                        spans.append((chunk, local, chunk * HOP + at, chunk * HOP + end))
                        noise = 0.9 * rng.standard_normal(192) / np.sqrt(192)
                        embeddings.append(unit(means[who] + noise))
    vectors = np.array(embeddings, np.float32).reshape(-1, 192)
    return Heard(activities, np.array(spans, np.int64).reshape(-1, 4), vectors, seconds)


def matches(result: Diarization, turns: list[tuple[float, float, str]], tolerance_s: float = 0.05) -> bool:
    found = result.turns()
    return len(found) == len(turns) and all(
        turn.speaker == who
        and abs(turn.start_s - start) < tolerance_s
        and abs(turn.end_s - end) < tolerance_s
        for turn, (start, end, who) in zip(found, turns, strict=True)
    )


TALK = [(1.0, 6.0, 2), (6.6, 12.0, 0), (12.7, 19.0, 1), (19.8, 25.0, 2), (25.6, 31.0, 1), (31.6, 38.0, 0)]
TALK_NAMED = [(s, e, {2: "S1", 0: "S2", 1: "S3"}[who]) for s, e, who in TALK]


def test_turns_come_back_under_names_by_first_speech():
    result = diarize(heard(TALK, 39.0))
    assert matches(result, TALK_NAMED)
    assert result.names == ["S1", "S2", "S3"]
    np.testing.assert_allclose(result.seconds, [10.2, 11.8, 11.7], atol=0.15)
    assert result.centroids.shape == (3, 192)
    assert result.centroids.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, rtol=1e-5)
    assert ((result.confidences > 0.9) & (result.confidences <= 1)).all()
    assert not result.overlaps.any()


def test_overlap_is_in_the_turns_of_both():
    result = diarize(heard([(1.0, 8.0, 0), (7.0, 14.0, 1), (15.0, 21.0, 0), (20.0, 26.0, 1)], 27.0))
    assert matches(result, [(1.0, 8.0, "S1"), (7.0, 14.0, "S2"), (15.0, 21.0, "S1"), (20.0, 26.0, "S2")])
    assert result.overlaps.all()


def test_a_local_speaker_who_is_two_people_is_cut():
    turns = [(1.0, 8.0, 0), (8.0, 15.0, 1), (15.0, 22.0, 0), (22.0, 29.0, 1)]
    result = diarize(heard(turns, 30.0, merge=(0, 1)))
    named = [(start, end, f"S{who + 1}") for start, end, who in turns]
    assert matches(result, named, tolerance_s=0.5)


def test_whoever_only_speaks_over_another_is_found_by_elimination_or_not_at_all():
    result = diarize(heard([(1.0, 9.0, 0), (10.0, 18.0, 1), (12.0, 12.8, 0)], 19.0))
    assert len(result.seconds) == 2
    assert matches(result, [(1.0, 9.0, "S1"), (10.0, 18.0, "S2")]) or matches(
        result, [(1.0, 9.0, "S1"), (10.0, 18.0, "S2"), (12.0, 12.8, "S1")]
    )


def test_short_silence_within_a_turn_belongs_to_it_and_long_silence_does_not():
    result = diarize(heard([(1.0, 3.0, 0), (3.4, 6.0, 0), (7.0, 9.0, 0)], 10.0))
    assert matches(result, [(1.0, 6.0, "S1"), (7.0, 9.0, "S1")])


@pytest.mark.parametrize("num", [1, 2, 3])
def test_a_given_number_of_speakers_is_kept(num: int):
    assert len(diarize(heard(TALK, 39.0), SpeakerCounts(num=num)).seconds) == num


def test_one_clustering_of_the_whole_recording():
    turns = [(t + 0.5, t + 4.5, index % 3) for index, t in enumerate(range(0, 600, 5))]
    result = diarize(heard(turns, 600.0))
    assert matches(result, [(start, end, f"S{who + 1}") for start, end, who in turns])


def test_nothing_said_is_no_turn():
    for seconds in (0.0, 1 / 16000, 39.0):
        result = diarize(heard([], seconds))
        assert result.turns() == []
        assert result.names == []
        assert result.centroids.shape == (0, 192)
        assert result.seconds.shape == (0,)
    empty = Heard(np.zeros((0, LENGTH, 3), np.uint8), np.zeros((0, 4), np.int64), np.zeros((0, 192)), 0.0)
    assert diarize(empty).turns() == []


def test_what_is_too_short_to_be_embedded_is_one_speakers():
    result = diarize(heard([(1.0, 1.3, 0)], 3.0))
    assert matches(result, [(1.0, 1.3, "S1")])
    assert result.confidences.tolist() == [0.5]
    assert not result.centroids.any()


def test_turns_end_with_the_recording():
    result = diarize(heard([(1.0, 9.9, 0)], 5.0))
    assert result.ends_s.tolist() == [5.0]


def test_the_result_is_the_same_every_time():
    first, second = diarize(heard(TALK, 39.0)), diarize(heard(TALK, 39.0))
    assert first.turns() == second.turns()
    assert np.array_equal(first.centroids, second.centroids)


def test_evidence_that_does_not_fit_is_refused():
    evidence = heard(TALK, 39.0)
    with pytest.raises(ValueError, match="embeddings for"):
        diarize(replace(evidence, embeddings=evidence.embeddings[:-1]))
    with pytest.raises(ValueError, match="finite"):
        diarize(replace(evidence, embeddings=np.full_like(evidence.embeddings, np.nan)))


def test_runs_and_gaps():
    active = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
    assert runs(active).tolist() == [[0, 2], [3, 4], [7, 8]]
    assert runs(np.zeros(3, bool)).shape == (0, 2)
    assert without_gaps(active, 1).tolist() == [True, True, True, True, False, False, False, True]
    assert without_gaps(active, 3).all()
    assert not without_gaps(np.zeros(0, bool), 3).any()
