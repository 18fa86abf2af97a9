"""Checks of ``tracks``, and the index of its rows that the checks of the other tables need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipeline.counting import plural
from pipeline.dataset.tables.schemas import GONE
from pipeline.dataset.verify.files import Files
from pipeline.dataset.verify.findings import Edit, Finding, Findings
from pipeline.dataset.verify.ids import Columns, Lookup, digests
from pipeline.dataset.verify.parts import RERUN, Parts
from pipeline.dataset.verify.values import bad_embeddings, is_float, non_finite_rows

STATUS = {"ok": 0, "partial": 1, "failed": 2, GONE: 3}
AGAIN = "the extractor's key leaves extractor_keys, so that the next run computes it again"


class Tracks:
    """What has to be known of every row: 45 bytes each, 2 for each declared table, and 52 to look rows up by uri and by
    asset.

    ``rows`` has ``uri``, ``asset`` (digests), ``part`` (position in ``parts``), ``row``, ``run`` (position in
    ``runs``, which sorts by time), ``status``, and for each declared table ``has_<table>`` (the row says that it has
    rows there) and ``keyed_<table>`` (it has the key of what fills the table).
    """

    def __init__(self, reader: Parts, files: Files, findings: Findings) -> None:
        self.findings = findings
        self.files = files
        self.contents = reader.output.contents
        self.owners = self.contents.owners
        self.parts: list[str] = []
        seen: dict[str, int] = {}
        tables = self.contents.tables
        flags = {f"{kind}_{name}": "?" for name in tables for kind in ("has", "keyed")}
        columns = Columns(uri="S16", asset="S16", part="u4", row="u4", run="u4", status="u1", **flags)
        for part, table in reader.read("tracks"):
            number = len(self.parts)
            self.parts.append(part)
            runs = [seen.setdefault(run or "", len(seen)) for run in table["run_id"].to_pylist()]
            columns.append(
                table.num_rows,
                uri=digests(table["uri"].to_pylist()),
                asset=digests(table["asset_id"].to_pylist()),
                part=number,
                row=np.arange(table.num_rows),
                run=runs,
                status=[STATUS.get(s, 0) for s in table["status"].to_pylist()],
                **self._flags(table),
            )
            self._check_values(part, table)
            self._check_files(part, table)
        self.rows = columns.table()
        self.runs = sorted(seen)
        place = {run: position for position, run in enumerate(self.runs)}
        ranks = np.array([place[run] for run in seen] or [0], dtype=np.uint32)
        self.rows["run"] = ranks[self.rows["run"]]
        self.by_uri, self.by_asset = Lookup(self.rows["uri"]), Lookup(self.rows["asset"])
        self.keyed = {name: self.by_asset.running(self.rows[f"keyed_{name}"]) for name in tables}
        indexes = (self.rows, self.by_uri, self.by_asset, *self.keyed.values())
        self.nbytes = sum(index.nbytes for index in indexes)
        # Positions in `runs` of each part's newest row: which copy of an asset's rows is the newest.
        newest = np.zeros(len(self.parts), dtype=np.uint32)
        np.maximum.at(newest, self.rows["part"], self.rows["run"])
        self.part_run = {p.partition("/")[2]: int(run) for p, run in zip(self.parts, newest, strict=True)}

    def edits(self, rows: Iterable[int], forget: str | None, null: Sequence[str] = ()) -> tuple[Edit, ...]:
        """The change of these rows: an extractor forgotten and columns null; or the rows dropped."""
        return tuple(
            Edit(self.parts[r["part"]], int(r["row"]), forget is None, forget, tuple(null))
            for r in (self.rows[i] for i in rows)
        )

    def _flags(self, table: pa.Table) -> dict[str, list[bool] | bool]:
        found: dict[str, list[bool] | bool] = {}
        keys = [dict(keys or ()) for keys in table["extractor_keys"].to_pylist()]
        for name, declared in self.contents.tables.items():
            counted = declared.count is not None and declared.count in table.column_names
            found[f"has_{name}"] = [bool(n) for n in table[declared.count].to_pylist()] if counted else False
            filler = self.contents.filler(name).name
            found[f"keyed_{name}"] = [filler in own for own in keys]
        return found

    def columns_of(self, product: str) -> tuple[str, ...]:
        """The columns that a product fills."""
        known = self.contents.get(product)
        return () if known is None else known.names

    def _check_values(self, part: str, table: pa.Table) -> None:
        uris = table["uri"].to_pylist()
        vectors = {name for product in self.contents for name in product.unit_vectors}
        for name in table.column_names:
            if name in vectors:
                product = self.owners[name]
                for row, wrong in bad_embeddings(table[name]).items():
                    edit = Edit(part, row, forget=product, null=self.columns_of(product))
                    mend = f"{product} columns become null; {AGAIN}"
                    said = f"embedding of {uris[row]} {wrong}"
                    self.findings.add(Finding("embedding", part, said, mend, edits=(edit,)))
            elif is_float(table.schema.field(name).type):
                for row in non_finite_rows(table[name]).tolist():
                    self._add_value(part, row, name, uris[row])

    def _add_value(self, part: str, row: int, name: str, uri: str) -> None:
        said, extractor = f"{name} of {uri} is NaN or infinite", self.owners.get(name)
        if extractor is None:
            self.findings.add(Finding("not_finite", part, said, advice=RERUN))
            return
        edit = Edit(part, row, forget=extractor, null=(name,))
        self.findings.add(Finding("not_finite", part, said, f"becomes null; {AGAIN}", edits=(edit,)))

    def _check_files(self, part: str, table: pa.Table) -> None:
        known = (
            table["artifacts"].to_pylist() if "artifacts" in table.column_names else [None] * table.num_rows
        )
        written = [{a["path"]: (a["size_bytes"], a["sha256"]) for a in row or ()} for row in known]
        for name in table.column_names:
            if not name.endswith("_blob"):
                continue
            shape = f"{name.removesuffix('_blob')}_shape"
            shapes = table[shape].to_pylist() if shape in table.column_names else [None] * table.num_rows
            for row, path in enumerate(table[name].to_pylist()):
                if path is not None:
                    null = (name, shape) if shape in table.column_names else (name,)
                    wrong = self.files.wrong(path, shapes[row], written[row].get(path))
                    self._add_file(path, wrong, part, row, null)
        assets = table["asset_id"].to_pylist()
        for artifact in self.contents.artifacts.values():
            for name, file in artifact.files.items():
                values = table[name].to_pylist() if name in table.column_names else ()
                for row, value in enumerate(values):
                    for path in artifact.files_of(assets[row], file, value):
                        wrong = self.files.wrong(path, None, written[row].get(path))
                        self._add_file(path, wrong, part, row, (name,))

    def _add_file(self, path: str, wrong: str | None, part: str, row: int, null: tuple[str, ...]) -> None:
        """A finding where something is ``wrong``; ``null`` are the columns that say that the file is there."""
        if wrong is None:
            return
        noun = self.files.noun(path)
        kind = f"missing_{noun}" if wrong == "is not there" else f"broken_{noun}"
        said = f"{part}, row {row}: its file {wrong}"
        edit = Edit(part, row, forget=self.owners.get(null[0]) or "", null=null)
        self.findings.add(Finding(kind, path, said, f"{null[0]} becomes null; {AGAIN}", edits=(edit,)))

    def check_gone(self) -> None:
        """Rows of files that are there no longer; found only where they are to go."""
        for i in np.flatnonzero(self.rows["status"] == STATUS[GONE]).tolist():
            part = self.parts[self.rows["part"][i]]
            said = f"row {self.rows['row'][i]} is of a file that is there no longer"
            mend = "the row is removed, and then what only it referred to"
            self.findings.add(Finding("gone_track", part, said, mend, edits=self.edits([i], None)))

    def check_duplicates(self) -> None:
        """Uris with more than one row: the newest run's stays."""
        for key in self.by_uri.repeated():
            rows = self.by_uri.rows(key)
            newest = max(rows, key=lambda i: (self.rows["run"][i], self.parts[self.rows["part"][i]]))
            edits = self.edits([i for i in rows if i != newest], None)
            keep = self.parts[self.rows["part"][newest]]
            said = f"{plural(len(rows), 'row')} with the uri of row {self.rows['row'][newest]} of {keep}"
            mend = f"the newest run's row ({self.runs[self.rows['run'][newest]]}) stays"
            self.findings.add(Finding("duplicate_track", edits[0].part, said, mend, edits=edits))
