"""Updates reach the index in their order, at once or when it is back; a real one is killed and started again."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
import requests
from servers.elasticsearch_server import ElasticsearchServer
from servers.fixtures import running

from pipeline.service.search import SearchAway, SearchRefused, connect, failure_document, success_document
from pipeline.service.search_updates import REFUSED, SPOOLED, UPDATED, Backoff, SearchUpdates
from pipeline.service.spool import Spool

QUICK = Backoff(first_s=0.001, longest_s=0.002, away_first_s=0.01, away_longest_s=0.05)
SECONDS = 60


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for ``condition``; fail if it does not come."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


class PretendIndex:
    """In the place of a search index: every update is answered by ``answers``, which raises or does not."""

    def __init__(self, answers: Callable[[str, dict], None] = lambda video_id, document: None) -> None:
        self.answers, self.asked, self.taken = answers, [], []

    def update(self, video_id: str, document: dict) -> None:
        self.asked.append((video_id, document))
        self.answers(video_id, document)
        self.taken.append((video_id, document))


def away(video_id: str, document: dict) -> None:
    raise SearchAway("nobody there")


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def begun():
    """Starts threads that are stopped after the test."""
    started: list[SearchUpdates] = []

    def start(updates: SearchUpdates) -> SearchUpdates:
        started.append(updates)
        updates.start()
        return updates

    yield start
    for updates in started:
        updates.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "search-updates"]


def test_an_index_that_is_there(spool):
    index = PretendIndex()
    assert SearchUpdates(index, spool).record("v", {"x": 1}) == UPDATED
    assert index.taken == [("v", {"x": 1})]
    assert spool.waiting() == 0


def test_it_is_tried_again_on_the_spot(spool):
    def twice_away(video_id, document):
        if len(index.asked) < 3:
            raise SearchAway("429")

    index = PretendIndex(twice_away)
    updates = SearchUpdates(index, spool, attempts=3, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == UPDATED
    assert len(index.asked) == 3
    assert not updates.away


def test_after_a_few_tries_it_waits_on_disk(spool, caplog):
    index = PretendIndex(away)
    updates = SearchUpdates(index, spool, attempts=3, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == SPOOLED
    assert len(index.asked) == 3
    assert spool.holds("v")
    assert updates.away == "nobody there"
    assert updates.record("w", {"x": 1}) == SPOOLED
    assert [record.message.startswith("the search index is away") for record in caplog.records] == [True], (
        "said once"
    )


def test_no_try_begins_after_the_time_for_all(spool):
    index = PretendIndex(away)
    endless = Backoff(first_s=1e9, longest_s=1e9, all_s=1.0)
    assert SearchUpdates(index, spool, attempts=100, backoff=endless).record("v", {"x": 1}) == SPOOLED
    assert len(index.asked) < 5, "each wait is a random part of thirty years"


def test_an_end_interrupts_the_wait(spool):
    ending = threading.Event()

    def then_the_end(video_id, document):
        threading.Timer(0.05, ending.set).start()
        raise SearchAway("nobody there")

    index = PretendIndex(then_the_end)
    endless = Backoff(first_s=1e9, longest_s=1e9, all_s=1e10)
    assert SearchUpdates(index, spool, backoff=endless, ending=ending).record("v", {"x": 1}) == SPOOLED
    assert len(index.asked) == 1


def test_waits_grow_and_differ():
    backoff = Backoff()
    for tries, most in ((1, 0.2), (2, 0.4), (3, 0.8), (4, 1.0), (50, 1.0)):
        waits = [backoff.wait_s(tries) for _ in range(200)]
        assert 0 <= min(waits) < 0.2 * most
        assert 0.8 * most < max(waits) <= most
    for looks, most in ((1, 0.5), (2, 1.0), (5, 8.0), (7, 30.0), (100_000, 30.0)):
        waits = [backoff.away_s(looks) for _ in range(200)]
        assert 0.75 * most <= min(waits) < max(waits) <= most


def test_what_is_refused_is_kept_with_its_reason(spool, caplog):
    def refuse(video_id, document):
        raise SearchRefused("400 mapper_parsing_exception: x")

    updates = SearchUpdates(PretendIndex(refuse), spool, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == REFUSED
    assert (spool.waiting(), spool.refused()) == (0, 1)
    assert next((spool.folder / "refused").glob("*.txt")).read_text() == "400 mapper_parsing_exception: x\n"
    assert "refuses an update of v: 400 mapper_parsing_exception" in caplog.text


def test_what_was_refused_before_is_done_with_when_a_newer_update_goes_through(spool, begun):
    spool.refuse("v", {"x": 1}, "401")
    index = PretendIndex()
    updates = SearchUpdates(index, spool, backoff=QUICK)
    assert updates.record("v", {"x": 2}) == UPDATED
    assert spool.refused() == 0
    begun(updates)
    assert updates.record("w", {"x": 3}) == UPDATED
    assert index.taken == [("v", {"x": 2}), ("w", {"x": 3})]


def test_a_newer_update_waits_behind_an_older_one(spool, begun):
    index = PretendIndex(away)
    updates = SearchUpdates(index, spool, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == SPOOLED
    index.answers = lambda video_id, document: None
    assert updates.record("v", {"y": 2}) == SPOOLED
    assert updates.record("w", {"x": 3}) == UPDATED
    begun(updates)
    eventually(lambda: spool.waiting() == 0)
    assert index.taken == [("w", {"x": 3}), ("v", {"x": 1}), ("v", {"y": 2})]
    assert updates.record("v", {"z": 3}) == UPDATED


def test_updates_of_one_video_take_turns(spool, begun):
    inside, second_came = threading.Event(), threading.Event()

    def first_is_slow_and_fails(video_id, document):
        if document == {"x": "older"} and not inside.is_set():
            inside.set()
            second_came.wait(0.5)
            raise SearchAway("nobody there")
        second_came.set()

    index = PretendIndex(first_is_slow_and_fails)
    updates = SearchUpdates(index, spool, attempts=1, backoff=QUICK)
    older = threading.Thread(target=updates.record, args=("v", {"x": "older"}))
    newer = threading.Thread(target=updates.record, args=("v", {"x": "newer"}))
    older.start()
    assert inside.wait(SECONDS)
    newer.start()
    older.join()
    newer.join()
    begun(updates)
    eventually(lambda: spool.waiting() == 0)
    assert index.taken[-1] == ("v", {"x": "newer"})


def test_while_it_is_known_to_be_away_songs_do_not_wait_for_it(spool, begun):
    index = PretendIndex(away)
    updates = begun(SearchUpdates(index, spool, backoff=QUICK))
    assert updates.record("first", {"x": 1}) == SPOOLED
    assert [updates.record(f"v{n}", {"x": 1}) for n in range(20)] == [SPOOLED] * 20
    assert {video_id for video_id, _ in index.asked} == {"first"}, "only the oldest is tried, by the thread"
    index.answers = lambda video_id, document: None
    eventually(lambda: spool.waiting() == 0)
    assert len(index.taken) == 21
    eventually(lambda: not updates.away)
    assert updates.record("last", {"x": 1}) == UPDATED


def test_a_conflict_does_not_make_it_away(spool):
    def conflict(video_id, document):
        raise SearchAway("409 version_conflict_engine_exception", only_this=True)

    updates = SearchUpdates(PretendIndex(conflict), spool, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == SPOOLED
    assert not updates.away


def test_whatever_else_a_client_raises_is_kept_waiting_and_not_quoted(spool, caplog):
    def fail(video_id, document):
        raise KeyError("https://ann:s3same@host")

    updates = SearchUpdates(PretendIndex(fail), spool, backoff=QUICK)
    assert updates.record("v", {"x": 1}) == SPOOLED
    assert "s3same" not in caplog.text + updates.away


def test_at_the_start_it_catches_up_with_an_earlier_run(spool, begun):
    spool.put("waited", {"x": 1})
    spool.refuse("refused", {"x": 2}, "401")
    index = PretendIndex()
    begun(SearchUpdates(index, Spool(spool.folder), backoff=QUICK))
    eventually(lambda: spool.waiting() == spool.refused() == 0)
    assert sorted(index.taken) == [("refused", {"x": 2}), ("waited", {"x": 1})]


def test_what_is_adopted_is_sent_too(spool, begun, tmp_path):
    index = PretendIndex()
    begun(SearchUpdates(index, spool, backoff=QUICK))
    dead = Spool(tmp_path / "dead")
    dead.put("v", {"x": 1})
    Spool.adopt(spool.folder, [dead.folder])
    eventually(lambda: index.taken == [("v", {"x": 1})])


def test_a_disk_that_fails_does_not_end_the_thread(spool, begun, monkeypatch, caplog):
    spool.put("v", {"x": 1})
    failed = threading.Event()
    real = Spool.drain

    def once(self, index, stop):
        if not failed.is_set():
            failed.set()
            raise OSError(5, "Input/output error")
        return real(self, index, stop)

    monkeypatch.setattr(Spool, "drain", once)
    index = PretendIndex()
    begun(SearchUpdates(index, spool, backoff=QUICK))
    eventually(lambda: index.taken == [("v", {"x": 1})])
    assert "Input/output error" in caplog.text


def test_a_song_is_told_when_nothing_can_be_written(spool, monkeypatch):
    def full(self, video_id, document):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "put", full)
    with pytest.raises(OSError, match="No space left"):
        SearchUpdates(PretendIndex(away), spool, backoff=QUICK).record("v", {"x": 1})


def test_a_stopped_one_still_records(spool, begun):
    index = PretendIndex()
    updates = begun(SearchUpdates(index, spool, backoff=QUICK))
    updates.stop()
    assert updates.record("v", {"x": 1}) == UPDATED
    index.answers = away
    assert updates.record("w", {"x": 1}) == SPOOLED


def test_a_real_index_is_killed_and_comes_back(tmp_path, begun, caplog):
    """Four writers, one kill -9 while they write: every update is in the index in the end, the last of each last."""
    caplog.set_level(logging.INFO)
    songs, writers = 12, 4
    with running(ElasticsearchServer(tmp_path / "server")) as server:
        updates = begun(
            SearchUpdates(connect("elasticsearch", server.url, timeout_s=30), Spool(tmp_path / "spool"))
        )
        outcomes: list[str] = []
        killed = threading.Event()

        def write(writer: int) -> None:
            mine = [f"song {n}" for n in range(songs) if n % writers == writer]
            for turn in range(15):
                for video_id in mine:
                    at = datetime.fromtimestamp(1_800_000_000 + turn, timezone.utc)
                    done = success_document(f"/{turn}", 0.5, float(turn), "m", at)
                    outcomes.append(updates.record(video_id, done))
                    outcomes.append(updates.record(video_id, failure_document("X", f"{turn}", at)))
                if turn == 7:
                    killed.wait(SECONDS)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(writers)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(outcomes) > 40)
        server.kill()
        killed.set()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 15 * 2 * songs
        assert outcomes.count(SPOOLED) >= songs
        assert updates.spool.waiting() == songs
        assert "refused" in updates.away or "Connection" in updates.away
        server.start()
        eventually(lambda: updates.spool.waiting() == 0)
        assert updates.spool.refused() == 0
        found = requests.post(
            f"{server.url}/songs/_mget", json={"ids": [f"song {n}" for n in range(songs)]}, timeout=60
        ).json()["docs"]
        for document in (one["_source"] for one in found):
            assert document["file_paths"] == {"vocals_removed": "/14"}
            audio = document["processing_metadata"]["audio"]
            assert audio["processing_time"] == 14.0
            assert audio["error"]["message"] == "14"
        eventually(lambda: updates.record("song 0", {"x": 1}) == UPDATED)
    assert [
        r.message.split(",")[0].split(";")[0] for r in caplog.records if r.name.endswith("search_updates")
    ][:2] == [
        "the search index is away",
        "the search index is back",
    ]
