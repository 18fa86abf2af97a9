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
import pyarrow.compute as pc

from pipeline.dataset.contents import Contents
from pipeline.dataset.lock import read_lock
from pipeline.dataset.output import Output
from pipeline.dataset.tables.failures import status_of
from pipeline.dataset.tables.merge import (
    MergedTracks,
    OldPart,
    Update,
    conform,
    kept_rows,
    merge_tracks,
    replaced,
    superseded_files,
    timings_of,
)
from pipeline.dataset.tables.rewrite import by_asset
from pipeline.dataset.tables.run_manifest import asset_entries
from pipeline.dataset.tables.schemas import FAILURES, SCHEMA_VERSION, TIMINGS, table_schema
from pipeline.engine.batch import collect
from pipeline.engine.process import process_facts
from pipeline.engine.timing import Cost, StageClock

NAME = "write"


class NotOurs(Exception):
    """Another run writes to the output now."""


class SinkWorker:
    """Writes what arrives and returns a receipt per table: one row with a JSON summary.

    Args:
        output: where to.
        run_id: this run.
        tracks: schema of `tracks`.
        standing_fallbacks: recorded in every decoded row (a stage that was skipped for the whole run).
        contents: what the output holds.
        fenced: refuse to write while the output's lock is not this run's: after its driver died a worker may live
            on into the next run.
    """

    def __init__(
        self,
        output: Output,
        run_id: str,
        tracks: pa.Schema,
        standing_fallbacks: Sequence[dict[str, str]] = (),
        *,
        contents: Contents | None = None,
        fenced: bool = False,
    ) -> None:
        self.fenced = fenced
        self.output = output
        self.run_id = run_id
        self.schema = tracks
        self.standing_fallbacks = list(standing_fallbacks)
        if contents is not None:
            output.expect(contents)
        self.contents = output.contents
        self.tables = {name: table_schema(table) for name, table in self.contents.tables.items()}

    def __call__(self, table: pa.Table) -> pa.Table:
        """Write the rows of ``table``, which are those of one part; return their receipt."""
        clock = StageClock()
        table, copies = _without_copies(table)
        if table.num_rows == 0:
            return pa.table({"receipt": [json.dumps(_no_rows(copies))]})
        parts = {kind: collect(table, kind) for kind in ("timings", "failures", "fallbacks", "blobs")}
        costs = self._write_blobs(parts["blobs"])
        part = _Part(self.output, table)
        merged = self._merge(part, table, parts)
        # Of a row that is kept because its file could not be read, the content that it is of.
        assets = [update.asset_id for update in part.updates]
        rows = [{"asset_id": asset} for asset in assets]
        declared = {name: _table_rows(table, name) for name in self.tables}
        for name, found in declared.items():
            part.write(name, _rows(rows, found, self.tables[name]))
        part.write("failures", self._failures(table, assets, parts["failures"]))
        updated = merged.table.take(pa.array(merged.updated))
        self._write_manifest(part.name, updated, parts, declared)
        self._own_time(table, parts["timings"], costs, clock)
        part.write("timings", _rows(rows, parts["timings"], TIMINGS))
        self._require_lock()
        self.output.write_table(f"tracks/{part.name}", merged.table)  # the marker: now the rows count
        part.remove_superseded(merged.table)
        summary = self._summary(table, updated, parts, clock)
        summary["written"] = self._written(declared, parts["blobs"])
        return pa.table({"receipt": [json.dumps({**summary, "copies": copies})]})

    def _require_lock(self) -> None:
        if self.fenced:
            held = read_lock(self.output)
            if held is None or held.get("run_id") != self.run_id:
                raise NotOurs(f"run {self.run_id} holds the lock of {self.output.uri} no longer")

    def _merge(self, part: _Part, table: pa.Table, parts: dict[str, list]) -> MergedTracks:
        """The rows of the part, those that this run did not touch among them."""
        tracks = self._tracks(table, parts)
        merged = merge_tracks(part.old.tracks, tracks, part.updates, self.contents)
        part.settle(merged.table)
        if part.old.tracks is None:
            return merged
        status = merged.table["status"].to_pylist()
        fresh = tracks["status"].to_pylist()
        before = dict(zip(*(part.old.tracks[c].to_pylist() for c in ("uri", "status")), strict=True))
        old = kept_rows(part.old, "failures", part.updates, self.contents, part.still_used)
        troubled = set() if old is None else set(old["uri"].to_pylist())
        for update, place, failed in zip(part.updates, merged.updated, parts["failures"], strict=True):
            status[place] = _merged_status(
                update, before.get(update.uri), fresh[update.new], bool(failed), update.uri in troubled
            )
        merged.table = replaced(merged.table, {"status": status})
        return merged

    def _write_blobs(self, blobs: list[list[dict[str, Any]]]) -> list[float]:
        spent = []
        for asset in blobs:
            started = time.perf_counter()
            for blob in asset:
                if blob["data"] is None:  # its stage wrote it
                    continue
                self.output.write(blob["path"], blob["data"])
                blob["size_bytes"] = len(blob["data"])
                blob["sha256"] = hashlib.sha256(blob["data"]).hexdigest()
            spent.append(time.perf_counter() - started)
        return spent

    def _tracks(self, table: pa.Table, parts: dict[str, list]) -> pa.Table:
        decoded = [failed is None for failed in _decode_failures(parts["failures"])]
        keys = _keys(table, "key")
        failed = _keys(table, "failkey")
        for row, there, problems in zip(failed, keys, parts["failures"], strict=True):
            known = {name for name, _ in (*there, *row)}
            of_stage = {self._failed_product(f["stage"]): f["extractor_key"] for f in problems}
            row += [(name, key) for name, key in of_stage.items() if key is not None and name not in known]
            row.sort()
        added = {
            "status": [status_of(f) for f in parts["failures"]],
            "failed_keys": failed,
            "source_version": table["version"]
            if "version" in table.column_names
            else [None] * table.num_rows,
            "run_id": [self.run_id] * table.num_rows,
            "schema_version": [SCHEMA_VERSION] * table.num_rows,
            "extractor_keys": keys,
            "artifacts": [
                [{name: blob[name] for name in ("path", "size_bytes", "sha256")} for blob in row]
                for row in parts["blobs"]
            ],
            "fallbacks": [
                f + (self.standing_fallbacks if ok else [])
                for ok, f in zip(decoded, parts["fallbacks"], strict=True)
            ],
        }
        arrays = []
        for f in self.schema:
            if f.name in added:
                found = added[f.name]
                arrays.append(found if isinstance(found, pa.ChunkedArray) else pa.array(found, type=f.type))
            elif f.name in table.column_names:
                arrays.append(table[f.name].cast(f.type))
            else:
                arrays.append(pa.nulls(table.num_rows, f.type))
        return pa.table(arrays, schema=self.schema)

    def _failed_product(self, stage: str) -> str:
        """The product that a stage of ``failures`` is of; the stage itself where it is no product's."""
        products = self.contents.products_of(stage)
        return products[0] if len(products) == 1 else stage

    def _failures(
        self, table: pa.Table, assets: Sequence[str], failures: list[list[dict[str, Any]]]
    ) -> pa.Table:
        uris = table["uri"].to_pylist()
        heads = [{"asset_id": a, "uri": u, "run_id": self.run_id} for a, u in zip(assets, uris, strict=True)]
        return _rows(heads, failures, FAILURES)

    def _write_manifest(
        self,
        name: str,
        tracks: pa.Table,
        parts: Mapping[str, list[list[dict[str, Any]]]],
        declared: Mapping[str, list[list[dict[str, Any]]]],
    ) -> None:
        entries = asset_entries(tracks, parts, declared, self.contents)
        text = "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        self.output.write(f"runs/{self.run_id}/manifest-parts/{name}.jsonl", text.encode())

    def _written(
        self, declared: Mapping[str, list[list[dict[str, Any]]]], blobs: list[list[dict[str, Any]]]
    ) -> dict[str, int]:
        """What went to the output beside the rows of `tracks` and ``failures``, which are counted anyway."""
        paths = [blob["path"].partition("/")[0] for row in blobs for blob in row]
        artifacts = {name: paths.count(name) for name in self.contents.artifacts}
        rows = {name: sum(map(len, found)) for name, found in declared.items()}
        return {**rows, **artifacts, "arrays": len(paths) - sum(artifacts.values())}

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
        own = process_facts(NAME)
        processes[f"{own['node']}:{own['pid']}"] = own
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


def _keys(table: pa.Table, kind: str) -> list[list[tuple[str, str]]]:
    """What each row really holds: an extractor that failed on it left its ``key@`` column null."""
    keys: list[list[tuple[str, str]]] = [[] for _ in range(table.num_rows)]
    for column in table.column_names:
        if column.startswith(f"{kind}@"):
            for row, key in zip(keys, table[column].to_pylist(), strict=True):
                if key is not None:
                    row.append((column.removeprefix(f"{kind}@"), key))
    return [sorted(row) for row in keys]


def _merged_status(update: Update, before: str | None, fresh: str, failed: bool, troubled: bool) -> str:
    """The status of a row that there was already.

    Args:
        before: its status then; None of a file without a row.
        fresh: what this run alone would say.
        failed: something failed in this run.
        troubled: failures of earlier runs remain.
    """
    if before is None or (update.todo is None and not update.kept):
        return fresh
    if update.kept:
        return "partial" if failed and before == "ok" else before
    return "partial" if failed or troubled else "ok"


class _Part:
    """The part that a table of rows becomes: what is there of it already, and which rows this run replaces."""

    def __init__(self, output: Output, table: pa.Table) -> None:
        self.output = output
        self.name = table["part"][0].as_py()
        known = table["known_asset"].to_pylist() if "known_asset" in table.column_names else [None]
        self.old = OldPart.read(output, self.name) if any(known) else OldPart()
        self.updates = _updates(table)
        elsewhere = table["elsewhere"].to_pylist() if "elsewhere" in table.column_names else []
        # A copy elsewhere may refer to the rows of a content that its own file has no longer.
        self.still_shared = frozenset(a for a, other in zip(known, elsewhere, strict=False) if a and other)
        self.still_used = set(self.still_shared)

    def settle(self, tracks: pa.Table) -> None:
        """Take note of what the part has in the end, and of what lies in it for files of other parts."""
        self.tracks = tracks
        self.still_used |= set(tracks["asset_id"].to_pylist())
        own = set() if self.old.tracks is None else set(self.old.tracks["asset_id"].to_pylist())
        for name in by_asset(self.output):
            table = self.old.tables.get(name)
            self.still_used |= set() if table is None else set(table["asset_id"].to_pylist()) - own

    def remove_superseded(self, tracks: pa.Table) -> None:
        """Remove the arrays and artifacts that rows of this part referred to and do not any more.

        Not those of a content that other files may have, whose rows refer to them, too.
        """
        if self.old.tracks is None:
            return
        for file in superseded_files(self.old.tracks, tracks, self.output.contents, self.still_shared):
            self.output.discard(file)

    def write(self, name: str, new: pa.Table) -> None:
        """Write one of the tables that go with `tracks`: the old rows that stay, and the new ones."""
        old = kept_rows(self.old, name, self.updates, self.output.contents, self.still_used)
        if old is not None and old.num_rows:
            # A run without a product does not know of which model the rows are that stay.
            said = {**(old.schema.metadata or {}), **(new.schema.metadata or {})}
            new = pa.concat_tables([conform(old, new.schema.with_metadata(said or None)), new])
        if name == "timings":
            new = timings_of(new, self.tracks)
        if new.num_rows:
            self.output.write_table(f"{name}/{self.name}", new)
        else:  # an attempt that died before `tracks` may have left one
            self.output.discard(f"{name}/{self.name}")


def _updates(table: pa.Table) -> list[Update]:
    wanted = ("uri", "asset_id", "known_asset", "todo", "kept")
    rows = table.select([c for c in wanted if c in table.column_names]).to_pylist()
    updates = []
    for number, row in enumerate(rows):
        kept, todo = bool(row.get("kept")), row.get("todo")
        asset = row["known_asset"] if kept else row["asset_id"]
        updates.append(Update(row["uri"], number, asset, None if todo is None else tuple(todo), kept))
    return updates


def _without_copies(table: pa.Table) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows to write, and the files whose content another file computes: they get its row once that is there."""
    if "copy_of" not in table.column_names or table["copy_of"].null_count == table.num_rows:
        return table, []
    mask = pc.is_valid(table["copy_of"])
    copied = table.filter(mask)
    rows = copied.select(["index", "asset_id", "size_bytes", "copy_of"]).to_pylist()
    copies = [{**row, "timings": t} for row, t in zip(rows, collect(copied, "timings"), strict=True)]
    return table.filter(pc.invert(mask)), copies


def _no_rows(copies: list[dict[str, Any]]) -> dict[str, Any]:
    empty: dict[str, Any] = {"indexes": [], "status": {}, "audio_s": 0.0, "bytes": 0, "failures": []}
    return {**empty, "fallbacks": [], "stages": {}, "processes": [], "write_s": 0.0, "copies": copies}


def _rows(heads: list[dict[str, Any]], found: list[list[dict[str, Any]]], schema: pa.Schema) -> pa.Table:
    rows = [{**head, **item} for head, items in zip(heads, found, strict=True) for item in items]
    return pa.Table.from_pylist(rows, schema=schema)


def _table_rows(table: pa.Table, name: str) -> list[list[dict[str, Any]]]:
    """Per track, the rows that it has of a declared table."""
    column = f"rows@{name}"
    if column not in table.column_names:
        return [[] for _ in range(table.num_rows)]
    return [found or [] for found in table[column].to_pylist()]


def _stage_sums(timings: list[list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    sums: dict[str, dict[str, float]] = {}
    for row in timings:
        for t in row:
            zeros = dict.fromkeys(("compute_s", "wait_s", "padding_weighted"), 0.0)
            counts = dict.fromkeys(("rows", "cache_hits", "gpu_peak_bytes"), 0)
            s = sums.setdefault(t["stage"], {**zeros, **counts, "device": t["device"]})
            s["compute_s"] += t["compute_s"]
            s["wait_s"] += t["wait_s"]
            s["rows"] += 1
            s["cache_hits"] += bool(t["cache_hit"])
            s["gpu_peak_bytes"] = max(s["gpu_peak_bytes"], t["gpu_peak_bytes"] or 0)
            s["padding_weighted"] += t["compute_s"] * t["padding_fraction"]
    return sums
