"""What the parts of a run hand to each other: one object instead of a dozen arguments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import pyarrow as pa

from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.sources.items import SourceItem
from pipeline.dataset.sources.listing import Listing
from pipeline.dataset.tables.row_index import State
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.job import Found, Job
from pipeline.workflows.resume import WorkPlan
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.unsettled import Unsettled


@dataclass
class Run:
    """One run of a job. What stands below the first seven is filled in as it is found.

    Args:
        job: which.
        config: checked.
        output, folder, lock: where it writes; the lock is held.
        models: what the job found before it began.
        drivers: what its workers may run under.
        moments: when it got where, Unix time, ``shell`` first; it is added to.
        listing: what was noticed while the sources were listed.
        items: all that was asked for.
        retry: uris whose recorded failures are tried again.
        asked_for: how many files a rate of failures is of: of a retry all that have a row.
        keys: product → key that is wanted.
        state: what the output held before.
        columns: what a manifest says of each file, see `pipeline.dataset.sources.manifest_columns`; None without one.
        work: what the output lacks.
        gone: files that have a row and are there no longer.
        unsettled: what is to be tidied up at its end, that of runs that were killed included.
    """

    job: Job
    config: RunConfig
    output: Output
    folder: RunFolder
    lock: OutputLock
    _: KW_ONLY
    models: Found
    drivers: Drivers
    moments: dict[str, float]
    listing: Listing = field(default_factory=Listing)
    items: list[SourceItem] = field(default_factory=list)
    retry: Sequence[str] = ()
    asked_for: int = 0
    keys: dict[str, str] = field(default_factory=dict)
    state: State = field(default_factory=State.nothing)
    columns: pa.Table | None = None
    work: WorkPlan = field(default_factory=WorkPlan)
    gone: list[str] = field(default_factory=list)
    unsettled: Unsettled = field(default_factory=Unsettled)

    @property
    def run_id(self) -> str:
        """Of its folder."""
        return self.folder.run_id

    def reached(self, moment: str) -> None:
        """Note the time."""
        self.moments[moment] = time.time()
