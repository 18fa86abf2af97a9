"""No Ray: the workers of all stages in one process beside the job, or in a few, one block after another in each.

For small work, which is done before Ray would be up. A process may crash or be killed: that costs the block it had,
whose files are then tried one by one, as under Ray. Blocks are those that Ray would have on this machine, so that rows,
parts and blobs are the same byte for byte.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.engine.driver import INLINE, Cluster, Pass, local_cpus
from pipeline.engine.guard import raise_fatal
from pipeline.engine.inline_child import ledger_here
from pipeline.engine.ledger import Ledger
from pipeline.engine.stage_state import StageState, begin_pass, note_states
from pipeline.engine.starting import unwind_on_sigterm
from pipeline.engine.within import BOARD, listen
from pipeline.engine.worker_line import AT, FATAL, OUT, MakingFailed, WorkerLine, called, receipts_of
from pipeline.engine.worker_process import CLAIM, PART, READY, ChildDied, WorkerProcess, heard, started_ahead

STARTS = 3
"""A process that dies so often while it makes its workers, with no file at hand, will do so for ever."""

CARD = "pipeline.engine.process:card"


class DoesNotStart(Exception):
    """The process dies before it can take work."""


class InlineDriver:
    """One process beside the job, or a few, see `pipeline.engine.driver.Driver`.

    Args:
        cpus: that Ray would have on this machine; None counts them.
        threads: of OpenMP, MKL, OpenBLAS, numexpr and numba.
        warm: modules that each process imports before it is told anything.
        ask_cards: ask for the memory of this machine's card.
        child: false for workers in this process, where a crash takes the job along: for notebooks and tests.

    Attributes:
        processes: most of them that work side by side, each with its own blocks; 1 until more are asked for.
    """

    writes_on_s = 0.0

    def __init__(
        self,
        cpus: float | None = None,
        threads: int = 1,
        warm: Sequence[str] = (),
        ask_cards: bool = False,
        child: bool = True,
    ) -> None:
        self.processes = 1
        self._cpus, self._ask_cards = float(cpus or local_cpus()), ask_cards
        self._threads, self._warm, self._child = threads, warm, child
        self._first: WorkerProcess | _Here = WorkerProcess(threads, warm) if child else _Here()
        self._others: list[WorkerProcess] = []
        self._begun = False
        self._busy: Counter[str] = Counter()
        self._why_lost = ""
        self._claims: Ledger | None = None

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        """Start the first process, or take over the one that the command has started; a second call does nothing.

        Args:
            calls: what `call` will be asked, in that order: it is computed as soon as the process has its modules.
        """
        if self._begun:
            return
        self._begun = True
        there = started_ahead(self._threads) if self._child else None
        if there is not None and there.take_over(self._warm, calls):
            self._first = there
        self._first.begin(calls)

    def waits_for(self) -> str | None:
        """Nothing: the machine is known."""
        return None

    def cluster(self) -> Cluster:
        """This machine, as Ray would count it."""
        self.begin()
        unwind_on_sigterm()
        cards, _ = self.cards() or ([], "")
        return Cluster(INLINE, self._cpus, float(len(cards)), 1, node_cpus=(self._cpus,))

    def cards(self) -> tuple[list[int], str] | None:
        """Memory of the card that the process would use; None where nobody asked for it."""
        if not self._ask_cards:
            return None
        size, problem = self.call(CARD)
        return [size] if size else [], problem

    def call(self, function: str, *arguments: Any) -> Any:
        """In the first process. Raises what it raises, and `DoesNotStart` where the process dies of it."""
        self.begin()
        try:
            return self._first.call(function, *arguments)
        except ChildDied as died:
            raise DoesNotStart(f"{died}, of {function}") from None

    def ledger(self, owners: Mapping[str, str]) -> Ledger:
        """Kept in this process, where it outlives the others."""
        self._claims = _SharedLedger(owners)
        return self._claims

    def receipts(self, work: Pass) -> Iterator[dict[str, Any]]:
        """Each process takes the next block and sends it through all stages."""
        begin_pass()
        crew = _Crew(work, self._places(work), self._busy, self._claims)
        try:
            yield from crew.receipts()
        except BaseException:  # closed before its end, too: nothing is written from here on
            self.close()
            raise
        finally:
            BOARD.take(())
            self._why_lost = crew.why_lost or self._why_lost

    def _places(self, work: Pass) -> list[WorkerProcess | _Here]:
        """The first process, and as many others as have a block. In a hunt there is one: blocks of one file may
        belong to the same part, which one process writes at a time."""
        self.begin()
        count = (
            1 if work.hunt is not None or not self._child else max(1, min(self.processes, len(work.blocks)))
        )
        while len(self._others) > count - 1:
            self._others.pop().close()
        while len(self._others) < count - 1:
            self._others.append(WorkerProcess(self._threads, self._warm))
        return [self._first, *self._others]

    def last_seen(self, ledger: Ledger) -> dict[int, tuple[str, str | None]]:
        """As the process announced them."""
        return ledger.last_seen()

    def why_lost(self) -> str:
        """How a process ended last."""
        return self._why_lost

    def busy(self) -> dict[str, float]:
        """By the processes' clocks."""
        return dict(self._busy)

    def close(self) -> None:
        """End the processes."""
        for place in (self._first, *self._others):
            place.close()
        self._others.clear()


class _SharedLedger(Ledger):
    """A ledger that the processes ask."""

    def __reduce__(self) -> tuple[Callable[..., Ledger], tuple[Any, ...]]:
        return ledger_here, ()


@dataclass(eq=False)
class _Hand:
    """One process in a pass, and what it is doing.

    Args:
        place: where it is.
        ready: its workers are made.
        starts: how often it was started without ever becoming ready.
        at: the stage that it is in; None between blocks.
        files: of its block, as `Ledger.entered` takes them.
    """

    place: WorkerProcess | _Here
    ready: bool = False
    starts: int = 0
    busy: bool = False
    at: str | None = None
    files: list[tuple[int, str | None]] = field(default_factory=list)

    def forget_parts(self) -> None:
        """How far it was within its files is no longer of interest."""
        BOARD.forget(index for index, _ in self.files)


class _Crew:
    """The processes of one pass.

    Args:
        work: the pass.
        places: a process each.
        busy: stage → seconds, which grow.
        claims: the ledger that is asked who computes a content.
    """

    def __init__(
        self,
        work: Pass,
        places: Sequence[WorkerProcess | _Here],
        busy: Counter[str],
        claims: Ledger | None,
    ) -> None:
        self._work, self._busy, self._claims = work, busy, claims
        self._waiting = deque(work.blocks)
        self._left = dict.fromkeys((node.name for node in work.nodes), 0)
        self._hands = [_Hand(place) for place in places]
        self.why_lost = ""

    def receipts(self) -> Iterator[dict[str, Any]]:
        """The sink's receipts, until no block is left. Raises `DoesNotStart` and `StageFailed`."""
        for hand in self._hands:
            hand.busy = bool(self._waiting)
        for hand in self._hands:
            self._start(hand)
        while working := [h for h in self._hands if h.busy]:
            for hand in _heard(working):
                try:
                    found = self._hear(hand, hand.place.receive())
                except ChildDied as died:
                    self._lost(hand, died)
                    continue
                yield from found

    def _start(self, hand: _Hand) -> None:
        """Have it make its workers, where there is still a block for it."""
        hand.ready, hand.busy = False, bool(self._waiting)
        while hand.busy:
            hand.starts += 1
            try:
                return hand.place.make(self._work.nodes, self._work.gpu_memory_fraction)
            except ChildDied as died:
                self._died_early(hand, died)

    def _next(self, hand: _Hand) -> None:
        """Give it the next block."""
        hand.busy = bool(self._waiting)
        if hand.busy:
            block = self._waiting.popleft()
            hand.files = []
            try:
                hand.place.run(block, parts=True)
            except ChildDied as died:
                self._lost(hand, died)

    def _hear(self, hand: _Hand, message: tuple[Any, ...]) -> list[dict[str, Any]]:
        """Take note of what it says; the receipts in that."""
        kind, *told = message
        if kind == READY:
            hand.ready, hand.starts = True, 0
            self._note()
            self._next(hand)
        elif kind == FATAL:
            raise_fatal(told[0])
        elif kind == CLAIM:
            hand.place.owner_is(self._claims.claim(*told))
        elif kind == PART:
            BOARD.note(*told)
        elif kind == AT:
            self._enter(hand, *told)
        elif kind == OUT:
            receipts, seconds = told
            hand.forget_parts()
            self._left[self._work.nodes[-1].name] += len(hand.files)
            self._busy.update(seconds)
            hand.at = None
            self._note()
            self._next(hand)
            return receipts
        return []

    def _enter(self, hand: _Hand, stage: str, files: list[tuple[int, str | None]]) -> None:
        if hand.at is not None:
            self._left[hand.at] += len(hand.files)
        hand.at, hand.files = stage, files
        if self._work.hunt is not None:
            self._work.hunt.entered(stage, files)
        self._note()

    def _lost(self, hand: _Hand, died: ChildDied) -> None:
        """Its block, if it had one, is left out."""
        self.why_lost, hand.at = str(died), None
        hand.forget_parts()
        if not hand.ready:
            self._died_early(hand, died)
        if hand.busy:
            self._start(hand)

    def _died_early(self, hand: _Hand, died: ChildDied) -> None:
        """Have it started again, but not for ever: the others do its work then, where there are any."""
        if hand.starts < STARTS:
            return
        hand.busy = False
        waits = bool(self._waiting)
        if waits and not any(other.busy for other in self._hands):
            raise DoesNotStart(f"{died}, {STARTS} times before it could take work") from None

    def _note(self) -> None:
        """The progress view's picture."""
        first = self._work.nodes[0].name
        up = sum(hand.ready for hand in self._hands)
        at = Counter(hand.at for hand in self._hands)
        note_states(
            {
                name: StageState(left, len(self._waiting) if name == first else 0, at[name], max(1, up))
                for name, left in self._left.items()
            }
        )


class _Here:
    """The workers in this process, spoken to like those in another one."""

    _line: WorkerLine | None = None

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        pass

    def call(self, function: str, *arguments: Any) -> Any:
        return called(function, *arguments)

    def make(self, nodes: Sequence[Any], gpu_memory_fraction: float) -> None:
        try:
            self._line = WorkerLine(nodes)
            self._says = iter([(READY,)])
        except MakingFailed as failed:
            self._says = iter([(FATAL, failed.told)])

    def run(self, table: pa.Table, parts: bool = False) -> None:
        listen(BOARD.note if parts else None)
        self._says = self._line.run(table)

    def receive(self) -> tuple[Any, ...]:
        message = next(self._says)
        return (OUT, receipts_of(message[1]), message[2]) if message[0] == OUT else message

    def close(self) -> None:
        listen(None)
        self._line = None


def _heard(working: Sequence[_Hand]) -> list[_Hand]:
    """Those that have something to say, at least one; waits for it."""
    if len(working) == 1:
        return list(working)
    by_place = {hand.place: hand for hand in working}
    return [by_place[place] for place in heard(by_place)]
