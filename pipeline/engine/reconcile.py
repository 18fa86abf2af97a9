"""What was planned against what was committed: Ray reports success even after dropping blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.batch import FAILURE, failure


class LostByWorker(Exception):
    """The row went into the graph and never reached the sink."""


def lost_rows(blocks: Iterable[pa.Table], committed: Collection[int]) -> pa.Table | None:
    """The planned rows that were not committed, as failed rows the sink can write; None if there are none."""
    done = pa.array(sorted(committed), type=pa.int64())
    missing = [block.filter(pc.invert(pc.is_in(block["index"], value_set=done))) for block in blocks]
    table = pa.concat_tables(missing)
    if table.num_rows == 0:
        return None
    ids = [hashlib.sha256(uri.encode()).hexdigest() for uri in table["uri"].to_pylist()]
    error = LostByWorker("the worker that held this file was lost and its block did not come back")
    lost = [[failure("decode", error, attempts=1, worker_died=True)]] * table.num_rows
    table = table.append_column("asset_id", pa.array(ids))
    table = table.append_column("duration_s", pa.nulls(table.num_rows, pa.float64()))
    table = table.append_column("done_at", pa.nulls(table.num_rows, pa.float64()))
    return table.append_column("failures@decode", pa.array(lost, type=pa.list_(FAILURE)))
