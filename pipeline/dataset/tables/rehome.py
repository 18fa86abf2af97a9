"""Rows of ``timings`` and of declared tables belong to a content and lie in a part that has a file of it.

They are written into the part of the file that was computed. Once that file has another content, or is gone, they move
to a part that has another file with the old one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.output import Output
from pipeline.dataset.tables.merge import among, conform, referred
from pipeline.dataset.tables.rewrite import Held, by_asset, read_if_there, write_or_discard
from pipeline.dataset.tables.row_index import State


def rehome(output: Output, names: Collection[str], state: State) -> None:
    """Move what lies in parts ``names`` and is of contents that only files of other parts have; of none, it goes.

    Args:
        state: of the output as it is now.
    """
    homes = _homes(state)
    for name in sorted(names):
        for table in by_asset(output):
            there = read_if_there(output, f"{table}/{name}")
            if there is None:
                continue
            away = [asset for asset in set(there["asset_id"].to_pylist()) if name not in homes[asset]]
            mask = among(there["asset_id"], away)
            moving: dict[str, list[str]] = defaultdict(list)
            for asset in away:
                if homes[asset]:
                    moving[homes[asset][0]].append(asset)
            for home, assets in sorted(moving.items()):
                # Computed anew there, a content may have none.
                held = Held.by(output, home, assets)
                rows = held.others(table, there.filter(among(there["asset_id"], assets)))
                _take_in(output, f"{table}/{home}", rows)
            if away:
                write_or_discard(output, f"{table}/{name}", there.filter(pc.invert(mask)))


def sweep(output: Output, assets: Collection[str], state: State) -> None:
    """Remove the arrays and artifacts of ``assets`` that no row refers to any more, whichever part it is in.

    A part alone cannot know that of a content that other parts have, too.
    """
    homes, contents = _homes(state), output.contents
    for asset in sorted(assets):
        rows = [read_if_there(output, f"tracks/{name}") for name in set(homes[asset])]
        used = set().union(
            *(referred(t.filter(pc.equal(t["asset_id"], asset)), contents) for t in rows if t is not None)
        )
        for kind, suffix in output.folders().items():
            folder = output.path(f"{kind}/{asset[:2]}/{asset}")
            for path in output.fs.ls(folder, detail=False) if output.fs.exists(folder) else ():
                name = f"{kind}/{asset[:2]}/{asset}/{str(path).rsplit('/', 1)[-1]}"
                if name.endswith(suffix) and name not in used:
                    output.discard(name)


def _homes(state: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for asset, part in zip(*(state.rows[c].to_pylist() for c in ("asset_id", "part")), strict=True):
        found[asset].append(state.parts[part])
    return found


def _take_in(output: Output, part: str, rows: pa.Table) -> None:
    """Add ``rows`` to a part."""
    if not rows.num_rows:
        return
    own = read_if_there(output, part)
    output.write_table(part, rows if own is None else pa.concat_tables([own, conform(rows, own.schema)]))
