"""When a run is stopped, and what counts as done although nobody said so. No Ray is needed for it."""

from types import SimpleNamespace

import pyarrow as pa
import pytest
from helpers.standard_schemas import tracks_of

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.inline import InlineDriver
from pipeline.engine.packing import planned
from pipeline.engine.progress import Progress
from pipeline.workflows.attempts import Attempts, Layout, LockLost, TooManyFailures
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.context import Run
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.jobs.extract import EXTRACT

SCHEMA = tracks_of()


def receipt(indexes, failed: int = 0) -> dict:
    return {
        "indexes": list(indexes), "status": {"failed": failed, "ok": len(indexes) - failed}, "audio_s": 0.0,
        "bytes": 0, "write_s": 0.0, "failures": [], "fallbacks": [], "stages": {}, "processes": [], "copies": [],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Run:
    """As far as it is read here."""
    config = ExtractConfig(max_failure_rate=0.5)
    folder = SimpleNamespace(run_id="now", log=lambda *arguments, **fields: None)
    lock = SimpleNamespace(lost=False)
    output, drivers = Output(str(tmp_path)), Drivers(config, EXTRACT)
    return Run(EXTRACT, config, output, folder, lock, models=EXTRACT.unsought(), drivers=drivers, moments={})


@pytest.fixture
def attempts(run) -> Attempts:
    layout = Layout(lambda ledger: [], lambda files: [], SCHEMA)
    return Attempts(run, InlineDriver(child=False), layout, Progress(files=10_000))


def test_a_run_that_goes_wrong_is_stopped_early_but_not_for_a_bad_beginning(attempts):
    attempts._take(receipt(range(99), failed=99))
    with pytest.raises(
        TooManyFailures, match=r"99 of the first 100 files failed, more than max_failure_rate=0\.5"
    ):
        attempts._take(receipt([99]))


def test_failures_below_the_limit_stop_nothing(attempts):
    for start in range(0, 10_000, 100):
        attempts._take(receipt(range(start, start + 100), failed=50))
    assert attempts.progress.failed() == 5000


def test_the_last_file_does_not_stop_a_run_that_is_over(attempts):
    attempts.progress.files = 100
    attempts._take(receipt(range(100), failed=100))
    assert attempts.progress.failed() == len(attempts.progress.committed) == 100


def test_a_job_whose_lock_was_taken_stops(run, attempts):
    run.lock.lost = True
    with pytest.raises(LockLost):
        attempts._take(receipt([0]))


def test_a_part_whose_receipt_was_lost_with_its_worker_counts(run, attempts):
    files = planned(SourceItem(name, 1) for name in "abc")
    rows = [
        {"uri": "a", "run_id": "now", "status": "partial"},
        {"uri": "b", "run_id": "an older one", "status": "ok"},
    ]
    run.output.write_table("tracks/part-0.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    assert [f.item.uri for f in attempts._missing(files)] == ["b", "c"]
    assert attempts.progress.status["partial"] == 1
