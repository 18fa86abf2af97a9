from __future__ import annotations

import numpy as np
import pytest

from pipeline.speech import linking
from pipeline.speech.linking import link


def recordings(
    files: int, people: int, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Mean voices, seconds and the people themselves of so many recordings of up to five of so many people."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((people, 192)) / np.sqrt(192)
    centroids, seconds, who = [], [], []
    for _ in range(files):
        chosen = rng.choice(people, min(rng.integers(1, 6), people), replace=False)
        noise = rng.standard_normal((len(chosen), 192)) / np.sqrt(192)
        centroids.append((means[chosen] + 0.5 * noise).astype(np.float32))
        seconds.append(rng.uniform(3, 60, len(chosen)))
        who.append(chosen)
    return centroids, seconds, who


def pairs(labels: list[np.ndarray]) -> np.ndarray:
    flat = np.concatenate(labels)
    return flat[:, None] == flat[None]


@pytest.mark.parametrize(("files", "people"), [(1, 5), (30, 7), (300, 80)])
def test_people_are_found_again(files: int, people: int) -> None:
    centroids, seconds, who = recordings(files, people)
    found = link(centroids, seconds)
    assert [len(part) for part in found] == [len(part) for part in who]
    assert np.array_equal(pairs(found), pairs(who))


def test_numbers_follow_first_appearance() -> None:
    centroids, seconds, _ = recordings(30, 7)
    flat = np.concatenate(link(centroids, seconds)).tolist()
    assert list(dict.fromkeys(flat)) == list(range(max(flat) + 1))


def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    centroids, seconds, _ = recordings(60, 20)
    whole = link(centroids, seconds)
    monkeypatch.setattr(linking, "_BLOCK", 7)
    assert all(np.array_equal(a, b) for a, b in zip(whole, link(centroids, seconds), strict=True))


def test_speakers_of_one_recording_stay_apart_however_alike() -> None:
    voice = np.eye(1, 8)
    both = np.concatenate([voice, voice])
    found = link([both, voice, both], [np.ones(2), np.ones(1), np.ones(2)])
    assert found[0][0] != found[0][1]
    assert found[2][0] != found[2][1]
    assert set(found[2]) == set(found[0])
    assert found[1][0] in found[0]


def test_many_equal_voices_are_one_person() -> None:
    voice = np.random.default_rng(0).standard_normal((1, 192))
    assert np.concatenate(link([voice] * 50, [np.ones(1)] * 50)).tolist() == [0] * 50


def test_the_threshold_decides() -> None:
    angle = np.arccos(0.7)
    one, other = np.array([[1.0, 0.0]]), np.array([[np.cos(angle), np.sin(angle)]])
    assert [part.tolist() for part in link([one, other], [np.ones(1)] * 2, threshold=0.69)] == [[0], [0]]
    assert [part.tolist() for part in link([one, other], [np.ones(1)] * 2, threshold=0.71)] == [[0], [1]]


def test_a_voice_of_zeros_is_nobody_elses() -> None:
    nothing = np.zeros((1, 4))
    assert np.concatenate(
        link([nothing, nothing, np.eye(1, 4)], [np.ones(1)] * 3, threshold=-1)
    ).tolist() == [0, 1, 2]


def test_recordings_without_speakers_and_none_at_all() -> None:
    assert link([], []) == []
    empty = np.zeros((0, 192))
    found = link([empty, np.ones((1, 192)), empty], [np.zeros(0), np.zeros(1), np.zeros(0)])
    assert [part.tolist() for part in found] == [[], [0], []]
    assert [part.tolist() for part in link([empty], [np.zeros(0)])] == [[]]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 recordings, seconds of 1"):
        link([np.ones((1, 4)), np.ones((1, 4))], [np.ones(1)])
    with pytest.raises(ValueError, match="do not fit"):
        link([np.ones((2, 4))], [np.ones(1)])
    with pytest.raises(ValueError, match="finite"):
        link([np.full((1, 4), np.nan)], [np.ones(1)])
    with pytest.raises(ValueError, match="threshold"):
        link([], [], threshold=2.0)


def test_a_name_stays_with_the_person_who_had_it_longest():
    # Person 7 was V2 and V1 before, most of the time V2; 4 was V2, too, for a shorter time; 9 is new.
    before = ["V2", "V1", "V2", None]
    assert linking.names([7, 7, 4, 9], [30.0, 5.0, 20.0, 1.0], before) == ["V2", "V2", "V3", "V4"]


def test_new_names_are_numbers_that_nobody_had():
    assert linking.names([0, 1, 0], [1.0, 1.0, 1.0], [None, None, None]) == ["V1", "V2", "V1"]
    assert linking.names([0], [1.0], [None], taken=4) == ["V5"]
    assert linking.names([], [], []) == []


class Name(str):
    """A name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_names_are_looked_up_and_not_compared_with_all_others():
    people = range(400)
    before = [Name(f"V{n + 1}") for n in people]
    assert linking.names(people, [1.0] * 400, before) == before
    Name.compared = 0
    linking.names(people, [1.0] * 400, [Name(name) for name in before])
    assert Name.compared < 4000, "each with each would be 80,000 times"


def test_likeness_is_to_the_others_and_not_to_oneself():
    angle = np.pi / 3
    voices = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    alike = linking.likeness(voices, np.ones(5), np.array([0, 0, 1, 2, 2]))
    assert alike[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(alike[[2, 3]]).all()
    assert linking.likeness(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)).shape == (0,)
