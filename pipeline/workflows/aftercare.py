"""What no worker can do for its part alone, done once at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.output import Output
from pipeline.dataset.storage import one_line
from pipeline.dataset.tables.merge import conform
from pipeline.dataset.tables.rehome import rehome, sweep
from pipeline.dataset.tables.row_index import State, read_state, same_columns
from pipeline.errors import UserError
from pipeline.workflows.context import Run
from pipeline.workflows.follow import follow
from pipeline.workflows.resume import WorkPlan
from pipeline.workflows.unsettled import Unsettled


def even_out(output: Output, state: State, schema: pa.Schema) -> None:
    """Give the parts that this run had no reason to write the columns of the others: readers take one for all.

    Args:
        state: of the output before the run.
        schema: of `tracks`, of this run.
    """
    if state.schema is None or (same_columns(state.schema, schema) and not state.uneven):
        return
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            file = pq.ParquetFile(handle)
            if same_columns(file.schema_arrow, schema):
                continue
            table = file.read()
        output.write_table(part, conform(table, schema))


def look_back(run: Run) -> None:
    """What the job makes of all rows of the output together, now that they are there. Whatever goes wrong with that is
    said, and costs the run nothing else."""
    try:
        for text in run.job.afterwards(run.config, run.output):
            run.folder.log("afterwards", text)
    except Exception as error:  # noqa: BLE001  the rows are there, and their report is still to be written
        text = str(error) if isinstance(error, UserError) else one_line(error)
        run.folder.log("afterwards", text, level="error")


def tend_shared(output: Output, work: WorkPlan, run_id: str, unsettled: Unsettled) -> None:
    """Of contents that several files have: what was computed lies with one of them, and may be left behind there."""
    if not unsettled and not any(f.shared for f in work.files):
        return
    state = read_state(output)
    assets = _several(state, [f.item.uri for f in work.files])
    if assets:
        follow(output, assets, run_id, state)
    if unsettled:
        state = read_state(output)
        rehome(output, unsettled.parts, state)
        assets |= unsettled.assets
    sweep(output, assets, state)


def _several(state: State, uris: Sequence[str]) -> set[str]:
    """The contents of ``uris`` that more than one file has."""
    rows = state.rows
    mine = rows.filter(pc.is_in(rows["uri"], value_set=pa.array(uris, pa.string())))["asset_id"]
    of_mine = rows["asset_id"].filter(pc.is_in(rows["asset_id"], value_set=mine.combine_chunks()))
    return {entry["values"] for entry in pc.value_counts(of_mine).to_pylist() if entry["counts"] > 1}
