"""Updates that wait for one video come to the same as all of them in their order."""

import random
import time

import pytest
import requests
from helpers.merging_index import merged
from hypothesis import given
from hypothesis import strategies as st

from pipeline.service.spool_entry import Entry, Step, combined, covers

# Small alphabets, so that updates meet.
DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.integers(0, 2), st.just([1])),
    lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
).filter(lambda found: isinstance(found, dict))


@pytest.mark.parametrize("kind", ["elasticsearch", "opensearch"])
def test_a_model_of_merging(kind, request):
    url, chance = request.getfixturevalue(f"{kind}_url"), random.Random(5)
    index = f"model-{time.time_ns()}"
    # One field holds a number here and an object there: kept, not indexed.
    settings = {"mappings": {"dynamic": False}}
    requests.put(f"{url}/{index}", json=settings, timeout=60).raise_for_status()

    def made(depth: int) -> dict:
        values = (None, 1, [1], "object", "object")
        picked = {name: chance.choice(values) for name in chance.sample("xyz", chance.randint(0, 3))}
        return {k: (made(depth - 1) if depth else {}) if v == "object" else v for k, v in picked.items()}

    expected: dict = {}
    for _ in range(50):
        update = made(2)
        before, expected = expected, merged(expected, update)
        body = {"doc": update, "doc_as_upsert": True, "_source": True}
        answer = requests.post(f"{url}/{index}/_update/v", json=body, timeout=60).json()
        assert answer["get"]["_source"] == expected, (before, update)


@given(st.lists(DOCUMENTS, min_size=1, max_size=5), DOCUMENTS)
def test_what_waits_comes_to_all_updates_in_their_order(updates, found):
    entry = Entry("v", ())
    for update in updates:
        entry = Entry.parsed(entry.followed_by(update).written())
    expected, result = found, found
    for update in updates:
        expected = merged(expected, update)
    for step in entry.steps:
        result = merged(result, step.document)
    assert result == expected


@given(st.lists(DOCUMENTS, min_size=2, max_size=5), DOCUMENTS, st.randoms())
def test_two_entries_are_put_in_order_of_time(updates, found, chance):
    steps = [Step(at, update) for at, update in enumerate(updates)]
    chance.shuffle(steps)
    both = combined(Entry("v", tuple(steps[:1])), Entry("v", tuple(steps[1:])))
    expected, result = found, found
    for update in updates:
        expected = merged(expected, update)
    for step in both.steps:
        result = merged(result, step.document)
    assert result == expected


def test_updates_that_a_later_one_repeats_do_not_pile_up():
    success = {"path": "/a", "audio": {"error": None}}
    failure = {"audio": {"error": {"code": "X"}}}
    entry = Entry("v", ())
    for update in [success, failure] * 20:
        entry = entry.followed_by(update)
    assert [step.document for step in entry.steps] == [success, failure]
    assert [step.document for step in entry.followed_by(success).steps] == [success]
    assert not covers({"x": {"p": 1}}, {"x": None}), (
        "an object that is emptied and filled again is not the old one"
    )


def test_the_clock_may_go_back(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: 1000)
    entry = Entry("v", ()).followed_by({"x": 1})
    monkeypatch.setattr(time, "time_ns", lambda: 10)
    assert [step.document for step in combined(entry, entry.followed_by({"y": 2})).steps] == [
        {"x": 1},
        {"y": 2},
    ]
