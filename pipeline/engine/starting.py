"""What is begun before it is needed, in threads of its own, and how a job ends that is told to."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""How many threads the libraries under torch and numpy use, read as they load."""


def ahead(work: Callable[[], T], name: str) -> Future[T]:
    """The result of ``work``, which a thread of its own begins at once. The interpreter does not end before it."""
    answer: Future[T] = Future()
    threading.Thread(target=answer_into, args=(work, answer), name=name).start()
    return answer


def answer_into(ask: Callable[[], T], answer: Future[T]) -> None:
    """Settle ``answer`` with the result of ``ask``, or with what it raises."""
    try:
        answer.set_result(ask())
    except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
        answer.set_exception(error)


def unwind_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that locks are given back; Ray does this where the main thread starts it."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
