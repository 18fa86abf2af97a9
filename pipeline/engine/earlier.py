"""What earlier runs found out of a track, for a stage that reads it: of the tables, and so not computed twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.contents import Product, Table
from pipeline.dataset.output import Output, read_part

HELD = 8
"""Parts of tables that are kept in memory: files of one part come one after the other."""


class Earlier:
    """Reads rows of an output. Picklable: every process opens its own connection.

    Args:
        output: that the run writes.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._parts: OrderedDict[str, pa.Table | None] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_output": self._output, "_parts": OrderedDict()}

    def found(self, part: str, uri: str, asset_id: str, products: Iterable[Product]) -> dict[str, Any] | None:
        """The columns of products and ``rows@<table>``, as they travel; None where one of them is not there.

        Args:
            part: that has the row.
            uri, asset_id: of the row.
        """
        tracks = self._part(f"tracks/{part}")
        if tracks is None:
            return None
        mine = pc.and_(pc.equal(tracks["uri"], uri), pc.equal(tracks["asset_id"], asset_id))
        rows = tracks.filter(mine)
        if not rows.num_rows:
            return None
        row = rows.slice(0, 1).to_pylist()[0]
        have, values = dict(row["extractor_keys"] or ()), {}
        for product in products:
            if product.name not in have:
                return None
            values |= {name: row.get(name) for name in product.names}
            values[f"key@{product.name}"] = have[product.name]
            for table in product.tables:
                found = self._rows(table, part, asset_id, expected=bool(row.get(table.count)))
                if found is None:
                    return None
                values[f"rows@{table.name}"] = found
        return values

    def _rows(self, table: Table, part: str, asset_id: str, *, expected: bool) -> list[dict[str, Any]] | None:
        """The rows of a content; they lie in another part where a file there was the first to have it."""
        names = [f"{table.name}/{part}"]
        if expected:
            names += [name for name in self._output.parts(table.name) if name not in names]
        for name in names:
            there = self._part(name)
            rows = [] if there is None else there.filter(pc.equal(there["asset_id"], asset_id)).to_pylist()
            if rows or not expected:
                return [{f.name: row.get(f.name) for f in table.fields} for row in rows]
        return None

    def _part(self, name: str) -> pa.Table | None:
        if name not in self._parts:
            try:
                with self._output.fs.open(self._output.path(name), "rb") as handle:
                    self._parts[name] = read_part(handle)
            except FileNotFoundError:
                self._parts[name] = None
            while len(self._parts) > HELD:
                self._parts.popitem(last=False)
        return self._parts[name]
