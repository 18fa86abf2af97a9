"""Checks of ``timings``, ``failures`` and the declared tables against the index of ``tracks``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.commands import as_typed
from pipeline.counting import plural
from pipeline.dataset.contents import Contents, Product, Table
from pipeline.dataset.tables.schemas import GONE
from pipeline.dataset.verify.findings import MOST, Edit, Finding, Findings
from pipeline.dataset.verify.ids import Columns, Lookup, digests
from pipeline.dataset.verify.parts import RERUN, Parts
from pipeline.dataset.verify.tracks import AGAIN, STATUS, Tracks
from pipeline.dataset.verify.values import bad_embeddings, is_float, non_finite_rows

DROP = "the rows are removed"


class OtherTables:
    """The tables whose rows belong to a track. 21 bytes per asset and part (37 for timings), 29 per failure."""

    def __init__(self, parts: Parts, tracks: Tracks, findings: Findings) -> None:
        self.parts, self.tracks, self.findings = parts, tracks, findings
        self.whole = not parts.broken("tracks")  # else a row without a track may have one
        self.nbytes = 0
        # run → stage → [seconds, rows]
        self.spent: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0]))

    def check_declared(self, declared: Table) -> None:
        """Bad embeddings and values, repeated rows, rows of no track, tracks that say they have rows and have none."""
        name = declared.name
        filler = self.tracks.contents.filler(name)
        index = _Assets(name, declared.key)
        for part, table in self.parts.read(name):
            _, ids = index.add(part, table)
            self._check_trackless(name, part, table, index)
            self._check_stale(part, index, filler)
            wrong: dict[int, str] = {}
            for column in declared.unit_vectors:
                wrong |= bad_embeddings(table[column])
            for column in (f.name for f in table.schema if is_float(f.type)):
                if column not in declared.unit_vectors:
                    bad = non_finite_rows(table[column]).tolist()
                    wrong |= {row: f"has {column} NaN or infinite" for row in bad}
            said = {ids[row]: text for row, text in reversed(wrong.items())}  # one finding per asset
            for asset, text in said.items():
                kind = f"{declared.noun}_value"
                self._forget(
                    kind, part, f"a {declared.noun} of {asset} {text}", filler, [i == asset for i in ids]
                )
        self.nbytes += index.table().nbytes
        self._check_repeats(index, lambda asset: 1, f"duplicate_{declared.noun}")
        if self.parts.broken(name):
            return
        there = self.tracks.rows[f"has_{name}"]
        lacking = np.flatnonzero(there)[~np.isin(self.tracks.rows["asset"][there], index.table()["asset"])]
        for row in lacking.tolist():
            part = self.tracks.parts[self.tracks.rows["part"][row]]
            said = f"row {self.tracks.rows['row'][row]} has {declared.count} and no {name}"
            mend = f"{filler.name} columns become null; {AGAIN}"
            edits = self.tracks.edits([row], filler.name, filler.names)
            self.findings.add(Finding(f"missing_{name}", part, said, mend, edits=edits))

    def _forget(self, kind: str, part: str, said: str, filler: Product, theirs: Sequence[bool]) -> None:
        """A finding that takes the rows of a part of which ``theirs`` is true, and what their tracks have of
        ``filler``."""
        asset = said.split(" of ", 1)[1].split(" ", 1)[0]
        [key] = digests([asset])
        edits = self.tracks.edits(self.tracks.by_asset.rows(key).tolist(), filler.name, filler.names)
        edits += tuple(Edit(part, row, drop=True) for row, found in enumerate(theirs) if found)
        rows = part.partition("/")[0]
        mend = f"{filler.name} columns become null and the {rows} of the asset are removed; {AGAIN}"
        self.findings.add(Finding(kind, part, said, mend, edits=edits))

    def check_timings(self) -> None:
        """Times that cannot be, rows of no track, repeated stages, tracks that were never decoded."""
        index = _Assets("timings", "stage")
        decoded = []
        for part, table in self.parts.read("timings"):
            assets, ids = index.add(part, table)
            self._check_trackless("timings", part, table, index)
            for name in (f.name for f in table.schema if is_float(f.type)):
                for row in non_finite_rows(table[name]).tolist():
                    self._bad_time(part, f"{name} of {ids[row]} is NaN or infinite")
            seconds, stages = table["compute_s"].to_pylist(), table["stage"].to_pylist()
            for row, spent in enumerate(seconds):
                if spent is None or spent < 0:
                    self._bad_time(part, f"compute_s of {ids[row]} in {stages[row]} is {spent}")
            run = self.tracks.part_run.get(part.partition("/")[2], 0)
            for stage, spent in zip(stages, seconds, strict=True):
                total = self.spent[run][stage]
                total[0], total[1] = total[0] + (spent or 0.0), total[1] + 1
            rows = [row for row, stage in enumerate(stages) if stage == "decode"]
            decoded.append(np.unique(assets[rows]) if rows else np.empty(0, "S16"))
        self.nbytes += index.table().nbytes + sum(found.nbytes for found in decoded)
        self._check_repeats(index, lambda key: self.tracks.by_asset.rows(key).size, "duplicate_timing")
        if self.parts.broken("timings"):
            return
        rows = self.tracks.rows
        known = np.concatenate(decoded) if decoded else np.empty(0, "S16")
        alive = ~np.isin(rows["status"], (STATUS["failed"], STATUS[GONE]))
        for row in np.flatnonzero(alive)[~np.isin(rows["asset"][alive], known)].tolist():
            part = self.tracks.parts[rows["part"][row]]
            said = f"row {rows['row'][row]} has no timing of its decode"
            advice = "only its cost is unknown; output.overwrite=true measures all of it again"
            self.findings.add(Finding("missing_timing", part, said, advice=advice))

    def _bad_time(self, part: str, said: str) -> None:
        advice = "only its cost is wrong; output.overwrite=true measures all of it again"
        self.findings.add(Finding("bad_timing", part, said, advice=advice))

    def check_failures(self) -> None:
        """Failures of no track, and rows whose status says something else than their failures."""
        columns = Columns(uri="S16", part="u4", row="u4", run="u4", whole="?")
        parts: list[str] = []
        place = {run: number for number, run in enumerate(self.tracks.runs)}
        for part, table in self.parts.read("failures"):
            columns.append(
                table.num_rows,
                uri=digests(table["uri"].to_pylist()),
                part=len(parts),
                row=np.arange(table.num_rows),
                run=[place.get(run, 0) for run in table["run_id"].to_pylist()],
                whole=[
                    stage == "decode" or bool(died)
                    for stage, died in zip(table["stage"].to_pylist(), _deaths(table), strict=True)
                ],
            )
            parts.append(part)
        found = columns.table()
        self.nbytes += found.nbytes
        at = self.tracks.by_uri.count(found["uri"])
        for row in found[at == 0] if self.whole else ():
            edit = Edit(parts[row["part"]], int(row["row"]), drop=True)
            said = f"row {row['row']} is of no track"
            self.findings.add(Finding("failure_without_track", parts[row["part"]], said, DROP, edits=(edit,)))
        self._check_status(found, parts)

    def _check_status(self, found: np.ndarray, parts: Sequence[str]) -> None:
        rows = self.tracks.rows
        by_uri = Lookup(found["uri"])
        failed = np.isin(rows["uri"], found["uri"])
        without_values = np.isin(rows["uri"], found["uri"][found["whole"]])
        if not self.parts.broken("failures"):
            troubled = np.isin(rows["status"], (STATUS["partial"], STATUS["failed"]))
            lacking = (troubled & ~failed) | ((rows["status"] == STATUS["failed"]) & failed & ~without_values)
            self._add_unexplained(rows[lacking])
        for i in np.flatnonzero((rows["status"] == STATUS["ok"]) & failed).tolist():
            own = found[by_uri.rows(rows["uri"][i])]
            part = self.tracks.parts[rows["part"][i]]
            said = f"row {rows['row'][i]} is ok and has {plural(len(own), 'failure')}"
            old = bool((own["run"] < rows["run"][i]).all())
            edits = tuple(Edit(parts[r["part"]], int(r["row"]), drop=True) for r in own) if old else ()
            mend = "the failures of an older run are removed" if old else None
            self.findings.add(
                Finding("failure_of_ok_track", part, said, mend, "" if old else RERUN, edits=edits)
            )

    def _add_unexplained(self, rows: np.ndarray) -> None:
        """Rows that are not ok, and no failure says why. Mended by saying that the reason is lost: then it is counted,
        and ``failures.py retry=true`` tries it again."""
        wanted: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            wanted[self.tracks.parts[row["part"]]].append(int(row["row"]))
        names = ("asset_id", "uri", "run_id", "status", "failed_keys")
        mend = as_typed(
            "a failure that says that its reason is lost; python jobs/failures.py retry=true tries it again"
        )
        for part, table in self.parts.read("tracks", only=set(wanted)):
            heads = table.select([n for n in names if n in table.column_names]).take(wanted[part]).to_pylist()
            for number, head in zip(wanted[part], heads, strict=True):
                said = f"row {number} is {head['status']} and no failure says why"
                edit = Edit(part, number, failures=tuple(_lost_failures(head, self.tracks.contents)))
                self.findings.add(Finding("status_without_failure", part, said, mend, edits=(edit,)))

    def _check_trackless(self, kind: str, part: str, table: pa.Table, index: _Assets) -> None:
        if not self.whole or not table.num_rows:
            return
        rows = np.flatnonzero(self.tracks.by_asset.count(index.last) == 0).tolist()
        if rows:
            edits = tuple(Edit(part, row, drop=True) for row in rows)
            said = f"{plural(len(rows), 'row')} of no track"
            self.findings.add(Finding(f"{kind}_without_track", part, said, DROP, edits=edits))

    def _check_stale(self, part: str, index: _Assets, filler: Product) -> None:
        """Rows of a declared table whose tracks lost what fills it: no row of the asset has its key."""
        by_asset = self.tracks.by_asset
        known = by_asset.count(index.last) > 0
        marked = by_asset.marked(index.last, self.tracks.keyed[index.name])
        stale = np.flatnonzero(known & (marked == 0)).tolist()
        if stale and self.whole:
            edits = tuple(Edit(part, row, drop=True) for row in stale)
            said = f"{plural(len(stale), 'row')} of tracks without {filler.name}"
            self.findings.add(Finding(f"stale_{index.name}", part, said, DROP, edits=edits))

    def _check_repeats(self, index: _Assets, allowed: Callable[[bytes], int], kind: str) -> None:
        """More rows of an asset with one key than ``allowed``: those beside a file of it stay, the newest first."""
        column = index.key
        suspects = index.suspects(allowed)
        if not suspects:
            return
        # Their rows are held in memory: those beyond come in the next round.
        suspects = set(sorted(suspects)[:MOST])
        held: dict[tuple[bytes, object], list[tuple[bool, int, str, int]]] = defaultdict(list)
        homes = {key: {self.tracks.parts[n] for n in self._parts_with(key)} for key in suspects}
        for part, table in self.parts.read(index.name, only=index.parts_of(suspects)):
            keys = digests(table["asset_id"].to_pylist()).tolist()
            run = self.tracks.part_run.get(part.partition("/")[2], 0)
            for row, (key, value) in enumerate(zip(keys, table[column].to_pylist(), strict=True)):
                if key in suspects:
                    away = f"tracks/{part.partition('/')[2]}" not in homes[key]
                    held[key, value].append((away, -run, part, row))
        extra: dict[bytes, list[Edit]] = defaultdict(list)
        for (key, _), places in held.items():
            spare = sorted(places)[max(1, allowed(key)) :]
            if spare:
                extra[key] += [Edit(part, row, drop=True) for _, _, part, row in spare]
        for edits in extra.values():
            said = f"{plural(len(edits), 'row')} with the (asset, {column}) of others, from row {edits[0].row} on"
            mend = "the newest run's rows stay"
            self.findings.add(Finding(kind, edits[0].part, said, mend, edits=tuple(edits)))

    def _parts_with(self, asset: bytes) -> list[int]:
        """Numbers of the parts of `tracks` that have a row of an asset."""
        return self.tracks.rows["part"][self.tracks.by_asset.rows(asset)].tolist()


def _deaths(table: pa.Table) -> list[bool | None]:
    """Whether each failure took its process with it; tables of other tools may not say."""
    return (
        table["worker_died"].to_pylist() if "worker_died" in table.column_names else [None] * table.num_rows
    )


def _lost_failures(track: Mapping[str, Any], contents: Contents) -> Iterator[dict[str, Any]]:
    """Rows of ``failures`` in the place of those that are lost, one for each extractor that failed."""
    failed = dict(track.get("failed_keys") or ())
    if track["status"] == "failed" or not failed:
        failed = {"decode": failed.get("decode")}
    for name, key in sorted(failed.items()):
        yield {
            **{column: track[column] for column in ("asset_id", "uri", "run_id")},
            "stage": contents.timed(name),
            "error_class": "ReasonLost",
            "message": "it failed, and the row that said why is lost",
            "extractor_key": key,
        }


class _Assets:
    """Which assets a table has rows of, in which parts: 21 bytes per asset and part."""

    def __init__(self, name: str, key: str) -> None:
        self.name, self.key = name, key
        self._columns = Columns(asset="S16", part="u4", again="u1")
        self._parts: list[str] = []
        self.last = np.empty(0, "S16")

    def add(self, part: str, table: pa.Table) -> tuple[np.ndarray, list[str]]:
        """Take in a part; return the digest and the id of each of its rows."""
        ids = table["asset_id"].to_pylist()
        self.last = digests(ids)
        groups = table.group_by(["asset_id", self.key]).aggregate([([], "count_all")])
        most: dict[str, int] = {}
        for asset, count in zip(groups["asset_id"].to_pylist(), groups["count_all"].to_pylist(), strict=True):
            most[asset] = max(most.get(asset, 0), count)
        self._columns.append(
            len(most), asset=digests(most), part=len(self._parts), again=[min(n, 255) for n in most.values()]
        )
        self._parts.append(part)
        return self.last, ids

    def table(self) -> np.ndarray:
        """``asset``, ``part``, and ``again``: the most rows of one key there (255 for more)."""
        return self._columns.table()

    def suspects(self, allowed: Callable[[bytes], int]) -> set[bytes]:
        """Assets that may have a row too many: in several parts, or repeated in one."""
        rows = self.table()
        names, inverse = np.unique(rows["asset"], return_inverse=True)
        totals = np.bincount(inverse, rows["again"], minlength=len(names))
        return {
            key for key in names[totals > 1].tolist() if totals[np.searchsorted(names, key)] > allowed(key)
        }

    def parts_of(self, assets: set[bytes]) -> set[str]:
        """The parts that have rows of ``assets``."""
        rows = self.table()
        found = np.isin(rows["asset"], np.array(sorted(assets), dtype="S16"))
        return {self._parts[number] for number in np.unique(rows["part"][found])}
