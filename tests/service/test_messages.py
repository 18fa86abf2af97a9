"""What the service takes for a request, and what it answers."""

import json
from datetime import datetime, timedelta, timezone

import pytest

from pipeline.service.messages import (
    ACTION_UNKNOWN,
    MESSAGE_BYTES,
    MESSAGE_INVALID,
    Names,
    Refused,
    Request,
    Result,
    done_message,
    failed_message,
    parsed,
    video_id_of,
)

NAMES = Names()
GOOD = {
    "video_id": "dQw4w9WgXcQ",
    "original_path": "/shared/audio/dQw4w9WgXcQ/original.mp3",
    "action": "remove_vocals",
}


def message(**changes):
    return json.dumps({**GOOD, **changes}).encode()


def test_a_request():
    assert parsed(message(), NAMES) == Request("dQw4w9WgXcQ", GOOD["original_path"], {})


def test_unknown_fields_travel_along_and_never_hide_the_answers_own():
    request = parsed(message(user="Zoë", priority=3, status="mine"), NAMES)
    answer = json.loads(done_message(request, Result("/x.mp3", 45.234, 0.85, "demucs"), NAMES))
    assert answer == {
        "user": "Zoë",
        "priority": 3,
        "video_id": "dQw4w9WgXcQ",
        "status": "vocals_processed",
        "vocals_removed_path": "/x.mp3",
        "processing_time": 45.23,
        "quality_score": 0.85,
        "method_used": "demucs",
    }


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (None, MESSAGE_INVALID, "empty"),
        (b"", MESSAGE_INVALID, "no JSON"),
        (b"{", MESSAGE_INVALID, "no JSON"),
        (b"\xff\xfe\x00", MESSAGE_INVALID, "no JSON"),
        (b"[" * 60_000, MESSAGE_INVALID, "no JSON"),
        (b"[1]", MESSAGE_INVALID, "not an object"),
        (b"{" + b" " * MESSAGE_BYTES + b"}", MESSAGE_INVALID, "may have"),
        (message(video_id=None), MESSAGE_INVALID, "video_id"),
        (message(video_id=""), MESSAGE_INVALID, "video_id"),
        (message(video_id="../../etc"), MESSAGE_INVALID, "video_id"),
        (message(video_id=".."), MESSAGE_INVALID, "video_id"),
        (message(video_id="a\nb"), MESSAGE_INVALID, "video_id"),
        (message(video_id="x" * 201), MESSAGE_INVALID, "video_id"),
        (message(video_id=7), MESSAGE_INVALID, "video_id"),
        (message(original_path=["/x"]), MESSAGE_INVALID, "original_path"),
        (message(action="add_vocals"), ACTION_UNKNOWN, "remove_vocals"),
        (b'{"video_id": "a", "action": "remove_vocals"}', MESSAGE_INVALID, "original_path is missing"),
    ],
)  # fmt: skip
def test_what_is_no_request_says_why(value, code, words):
    with pytest.raises(Refused, match=words) as refused:
        parsed(value, NAMES)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


def test_fields_can_have_other_names():
    names = Names(video_id="id", original_path="src", action="do", status="state")
    request = parsed(json.dumps({"id": "a", "src": "/b", "do": "remove_vocals"}).encode(), names)
    assert request == Request("a", "/b", {})
    assert (
        json.loads(done_message(request, Result("/c", 1.0, None, "m"), names))["state"] == "vocals_processed"
    )


def test_a_failure_says_code_message_and_moment_in_utc():
    at = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    answer = json.loads(
        failed_message("a", Refused("FILE_NOT_FOUND", "no\nsuch file"), NAMES, {"user": 1}, at)
    )
    error = {"code": "FILE_NOT_FOUND", "message": "no such file", "timestamp": "2026-03-01T10:30:00.000Z"}
    assert answer == {"user": 1, "video_id": "a", "status": "failed", "error": error}


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
def test_a_score_that_is_none_is_null(score):
    answer = json.loads(done_message(Request("a", "/b"), Result("/c", 1.0, score, "m"), NAMES))
    assert answer["quality_score"] is None


@pytest.mark.parametrize(
    ("value", "found"),
    [(b"{", None), (b'{"video_id": "a"}', "a"), (b'{"video_id": "../a"}', None), (b'{"video_id": 3}', None)],
)  # fmt: skip
def test_whom_a_bad_message_is_about(value, found):
    assert video_id_of(value, NAMES) == found
