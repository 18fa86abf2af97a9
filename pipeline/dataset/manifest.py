"""``runs/<run_id>/manifest.json``: per asset what each extractor gave, as JSON (``audio_manifest_v1``)."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.dataset.schemas import MANIFEST_VERSION

# Above this many assets the manifest is JSON lines: nobody can load a larger one as a single object.
LARGE = 10_000


def asset_entry(
    tracks: pa.Table,
    timings: Sequence[Sequence[dict[str, Any]]],
    failures: Sequence[Sequence[dict[str, Any]]],
    blobs: Sequence[Sequence[dict[str, Any]]],
    segments: pa.Table,
    extractors: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Yield the manifest entry of each row of ``tracks``; the other arguments are per row too.

    ``segments`` is the exploded table of the same rows, ``extractors`` the run's DSP extractors and their versions.
    """
    spans: dict[str, list[dict[str, Any]]] = {}
    for s in segments.select(["asset_id", "segment_index", "start_s", "end_s"]).to_pylist():
        span = {"index": s["segment_index"], "start_s": s["start_s"], "end_s": s["end_s"]}
        spans.setdefault(s["asset_id"], []).append(span)
    for number, row in enumerate(tracks.to_pylist()):
        errors = {f["stage"]: f"{f['error_class']}: {f['message']}" for f in failures[number]}
        seconds = {t["stage"]: t["compute_s"] for t in timings[number]}
        shapes = {b["path"]: b["shape"] for b in blobs[number]}
        versions = _versions(row, extractors)
        entries = [_extractor(name, versions[name], row, errors, seconds, shapes) for name in versions]
        yield {
            "asset_id": row["asset_id"],
            "uri": row["uri"],
            "status": row["status"],
            "error": errors.get("decode"),
            "extractors": entries,
            "segments": spans.get(row["asset_id"], []),
            "aggregate_strategy": row.get("clap_aggregate"),
        }


# Stages whose version is the model that the row names.
NETWORKS = {"clap": "clap_model", "separation": "separation_backend"}


def _versions(row: dict[str, Any], extractors: Mapping[str, str]) -> dict[str, str | None]:
    return {**extractors, **{name: row[column] for name, column in NETWORKS.items() if column in row}}


def _extractor(
    name: str,
    version: str | None,
    row: dict[str, Any],
    errors: dict[str, str],
    seconds: dict[str, float],
    shapes: dict[str, list[int]],
) -> dict[str, Any]:
    stage = name if name in NETWORKS else f"features.{name}"
    prefixes = ("separation_", "stem_") if name == "separation" else (f"{name}_",)
    payload: dict[str, Any] = {}
    for column, value in row.items():
        if column.startswith(prefixes):
            if column.endswith("_blob") and value is not None:
                shape = shapes.get(value, [])
                value = {"path": value, "shape": shape, "elements": math.prod(shape)}
            payload[column] = value
    keys = dict(row["extractor_keys"] or [])
    return {
        "name": name,
        "version": version,
        "key": keys.get(name),
        "success": name in keys,
        "payload": payload if name in keys else None,
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
    text = io.StringIO()
    if assets > LARGE:
        name = f"runs/{run_id}/manifest.jsonl"
        text.write(json.dumps(head) + "\n")
        for part in parts:
            text.write(output.read(f"{folder}/{part}").decode())
    else:
        name = f"runs/{run_id}/manifest.json"
        entries = [line for part in parts for line in output.read(f"{folder}/{part}").decode().splitlines()]
        opening = json.dumps({**head, "assets": []}, indent=1).removesuffix("[]\n}")
        text.write(opening + "[\n" + ",\n".join(entries) + "\n]}\n")
    output.write(name, text.getvalue().encode())
    if parts:
        output.fs.rm(output.path(folder), recursive=True)
    return name
