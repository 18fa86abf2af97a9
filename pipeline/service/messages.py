"""What the service is asked and what it answers: JSON messages, and the codes of what went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pipeline.audio.validate import printable_line

REMOVE_VOCALS = "remove_vocals"
MESSAGE_BYTES = 64 << 10
"""A longer message is no request."""

MESSAGE_INVALID = "MESSAGE_INVALID"
ACTION_UNKNOWN = "ACTION_UNKNOWN"
PATH_NOT_ALLOWED = "PATH_NOT_ALLOWED"
FILE_NOT_FOUND = "FILE_NOT_FOUND"
FILE_UNREADABLE = "FILE_UNREADABLE"
FORMAT_UNSUPPORTED = "FORMAT_UNSUPPORTED"
AUDIO_TOO_LONG = "AUDIO_TOO_LONG"
DISK_FULL = "DISK_FULL"
OUT_OF_MEMORY = "OUT_OF_MEMORY"
STORAGE_FAILED = "STORAGE_FAILED"
TIMED_OUT = "TIMED_OUT"
METHOD_UNSUITABLE = "METHOD_UNSUITABLE"
AUDIO_PROCESSING_FAILED = "AUDIO_PROCESSING_FAILED"

CODES = {
    MESSAGE_INVALID: "the message is no JSON object, is too long, or lacks a field",
    ACTION_UNKNOWN: "the action is none that the service knows",
    PATH_NOT_ALLOWED: "the path leaves the allowed roots",
    FILE_NOT_FOUND: "there is no such file",
    FILE_UNREADABLE: "the file is empty, damaged, or may not be read",
    FORMAT_UNSUPPORTED: "the file holds no sound in a format that is read",
    AUDIO_TOO_LONG: "the song is longer than hardware.max_track_hours",
    DISK_FULL: "there is not enough room on the disk",
    OUT_OF_MEMORY: "the worker needed more memory than it may have",
    STORAGE_FAILED: "a disk or an object store did not answer",
    TIMED_OUT: "the song took longer than service.song_timeout_s",
    METHOD_UNSUITABLE: "the method takes no such song: mono has no centre",
    AUDIO_PROCESSING_FAILED: "the method failed, or its worker died",
}
"""Code → what it says, for the documents."""

DEAD_LETTERS = frozenset({MESSAGE_INVALID, ACTION_UNKNOWN, PATH_NOT_ALLOWED, METHOD_UNSUITABLE})
"""What whoever sends messages, or chooses the method, has to mend: such a message goes to the dead letters as well."""

RETRIED = frozenset({DISK_FULL, OUT_OF_MEMORY, STORAGE_FAILED, TIMED_OUT, AUDIO_PROCESSING_FAILED})
"""What may be another time, or with another method."""


OF_THE_METHOD = frozenset({OUT_OF_MEMORY, TIMED_OUT, METHOD_UNSUITABLE, AUDIO_PROCESSING_FAILED})
"""What a simpler method may not have."""

ELSEWHERE = frozenset({DISK_FULL, STORAGE_FAILED})
"""What takes its time to be mended, and is nobody's song's fault."""


class Refused(Exception):
    """A song that will not be done, or not now.

    Args:
        code: of `CODES`.
        message: one line for whoever asked.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(printable_line(message))
        self.code = code


@dataclass(frozen=True)
class Names:
    """How the fields of messages are called, requests and answers alike."""

    video_id: str = "video_id"
    original_path: str = "original_path"
    action: str = "action"
    status: str = "status"
    vocals_removed_path: str = "vocals_removed_path"
    processing_time: str = "processing_time"
    quality_score: str = "quality_score"
    method_used: str = "method_used"
    error: str = "error"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Args:
        video_id: the song's name in the search index; letters, digits, ``._-``, at most 200.
        path: of the song, or its URL.
        more: fields that the service does not know: they travel along into the answer.
    """

    video_id: str
    path: str
    more: Mapping[str, Any] = field(default_factory=dict)


def parsed(value: bytes | None, names: Names) -> Request:
    """The request that a message holds. Raises `Refused`."""
    fields = _object(value)
    video_id, path, action = (_text(fields, n) for n in (names.video_id, names.original_path, names.action))
    if not is_plain(video_id):
        raise Refused(MESSAGE_INVALID, f"{names.video_id} may have letters, digits and ._- only, at most 200")
    if action != REMOVE_VOCALS:
        raise Refused(ACTION_UNKNOWN, f"{names.action}={action} is not known: {REMOVE_VOCALS} is")
    known = set(vars(names).values())
    return Request(video_id, path, {name: v for name, v in fields.items() if name not in known})


def is_plain(name: str) -> bool:
    """Whether a name can be the name of a folder, everywhere."""
    return (
        0 < len(name) <= 200
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
        and not name.startswith(".")
    )


def video_id_of(value: bytes | None, names: Names) -> str | None:
    """What a message that is none may still say of whom it is about: the answer names it."""
    try:
        found = _object(value).get(names.video_id)
    except Refused:
        return None
    return found if isinstance(found, str) and is_plain(found) else None


def _object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise Refused(MESSAGE_INVALID, "the message is empty")
    if len(value) > MESSAGE_BYTES:
        raise Refused(MESSAGE_INVALID, f"the message has {len(value)} bytes, and may have {MESSAGE_BYTES}")
    try:
        fields = json.loads(value)
        _json(fields)  # what cannot be written again, as NaN and halves of characters, cannot travel along
    except (ValueError, RecursionError) as error:
        words = str(error).encode("ascii", "backslashreplace").decode()
        raise Refused(MESSAGE_INVALID, f"the message is no JSON: {words}") from None
    if not isinstance(fields, dict):
        raise Refused(MESSAGE_INVALID, f"the message is a JSON {type(fields).__name__}, not an object")
    return fields


def _text(fields: Mapping[str, Any], name: str) -> str:
    found = fields.get(name)
    if not isinstance(found, str) or not found:
        what = "is missing" if name not in fields else "must be a text that is not empty"
        raise Refused(MESSAGE_INVALID, f"{name} {what}")
    return found


@dataclass(frozen=True)
class Result:
    """A song that was done.

    Args:
        path: of the song without its vocals, or its URL.
        seconds: that it took, the first time.
        score: ``karaoke_score``, 0 to 1; None where there is none.
        method: that really ran.
    """

    path: str
    seconds: float
    score: float | None
    method: str


def done_message(request: Request, result: Result, names: Names) -> bytes:
    """The answer of a song that was done."""
    score = result.score if result.score is None or math.isfinite(result.score) else None
    return _json(
        {
            **request.more,
            names.video_id: request.video_id,
            names.status: "vocals_processed",
            names.vocals_removed_path: result.path,
            names.processing_time: round(result.seconds, 2),
            names.quality_score: None if score is None else round(score, 4),
            names.method_used: result.method,
        }
    )


def failed_message(
    video_id: str | None, refused: Refused, names: Names, more: Mapping[str, Any], at: datetime
) -> bytes:
    """The answer of a song, or of a message, that failed."""
    error = {"code": refused.code, "message": str(refused), "timestamp": timestamp(at)}
    return _json({**more, names.video_id: video_id, names.status: "failed", names.error: error})


def timestamp(at: datetime) -> str:
    """A moment in UTC, ISO 8601 with milliseconds."""
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(fields: Any) -> bytes:
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
