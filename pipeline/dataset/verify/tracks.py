"""Checks of ``tracks``, and the index of its rows that the checks of the other tables need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipeline.counting import plural
from pipeline.dataset.output import stem_path
from pipeline.dataset.tables.schemas import GONE
from pipeline.dataset.verify.files import Files
from pipeline.dataset.verify.findings import Edit, Finding, Findings
from pipeline.dataset.verify.ids import Columns, Lookup, digests
from pipeline.dataset.verify.parts import RERUN, Parts
from pipeline.dataset.verify.values import EMBEDDING, bad_embeddings, is_float, non_finite_rows, owner

STATUS = {"ok": 0, "partial": 1, "failed": 2, GONE: 3}
CLAP_COLUMNS = ("clap_embedding", "clap_windows", "clap_aggregate", "clap_model", "clap_similarity")
AGAIN = "the extractor's key leaves extractor_keys, so that the next run computes it again"


class Tracks:
    """What has to be known of every row: 47 bytes each, and 52 to look rows up by uri and by asset.

    ``rows`` has ``uri``, ``asset`` (digests), ``part`` (position in ``parts``), ``row``, ``run`` (position in
    ``runs``, which sorts by time), ``status``, ``clap`` (has windows with sound) and ``keyed`` (has
    the key of clap).
    """

    def __init__(self, reader: Parts, files: Files, findings: Findings) -> None:
        self.findings = findings
        self.files = files
        self.parts: list[str] = []
        seen: dict[str, int] = {}
        columns = Columns(
            uri="S16", asset="S16", part="u4", row="u4", run="u4", status="u1", clap="?", keyed="?"
        )
        for part, table in reader.read("tracks"):
            number = len(self.parts)
            self.parts.append(part)
            runs = [seen.setdefault(run or "", len(seen)) for run in table["run_id"].to_pylist()]
            windows = table["clap_windows"].to_pylist() if "clap_windows" in table.column_names else []
            columns.append(
                table.num_rows,
                uri=digests(table["uri"].to_pylist()),
                asset=digests(table["asset_id"].to_pylist()),
                part=number,
                row=np.arange(table.num_rows),
                run=runs,
                status=[STATUS.get(s, 0) for s in table["status"].to_pylist()],
                clap=[bool(w) for w in windows] if windows else False,
                keyed=["clap" in dict(keys or ()) for keys in table["extractor_keys"].to_pylist()],
            )
            self._check_values(part, table)
            self._check_files(part, table)
        self.rows = columns.table()
        self.runs = sorted(seen)
        place = {run: position for position, run in enumerate(self.runs)}
        ranks = np.array([place[run] for run in seen] or [0], dtype=np.uint32)
        self.rows["run"] = ranks[self.rows["run"]]
        self.by_uri, self.by_asset = Lookup(self.rows["uri"]), Lookup(self.rows["asset"])
        self.keyed = self.by_asset.running(self.rows["keyed"])
        self.nbytes = self.keyed.nbytes + self.rows.nbytes + self.by_uri.nbytes + self.by_asset.nbytes
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

    def _check_values(self, part: str, table: pa.Table) -> None:
        uris = table["uri"].to_pylist()
        for name in table.column_names:
            if name == EMBEDDING:
                for row, wrong in bad_embeddings(table[name]).items():
                    edit = Edit(part, row, forget="clap", null=CLAP_COLUMNS)
                    mend = f"clap columns become null; {AGAIN}"
                    said = f"embedding of {uris[row]} {wrong}"
                    self.findings.add(Finding("embedding", part, said, mend, edits=(edit,)))
            elif is_float(table.schema.field(name).type):
                for row in non_finite_rows(table[name]).tolist():
                    self._add_value(part, row, name, uris[row])

    def _add_value(self, part: str, row: int, name: str, uri: str) -> None:
        said, extractor = f"{name} of {uri} is NaN or infinite", owner(name)
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
                    self._add_file("blob", path, wrong, part, row, owner(name), null)
        for name in table.column_names:
            if name.startswith("stem_gain_"):
                stem = name.removeprefix("stem_gain_").removesuffix("_db")
                found = zip(table["asset_id"].to_pylist(), table[name].to_pylist(), strict=True)
                for row, (asset, gain) in enumerate(found):
                    if gain is not None:
                        path = stem_path(asset, stem)
                        wrong = self.files.wrong(path, None, written[row].get(path))
                        self._add_file("stem", path, wrong, part, row, "separation", (name,))

    def _add_file(
        self,
        noun: str,
        path: str,
        wrong: str | None,
        part: str,
        row: int,
        extractor: str | None,
        null: tuple[str, ...],
    ) -> None:
        if wrong is None:
            return
        kind = f"missing_{noun}" if wrong == "is not there" else f"broken_{noun}"
        said = f"{part}, row {row}: its file {wrong}"
        edit = Edit(part, row, forget=extractor or "", null=null)
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
