"""The data dictionary: every column of the tables with type, unit, definition and source, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipeline.dataset.contents import Contents
from pipeline.dataset.tables.reading import described
from pipeline.dataset.tables.schemas import FAILURES, IDENTITY, TAGS, TIMINGS, table_schema

HEAD = """# Columns

Written by `python jobs/columns.py > docs/columns.md` from the schemas that the tables are written with; do not edit.

- **type**: Arrow's; `float` has 32 bits, `double` 64.
- **unit**: `1` is a number without a unit, `name` a text of few values, `ratio` a share in 0..1 unless it says
  otherwise. dBFS, dBTP and LUFS are relative to digital full scale.
- **definition**: with the default parameters. What a run was told otherwise is in its files: the metadata of each
  column (`pipeline.dataset.open(output_uri).describe()`) and `runs/<run_id>/config.yaml`.
- **source**: paper, standard or the library whose definition is followed; empty where the definition says it all.
- `source_<name>` in `tracks` is column `name` of the manifest that named the file, `source_uri` its uri as written
  there; all but `source_version`, which is ours (docs/sources.md).
- Every column can be null, which is how an undefined value reads. There is no NaN and no infinity.
"""

_ROWS = {
    "tracks": "One row per input file, those that failed included. What a run did not compute has no columns.",
    "timings": "One row per (asset, stage): what it cost.",
    "failures": "One row per failure.",
}
_BLOBS = """An array has three columns: `<name>_blob` is the file it lies in, relative to the root of the output; a
small one is in `<name>_inline` instead; `<name>_shape` is the shape of either. `Tables.array(row, name)` reads both,
where `Tables` is what `pipeline.dataset.open(output_uri)` gives.
"""


def dictionary(contents: Contents) -> str:
    """Every column of ``contents``, and of what every output has, as a Markdown text."""
    return "\n".join([HEAD, *_tracks(contents), *_others(contents)])


def _tracks(contents: Contents) -> Iterator[str]:
    yield from (
        "## tracks",
        "",
        _ROWS["tracks"],
        "",
        _BLOBS,
        "### The file and the row",
        "",
        *table(IDENTITY),
        "",
        "### tags: what the file says of itself",
        "",
        *table(TAGS),
        "",
    )
    for product in contents.ordered():
        yield from (f"### {product.name}: {product.title}", "", *table(product.columns), "")


def _others(contents: Contents) -> Iterator[str]:
    declared = [(t.name, t.description, table_schema(t)) for t in contents.tables.values()]
    standing = [
        (name, _ROWS[name], schema) for name, schema in (("timings", TIMINGS), ("failures", FAILURES))
    ]
    for name, description, schema in (*declared, *standing):
        yield from (f"## {name}", "", description, "", *table(schema), "")


def table(fields: Iterable[pa.Field]) -> Iterator[str]:
    """Lines of a Markdown table.

    Raises:
        ValueError: a column says no unit or no definition.
    """
    yield "| name | type | unit | definition | source |"
    yield "| --- | --- | --- | --- | --- |"
    for field in fields:
        said = described(field)
        for what in ("unit", "definition"):
            if not said[what]:
                raise ValueError(f"column {field.name} has no {what}")
        words = (_cell(said["unit"]), _cell(said["definition"]), _cell(said["source"]))
        yield f"| `{field.name}` | `{said['type']}` | {' | '.join(words)} |"


def _cell(text: str) -> str:
    """``text`` inside a table; a ``<name>`` is no markup."""
    return text.replace("|", "\\|").replace("<", "&lt;")
