"""What becomes of a request, step by step. A stand-in is in the place of the worker, so that it fails as it is to."""

import hashlib
import io
import json
import threading
from datetime import datetime, timezone

import numpy as np
import pytest
import soundfile

from pipeline.engine.answer import Answer
from pipeline.engine.one_file import GivenUp, PlaceLost
from pipeline.service.announcer import Assigned, Claim
from pipeline.service.crew import Abandoned, Bench
from pipeline.service.destinations import Rules
from pipeline.service.intake import Task
from pipeline.service.kafka import (
    ATTEMPT,
    CODE,
    CUT,
    HEADERS_BYTES,
    NOT_BEFORE,
    OWN,
    REASON,
    Topics,
    headers_of,
    journey_of,
    travelling,
)
from pipeline.service.logs import StepLog
from pipeline.service.messages import MESSAGE_BYTES
from pipeline.service.metrics import Metrics
from pipeline.service.songs import Limits, Recipe, Settings, Songs

TOPICS = Topics()
FILE = "instrumentals_mp3/ab/abc/instrumental.mp3"


class Updates:
    """In the place of the search index."""

    def __init__(self):
        self.documents = []
        self.raises = None

    def record(self, video_id, document):
        if self.raises:
            raise self.raises
        self.documents.append((video_id, document))
        return "updated"


class Worker:
    """In the place of a worker: writes a file, or raises."""

    def __init__(self, folder):
        self.folder, self.raises, self.recipes = folder, None, []
        self.failures, self.fallbacks = [], []

    def prepare(self, nodes, until):
        pass

    def work(self, nodes, table, until):
        self.recipes.append(nodes)
        if self.raises:
            raise self.raises
        if self.failures:
            return Answer({"file": None}, self.failures, self.fallbacks)
        path = self.folder / FILE
        path.parent.mkdir(parents=True)
        path.write_bytes(b"instrumental")
        blob = {"path": FILE, "sha256": hashlib.sha256(b"instrumental").hexdigest(), "size_bytes": 12}
        return Answer(
            {"file": FILE, "score": 0.75, "method": "spleeter"}, blobs=[blob], seconds={"decode": 0.1}
        )

    def memory_bytes(self):
        return 0

    def end(self):
        pass


class Scene:
    def __init__(self, tmp_path, simpler=True):
        self.root, scratch = tmp_path / "songs", tmp_path / "scratch"
        self.root.mkdir()
        scratch.mkdir()
        (self.root / "song.mp3").write_bytes(b"song")
        self.worker, self.updates, self.log = Worker(scratch), Updates(), io.StringIO()
        self.stopped = threading.Event()
        self.metrics = Metrics()

        def recipe(name):
            return Recipe(
                name,
                lambda number: [name],
                lambda number: scratch,
                {"name": name},
                file="file",
                score="score",
                method="method",
            )

        settings = Settings(
            recipe("usual"),
            recipe("simple") if simpler else None,
            Rules([str(self.root)]),
            scratch,
            "Soundmill",
            limits=Limits(attempts=2, reserve_bytes=0),
        )
        log = StepLog(self.log, service="test", instance="test")
        self.songs = Songs(settings, self.updates, metrics=self.metrics, log=log)

    def ask(self, value=None, headers=(), **more):
        asked = {
            "video_id": "a",
            "original_path": str(self.root / "song.mp3"),
            "action": "remove_vocals",
            **more,
        }
        value = json.dumps(asked).encode() if value is None else value
        claim = Claim(Assigned("t", 0), 0)
        task = Task(claim, value, b"key", journey_of(headers), travelling(headers))
        return self.songs(task, Bench(0, self.worker, self.stopped)).messages

    def steps(self):
        return [json.loads(line)["step"] for line in self.log.getvalue().splitlines()]


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_file_then_index_then_answer(scene):
    (message,) = scene.ask(user=7)
    answer = json.loads(message.value)
    assert (message.topic, message.key) == (TOPICS.results, b"key")
    assert answer["vocals_removed_path"] == str(scene.root / "vocals_removed.mp3")
    assert (answer["quality_score"], answer["method_used"], answer["user"]) == (0.75, "spleeter", 7)
    assert (scene.root / "vocals_removed.mp3").read_bytes() == b"instrumental"
    ((video_id, document),) = scene.updates.documents
    assert (video_id, document["processing_metadata"]["audio"]["quality_score"]) == ("a", 0.75)
    steps = scene.steps()
    assert steps.index("store") < steps.index("indexed")
    assert not (scene.worker.folder / FILE).exists()
    assert scene.metrics.value("soundmill_songs_total", {"outcome": "done", "method": "spleeter"}) == 1


def test_a_request_that_comes_again_is_answered_from_what_is_there(scene):
    first, second = (json.loads(scene.ask()[0].value) for _ in range(2))
    assert first == second
    assert scene.worker.recipes == [["usual"]]
    assert len(scene.updates.documents) == 2


def test_another_song_in_its_place_is_done_anew(scene):
    scene.ask()
    (scene.root / "song.mp3").write_bytes(b"another song")
    scene.ask()
    assert scene.worker.recipes == [["usual"], ["usual"]]


def test_a_worker_that_dies_is_tried_again_then_with_the_simpler_method_then_given_up(scene):
    scene.worker.raises = PlaceLost("it was ended by SIGKILL")
    headers, seen = (), []
    for _ in range(3):
        found = scene.ask(headers=headers)
        seen.append([message.topic for message in found])
        headers = found[0].headers
        if found[0].topic == TOPICS.retries:
            journey = journey_of(headers)
            assert journey.attempt == len(seen) + 1
            assert journey.not_before > datetime.now(timezone.utc)
            assert dict(headers)[CODE] == b"AUDIO_PROCESSING_FAILED"
            assert not scene.updates.documents
    assert seen == [[TOPICS.retries], [TOPICS.retries], [TOPICS.results, TOPICS.dead_letters]]
    assert scene.worker.recipes == [["usual"], ["usual"], ["simple"]]
    error = json.loads(found[0].value)["error"]
    assert (error["code"], error["message"]) == ("AUDIO_PROCESSING_FAILED", "it was ended by SIGKILL")
    assert scene.updates.documents[0][1]["processing_metadata"]["audio"]["error"]["code"] == error["code"]


def test_what_will_never_do_is_answered_at_once(scene):
    scene.worker.failures = [{"stage": "decode", "error_class": "EmptyAudio", "message": "0 bytes"}]
    (message,) = scene.ask()
    assert json.loads(message.value)["error"]["code"] == "FILE_UNREADABLE"
    (message,) = scene.ask(original_path=str(scene.root / "none.mp3"))
    assert json.loads(message.value)["error"]["code"] == "FILE_NOT_FOUND"


def takes_no_such_song(scene):
    """What a line of stages answers where the first one makes no view for the others."""
    scene.worker.failures = [
        {
            "stage": stage,
            "error_class": "ViewMissing",
            "message": "separation made no view vocals of this track",
        }
        for stage in ("karaoke", "instrumental")
    ]
    step = {
        "stage": "separation",
        "wanted": "midside",
        "used": "none",
        "reason": "midside: the track is mono",
    }
    scene.worker.fallbacks = [step]


def test_a_song_that_the_only_method_does_not_take_is_answered_at_once(tmp_path):
    scene = Scene(tmp_path, simpler=False)
    takes_no_such_song(scene)
    answer, dead = scene.ask()
    error = json.loads(answer.value)["error"]
    assert (error["code"], error["message"]) == ("METHOD_UNSUITABLE", "midside: the track is mono")
    assert (answer.topic, dead.topic) == (TOPICS.results, TOPICS.dead_letters)
    assert dict(dead.headers)[CODE] == b"METHOD_UNSUITABLE"
    assert scene.worker.recipes == [["usual"]]
    assert scene.updates.documents[0][1]["processing_metadata"]["audio"]["error"]["code"] == error["code"]


def test_what_one_method_does_not_take_the_simpler_one_gets_next(scene):
    takes_no_such_song(scene)
    (again,) = scene.ask()
    assert (again.topic, journey_of(again.headers).attempt) == (TOPICS.retries, 3)
    answer, _ = scene.ask(headers=again.headers)
    assert json.loads(answer.value)["error"]["code"] == "METHOD_UNSUITABLE"
    assert scene.worker.recipes == [["usual"], ["simple"]]


def test_a_song_that_the_simpler_method_does_not_take_failed_of_what_was_before(scene):
    takes_no_such_song(scene)
    answer, dead = scene.ask(headers=headers_of(3, 0.0, "TIMED_OUT", "it took longer than 5 s"))
    error = json.loads(answer.value)["error"]
    assert error["code"] == "TIMED_OUT"
    assert error["message"] == "it took longer than 5 s; midside: the track is mono"
    assert dead.topic == TOPICS.dead_letters


def test_headers_of_a_request_travel_to_whatever_is_said_of_it(scene):
    own = [("traceparent", b"00-1-2-01"), ("twice", b"1"), ("twice", None), ("umlaut", b"\xff")]
    (done,) = scene.ask(headers=own)
    assert list(done.headers) == own
    scene.worker.raises = PlaceLost("it was ended by SIGKILL")
    other = scene.root / "other.mp3"
    other.write_bytes(b"other")
    (again,) = scene.ask(headers=own, original_path=str(other))
    assert again.topic == TOPICS.retries
    assert [name for name, _ in again.headers][:4] == [ATTEMPT, NOT_BEFORE, CODE, REASON]
    assert list(again.headers)[4:] == own
    last = [*headers_of(3, 0.0, "AUDIO_PROCESSING_FAILED", "before"), *own]
    answer, dead = scene.ask(headers=last, original_path=str(other))
    assert list(answer.headers) == own
    assert list(dead.headers)[2:] == own
    assert dict(dead.headers)[REASON] == b"it was ended by SIGKILL"


def test_a_request_has_no_say_in_the_headers_of_the_service(scene):
    (done,) = scene.ask(headers=[(name, b"x") for name in OWN])
    assert list(done.headers) == []


def test_headers_that_are_too_long_stay_behind():
    assert travelling([("a", b"x" * HEADERS_BYTES)]) == ()
    assert travelling([("a", b"x" * (HEADERS_BYTES - 1))]) != ()
    assert travelling(None) == ()


@pytest.mark.parametrize(
    ("value", "code"),
    [(b"{", "MESSAGE_INVALID"), (b"x" * 900_000, "MESSAGE_INVALID"), (None, "MESSAGE_INVALID")],
)
def test_what_is_no_request_is_a_dead_letter_that_a_broker_takes(scene, value, code):
    answer, dead = scene.ask(value or b"[]")
    assert json.loads(answer.value)["error"]["code"] == code
    assert dead.topic == TOPICS.dead_letters
    assert len(dead.value) <= MESSAGE_BYTES
    assert (CUT in dict(dead.headers)) == (len(value or b"") > MESSAGE_BYTES)
    assert not scene.updates.documents


def test_an_index_that_nobody_can_tell_does_not_cost_the_answer(scene):
    scene.updates.raises = OSError(28, "No space left on device")
    scene.worker.failures = [{"stage": "decode", "error_class": "EmptyAudio", "message": "0 bytes"}]
    assert json.loads(scene.ask()[0].value)["error"]["code"] == "FILE_UNREADABLE"
    scene.worker.failures = []
    (message,) = scene.ask()
    assert (message.topic, dict(message.headers)[CODE]) == (TOPICS.retries, b"DISK_FULL")


def test_a_header_says_that_a_song_is_shorter_than_its_size_lets_fear(scene, monkeypatch):
    soundfile.write(scene.root / "song.wav", np.zeros((48_000 * 5, 2)), 48_000, subtype="FLOAT")
    monkeypatch.setattr("pipeline.service.housekeeping.free_bytes", lambda folder: 20 << 20)
    (message,) = scene.ask(original_path=str(scene.root / "song.wav"))
    assert message.topic == TOPICS.results


def test_a_disk_that_is_full_is_another_time(scene, monkeypatch):
    monkeypatch.setattr("pipeline.service.housekeeping.free_bytes", lambda folder: 1000)
    (message,) = scene.ask()
    assert (message.topic, dict(message.headers)[CODE]) == (TOPICS.retries, b"DISK_FULL")


def test_a_service_that_ends_says_nothing(scene):
    scene.worker.raises = GivenUp("the service ends")
    scene.stopped.set()
    with pytest.raises(Abandoned):
        scene.ask()
    assert not scene.updates.documents
