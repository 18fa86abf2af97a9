"""When a run is stopped, and what counts as done although nobody said so. No Ray is needed for it."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.tables.schemas import tracks_schema
from pipeline.engine.packing import planned
from pipeline.engine.progress import Progress
from pipeline.workflows.attempts import LockLost, Passes, TooManyFailures

SCHEMA = tracks_schema([], clap=False, separation=False)


def receipt(indexes, failed: int = 0) -> dict:
    return {
        "indexes": list(indexes), "status": {"failed": failed, "ok": len(indexes) - failed}, "audio_s": 0.0,
        "bytes": 0, "write_s": 0.0, "failures": [], "fallbacks": [], "stages": {}, "processes": [], "copies": [],
    }  # fmt: skip


@pytest.fixture
def passes(tmp_path) -> Passes:
    folder = SimpleNamespace(run_id="now", log=lambda *arguments, **fields: None)
    return Passes(
        Output(str(tmp_path)), folder, SimpleNamespace(lost=False), None, None, {}, None, SCHEMA, {},
        Progress(files=10_000), 0.75, 3, 0.5,
    )  # fmt: skip


def test_a_run_that_goes_wrong_is_stopped_early_but_not_for_a_bad_beginning(passes):
    passes._take(receipt(range(99), failed=99))
    with pytest.raises(
        TooManyFailures, match=r"99 of the first 100 files failed, more than max_failure_rate=0\.5"
    ):
        passes._take(receipt([99]))


def test_failures_below_the_limit_stop_nothing(passes):
    for start in range(0, 10_000, 100):
        passes._take(receipt(range(start, start + 100), failed=50))
    assert passes.progress.failed() == 5000


def test_the_last_file_does_not_stop_a_run_that_is_over(passes):
    passes.progress.files = 100
    passes._take(receipt(range(100), failed=100))
    assert passes.progress.failed() == len(passes.progress.committed) == 100


def test_a_job_whose_lock_was_taken_stops(passes):
    passes.lock.lost = True
    with pytest.raises(LockLost):
        passes._take(receipt([0]))


def test_a_part_whose_receipt_was_lost_with_its_worker_counts(passes):
    files = planned(SourceItem(name, 1) for name in "abc")
    rows = [
        {"uri": "a", "run_id": "now", "status": "partial"},
        {"uri": "b", "run_id": "an older one", "status": "ok"},
    ]
    passes.output.write_table("tracks/part-0.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    assert [f.item.uri for f in passes._missing(files)] == ["b", "c"]
    assert passes.progress.status["partial"] == 1
