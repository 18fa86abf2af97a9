"""The end of the graph: blobs, then tables, `tracks` last, because its row is what makes an asset count."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.manifest import asset_entry
from pipeline.dataset.output import Output
from pipeline.dataset.schemas import FAILURES, SCHEMA_VERSION, TIMINGS, segments_schema
from pipeline.dataset.spaces import embedding_space
from pipeline.engine.batch import collect
from pipeline.engine.process import peak_rss_bytes
from pipeline.engine.timing import Cost, StageClock

NAME = "write"


class SinkStage:
    """Writes what arrives and returns a receipt per table: one row with a JSON summary.

    Args:
        output: where to.
        run_id: this run.
        tracks: schema of `tracks`.
        standing_fallbacks: recorded in every decoded row (a stage that was skipped for the whole run).
        extractors: DSP extractor → version, for the manifest.
    """

    def __init__(
        self,
        output: Output,
        run_id: str,
        tracks: pa.Schema,
        standing_fallbacks: Sequence[dict[str, str]] = (),
        extractors: Mapping[str, str] | None = None,
    ) -> None:
        self.output = output
        self.run_id = run_id
        self.schema = tracks
        self.segments = segments_schema(embedding_space(tracks))
        self.standing_fallbacks = list(standing_fallbacks)
        self.extractors = dict(extractors or {})

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows of ``table``; return their receipt."""
        clock = StageClock()
        rows = [{"asset_id": a} for a in table["asset_id"].to_pylist()]
        parts = {kind: collect(table, kind) for kind in ("timings", "failures", "fallbacks", "blobs")}
        costs = self._write_blobs(parts["blobs"])
        name = _part_name(table["index"].to_pylist())
        tracks = self._tracks(table, parts)
        segments = _rows(rows, _segments(table), self.segments)
        failures = self._failures(table, parts["failures"])
        for kind, rows_of_kind in (("segments", segments), ("failures", failures)):
            if rows_of_kind.num_rows:
                self.output.write_table(f"{kind}/{name}", rows_of_kind)
            else:  # an attempt that died before `tracks` may have left one
                self.output.discard(f"{kind}/{name}")
        self._write_manifest(name, table, tracks, parts)
        self._own_time(table, parts["timings"], costs, clock)
        timings = _rows(rows, parts["timings"], TIMINGS)
        self.output.write_table(f"timings/{name}", timings)
        self.output.write_table(f"tracks/{name}", tracks)
        summary = self._summary(table, tracks, parts, clock)
        return pa.table({"receipt": [json.dumps(summary)]})

    def _write_blobs(self, blobs: list[list[dict[str, Any]]]) -> list[float]:
        spent = []
        for asset in blobs:
            started = time.perf_counter()
            for blob in asset:
                if blob["data"] is None:  # its stage wrote it
                    continue
                self.output.write(blob["path"], blob["data"])
            spent.append(time.perf_counter() - started)
        return spent

    def _tracks(self, table: pa.Table, parts: dict[str, list]) -> pa.Table:
        decoded = [failed is None for failed in _decode_failures(parts["failures"])]
        added = {
            "status": [_status(f) for f in parts["failures"]],
            "run_id": [self.run_id] * table.num_rows,
            "schema_version": [SCHEMA_VERSION] * table.num_rows,
            "extractor_keys": _keys(table),
            "fallbacks": [
                f + (self.standing_fallbacks if ok else [])
                for ok, f in zip(decoded, parts["fallbacks"], strict=True)
            ],
        }
        arrays = []
        for f in self.schema:
            if f.name in added:
                arrays.append(pa.array(added[f.name], type=f.type))
            elif f.name in table.column_names:
                arrays.append(table[f.name].cast(f.type))
            else:
                arrays.append(pa.nulls(table.num_rows, f.type))
        return pa.table(arrays, schema=self.schema)

    def _failures(self, table: pa.Table, failures: list[list[dict[str, Any]]]) -> pa.Table:
        ids, uris = table["asset_id"].to_pylist(), table["uri"].to_pylist()
        heads = [{"asset_id": a, "uri": u, "run_id": self.run_id} for a, u in zip(ids, uris, strict=True)]
        return _rows(heads, failures, FAILURES)

    def _write_manifest(
        self, name: str, table: pa.Table, tracks: pa.Table, parts: dict[str, list[list[dict[str, Any]]]]
    ) -> None:
        entries = asset_entry(
            tracks, parts["timings"], parts["failures"], parts["blobs"], _segments(table), self.extractors
        )
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        self.output.write(f"runs/{self.run_id}/manifest-parts/{name}.jsonl", text.encode())

    def _own_time(
        self, table: pa.Table, timings: list[list[dict]], blobs: list[float], clock: StageClock
    ) -> None:
        """Add this stage's own row per asset; writing the last two tables cannot be in them."""
        costs = [[Cost(NAME, backend="pyarrow", compute_s=s)] for s in blobs]
        seconds = [s or 0.0 for s in table["duration_s"].to_pylist()]
        for [cost], done, audio in zip(costs, table["done_at"].to_pylist(), seconds, strict=True):
            cost.wait_s = max(0.0, clock.wall_started - done) if done else 0.0
            cost.batch_items, cost.batch_audio_s = table.num_rows, sum(seconds)
            cost.batch_audio_s = max(cost.batch_audio_s, audio)
        clock.share_rest(costs, seconds)
        for row, [cost] in zip(timings, costs, strict=True):
            row.append(cost.struct())

    def _summary(
        self, table: pa.Table, tracks: pa.Table, parts: dict[str, list], clock: StageClock
    ) -> dict[str, Any]:
        failures = Counter((f["stage"], f["error_class"]) for row in parts["failures"] for f in row)
        fallbacks = Counter(
            (f["stage"], f["wanted"], f["used"], f["reason"])
            for row in tracks["fallbacks"].to_pylist()
            for f in row
        )
        processes: dict[str, dict[str, Any]] = {}
        for column in table.column_names:
            if column.startswith("process@"):
                for process in table[column].to_pylist():
                    found = json.loads(process)
                    key = f"{found['node']}:{found['pid']}"
                    if found["peak_rss_bytes"] >= processes.get(key, found)["peak_rss_bytes"]:
                        processes[key] = found
        own = Cost(NAME).struct()
        processes[f"{own['node']}:{own['pid']}"] = {
            "stage": NAME, "node": own["node"], "pid": own["pid"], "peak_rss_bytes": peak_rss_bytes(),
        }  # fmt: skip
        return {
            "indexes": table["index"].to_pylist(),
            "status": dict(Counter(tracks["status"].to_pylist())),
            "audio_s": float(np.nansum([s or 0.0 for s in table["duration_s"].to_pylist()])),
            "bytes": int(sum(b or 0 for b in table["size_bytes"].to_pylist())),
            "failures": [[*k, n] for k, n in failures.items()],
            "fallbacks": [[*k, n] for k, n in fallbacks.items()],
            "stages": _stage_sums(parts["timings"]),
            "processes": list(processes.values()),
            "write_s": time.perf_counter() - clock.started,
        }


def _decode_failures(failures: list[list[dict[str, Any]]]) -> list[dict[str, Any] | None]:
    return [next((f for f in row if f["stage"] == "decode"), None) for row in failures]


def _keys(table: pa.Table) -> list[list[tuple[str, str]]]:
    """What each row really holds: an extractor that failed on it left its ``key@`` column null."""
    keys: list[list[tuple[str, str]]] = [[] for _ in range(table.num_rows)]
    for column in table.column_names:
        if column.startswith("key@"):
            for row, key in zip(keys, table[column].to_pylist(), strict=True):
                if key is not None:
                    row.append((column.removeprefix("key@"), key))
    return keys


def _status(failures: list[dict[str, Any]]) -> str:
    if any(f["stage"] == "decode" for f in failures):
        return "failed"
    return "partial" if failures else "ok"


def _part_name(indexes: list[int]) -> str:
    """The same rows give the same name, so a retried task overwrites itself."""
    digest = hashlib.sha256(json.dumps(indexes).encode()).hexdigest()[:8]
    return f"part-{indexes[0]:09d}-{digest}.parquet"


def _rows(heads: list[dict[str, Any]], found: list[list[dict[str, Any]]], schema: pa.Schema) -> pa.Table:
    rows = [{**head, **item} for head, items in zip(heads, found, strict=True) for item in items]
    return pa.Table.from_pylist(rows, schema=schema)


def _segments(table: pa.Table) -> list[list[dict[str, Any]]]:
    if "segments" not in table.column_names:
        return [[] for _ in range(table.num_rows)]
    return [found or [] for found in table["segments"].to_pylist()]


def _stage_sums(timings: list[list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    sums: dict[str, dict[str, float]] = {}
    for row in timings:
        for t in row:
            s = sums.setdefault(
                t["stage"],
                {"compute_s": 0.0, "wait_s": 0.0, "rows": 0, "padding_weighted": 0.0, "device": t["device"]},
            )
            s["compute_s"] += t["compute_s"]
            s["wait_s"] += t["wait_s"]
            s["rows"] += 1
            s["padding_weighted"] += t["compute_s"] * t["padding_fraction"]
    return sums
