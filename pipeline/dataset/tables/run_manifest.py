"""``runs/<run_id>/manifest.json``: per asset what each extractor gave, as JSON (``audio_manifest_v1``)."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import MANIFEST_VERSION

# Above this many assets the manifest is JSON lines: nobody can load a larger one as a single object.
LARGE = 10_000


def asset_entry(
    tracks: pa.Table,
    timings: Sequence[Sequence[dict[str, Any]]],
    failures: Sequence[Sequence[dict[str, Any]]],
    blobs: Sequence[Sequence[dict[str, Any]]],
    segments: Sequence[Sequence[dict[str, Any]]],
    extractors: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Yield the manifest entry of each row of ``tracks``; the sequences hold one entry per row too.

    ``extractors`` are the run's DSP extractors and their versions.
    """
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
            "segments": [
                {"index": s["segment_index"], "start_s": s["start_s"], "end_s": s["end_s"]}
                for s in segments[number]
            ],
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
