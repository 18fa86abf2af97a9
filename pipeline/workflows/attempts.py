"""From a list of files to rows: one pass through the graph, and further ones, file by file, for what was lost."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.counting import plural
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.engine.graph import MAX_TASK_RETRIES, build_dataset, busy_seconds, receipts
from pipeline.engine.ledger import last_seen, start_ledger
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile
from pipeline.engine.progress import Progress
from pipeline.engine.reconcile import lost_rows, missing_files, one_by_one
from pipeline.engine.resources import StageResources
from pipeline.engine.session import Cluster, root_cause
from pipeline.engine.sink import NotOurs, SinkStage
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


@dataclass
class Passes:
    """Runs the graph until every planned file has a row.

    Args:
        output, folder, lock: of the run.
        nodes: makes the graph, given the ledger to use.
        cut: packs files into blocks.
        resources, cluster: see `pipeline.engine.graph.build_dataset`.
        schema: of `tracks`.
        keys: extractor → key of this run.
        progress: counts.
        gpu_memory_fraction, max_strikes, max_failure_rate: as in the config.
        said: fallbacks that the log knows already.

    ``busy`` collects the actors' busy seconds by Ray's clock.
    """

    output: Output
    folder: RunFolder
    lock: OutputLock
    nodes: Callable[[Any], Sequence[Node]]
    cut: Callable[[Sequence[PlannedFile]], Sequence[pa.Table]]
    resources: dict[str, StageResources]
    cluster: Cluster
    schema: pa.Schema
    keys: dict[str, str]
    progress: Progress
    gpu_memory_fraction: float
    max_strikes: int
    max_failure_rate: float
    said: set[tuple[str, str, str]] = field(default_factory=set)
    busy: dict[str, float] = field(default_factory=dict)

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
                self._missing(files)  # parts whose receipts were still on their way count
            done, planned = len(self.progress.committed), self.progress.files
            self.folder.log(
                "stopped",
                f"stopped by {stopped}: {done} of {plural(planned, 'file')} committed, which stay; the same command "
                f"goes on with the other {planned - done}",
                level="warning",
            )
            return stopped
        except Exception as error:  # noqa: BLE001  whatever Ray raises, the user gets one line and the log has the rest
            if isinstance(error, LockLost) or getattr(error, "error_class", "") == NotOurs.__name__:
                self.folder.log(
                    "lock_lost",
                    f"another job took {self.output.uri} over: this one ends, and the "
                    f"{plural(len(self.progress.committed), 'file')} that it committed stay",
                    level="error",
                )
                return error
            self.folder.log(
                "failed",
                f"the job failed after {len(self.progress.committed)} of {plural(self.progress.files, 'file')} "
                f"committed: {root_cause(error)}",
                level="error",
                traceback=getattr(error, "worker_traceback", "".join(traceback.format_exception(error))),
            )
            return error
        return None

    def _until_settled(self, files: Sequence[PlannedFile], owners: dict[str, str]) -> None:
        ledger = start_ledger(owners) if any(f.shared for f in files) else None
        self._pass(self.cut(files), ledger, None)
        missing = self._missing(files)
        for strike in range(2, self.max_strikes + 1):
            if not missing:
                return
            self.folder.log(
                "lost",
                f"{plural(len(missing), 'file')} lost with their workers: run again one by one "
                f"(strike {strike} of {self.max_strikes})",
                level="warning",
            )
            ledger = ledger or start_ledger(owners)
            self._pass(one_by_one(missing), ledger, ledger)
            missing = self._missing(missing)
        if missing:
            self._give_up(missing, ledger)

    def _pass(self, blocks: Sequence[pa.Table], claims: Any, hunt: Any) -> None:
        """Once through the graph; with ``hunt``, one file at a time in each actor, and what it was at is known."""
        nodes = self.nodes(claims)
        resources = dict(self.resources)
        if (
            hunt is not None
        ):  # blocks of one file may belong to the same part, which one process writes at a time
            last = resources[nodes[-1].name]
            resources[nodes[-1].name] = StageResources(1, last.num_cpus, last.num_gpus)
        dataset = build_dataset(
            blocks,
            nodes,
            resources,
            self.cluster.environment,
            self.gpu_memory_fraction,
            hunt,
            MAX_TASK_RETRIES if hunt is None else 0,
        )
        # Closed before anything else is done where the run is stopped: the actors then write no more.
        with closing(receipts(dataset)) as committed:
            for receipt in committed:
                self._take(receipt)
        for stage, seconds in busy_seconds(dataset, nodes).items():
            self.busy[stage] = self.busy.get(stage, 0.0) + seconds

    def _take(self, receipt: dict[str, Any]) -> None:
        self.progress.add(receipt)
        for stage, wanted, used, reason, _ in receipt["fallbacks"]:
            if (stage, wanted, used) not in self.said and len(self.said) < FALLBACKS_SAID:
                self.said.add((stage, wanted, used))
                self.folder.log(
                    "fallback", f"{stage}: {used} instead of {wanted} ({reason})", level="warning"
                )
        if self.lock.lost:
            raise LockLost(f"another job took {self.output.uri} over")
        seen, failed = len(self.progress.committed), self.progress.failed()
        enough = min(self.progress.files, max(SEEN_BEFORE_STOPPING, self.progress.files // 100))
        if seen >= enough and seen < self.progress.files and failed > self.max_failure_rate * seen:
            raise TooManyFailures(
                f"{failed} of the first {seen} files failed, more than "
                f"max_failure_rate={self.max_failure_rate:g}: stopped"
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

    def _written(self, uris: set[str]) -> dict[str, str]:
        """Which of ``uris`` have a row of this run, and its status."""
        found: dict[str, str] = {}
        for batch in self.output.batches("tracks", columns=["uri", "run_id", "status"]):
            for row in batch.to_pylist():
                if row["run_id"] == self.folder.run_id and row["uri"] in uris:
                    found[row["uri"]] = row["status"]
        return found

    def _give_up(self, files: Sequence[PlannedFile], ledger: Any) -> None:
        self.folder.log(
            "lost",
            f"{plural(len(files), 'file')} lost with their workers {self.max_strikes} times: recorded as failures",
            level="warning",
        )
        seen = last_seen(ledger) if ledger is not None else {}
        sink = SinkStage(**self.nodes(None)[-1].arguments)
        for table in lost_rows(files, seen, self.keys, self.max_strikes):
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
        written, left = write_copies(self.output, copies, self.schema, self.folder.run_id, self.keys)
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
            self.folder.log("copies", text, files=len(written))
        return left
