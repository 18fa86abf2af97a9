"""At the end of a run: what a manifest says of files stands in their rows, whoever wrote them and when."""

from __future__ import annotations

import pyarrow as pa

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.sources.manifest_columns import bring_up_to_date


def settle_columns(output: Output, columns: pa.Table, schema: pa.Schema, folder: RunFolder) -> None:
    """Bring the rows of files up to date with the manifest; nothing is computed for it.

    Args:
        output: its lock is held.
        columns: what the manifest says, see `pipeline.dataset.sources.manifest_columns.manifest_columns`.
        schema: of all parts of `tracks`.
    """
    changed = bring_up_to_date(output, columns, schema)
    if changed:
        folder.log("source", f"{plural(changed, 'row')} brought up to date with the manifest", rows=changed)
