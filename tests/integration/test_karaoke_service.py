"""The karaoke service from request to answer, with a real Kafka and a real index: one course that many tests look at.

In its first half one process of the service, with one worker, gets good songs and all that is bad, and a song whose
worker is killed each time. It is itself killed over a song. In the second half another process does what is left, and
is told to end over a song.
"""

from __future__ import annotations

import json
import struct
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import psutil
import pytest
import requests
from helpers.karaoke_answers import assert_failed, assert_good, documents, write_song
from helpers.karaoke_service import Service, committed, messages, request, send, until
from servers.fixtures import elasticsearch_url, kafka  # noqa: F401  fixtures

from pipeline.service.kafka import ATTEMPT, CODE, CUT, NOT_BEFORE, REASON

pytestmark = pytest.mark.timeout(300)

GOOD = {"cd": ("flac", 44_100, 3.0), "dat": ("wav", 48_000, 2.5), "old": ("mp3", 22_050, 2.0)}
"""Video → format, rate, seconds."""
LONG_S = 20.0
"""Seconds of a song whose work is caught by who kills."""
KILLED = ("killed-0", "killed-1", "killed-2")
LAST = ("last-0", "last-1", "last-2")
MORE = {"user": 7, "trace": {"spans": [1, "ä", None]}}
"""What a request has that the service does not know."""
BEFORE = {"title": "a song", "file_paths": {"original": "o"}, "processing_metadata": {"video": {"fps": 25}}}
"""What the index has of a song before."""
ATTEMPTS = 2
CODES = {
    "unknown-action": "ACTION_UNKNOWN",
    "dots": "PATH_NOT_ALLOWED",
    "link": "PATH_NOT_ALLOWED",
    "missing": "FILE_NOT_FOUND",
    "text": "FORMAT_UNSUPPORTED",
    "empty": "FILE_UNREADABLE",
    "ten-hours": "AUDIO_TOO_LONG",
    "says-ten-hours": "FILE_UNREADABLE",
    "dies": "AUDIO_PROCESSING_FAILED",
}
"""Video of a request that fails → why."""
NOT_PARSED = ("unknown-action",)
"""Requests that are none: the index is not told of them."""
TEN_HOURS = 10 * 3600 * 8000
WAV_OF_TEN_HOURS = struct.pack(
    "<4sI4s4sIHHIIHH4sI",
    b"RIFF", TEN_HOURS + 36, b"WAVE", b"fmt ", 16, 1, 1, 8000, 8000, 1, 8, b"data", TEN_HOURS,
)  # fmt: skip
BROKEN = (b'{"video_id": "half', json.dumps(request("large", "/x", text="x" * 1_000_000)).encode())


@dataclass
class Course:
    """What happened.

    Attributes:
        answers: video → its answers.
        dead, retries, asked: what lies in the other topics.
        done: partition → committed offset of the requests.
        steps: the service's log.
        found: what the index has.
        files: when a result was written, and the same after it had been asked for again, in ns.
        begun_at_the_kill: whose song was in hand when the service was killed.
        left_by_the_dead: temporary files then, and whether their folder is there once another process runs.
        outlived: processes that did not end with the service.
        exit_code: after SIGTERM.
        left_at_the_end: folders of instances after that.
    """

    songs: Path
    answers: dict[str | None, list[dict[str, Any]]] = field(default_factory=dict)
    dead: list[Any] = field(default_factory=list)
    retries: list[Any] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    done: dict[int, int] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: list[int] = field(default_factory=list)
    begun_at_the_kill: set[str] = field(default_factory=set)
    left_by_the_dead: tuple[int, bool] = (0, True)
    outlived: list[int] = field(default_factory=list)
    exit_code: int | None = None
    left_at_the_end: list[str] = field(default_factory=list)


class Conductor:
    """Leads a service through the course."""

    def __init__(self, bootstrap: str, url: str, root: Path) -> None:
        mark = uuid.uuid4().hex[:8]
        self.bootstrap, self.url, self.root = bootstrap, url, root
        self.names = {name: f"{name}-{mark}" for name in ("requests", "results", "retries", "dead_letters")}
        self.index, self.group = f"songs-{mark}", f"group-{mark}"
        self.course = Course(root / "songs")
        topics = ", ".join(f"{key}: {name}" for key, name in self.names.items())
        self.service = Service(
            root / "service",
            [
                f"service.kafka={bootstrap}",
                f"service.search_url={url}",
                f"service.search_index={self.index}",
                f"service.group={self.group}",
                f"service.topics={{{topics}}}",
                "service.kafka_options={session.timeout.ms: 4000, heartbeat.interval.ms: 500}",
                f"service.roots=[{self.course.songs}]",
                f"service.attempts={ATTEMPTS}",
                "service.retry_wait_s=2",
                "service.parallel=1",
                "hardware.max_track_hours=0.5",
                "karaoke.method=midside",
            ],
        )

    def ask(self, *values: bytes | dict[str, Any], partition: int = -1) -> None:
        send(self.bootstrap, values, self.names["requests"], partition)

    def song(self, video: str, suffix: str = "flac") -> dict[str, Any]:
        return request(video, self.course.songs / video / f"original.{suffix}", **MORE)

    def answers(self) -> dict[str | None, list[dict[str, Any]]]:
        found: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        for message in messages(self.bootstrap, self.names["results"]):
            value = json.loads(message.value())
            found[value["video_id"]].append(value)
        return dict(found)

    def announced(self, *videos: str, times: int = 1) -> bool:
        """Whether the service says that it has answered."""
        said = Counter(
            line["video_id"] for line in self.service.steps("announced") if line["outcome"] != "retry"
        )
        return all(said[video] >= times for video in videos)

    def at_work(self) -> set[str]:
        """Videos whose song the process that runs is at."""
        steps = self.service.steps()
        start = max(number for number, line in enumerate(steps) if line["step"] == "starting")
        steps = steps[start:]
        begun = Counter(line["video_id"] for line in steps if line["step"] == "hash")
        ended = Counter(line["video_id"] for line in steps if line["step"] in ("work", "refused", "found"))
        return {video for video in begun if begun[video] > ended[video]}

    def kill_the_worker_of(self, video: str) -> None:
        """Once it is at that song: there is only one."""
        until(lambda: self._at(video), f"{video} at work")
        (worker,) = psutil.Process(self.service.process.pid).children()
        worker.kill()

    def _at(self, video: str) -> bool:
        assert self.service.process.poll() is None, self.service.tail()
        return self.at_work() == {video}

    def folders(self) -> list[Path]:
        return [path for path in (self.root / "service" / "state" / "instances").iterdir() if path.is_dir()]

    def all_sorts(self) -> None:
        """Good and bad requests, and one whose worker dies each time."""
        course = self.course
        self.ask(self.song("dies"), self.song("behind"), partition=0)
        for _ in range(ATTEMPTS):
            before = len(self.service.steps("refused"))
            self.kill_the_worker_of("dies")
            until(lambda before=before: len(self.service.steps("refused")) > before, "it is noticed")
        good = [self.song(video, suffix) for video, (suffix, *_) in GOOD.items()]
        twin = {**good[0], "video_id": "twin"}
        self.ask(*good, twin, *bad_requests(course.songs), *BROKEN)
        every = [*GOOD, "twin", "behind", *CODES]
        until(lambda: self.announced(*every) and self.announced(None, times=2), "all sorts are answered")
        result = course.songs / "old" / "vocals_removed.mp3"
        course.files.append(result.stat().st_mtime_ns)
        self.ask(good[-1])
        until(lambda: self.announced("old", times=2), "it is answered again")
        course.files.append(result.stat().st_mtime_ns)

    def killed(self) -> None:
        """Kill -9 over a song, and start again."""
        course, service = self.course, self.service
        self.ask(*map(self.song, KILLED), partition=1)
        until(self.at_work, "a song is begun")
        workers = psutil.Process(service.process.pid).children(recursive=True)
        service.kill()
        course.begun_at_the_kill = self.at_work()
        psutil.wait_procs(workers, 30)
        course.outlived = [worker.pid for worker in workers if worker.is_running()]
        (dead,) = self.folders()
        left = len(list((dead / "tmp").iterdir()))
        service.start()
        until(lambda: self.announced(*KILLED), "what is left is answered")
        course.left_by_the_dead = left, dead.exists()

    def told_to_end(self) -> None:
        """SIGTERM over a song."""
        self.ask(*map(self.song, LAST), partition=1)
        until(self.at_work, "a song is begun")
        self.course.exit_code = self.service.stop()
        self.course.left_at_the_end = [str(path) for path in self.folders()]

    def look(self) -> Course:
        course = self.course
        course.answers = self.answers()
        course.dead = messages(self.bootstrap, self.names["dead_letters"])
        course.retries = messages(self.bootstrap, self.names["retries"])
        course.asked = messages(self.bootstrap, self.names["requests"])
        course.done = committed(self.bootstrap, self.group, self.names["requests"])
        course.steps = self.service.steps()
        course.found = documents(self.url, self.index)
        return course


def bad_requests(songs: Path) -> list[dict[str, Any]]:
    """Those of `CODES` but the one that dies, and their files."""
    outside = write_song(songs.parent / "outside" / "song.flac", 1.0)
    (songs / "link.flac").symlink_to(outside)
    (songs / "text.mp3").write_text("this is no music\n")
    (songs / "empty.wav").write_bytes(b"")
    for name, size in (("ten-hours", TEN_HOURS), ("says-ten-hours", 1 << 20)):
        with (songs / f"{name}.wav").open("wb") as file:
            file.write(WAV_OF_TEN_HOURS)
            file.truncate(len(WAV_OF_TEN_HOURS) + size)
    return [
        request("unknown-action", songs / "cd" / "original.flac") | {"action": "add_vocals"},
        request("dots", f"{songs}/../outside/song.flac"),
        *(
            request(name.partition(".")[0], songs / name)
            for name in (
                "link.flac",
                "missing.flac",
                "text.mp3",
                "empty.wav",
                "ten-hours.wav",
                "says-ten-hours.wav",
            )
        ),
    ]


@pytest.fixture(scope="module")
def course(kafka, elasticsearch_url, tmp_path_factory) -> Iterator[Course]:  # noqa: F811  fixtures
    """The whole course, once."""
    root = tmp_path_factory.mktemp("karaoke-service")
    conductor = Conductor(kafka.bootstrap, elasticsearch_url, root)
    songs = conductor.course.songs
    with pytest.MonkeyPatch.context() as patched:
        # Nobody judges: that takes longer than all the rest.
        patched.setenv("SOUNDMILL_WEIGHTS", str(root / "no-weights"))
        with conductor.service as service:  # it loads its modules meanwhile
            kafka.create_topics(conductor.names.values(), partitions=2)
            requests.put(
                f"{elasticsearch_url}/{conductor.index}/_doc/cd", json=BEFORE, timeout=30
            ).raise_for_status()
            for seed, (video, (suffix, rate, seconds)) in enumerate(GOOD.items()):
                write_song(songs / video / f"original.{suffix}", seconds, seed=seed, rate=rate)
            for seed, video in enumerate(("dies", "behind", *KILLED, *LAST)):
                first = video in ("dies", KILLED[0], LAST[0])
                write_song(songs / video / "original.flac", LONG_S if first else 2.0, seed=10 + seed)
            service.ready()
            conductor.all_sorts()
            conductor.killed()
            conductor.told_to_end()
            yield conductor.look()


def test_each_request_has_one_answer(course):
    handed_back = [video for video in LAST if video not in course.answers]
    asked = Counter(json.loads(m.value())["video_id"] for m in course.asked if m.value() not in BROKEN)
    expected = {video: times for video, times in asked.items() if video not in handed_back} | {None: 2}
    assert {video: len(found) for video, found in course.answers.items()} == expected


@pytest.mark.parametrize("video", [*GOOD, "twin", "behind", *KILLED])
def test_a_good_answer_agrees_with_its_file_and_with_the_index(course, video):
    for answer in course.answers[video]:
        if video not in (
            "cd",
            "twin",
        ):  # theirs is one file, and what lies beside it is of the one that came later
            assert_good(answer, course.found[video])
        assert answer.items() >= MORE.items()


def test_two_requests_for_one_song_are_both_answered(course):
    (one,), (other,) = course.answers["cd"], course.answers["twin"]
    assert one["vocals_removed_path"] == other["vocals_removed_path"]
    for video, answer in (("cd", one), ("twin", other)):
        audio = course.found[video]["processing_metadata"]["audio"]
        assert audio["processing_time"] == pytest.approx(answer["processing_time"], abs=0.006)
    assert_good(other, course.found["twin"])


@pytest.mark.parametrize("video", GOOD)
def test_results_are_stereo_mp3_of_the_song_s_length(course, video):
    *_, seconds = GOOD[video]
    with av.open(course.answers[video][0]["vocals_removed_path"]) as file:
        (stream,) = file.streams.audio
        assert (stream.codec.canonical_name, stream.rate, stream.channels) == ("mp3", 44_100, 2)
        samples = sum(frame.samples for frame in file.decode(audio=0))
    # A decoder that takes the header at its word cuts what the encoder added; at most one frame may be left.
    assert 0 <= samples - round(44_100 * seconds) <= 1152


def test_the_index_keeps_what_others_know_of_a_song(course):
    document = course.found["cd"]
    assert document["title"] == BEFORE["title"]
    assert document["file_paths"]["original"] == "o"
    assert document["processing_metadata"]["video"] == {"fps": 25}
    assert datetime.fromisoformat(document["updated_at"].replace("Z", "+00:00"))


@pytest.mark.parametrize(("video", "code"), CODES.items())
def test_what_fails_says_why(course, video, code):
    (answer,) = course.answers[video]
    if video in NOT_PARSED:
        assert answer["error"]["code"] == code
        assert video not in course.found
    else:
        assert_failed(answer, course.found[video], code)
    assert str(course.songs) not in answer["error"]["message"]


def test_what_is_no_request_is_answered_without_a_name(course):
    texts = sorted(answer["error"]["message"] for answer in course.answers[None])
    assert [answer["error"]["code"] for answer in course.answers[None]] == ["MESSAGE_INVALID"] * 2
    assert f"the message has {len(BROKEN[1])} bytes" in texts[0]
    assert "no JSON" in texts[1]


def test_dead_letters_are_what_somebody_has_to_mend(course):
    found = {message.value(): dict(message.headers()) for message in course.dead}
    large = next(value for value in found if CUT in found[value])
    assert BROKEN[1].startswith(large)
    assert found[large][CUT] == str(len(BROKEN[1])).encode()
    assert found[BROKEN[0]][CODE] == b"MESSAGE_INVALID"
    others = {
        json.loads(value)["video_id"]: headers
        for value, headers in found.items()
        if value not in (large, BROKEN[0])
    }
    assert {video: headers[CODE].decode() for video, headers in others.items()} == {
        video: CODES[video] for video in ("unknown-action", "dots", "link", "dies")
    }
    assert all(headers[REASON] for headers in found.values())
    assert len(course.dead) == len(found)


def test_a_request_that_comes_again_is_answered_from_what_is_there(course):
    one, other = course.answers["old"]
    assert one == other
    assert course.files[0] == course.files[1]
    assert [line["video_id"] for line in course.steps if line["step"] == "found"].count("old") == 1


def test_a_song_whose_worker_dies_waits_for_its_next_attempt_while_others_are_done(course):
    assert [json.loads(message.value())["video_id"] for message in course.retries] == ["dies"] * (
        ATTEMPTS - 1
    )
    (again,) = course.retries
    headers = dict(again.headers())
    assert (headers[ATTEMPT], headers[CODE]) == (b"2", b"AUDIO_PROCESSING_FAILED")
    refused = [line for line in course.steps if line["step"] == "refused" and line["video_id"] == "dies"]
    assert [line["attempt"] for line in refused] == [1, 2]
    begun = [line for line in course.steps if line["step"] == "requested"]
    second = next(line for line in begun if line["video_id"] == "dies" and line["attempt"] == 2)
    due = datetime.fromisoformat(headers[NOT_BEFORE].decode().replace("Z", "+00:00"))
    assert datetime.fromisoformat(second["time"]) >= due
    behind = next(
        line for line in course.steps if line["step"] == "announced" and line["video_id"] == "behind"
    )
    last = next(line for line in course.steps if line["step"] == "announced" and line.get("outcome") == "failed"
                and line["video_id"] == "dies")  # fmt: skip
    assert behind["time"] < last["time"]


def test_who_is_killed_over_a_song_leaves_it_to_the_next(course):
    assert course.begun_at_the_kill & set(KILLED)
    assert course.outlived == []
    assert all(len(course.answers[video]) == 1 for video in KILLED)


def test_temporary_files_of_the_dead_are_removed(course):
    before, after = course.left_by_the_dead
    assert before > 0
    assert not after


def test_sigterm_lets_the_song_in_hand_be_finished(course):
    assert course.exit_code == 0
    assert len(course.answers[LAST[0]]) == 1
    assert_good(course.answers[LAST[0]][0], course.found[LAST[0]])
    assert course.left_at_the_end == []


def test_all_that_is_answered_is_committed_and_nothing_else(course):
    left = {json.loads(m.value())["video_id"]: m for m in course.asked if m.value() not in BROKEN}
    first_left = [left[video].offset() for video in LAST if video not in course.answers]
    ends = Counter(message.partition() for message in course.asked)
    assert course.done == {0: ends[0], 1: min(first_left, default=ends[1])}
