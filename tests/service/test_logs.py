"""The log of the service."""

from __future__ import annotations

import io
import json
import threading
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.service.logs import StepLog, without_credentials


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def log(stream, pretty: bool = False) -> StepLog:
    return StepLog(stream, service="soundmill-karaoke", instance="one", pretty=pretty)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_step_is_a_line_of_json(stream):
    log(stream).step("store", "video-1", seconds=0.25, file="a.mp3", tries=2, score=None)
    (found,) = lines(stream)
    assert datetime.fromisoformat(found.pop("time")).utcoffset() == timedelta(0)
    assert found == {
        "level": "info", "step": "store", "video_id": "video-1", "seconds": 0.25, "file": "a.mp3", "tries": 2,
        "score": None, "service": "soundmill-karaoke", "instance": "one",
    }  # fmt: skip
    assert list(lines(stream)[0])[:4] == ["time", "level", "step", "video_id"]


def test_a_step_of_no_song_has_a_level_and_no_video(stream):
    log(stream).step("broker", level="warning", error="away")
    (found,) = lines(stream)
    assert (found["level"], found["video_id"], found["error"]) == ("warning", None, "away")


def test_nothing_breaks_a_line(stream):
    words = "one\ntwo\r\x85\u2028\0\x1b[31m\ud800 é"
    log(stream).step("parse\n", "v\n", error=words, deep={"a\n": [words]})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    (found,) = lines(stream)
    assert found["error"] == words
    log(stream, pretty=True).step("parse\n", "v\n", error=words)
    assert stream.getvalue().count("\n") == 2
    assert len(stream.getvalue().splitlines()) == 2
    assert "\x1b" not in stream.getvalue()


def test_fields_do_not_take_the_place_of_what_every_line_has(stream):
    log(stream).step("store", "v", time="never", step="mine", instance="two", video_id="w")
    (found,) = lines(stream)
    assert (found["step"], found["video_id"], found["instance"]) == ("store", "v", "one")
    assert found["time"] != "never"


def test_values_that_json_does_not_have_are_words(stream):
    class Rude:
        def __str__(self) -> str:
            raise ValueError("no")

    log(stream).step(
        "x", a=float("nan"), b=float("inf"), c=Path("/a/b"), d={1: (2, 3)}, e=Rude(), f=True, g=b"x"
    )
    (found,) = lines(stream)
    assert [found[name] for name in "abcdefg"] == ["nan", "inf", "/a/b", {"1": [2, 3]}, "Rude", True, "b'x'"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("s3://key:secret@bucket/a b.mp3", "s3://bucket/a b.mp3"),
        ("https://host/a.mp3?X-Amz-Signature=secret&versionId=3", "https://host/a.mp3?versionId=3"),
        ("cannot reach 'http://me:secret@es:9200' twice", "cannot reach 'http://es:9200' twice"),
        ("http://a:secret@x:1,http://b:secret@y:2", "http://x:1,http://y:2"),
        ("zip://a.wav::https://me:secret@h/x.zip?sig=secret", "zip://a.wav::https://h/x.zip"),
        ("it's http://me:secret'@es:9200/", "it's http://es:9200/"),
        ("me@example.org wrote to /a/b?c=d", "me@example.org wrote to /a/b?c=d"),
        ("http://[secret?sig=secret", "http://[secret"),
        ("file:///music/a@b.mp3", "file:///music/a@b.mp3"),
    ],
)  # fmt: skip
def test_credentials_in_urls_are_left_out(stream, text, told):
    assert without_credentials(text) == told
    log(stream).step("x", "v", uri=text, nested=[{"uri": text}], error=ValueError(text))
    (found,) = lines(stream)
    assert found["uri"] == found["nested"][0]["uri"] == found["error"] == told


def test_a_terminal_gets_words(stream):
    pretty = log(stream, pretty=True)
    pretty.step("store", "video-1", seconds=0.25, error="no such file", tries=[1, 2], empty="")
    pretty.step("broker", level="warning", error="away")
    pretty.step("assigned", partitions=["a[0]", "b[1]"], none=[])
    first, second, third = stream.getvalue().splitlines()
    assert third[8:] == ' assigned partitions="a[0], b[1]" none=[]'
    assert first[8:] == ' store video_id=video-1 seconds=0.25 error="no such file" tries="[1, 2]" empty=""'
    assert datetime.strptime(first[:8], "%H:%M:%S")
    assert second[8:] == " warning: broker error=away"


def test_a_closed_stream_or_a_full_disk_is_no_trouble(stream, tmp_path):
    closed = log(stream)
    stream.close()
    closed.step("store")
    with suppress(OSError), Path("/dev/full").open("w") as full:  # it is still full when it is closed
        log(full).step("store")
        written = True
    assert written
    with (tmp_path / "ascii").open("w", encoding="ascii") as narrow:
        log(narrow, pretty=True).step("store", text="é")
        log(narrow).step("store", text="é")
    assert json.loads((tmp_path / "ascii").read_text())["text"] == "é"


def test_lines_of_several_threads_stay_whole():
    class Slow(io.StringIO):
        """Writes a character at a time."""

        def write(self, text: str) -> int:
            return sum(super(Slow, self).write(character) for character in text)

    stream = Slow()
    one = log(stream)
    threads = [
        threading.Thread(target=lambda n=n: [one.step("x", f"v{n}", i=i) for i in range(50)])
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((line["video_id"], line["i"]) for line in lines(stream)) == sorted(
        (f"v{n}", i) for n in range(8) for i in range(50)
    )
