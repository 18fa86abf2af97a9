"""What a run does ahead of need, in threads of its own: Ray that starts, imports and answers that take seconds."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pipeline.engine.session import Cluster

T = TypeVar("T")


def ahead(work: Callable[[], T], name: str) -> Future[T]:
    """The result of ``work``, which a thread of its own begins at once. The interpreter does not end before it."""
    answer: Future[T] = Future()
    threading.Thread(target=_answer, args=(work, answer), name=name).start()
    return answer


class RayAhead:
    """The Ray of a run: it starts, or is joined, while the driver lists, reads weights and imports.

    One thread starts it, waits, and leaves it: the kernel ends what Ray has started with the thread that started it.

    Args:
        arguments: of `pipeline.engine.session.connect`.
        ask_cards: ask for the memory of the cards, too, as soon as Ray is up.
    """

    def __init__(self, arguments: dict[str, Any], ask_cards: bool = False) -> None:
        self._arguments, self._ask_cards = arguments, ask_cards
        self._cluster: Future[Cluster] = Future()
        self._cards: Future[tuple[list[int], str]] = Future()
        self._close = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start; a second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._hold, name="ray")
            self._thread.start()

    def waits_for(self) -> str | None:
        """What `cluster` would wait for, in words; None where Ray is up."""
        if self._cluster.done():
            return None
        address = self._arguments.get("address")
        return "starting Ray" if address in (None, "local") else f"joining Ray at {address}"

    def cluster(self) -> Cluster:
        """What Ray offers, once it is up. Raises `UserError` as `pipeline.engine.session.connect`."""
        self.begin()
        _end_on_sigterm()
        return self._cluster.result()

    def cards(self) -> tuple[list[int], str] | None:
        """What `pipeline.engine.session.gpu_cards` found; None where nobody asked for it. Raises `UserError`."""
        return self._cards.result() if self._ask_cards else None

    def close(self) -> None:
        """Leave Ray, and end it if it was started here.

        The caller stands still meanwhile: a call to Ray or an object of its that another thread lets go of finds the
        raylet dead, and Ray then ends the process on the spot, with exit code 1 and no word.
        """
        self._close.set()
        if self._thread is not None:
            self._thread.join()

    def _hold(self) -> None:
        # Here, because importing Ray takes a second, and the driver has something else to do.
        from pipeline.engine.session import connect, disconnect, gpu_cards

        try:
            self._cluster.set_result(connect(**self._arguments))
            if self._ask_cards:
                # Not here: a card that others use is waited for, and Ctrl-C is not to wait for it.
                asked = (gpu_cards, self._cards)
                threading.Thread(target=_answer, args=asked, name="cards", daemon=True).start()
            self._close.wait()
        except BaseException as error:  # noqa: BLE001  whoever waits for Ray gets it
            self._cluster.set_exception(error)
        finally:
            disconnect()


def _answer(ask: Callable[[], T], answer: Future[T]) -> None:
    try:
        answer.set_result(ask())
    except BaseException as error:  # noqa: BLE001  whoever asks for the result gets it
        answer.set_exception(error)


def _end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that locks are given back; Ray does this where the main thread starts it."""
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
