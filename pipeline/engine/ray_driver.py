"""Ray as the driver of a run: it starts, or is joined, while the job lists, reads weights and imports."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pipeline.engine.driver import Cluster, Pass
from pipeline.engine.groups import grouped
from pipeline.engine.starting import answer_into, unwind_on_sigterm
from pipeline.engine.worker_line import called

if TYPE_CHECKING:
    from ray.data import Dataset


class RayDriver:
    """The Ray of a run, see `pipeline.engine.driver.Driver`.

    One thread starts it, waits, and leaves it: the kernel ends what Ray has started with the thread that started it.

    Args:
        arguments: of `pipeline.engine.session.connect`.
        ask_cards: ask for the memory of the cards, too, as soon as Ray is up.
    """

    writes_on_s = 0.5
    """Ray has its actors ended, and does not wait for that."""

    def __init__(self, arguments: dict[str, Any], ask_cards: bool = False) -> None:
        self._arguments, self._ask_cards = arguments, ask_cards
        self._cluster: Future[Cluster] = Future()
        self._cards: Future[tuple[list[int], str]] = Future()
        self._close = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy: dict[str, float] = {}

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        """Start; a second call does nothing. ``calls`` are made when they are asked."""
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
        unwind_on_sigterm()
        return self._cluster.result()

    def cards(self) -> tuple[list[int], str] | None:
        """What `pipeline.engine.session.gpu_cards` found; None where nobody asked for it. Raises `UserError`."""
        return self._cards.result() if self._ask_cards else None

    def call(self, function: str, *arguments: Any) -> Any:
        """In this process, which leads the others."""
        return called(function, *arguments)

    def ledger(self, owners: Mapping[str, str]) -> Any:
        """An actor's handle."""
        from pipeline.engine.ledger import start_ledger

        return start_ledger(owners)

    def receipts(self, work: Pass) -> Iterator[dict[str, Any]]:
        """Through pools of actors, see `pipeline.engine.graph`."""
        from pipeline.engine.graph import MAX_TASK_RETRIES, build_dataset, receipts
        from pipeline.engine.within_ray import followed, start_board

        board = start_board(work.blocks)
        dataset = build_dataset(
            work.blocks,
            grouped(work.nodes, work.groups),
            work.resources,
            environment=self._cluster.result().environment,
            gpu_memory_fraction=work.gpu_memory_fraction,
            ledger=work.hunt,
            board=board,
            retries=MAX_TASK_RETRIES if work.hunt is None else 0,
        )
        with followed(board):
            yield from receipts(dataset)
        self._add_busy(dataset, work)

    def _add_busy(self, dataset: Dataset, work: Pass) -> None:
        from pipeline.engine.graph import busy_seconds

        for stage, seconds in busy_seconds(dataset, grouped(work.nodes, work.groups)).items():
            self._busy[stage] = self._busy.get(stage, 0.0) + seconds

    def last_seen(self, ledger: Any) -> dict[int, tuple[str, str | None]]:
        """As the actor says."""
        from pipeline.engine.ledger import last_seen

        return last_seen(ledger)

    def why_lost(self) -> str:
        """Ray's own log may know."""
        return ""

    def busy(self) -> dict[str, float]:
        """By Ray's clock."""
        return dict(self._busy)

    def close(self) -> None:
        """Leave Ray, and end it if it was started here.

        The caller stands still meanwhile: a call to Ray or an object of its that another thread lets go of finds the
        raylet dead, and Ray then ends the process on the spot, with exit code 1 and no word.
        """
        self._close.set()
        if self._thread is not None:
            self._thread.join()

    def _hold(self) -> None:
        # Here, because importing Ray takes a second, and the job has something else to do.
        from pipeline.engine.session import connect, disconnect, gpu_cards

        try:
            self._cluster.set_result(connect(**self._arguments))
            if self._ask_cards:
                # Not here: a card that others use is waited for, and Ctrl-C is not to wait for it.
                asked = (gpu_cards, self._cards)
                threading.Thread(target=answer_into, args=asked, name="cards", daemon=True).start()
            self._close.wait()
        except BaseException as error:  # noqa: BLE001  whoever waits for Ray gets it
            self._cluster.set_exception(error)
        finally:
            disconnect()
