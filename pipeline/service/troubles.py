"""What went wrong, as a code for whoever asked; what is tried again on the spot, and how long after."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from pipeline.dataset.storage import one_line
from pipeline.engine.answer import Answer
from pipeline.engine.guard import StageFailed
from pipeline.engine.one_file import GivenUp, OverMemory, PlaceLost
from pipeline.service.housekeeping import NoSpace
from pipeline.service.messages import (
    AUDIO_PROCESSING_FAILED,
    AUDIO_TOO_LONG,
    DISK_FULL,
    FILE_NOT_FOUND,
    FILE_UNREADABLE,
    FORMAT_UNSUPPORTED,
    METHOD_UNSUITABLE,
    OUT_OF_MEMORY,
    STORAGE_FAILED,
    TIMED_OUT,
    Refused,
)

T = TypeVar("T")

TRIES = 4
FIRST_WAIT_S = 0.2

BY_CLASS: Mapping[str, str] = {
    "UnrecognizedFormat": FORMAT_UNSUPPORTED,
    "NoAudioStream": FORMAT_UNSUPPORTED,
    "NoSuchAudioStream": FORMAT_UNSUPPORTED,
    "TooManyChannels": FORMAT_UNSUPPORTED,
    "EmptyAudio": FILE_UNREADABLE,
    "TruncatedAudio": FILE_UNREADABLE,
    "CorruptAudio": FILE_UNREADABLE,
    "UnreadableSource": FILE_UNREADABLE,
    "DecoderDied": FILE_UNREADABLE,
    "DecoderHung": FILE_UNREADABLE,
    "DecoderRaised": FILE_UNREADABLE,
    "PermissionError": FILE_UNREADABLE,
    "FileNotFoundError": FILE_NOT_FOUND,
    "AudioTooLong": AUDIO_TOO_LONG,
    "DecoderOutOfMemory": OUT_OF_MEMORY,
    "MemoryError": OUT_OF_MEMORY,
    "OutOfMemoryError": OUT_OF_MEMORY,
    "NoSpace": DISK_FULL,
    "EndpointConnectionError": STORAGE_FAILED,
    "ConnectionClosedError": STORAGE_FAILED,
    "ConnectTimeoutError": STORAGE_FAILED,
    "ReadTimeoutError": STORAGE_FAILED,
    "NoCredentialsError": STORAGE_FAILED,
    "ClientError": STORAGE_FAILED,
}
"""Class of an error → its code; the classes are those that the table `failures` names as well."""


def refusal_of(error: Exception) -> Refused:
    """What an error of any step is to whoever asked."""
    if isinstance(error, Refused):
        return error
    return Refused(_code_of(error), _text_of(error))


def _code_of(error: Exception) -> str:
    if isinstance(error, GivenUp):
        return TIMED_OUT
    if isinstance(error, OverMemory):
        return OUT_OF_MEMORY
    if isinstance(error, PlaceLost | StageFailed):
        return AUDIO_PROCESSING_FAILED
    if isinstance(error, NoSpace) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return DISK_FULL
    found = _by_class(type(error))
    return found or (STORAGE_FAILED if isinstance(error, OSError) else AUDIO_PROCESSING_FAILED)


def _by_class(kind: type) -> str | None:
    return next((BY_CLASS[base.__name__] for base in kind.__mro__ if base.__name__ in BY_CLASS), None)


def _text_of(error: Exception) -> str:
    text = one_line(error)
    return (
        text
        if isinstance(error, GivenUp | OverMemory | PlaceLost | NoSpace)
        else f"{type(error).__name__}: {text}"
    )


def refusal_of_answer(answer: Answer, file: str) -> Refused | None:
    """Why there is no result; None where there is one.

    Args:
        file: the column that names it.
    """
    if answer.values.get(file):
        return None
    if not answer.failures:
        return Refused(AUDIO_PROCESSING_FAILED, "no stage says why there is no result")
    first = answer.failures[0]
    if (
        first["error_class"] == "ViewMissing"
    ):  # no stage failed: an earlier one takes no such song, and says why
        for step in answer.fallbacks:
            if step["used"] == "none":
                return Refused(METHOD_UNSUITABLE, step["reason"])
    code = BY_CLASS.get(first["error_class"])
    if "No space left" in first["message"]:
        code = DISK_FULL
    elif code is None and first["stage"] == "decode":
        code = STORAGE_FAILED
    return Refused(code or AUDIO_PROCESSING_FAILED, f"{first['stage']}: {first['message']}")


def tried(
    call: Callable[[], T], again: Callable[[BaseException, float], None], going_on: Callable[[], None]
) -> T:
    """The value of ``call``, tried again where storage does not answer: another time it may.

    Args:
        again: told of the error, and of the seconds until the next try.
        going_on: called meanwhile; what it raises ends the wait.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return call()
        except Exception as error:
            if attempt == TRIES or not _passes(error):
                raise
            wait = random.uniform(0.5, 1.0) * FIRST_WAIT_S * 4 ** (attempt - 1)  # noqa: S311  no secret
            again(error, round(wait, 3))
            _wait(wait, going_on)
    raise RuntimeError("unreachable")


def _passes(error: Exception) -> bool:
    return refusal_of(error).code == STORAGE_FAILED


def _wait(seconds: float, going_on: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        going_on()
        time.sleep(min(0.1, left))


def retry_wait_s(first_s: float, attempt: int) -> float:
    """Seconds before the attempt after ``attempt``: twice as long each time, and not the same for all."""
    return random.uniform(0.5, 1.0) * first_s * 2 ** (attempt - 1)  # noqa: S311  no secret
