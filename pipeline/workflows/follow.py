"""Rows of one content agree: what a run computed of one file goes into the rows of others with the same content.

A run over a part of the source, or of fewer files, sees some of them only. Windows, times and stems belong to the
content, and would be those of another key than the rows of the others say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.output import Output
from pipeline.dataset.tables.failures import status_of
from pipeline.dataset.tables.merge import OldPart, Update, among, conform, kept_rows, merge_tracks, replaced
from pipeline.dataset.tables.rewrite import Held, by_asset, failures_of, read_if_there, write_or_discard
from pipeline.dataset.tables.row_index import KEYS, State
from pipeline.dataset.tables.schemas import FAILURES, GONE

FAILED = "failed_keys"


@dataclass(frozen=True)
class _Leader:
    """The newest row of a content, and its failures."""

    row: pa.Table
    failures: pa.Table

    @property
    def keys(self) -> dict[str, str]:
        """Extractor → key, of what it holds and of what failed."""
        return {**dict(self.row[FAILED][0].as_py() or ()), **dict(self.row[KEYS][0].as_py() or ())}


def follow(output: Output, assets: Collection[str], run_id: str, state: State) -> None:
    """Bring all rows of ``assets`` to what the rows of run ``run_id`` say.

    Args:
        state: of the output as it is now.
    """
    rows = state.rows.filter(among(state.rows["asset_id"], assets))
    keysets, parts = defaultdict(set), defaultdict(set)
    for asset, part, keyset in zip(
        *(rows[c].to_pylist() for c in ("asset_id", "part", "keyset")), strict=True
    ):
        keysets[asset].add(keyset)
        parts[state.parts[part]].add(asset)
    apart = {asset for asset, found in keysets.items() if len(found) > 1}
    leaders: dict[str, _Leader] = {}
    held = Held()
    own: dict[str, set[str]] = {}
    for name in sorted(parts):
        found = _leaders(output, name, parts[name], run_id)
        mine = Held.by(output, name, found)
        # Where the ledger was lost, equal files were computed more than once.
        _let_go(output, name, (mine & held).of(found))
        held |= mine
        for asset, leader in found.items():
            if asset not in leaders or len(leader.keys) > len(leaders[asset].keys):
                leaders[asset] = leader
        own[name] = set(found)
    for name in sorted(parts):
        behind = {asset: leaders[asset] for asset in parts[name] & leaders.keys() & apart}
        if behind:
            _bring_up(output, name, behind, run_id)
        _let_go(output, name, held.of(parts[name] - own[name]))


def _let_go(output: Output, name: str, held: Held) -> None:
    """Take out of a part the windows and times that a part of this run has."""
    for table in by_asset(output):
        there = read_if_there(output, f"{table}/{name}")
        left = None if there is None else held.others(table, there)
        if left is not None and left.num_rows < there.num_rows:
            write_or_discard(output, f"{table}/{name}", left)


def _leaders(output: Output, name: str, assets: Collection[str], run_id: str) -> dict[str, _Leader]:
    table = read_if_there(output, f"tracks/{name}")
    failures = failures_of(output, name)
    found = {}
    heads = zip(*(table[c].to_pylist() for c in ("asset_id", "uri", "run_id", "status")), strict=True)
    for number, (asset, uri, run, status) in enumerate(heads):
        if asset in assets and run == run_id and status != GONE:
            own = failures.filter(pc.equal(failures["uri"], uri))
            found[asset] = _Leader(table.slice(number, 1), own)
    return found


def _bring_up(output: Output, name: str, leaders: Mapping[str, _Leader], run_id: str) -> None:
    """Write a part anew in which files of the leaders' contents may have older values."""
    contents = output.contents
    part = OldPart.read(output, name)
    names = ("asset_id", "uri", "status", "source_version", KEYS, FAILED)
    updates: list[Update] = []
    new: list[pa.Table] = []
    failures: list[pa.Table] = []
    for row in part.tracks.select(names).to_pylist():
        leader = leaders.get(row["asset_id"])
        have = {**dict(row[FAILED] or ()), **dict(row[KEYS] or ())}
        todo = () if leader is None else tuple(n for n, key in leader.keys.items() if have.get(n) != key)
        if not todo:
            continue
        update = Update(row["uri"], len(updates), row["asset_id"], todo)
        updates.append(update)
        said = leader.row["fallbacks"][0].as_py() or ()
        taken = [[f for f in said if update.takes_back(f, contents)]]
        new.append(_of_leader(leader.row, row, update, {"run_id": [run_id], "fallbacks": taken}))
        own = leader.failures.filter(
            pa.array([update.redone(s, contents) for s in leader.failures["stage"].to_pylist()], pa.bool_())
        )
        failures.append(
            replaced(own, {"uri": [row["uri"]] * own.num_rows, "run_id": [run_id] * own.num_rows})
        )
    if not updates:
        return
    merged = merge_tracks(
        part.tracks, pa.concat_tables(new, promote_options="permissive"), updates, contents
    ).table
    left = kept_rows(part, "failures", updates, contents)
    own = pa.concat_tables([*([] if left is None else [conform(left, FAILURES)]), *failures])
    status = _status(merged, own, {u.uri for u in updates})
    write_or_discard(output, f"failures/{name}", own)
    output.write_table(f"tracks/{name}", replaced(merged, {"status": status}))


def _of_leader(
    leader: pa.Table, row: Mapping[str, Any], update: Update, own: Mapping[str, list[Any]]
) -> pa.Table:
    """The leader's row under another name, with the keys of what is taken over and with ``own`` values."""
    keys = {
        name: [[(k, v) for k, v in leader[name][0].as_py() or () if k in (update.todo or ())]]
        for name in (KEYS, FAILED)
    }
    about = {"uri": [row["uri"]], "source_version": [row["source_version"]]}
    return replaced(leader, {**keys, **about, **own})


def _status(tracks: pa.Table, failures: pa.Table, changed: Collection[str]) -> list[str]:
    of_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in failures.to_pylist():
        of_file[row["uri"]].append(row)
    heads = zip(*(tracks[c].to_pylist() for c in ("uri", "status")), strict=True)
    return [status_of(of_file[uri]) if uri in changed and was != GONE else was for uri, was in heads]
