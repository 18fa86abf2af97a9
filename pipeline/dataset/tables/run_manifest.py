"""``runs/<run_id>/manifest.json``: per asset what each extractor gave, as JSON (``audio_manifest_v1``)."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dataset.contents import ARRAYS_SUFFIX, Contents, Product, Table
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import MANIFEST_VERSION

# Above this many assets the manifest is JSON lines: nobody can load a larger one as a single object.
LARGE = 10_000
# Of each row of `tracks` a list.
Rows = Sequence[Sequence[dict[str, Any]]]


def asset_entries(
    tracks: pa.Table, found: Mapping[str, Rows], declared: Mapping[str, Rows], contents: Contents
) -> Iterator[dict[str, Any]]:
    """Yield the manifest entry of each row of ``tracks``.

    Args:
        found: ``timings``, ``failures`` and ``blobs``, of each row a list.
        declared: table → its rows, of each row of ``tracks`` a list.
        contents: whose products the entries are of, as far as ``tracks`` has columns of them.
    """
    products = [p for p in contents.ordered() if p.key is not None or p.version_column in tracks.column_names]
    for number, row in enumerate(tracks.to_pylist()):
        errors = {f["stage"]: f"{f['error_class']}: {f['message']}" for f in found["failures"][number]}
        seconds = {t["stage"]: t["compute_s"] for t in found["timings"][number]}
        shapes = {b["path"]: b["shape"] for b in found["blobs"][number]}
        yield {
            "asset_id": row["asset_id"],
            "uri": row["uri"],
            "status": row["status"],
            "error": errors.get("decode"),
            "extractors": [_product(p, row, (errors, seconds, shapes)) for p in products],
            **{name: _spans(contents.tables[name], rows[number]) for name, rows in declared.items()},
            "aggregate_strategy": row.get("clap_aggregate"),
        }


def _spans(table: Table, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where in time the rows of a declared table lie; of one without times, how many there are."""
    if not {"start_s", "end_s"} <= {f.name for f in table.fields}:
        return [{"rows": len(rows)}] if rows else []
    return [{"index": r[table.key], "start_s": r["start_s"], "end_s": r["end_s"]} for r in rows]


def _product(
    product: Product,
    row: Mapping[str, Any],
    found: tuple[Mapping[str, str], Mapping[str, float], Mapping[str, list[int]]],
) -> dict[str, Any]:
    errors, seconds, shapes = found
    payload: dict[str, Any] = {}
    for column in product.names:
        if column not in row:
            continue
        value = row[column]
        if column.endswith(ARRAYS_SUFFIX) and value is not None:
            shape = shapes.get(value, [])
            value = {"path": value, "shape": shape, "elements": math.prod(shape)}
        payload[column] = value
    keys = dict(row["extractor_keys"] or [])
    stage = product.timed or product.stage or product.name
    return {
        "name": product.name,
        "version": row.get(product.version_column) if product.version_column else product.version,
        "key": keys.get(product.name),
        "success": product.name in keys,
        "payload": payload if product.name in keys else None,
        "error": errors.get(stage),
        "processing_time": seconds.get(stage),
    }


def merge_manifest(output: Output, run_id: str, header: dict[str, Any], assets: int) -> str:
    """Join the parts the sinks wrote into one file and remove them; return its name.

    Small runs give ``manifest.json``, one object; runs above `LARGE` assets ``manifest.jsonl``, whose first
    line is the header.
    """
    folder = f"runs/{run_id}/manifest-parts"
    try:
        found = output.fs.ls(output.path(folder), detail=False)
    except FileNotFoundError:
        found = []
    parts = sorted(str(name).rsplit("/", 1)[-1] for name in found if str(name).endswith(".jsonl"))
    head = {"schema_version": MANIFEST_VERSION, **header, "assets_count": assets}
    large = assets > LARGE
    name = f"runs/{run_id}/manifest.{'jsonl' if large else 'json'}"
    # Through a file, part by part: the manifest of a large run does not fit into memory.
    with tempfile.TemporaryDirectory(prefix="soundmill-") as scratch:
        merged = Path(scratch) / "manifest"
        with merged.open("w", encoding="utf-8") as out:
            opening = json.dumps({**head, "assets": []}, indent=1).removesuffix("[]\n}") + "["
            out.write(json.dumps(head) + "\n" if large else opening)
            first = True
            for part in parts:
                for line in output.read(f"{folder}/{part}").decode().splitlines():
                    out.write(f"{line}\n" if large else f"{'' if first else ','}\n{line}")
                    first = False
            out.write("" if large else "\n]}\n")
        output.upload(name, merged)
    if parts:
        output.fs.rm(output.path(folder), recursive=True)
    return name
