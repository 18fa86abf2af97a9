"""The log of the service: one line for each step, as JSON for machines or as words for a terminal."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from pipeline.audio.validate import printable_line
from pipeline.dataset.storage import public_uri

# Up to a blank, a quote, or a comma with another URL behind it.
_URL = re.compile(r"""[A-Za-z][\w+.-]*://(?:(?!,[\w+.-]+://)[^\s"'<>])+""")
_USER = re.compile(r"://[^/\s]*@")
_MARKS = {"warning": "warning: ", "error": "error: "}


class StepLog:
    """Writes what happens, step by step. Any thread may.

    Nothing is raised: a log that cannot be written is no reason to leave a song undone.

    Args:
        stream: of text, such as ``sys.stdout``.
        service: name of the service.
        instance: name of this process among those of the service.
        pretty: words for people, with neither service nor instance.
    """

    def __init__(self, stream: TextIO, *, service: str, instance: str, pretty: bool = False) -> None:
        self._stream, self._pretty = stream, pretty
        self._common = {"service": service, "instance": instance}
        # Of a kind that a signal handler does not wait for when it interrupts a line of its own thread.
        self._writing = threading.RLock()

    def step(self, step: str, video_id: str | None = None, /, *, level: str = "info", **fields: Any) -> None:
        """One line.

        Args:
            step: what was done, such as ``store``.
            video_id: of the song it was done for.
            level: ``info``, ``warning`` or ``error``.
            fields: what else there is to say. Names that every line has, such as ``time``, give way to those.
        """
        now = datetime.now(timezone.utc)
        told = {name: _told(value) for name, value in fields.items()}
        line = (
            _words(now, level, step, video_id, told)
            if self._pretty
            else self._json(now, level, step, video_id, told)
        )
        try:
            with self._writing:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError, RuntimeError):  # full, closed, or interrupted while it wrote
            return

    def _json(
        self, now: datetime, level: str, step: str, video_id: str | None, told: Mapping[str, Any]
    ) -> str:
        first = {
            "time": now.isoformat(timespec="milliseconds"),
            "level": level,
            "step": step,
            "video_id": video_id,
        }
        record = {**first, **told, **first, **self._common}
        # Everything beyond ASCII is escaped, line breaks of all kinds among it.
        return json.dumps(record)


def _words(now: datetime, level: str, step: str, video_id: str | None, told: Mapping[str, Any]) -> str:
    named = {"video_id": video_id, **told} if video_id is not None else told
    rest = "".join(f" {name}={_word(value)}" for name, value in named.items())
    return f"{now.astimezone():%H:%M:%S} {_MARKS.get(level, '')}{printable_line(step)}{rest}"


def _word(value: Any) -> str:
    """A value without line breaks or control characters, quoted where it would run into the next one."""
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        value = ", ".join(value)
    text = printable_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return json.dumps(text, ensure_ascii=False) if not text or " " in text or "=" in text else text


def _told(value: Any) -> Any:
    """A value as JSON has it, without credentials."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): _told(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_told(one) for one in value]
    return without_credentials(value if isinstance(value, str) else _as_text(value))


def _as_text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  any class may say anything, and the line is to be written
        return type(value).__name__


def without_credentials(text: str) -> str:
    """``text`` with its URLs as they may be written down, see `pipeline.dataset.storage.public_uri`."""
    if "://" not in text:
        return text
    # Of all schemes, and first: a password may hold what ends a URL.
    return _URL.sub(_public, _USER.sub("://", text))


def _public(found: re.Match[str]) -> str:
    try:
        return public_uri(found.group())
    except ValueError:  # no URL after all
        return found.group().partition("?")[0]
