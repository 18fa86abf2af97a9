"""No Ray: the workers of all stages in one process beside the job, one block after another.

For small work, which is done before Ray would be up. The process may crash or be killed: that costs the block it had,
whose files are then tried one by one, as under Ray. Blocks are those that Ray would have on this machine, so that rows,
parts and blobs are the same byte for byte.
"""

from __future__ import annotations

import os
import pickle
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pyarrow as pa

from pipeline.audio.children import Child
from pipeline.engine.driver import INLINE, Cluster, Pass, local_cpus
from pipeline.engine.guard import raise_fatal
from pipeline.engine.inline_child import CALL, CLAIM, MAKE, RAISED, RUN, ledger_here
from pipeline.engine.ledger import Ledger
from pipeline.engine.process import THREAD_VARIABLES
from pipeline.engine.stage_state import StageState, begin_pass, note_states
from pipeline.engine.starting import unwind_on_sigterm
from pipeline.engine.worker_line import AT, FATAL, OUT, MakingFailed, WorkerLine, called, receipts_of

NAME = "the worker process"
STARTS = 3
"""A process that dies so often while it makes its workers, with no file at hand, will do so for ever."""

CARD = "pipeline.engine.process:card"


class ChildDied(Exception):
    """The process ended; the message says how."""


class DoesNotStart(Exception):
    """The process dies before it can take work."""


class InlineDriver:
    """One process beside the job, see `pipeline.engine.driver.Driver`.

    Args:
        cpus: that Ray would have on this machine; None counts them.
        threads: of OpenMP, MKL, OpenBLAS, numexpr and numba.
        warm: modules that the process imports before it is told anything.
        ask_cards: ask for the memory of this machine's card.
        child: false for workers in this process, where a crash takes the job along: for notebooks and tests.
    """

    def __init__(
        self,
        cpus: float | None = None,
        threads: int = 1,
        warm: Sequence[str] = (),
        ask_cards: bool = False,
        child: bool = True,
    ) -> None:
        self._cpus, self._ask_cards = float(cpus or local_cpus()), ask_cards
        self._place: _Beside | _Here = _Beside(threads, warm) if child else _Here()
        self._busy: dict[str, float] = {}
        self._why_lost = ""
        self._claims: Ledger | None = None

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        """Start the process; a second call does nothing.

        Args:
            calls: what `call` will be asked, in that order: it is computed as soon as the process has its modules.
        """
        self._place.begin(calls)

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
        """In that process. Raises what it raises, and `DoesNotStart` where the process dies of it."""
        try:
            return self._place.call(function, *arguments)
        except ChildDied as died:
            raise DoesNotStart(f"{died}, of {function}") from None

    def ledger(self, owners: Mapping[str, str]) -> Ledger:
        """Kept in this process, where it outlives the other."""
        self._claims = _SharedLedger(owners)
        return self._claims

    def receipts(self, work: Pass) -> Iterator[dict[str, Any]]:
        """One block after another, through all stages."""
        waiting, counts = deque(work.blocks), dict.fromkeys((n.name for n in work.nodes), 0)
        begin_pass()
        try:
            while waiting:
                self._make(work)
                begin_pass(counts)
                with suppress(ChildDied):
                    while waiting:
                        yield from self._block(waiting.popleft(), work, counts, len(waiting))
        except BaseException:  # closed before its end, too: nothing is written from here on
            self._place.close()
            raise

    def _make(self, work: Pass) -> None:
        for start in range(1, STARTS + 1):
            try:
                return self._place.make(work)
            except MakingFailed as failed:
                raise_fatal(failed.told)
            except ChildDied as died:
                if start == STARTS:
                    raise DoesNotStart(f"{died}, {STARTS} times before it could take work") from None

    def _block(
        self, table: pa.Table, work: Pass, counts: dict[str, int], queued: int
    ) -> Iterator[dict[str, Any]]:
        """The receipts of one block. Raises `ChildDied`."""
        files: list[tuple[int, str | None]] = []
        try:
            for kind, *told in self._place.run(table):
                if kind == FATAL:
                    raise_fatal(told[0])
                elif kind == CLAIM and self._claims is not None:
                    self._claims.claim(*told)
                elif kind == AT:
                    _leave(counts, told[0], len(files))
                    stage, files = told
                    if work.hunt is not None:
                        work.hunt.entered(stage, files)
                    note_states(_states(counts, stage, queued))
                elif kind == OUT:
                    found, busy = told
                    counts[work.nodes[-1].name] += len(files)
                    note_states(_states(counts, None, queued))
                    for stage, seconds in busy.items():
                        self._busy[stage] = self._busy.get(stage, 0.0) + seconds
                    yield from found
        except ChildDied as died:
            self._why_lost = str(died)
            raise

    def last_seen(self, ledger: Ledger) -> dict[int, tuple[str, str | None]]:
        """As the process announced them."""
        return ledger.last_seen()

    def why_lost(self) -> str:
        """How the process ended last."""
        return self._why_lost

    def busy(self) -> dict[str, float]:
        """By the process's clock."""
        return dict(self._busy)

    def close(self) -> None:
        """End the process."""
        self._place.close()


class _SharedLedger(Ledger):
    """A ledger that tells the child what it knows, and hears from there what is claimed."""

    def __reduce__(self) -> tuple[Callable[..., Ledger], tuple[Any, ...]]:
        return ledger_here, (dict(self._owners),)


class _Here:
    """The workers in this process."""

    _line: WorkerLine | None = None

    def begin(self, calls: Sequence[tuple[Any, ...]]) -> None:
        pass

    def call(self, function: str, *arguments: Any) -> Any:
        return called(function, *arguments)

    def make(self, work: Pass) -> None:
        self._line = WorkerLine(work.nodes)

    def run(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        for message in self._line.run(table):
            yield (OUT, receipts_of(message[1]), message[2]) if message[0] == OUT else message

    def close(self) -> None:
        self._line = None


class _Beside:
    """The workers in a child process: what is sent to it and what comes back. Everything raises `ChildDied`."""

    def __init__(self, threads: int, warm: Sequence[str]) -> None:
        self._environment = dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._warm = list(warm)
        self._child: Child | None = None
        self._asked: deque[tuple[Any, ...]] = deque()

    def begin(self, calls: Sequence[tuple[Any, ...]] = ()) -> None:
        if self._child is not None:
            return
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the child
        try:
            told = {"socket": theirs.fileno(), "warm": self._warm}
            passed, errors = (theirs.fileno(),), self._errors.fileno()
            self._child = Child("pipeline.engine.inline_child", told, self._environment, passed, errors)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Connection(ours.detach())
        for call in calls:
            self._asked.append((CALL, *call))
            self._send(self._asked[-1])

    def call(self, function: str, *arguments: Any) -> Any:
        self.begin()
        request = (CALL, function, *arguments)
        answer = self._answer_to(request)
        if answer is None:
            self._send(request)
            answer = self._receive()
        kind, value = answer
        if kind == RAISED:
            raise value
        return value

    def make(self, work: Pass) -> None:
        self.begin()
        self._answer_to(())
        self._send((MAKE, list(work.nodes), work.gpu_memory_fraction))
        kind, *told = self._receive()
        if kind == FATAL:
            raise MakingFailed(told[0])

    def run(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        self._send((RUN, table))
        kind = ""
        while kind not in (OUT, FATAL):
            message = self._receive()
            kind = message[0]
            yield message

    def close(self) -> None:
        child, self._child = self._child, None
        self._asked.clear()
        if child is not None:
            child.end()
            self._channel.close()
            self._errors.close()

    def _answer_to(self, request: tuple[Any, ...]) -> tuple[str, Any] | None:
        """The answer to what `begin` asked already; None where it did not. What else it asked is not asked again."""
        while self._asked:
            asked, answer = self._asked.popleft(), self._receive()
            if asked == request:
                return answer
        return None

    def _send(self, message: tuple[Any, ...]) -> None:
        data = pickle.dumps(message)
        try:
            self._channel.send_bytes(data)
        except OSError:
            raise self._died() from None

    def _receive(self) -> tuple[Any, ...]:
        try:
            return self._channel.recv()
        except (EOFError, OSError):
            raise self._died() from None

    def _died(self) -> ChildDied:
        cause = self._child.cause(NAME)
        if (self._child.process.poll() or 0) >= 0:  # a signal speaks for itself
            self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - 2000))
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            cause += f" ({lines[-1][:200]})" if lines else ""
        self.close()
        return ChildDied(cause)


def _leave(counts: dict[str, int], stage: str, files: int) -> None:
    """Count files that have left the stage before ``stage``."""
    names = list(counts)
    place = names.index(stage)
    if place:
        counts[names[place - 1]] += files


def _states(counts: Mapping[str, int], at: str | None, queued: int) -> dict[str, StageState]:
    first = next(iter(counts))
    return {
        name: StageState(rows, queued if name == first else 0, int(name == at), 1)
        for name, rows in counts.items()
    }
