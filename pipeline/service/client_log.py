"""What Kafka's clients say: while brokers are away that is the same line some twenty times a second."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.service.logs import StepLog

STEP = "kafka"
EVERY_S = 60.0
MOST = 200
"""So many lines are told apart; what comes beyond counts as one."""

# How long something took, and how often the client itself has kept silent: "(after 3ms in state CONNECT, 2 identical
# error(s) suppressed)".
_VARIES = re.compile(r"\(after \d[^()]*(?:\(s\)[^()]*)?\)|\b\d+(?:\.\d+)?\s?m?s\b")


@dataclass
class _Line:
    """One kind of line: when it was written, in what words, and how many came since."""

    level: str
    text: str
    at: float
    more: int = 0


class ClientLog:
    """Takes the place of a `logging.Logger` for clients, and writes steps: of lines that are alike one in a while, and
    after it how many more there were. Any thread may call it.

    Args:
        log: where lines go.
        every_s: seconds.
        clock: monotonic, seconds.
    """

    def __init__(
        self, log: StepLog, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log, self._every_s, self._clock = log, every_s, clock
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}

    def log(self, level: int, form: str, *words: object) -> None:
        """One line, as of `logging.Logger`. Clients call it while they are polled."""
        facility, text = str(words[0]) if words else "", str(words[-1]) if words else form
        key = f"{facility} {_VARIES.sub('', text)}"
        with self._lock:
            if key not in self._lines and len(self._lines) >= MOST:
                key = ""
            line = self._lines.get(key)
            if line is not None:
                line.more, line.text = line.more + 1, f"{facility}: {text}"
            else:
                line = self._lines[key] = _Line(_level(level), f"{facility}: {text}", self._clock())
                self._log.step(STEP, level=line.level, text=line.text)
        self.tick()

    def tick(self) -> None:
        """Say how many more there were of lines that were written a while ago; to be called now and then."""
        with self._lock:
            now = self._clock()
            for key, line in list(self._lines.items()):
                if now - line.at < self._every_s:
                    continue
                if not line.more:
                    del self._lines[key]
                    continue
                self._say_more(line)
                line.at, line.more = now, 0

    def close(self) -> None:
        """Say how many more there were of all lines."""
        with self._lock:
            for line in self._lines.values():
                if line.more:
                    self._say_more(line)
            self._lines.clear()

    def _say_more(self, line: _Line) -> None:
        self._log.step(STEP, level=line.level, text=line.text, more=line.more)


def _level(level: int) -> str:
    if level >= logging.ERROR:
        return "error"
    return "warning" if level >= logging.WARNING else "info"
