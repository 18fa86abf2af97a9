"""From a list of files to rows: one pass through the graph, and further ones, file by file, for what was lost."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.counting import plural
from pipeline.engine.driver import Driver, Pass, root_cause
from pipeline.engine.groups import name_of
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile
from pipeline.engine.progress import Progress
from pipeline.engine.reconcile import lost_rows, missing_files, one_by_one
from pipeline.engine.resources import StageResources
from pipeline.engine.sink import NotOurs
from pipeline.workflows.context import Run
from pipeline.workflows.copies import Copy, write_copies
from pipeline.workflows.stopping import Stopped

# A run is stopped for its failures once so many files were seen, or a hundredth of them.
SEEN_BEFORE_STOPPING = 100
# Beyond so many kinds of fallback the log stays silent; the tables have them all.
FALLBACKS_SAID = 20


class TooManyFailures(Exception):
    """More than ``max_failure_rate`` of the files seen so far failed."""


class LockLost(Exception):
    """Another job took the output over while this one stood still."""


@dataclass(frozen=True)
class Layout:
    """How a run's work is laid out.

    Args:
        nodes: makes the graph, given the ledger to use; the sink is last.
        cut: packs files into blocks.
        schema: of `tracks`.
        resources, groups: see `pipeline.engine.driver.Pass`.
    """

    nodes: Callable[[Any], Sequence[Node]]
    cut: Callable[[Sequence[PlannedFile]], Sequence[pa.Table]]
    schema: pa.Schema
    resources: dict[str, StageResources] = field(default_factory=dict)
    groups: Sequence[Sequence[str]] = ()


class Attempts:
    """Runs the graph until every planned file has a row.

    Args:
        run: whose work it is.
        driver: of the workers.
        layout: of the work.
        progress: counts.
    """

    def __init__(self, run: Run, driver: Driver, layout: Layout, progress: Progress) -> None:
        self._run, self._driver, self._layout, self.progress = run, driver, layout, progress
        self._folder, self._output = run.folder, run.output
        # Fallbacks that the log knows already.
        self._said = {(f.stage, f.wanted, f.used) for f in run.models.fallbacks}

    def run(self, files: Sequence[PlannedFile], owners: dict[str, str]) -> BaseException | None:
        """Compute ``files``. Whatever ends the run early is logged and returned, not raised: `Stopped`, too."""
        try:
            self._until_settled(files, owners)
            left = self._copies(files)
            if left:  # of a content whose rows lack something: the first of equal files computes it
                self._until_settled(left, {})
                left = self._copies(left)
            if left:
                self._until_settled([replace(f, shared=False) for f in left], {})
        except Stopped as stopped:
            with suppress(Exception):  # a store that is away: what was heard of is what can be said
                self._count_all(files)
            done, planned = len(self.progress.committed), self.progress.files
            self._folder.log(
                "stopped",
                f"stopped by {stopped}: {done} of {plural(planned, 'file')} committed, which stay; the same command "
                f"goes on with the other {planned - done}",
                level="warning",
            )
            return stopped
        except Exception as error:  # noqa: BLE001  whatever Ray raises, the user gets one line and the log has the rest
            if isinstance(error, LockLost) or getattr(error, "error_class", "") == NotOurs.__name__:
                self._folder.log(
                    "lock_lost",
                    f"another job took {self._output.uri} over: this one ends, and the "
                    f"{plural(len(self.progress.committed), 'file')} that it committed stay",
                    level="error",
                )
                return error
            self._folder.log(
                "failed",
                f"the job failed after {len(self.progress.committed)} of {plural(self.progress.files, 'file')} "
                f"committed: {root_cause(error)}",
                level="error",
                traceback=getattr(error, "worker_traceback", "".join(traceback.format_exception(error))),
            )
            return error
        return None

    def _until_settled(self, files: Sequence[PlannedFile], owners: dict[str, str]) -> None:
        ledger = self._driver.ledger(owners) if any(f.shared for f in files) else None
        self._pass(self._layout.cut(files), ledger, None)
        missing = self._missing(files)
        strikes = self._run.config.max_strikes
        for strike in range(2, strikes + 1):
            if not missing:
                return
            self._folder.log(
                "lost",
                f"{plural(len(missing), 'file')} lost with their workers: run again one by one "
                f"(strike {strike} of {strikes})" + self._why_lost(),
                level="warning",
            )
            ledger = ledger or self._driver.ledger(owners)
            self._pass(one_by_one(missing), ledger, ledger)
            missing = self._missing(missing)
        if missing:
            self._give_up(missing, ledger)

    def _pass(self, blocks: Sequence[pa.Table], claims: Any, hunt: Any) -> None:
        """Once through the graph; with ``hunt``, one file at a time in each worker, and what it was at is known."""
        nodes, resources = self._layout.nodes(claims), dict(self._layout.resources)
        groups = self._layout.groups
        writer = name_of(groups[-1]) if groups else nodes[-1].name
        last = resources.get(writer)
        if hunt is not None and last is not None:
            # Blocks of one file may belong to the same part, which one process writes at a time.
            resources[writer] = StageResources(1, last.num_cpus, last.num_gpus)
        fraction = self._run.config.hardware.gpu_memory_fraction
        work = Pass(blocks, nodes, resources, fraction, hunt, groups=groups)
        # Closed before anything else is done where the run is stopped: the workers then write no more.
        with closing(self._driver.receipts(work)) as committed:
            for receipt in committed:
                self._take(receipt)

    def _take(self, receipt: dict[str, Any]) -> None:
        self.progress.add(receipt)
        for stage, wanted, used, reason, _ in receipt["fallbacks"]:
            if (stage, wanted, used) not in self._said and len(self._said) < FALLBACKS_SAID:
                self._said.add((stage, wanted, used))
                self._folder.log(
                    "fallback", f"{stage}: {used} instead of {wanted} ({reason})", level="warning"
                )
        if self._run.lock.lost:
            raise LockLost(f"another job took {self._output.uri} over")
        seen, failed = len(self.progress.committed), self.progress.failed()
        enough = min(self.progress.files, max(SEEN_BEFORE_STOPPING, self.progress.files // 100))
        if (
            seen >= enough
            and seen < self.progress.files
            and failed > self._run.config.max_failure_rate * seen
        ):
            raise TooManyFailures(
                f"{failed} of the first {seen} files failed, more than "
                f"max_failure_rate={self._run.config.max_failure_rate:g}: stopped"
            )

    def _missing(self, files: Sequence[PlannedFile]) -> list[PlannedFile]:
        """The files without a row. A part whose receipt was lost with its worker counts if it is on disk."""
        missing = missing_files(files, self.progress.settled())
        if not missing:
            return []
        there = self._written({f.item.uri for f in missing})
        for file in missing:
            if file.item.uri in there:
                self.progress.add_unseen(file.index, there[file.item.uri])
        return missing_files(missing, self.progress.settled())

    def _count_all(self, files: Sequence[PlannedFile]) -> None:
        """Count the parts of a run that was stopped, also those whose receipts were still on their way, and those that
        are being written while the workers are ended."""
        counted = -1
        until = time.monotonic() + 10 * self._driver.writes_on_s
        while True:
            self._missing(files)
            if len(self.progress.committed) == counted or time.monotonic() >= until:
                return
            counted = len(self.progress.committed)
            time.sleep(self._driver.writes_on_s)

    def _written(self, uris: set[str]) -> dict[str, str]:
        """Which of ``uris`` have a row of this run, and its status."""
        found: dict[str, str] = {}
        for batch in self._output.batches("tracks", columns=["uri", "run_id", "status"]):
            for row in batch.to_pylist():
                if row["run_id"] == self._folder.run_id and row["uri"] in uris:
                    found[row["uri"]] = row["status"]
        return found

    def _why_lost(self) -> str:
        why = self._driver.why_lost()
        return f"; {why}" if why else ""

    def _give_up(self, files: Sequence[PlannedFile], ledger: Any) -> None:
        self._folder.log(
            "lost",
            f"{plural(len(files), 'file')} lost with their workers {self._run.config.max_strikes} times: recorded as "
            f"failures{self._why_lost()}",
            level="warning",
        )
        seen = self._driver.last_seen(ledger) if ledger is not None else {}
        sink = self._layout.nodes(None)[-1].make()
        for table in lost_rows(
            files, seen, self._run.keys, self._run.output.contents, attempts=self._run.config.max_strikes
        ):
            self._take(json.loads(sink(table)["receipt"][0].as_py()))

    def _copies(self, files: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Give files with the content of another its row; return those that have to be computed after all."""
        if not self.progress.copies:
            return []
        by_index = {f.index: f for f in files}
        copies = [
            Copy(by_index[i], c["asset_id"], c["size_bytes"], tuple(c["timings"]))
            for i, c in sorted(self.progress.copies.items())
        ]
        written, left = write_copies(
            self._output, copies, self._layout.schema, self._folder.run_id, self._run.keys
        )
        for copy, original in written:
            self.progress.add_copy(
                copy.file.index,
                original.status,
                copy.size_bytes,
                original.failure_classes(),
                original.audio_s,
            )
        self.progress.copies.clear()
        if written:
            text = f"{plural(len(written), 'file')} with the content of others, computed once"
            self._folder.log("copies", text, files=len(written))
        return left
