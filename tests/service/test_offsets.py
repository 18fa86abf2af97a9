"""Only what is done without a gap is committed, and nothing is done twice by whoever comes after."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.service.offsets import METADATA_BYTES, Offsets, ahead_of, metadata_of


def test_the_offset_stays_before_the_first_that_is_not_done():
    offsets = Offsets()
    assert all(offsets.take(offset) for offset in (5, 6, 7))
    assert offsets.commit_of([6]) == (5, "ahead:1")
    offsets.finish([6])
    assert offsets.commit_of([7]) == (5, "ahead:1-2")
    offsets.finish([7])
    assert offsets.commit_of([5]) == (8, "")
    offsets.finish([5])
    assert offsets.in_hand == 0


def test_what_is_not_yet_known_to_the_broker_changes_nothing():
    offsets = Offsets()
    offsets.take(5)
    offsets.commit_of([5])  # the transaction fails
    assert offsets.commit_of([]) == (5, "")


def test_offsets_have_gaps():
    """The markers of transactions take offsets, too."""
    offsets = Offsets()
    assert offsets.take(5)
    assert offsets.take(9)
    assert offsets.commit_of([5]) == (9, "")
    offsets.finish([5])
    assert offsets.commit_of([9]) == (10, "")


def test_what_was_done_ahead_is_committed_with_what_it_waited_for():
    offsets = Offsets(ahead=[6, 7, 9])
    offsets.take(5)
    assert offsets.commit_of([5]) == (8, "ahead:1")


def test_a_message_that_is_in_hand_is_not_taken_twice():
    offsets = Offsets()
    assert offsets.take(5)
    assert not offsets.take(5)


@given(st.integers(0, 10), st.integers(1, 30), st.randoms(use_true_random=False))
def test_whoever_comes_after_a_crash_does_what_is_left_and_nothing_else(first, count, chance: random.Random):
    log = [first + 2 * number for number in range(count)]  # with gaps
    done: list[int] = []
    position, metadata = first, ""
    while len(done) < count:
        offsets = Offsets(ahead_of(position, metadata))
        taken = [offset for offset in log if offset >= position and offsets.take(offset)]
        assert not set(taken) & set(done)
        chance.shuffle(taken)
        for offset in taken[: chance.randrange(len(taken)) + 1]:  # and then it crashes
            position, metadata = offsets.commit_of([offset])
            offsets.finish([offset])
            done.append(offset)
        assert all(offset in done for offset in log if offset < position)
    assert sorted(done) == log


@pytest.mark.parametrize("metadata", [None, "", "somebody else's", "ahead:", "ahead:1,x"])
def test_metadata_that_is_not_ours_says_nothing(metadata):
    assert ahead_of(5, metadata) == set()


def test_metadata_fits_what_a_broker_takes_and_loses_the_last_only():
    text = metadata_of(0, range(0, 10_000, 2))
    assert len(text) <= METADATA_BYTES
    found = ahead_of(0, text)
    assert found == set(range(0, 2 * len(found), 2))
    assert len(found) > 500


def test_thousands_that_follow_one_upon_the_other_are_a_word():
    assert metadata_of(5, [*range(6, 5000), 5002]) == "ahead:1-4994,4997"
    assert ahead_of(5, "ahead:1-4994,4997") == {*range(6, 5000), 5002}
