from __future__ import annotations

import numpy as np
import pytest

from pipeline.speech import clustering
from pipeline.speech.clustering import SpeakerCounts, cluster, condensed, renumbered, unit


def voices(people: list[int], seed: int = 0, spread: float = 0.9) -> np.ndarray:
    """Embeddings ``[n, 192]`` of these people in this order: of one they are alike by about 0.55, of two by about 0."""
    means = unit(np.random.default_rng(99).standard_normal((20, 192)))
    noise = np.random.default_rng(seed).standard_normal((len(people), 192)) / np.sqrt(192)
    return unit(means[people] + spread * noise).astype(np.float32)


def same_partition(labels: np.ndarray, people: list[int]) -> bool:
    return np.array_equal(renumbered(np.asarray(labels)), renumbered(np.asarray(people)))


@pytest.mark.parametrize("speakers", [1, 2, 3, 5])
@pytest.mark.parametrize("each", [9, 40, 160])
def test_every_speaker_gets_one_group_in_order_of_first_appearance(speakers: int, each: int) -> None:
    people = np.random.default_rng(speakers).permutation(np.repeat(np.arange(speakers), each)).tolist()

    labels = cluster(voices(people))

    assert same_partition(labels, people)
    assert labels[0] == 0
    assert [label for i, label in enumerate(labels) if label not in labels[:i]] == list(range(speakers))


@pytest.mark.parametrize("extra", [0, 60])
def test_unequal_shares_are_told_apart(extra: int) -> None:
    people = [0] * 100 + [1] * 8 + [2] * 12 + [3] * extra
    assert same_partition(cluster(voices(people)), people)


def test_few_embeddings_are_one_speaker_unless_more_are_asked_for() -> None:
    people = [0, 0, 0, 1, 1, 1]
    assert cluster(voices(people)).tolist() == [0] * 6
    assert same_partition(cluster(voices(people), SpeakerCounts(num=2)), people)
    assert same_partition(cluster(voices(people), SpeakerCounts(minimum=2)), people)


@pytest.mark.parametrize("each", [20, 70])
@pytest.mark.parametrize("num", [1, 2, 4, 6])
def test_a_given_number_is_kept(each: int, num: int) -> None:
    people = np.repeat(np.arange(3), each).tolist()
    assert cluster(voices(people), SpeakerCounts(num=num)).max() + 1 == num


@pytest.mark.parametrize("each", [20, 70])
def test_bounds_are_kept(each: int) -> None:
    people = np.repeat(np.arange(3), each).tolist()
    assert cluster(voices(people), SpeakerCounts(minimum=5)).max() + 1 == 5
    assert cluster(voices(people), SpeakerCounts(maximum=2)).max() + 1 == 2
    assert cluster(voices(people), SpeakerCounts(minimum=2, maximum=4)).max() + 1 == 3


def test_no_more_groups_than_embeddings() -> None:
    assert sorted(cluster(voices([0, 1]), SpeakerCounts(num=5)).tolist()) == [0, 1]


def test_empty_one_and_equal_embeddings() -> None:
    assert cluster(np.zeros((0, 192))).shape == (0,)
    assert cluster(voices([3])).tolist() == [0]
    assert cluster(np.tile(voices([3]), (30, 1))).tolist() == [0] * 30
    assert cluster(np.tile(voices([3]), (200, 1))).tolist() == [0] * 200
    assert cluster(np.zeros((20, 192))).tolist() == [0] * 20
    assert cluster(np.zeros((200, 192))).shape == (200,)


def test_the_result_is_the_same_every_time() -> None:
    embeddings = voices(np.repeat(np.arange(4), 30).tolist(), spread=1.5)
    assert np.array_equal(cluster(embeddings), cluster(embeddings.copy()))


def test_more_embeddings_than_a_matrix_may_hold_are_averaged_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MOST", 100)
    people = np.random.default_rng(0).integers(0, 4, 1234).tolist()
    embeddings = voices(people, spread=0.7)

    groups = condensed(unit(embeddings), 100)

    assert groups.max() + 1 <= 100
    assert same_partition(cluster(embeddings), people)


def test_what_is_no_embedding_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        cluster(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="finite"):
        cluster(np.zeros(4))


@pytest.mark.parametrize("wrong", [{"num": 0}, {"minimum": 0}, {"maximum": 0}, {"minimum": 3, "maximum": 2}])
def test_impossible_counts_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="speakers"):
        SpeakerCounts(**wrong)
