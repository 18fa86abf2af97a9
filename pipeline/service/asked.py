"""What is asked for when somebody comes, and may never answer: a disk that is away, a server, a lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any


class NoAnswer(Exception):
    """It takes too long."""


@dataclass(frozen=True)
class Answer:
    """What was said.

    Args:
        value: None where there is an error.
        error: what was raised, or a `NoAnswer`.
    """

    value: Any = None
    error: Exception | None = None


class Asked:
    """A call that is made in a thread of its own, one at a time: who asks meanwhile gets the same answer.

    Args:
        call: of no arguments.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._lock = threading.Lock()
        self._running: Future[Any] | None = None

    def begin(self) -> Future[Any]:
        """What will be the answer. Raises `RuntimeError` where there can be no more threads."""
        with self._lock:
            if self._running is None or self._running.done():
                found: Future[Any] = Future()
                threading.Thread(target=self._answer, args=(found,), name="asked", daemon=True).start()
                self._running = found
            return self._running

    def _answer(self, found: Future[Any]) -> None:
        try:
            found.set_result(self._call())
        except BaseException as error:  # noqa: BLE001  it is told to whoever asked
            found.set_exception(error)

    @staticmethod
    def all(calls: Mapping[str, Asked], wait_s: float) -> dict[str, Answer]:
        """The answers of several, which are asked side by side, after ``wait_s`` at the latest."""
        end = time.monotonic() + wait_s
        begun: dict[str, Future[Any]] = {}
        answers: dict[str, Answer] = {}
        for name, asked in calls.items():
            try:
                begun[name] = asked.begin()
            except RuntimeError as error:
                answers[name] = Answer(error=error)
        wait(begun.values(), max(0.0, end - time.monotonic()))
        return {name: answers.get(name) or _of(begun[name], wait_s) for name in calls}


def _of(future: Future[Any], wait_s: float) -> Answer:
    if not future.done():
        return Answer(error=NoAnswer(f"no answer within {wait_s:g} s"))
    error = future.exception()
    if error is None:
        return Answer(future.result())
    return Answer(error=error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
