"""Stopping a run on request: Ctrl-C, or the SIGTERM of `ray job stop` and of batch systems."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_STOPPED = 130


class Stopped(KeyboardInterrupt):
    """The user wants the run to end. Not an `Exception`: nothing that catches errors may swallow it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM raise `Stopped` once; a second signal does what it always does.

    Only in the main thread, the only one that Python lets set handlers; elsewhere it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Stopped("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # one that was not set from Python cannot be put back
                signal.signal(number, handler)
