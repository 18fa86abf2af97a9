"""What is left to do: the listing against the rows that are there, by content and by extractor key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.tables.row_index import State
from pipeline.engine.decode_key import chosen_stream
from pipeline.engine.packing import PlannedFile

DECODE = "decode"


@dataclass
class WorkPlan:
    """What a run has to do.

    Args:
        files: something is to be computed of these.
        done: how many files need nothing.
        failed: how many of those are recorded as failed, and are not tried again.
        owners: contents that a file of ``files`` may turn out to have: asset id → uri of the row with it.
    """

    files: list[PlannedFile] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    owners: dict[str, str] = field(default_factory=dict)


def plan_work(
    items: Sequence[SourceItem],
    state: State,
    keys: Mapping[str, str],
    retry: Collection[str] = (),
    trust_listing: bool = True,
) -> WorkPlan:
    """Compare.

    A file is taken as unchanged if its size and its version (ETag or time of the last change) are those in its row;
    any other is read and compared by content. What failed before is not tried again while its key is the same.

    Args:
        items: the listing.
        state: the rows that are there.
        keys: extractor → key, of all that is wanted, and that of ``decode``.
        retry: uris whose failures are tried again.
        trust_listing: false compares every file by content.
    """
    retry = frozenset(retry)
    row, known, same = _match(items, state)
    if not trust_listing:
        same[:] = False
    missing = [missing_keys(have, failed, keys) for have, failed in state.keysets]
    again = [missing_keys(have, {}, keys) for have, _ in state.keysets]
    keyset = state.rows["keyset"].to_numpy()
    settled = np.array([m == () for m in missing] or [False])
    skip = np.zeros(len(items), bool)
    skip[known] = same[known] & settled[keyset[row[known]]]
    plan = WorkPlan()
    assets, parts = state.rows["asset_id"], state.rows["part"]
    for index in np.flatnonzero(~skip) if not retry else range(len(items)):
        item = items[index]
        if not known[index]:
            plan.files.append(PlannedFile(int(index), item))
            continue
        place = int(row[index])
        retried = item.uri in retry
        if skip[index] and not retried:
            continue
        of_keyset = (again if retried else missing)[keyset[place]]
        hopeless = item.problem is not None and DECODE in state.keysets[keyset[place]][1]
        if (hopeless or (same[index] and of_keyset == ())) and not retried:
            continue
        part = state.parts[parts[place].as_py()]
        plan.files.append(PlannedFile(int(index), item, part, assets[place].as_py(), of_keyset))
    plan.done = len(items) - len(plan.files)
    settled_rows = known.copy()
    settled_rows[[f.index for f in plan.files]] = False
    of_settled = state.rows["status"].take(pa.array(row[settled_rows]))
    plan.failed = pc.sum(pc.equal(of_settled, "failed")).as_py() or 0
    _mark_elsewhere(plan, state, same)
    _share(plan, state)
    return plan


def _match(items: Sequence[SourceItem], state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per item: its row, whether it has one, and whether the listing says that its content is that of the row."""
    uris = pa.array([i.uri for i in items], pa.string())
    found = pc.index_in(uris, value_set=state.rows["uri"].combine_chunks())
    known = np.asarray(found.is_valid())
    row = np.asarray(found.fill_null(0), dtype=np.int64)
    same = np.zeros(len(items), bool)
    if known.any():
        rows = state.rows.take(pa.array(row))
        sizes = pc.equal(pa.array([i.size_bytes for i in items], pa.int64()), rows["size_bytes"])
        versions = pc.equal(pa.array([i.version for i in items], pa.string()), rows["source_version"])
        same = np.asarray(pc.and_(sizes, versions).fill_null(False).combine_chunks()) & known
    return row, known, same


def missing_keys(
    have: Mapping[str, str], failed: Mapping[str, str], keys: Mapping[str, str]
) -> tuple[str, ...] | None:
    """What of ``keys`` is not there; empty if nothing is to be done, None if all of it."""
    if failed.get(DECODE) == keys.get(DECODE) and DECODE in failed:
        return ()
    # Of another sound track than is wanted now.
    if chosen_stream(have.get(DECODE)) != chosen_stream(keys.get(DECODE)):
        return None
    wanted = [name for name in keys if name != DECODE]
    left = tuple(n for n in wanted if keys[n] not in (have.get(n), failed.get(n)))
    if DECODE in failed or (not have and left and len(left) == len(wanted) and not failed):
        return None
    return left


def _mark_elsewhere(plan: WorkPlan, state: State, same: np.ndarray) -> None:
    """Mark the files whose known content another row has, too, or may get in this run."""
    known = pa.array([f.known_asset for f in plan.files if f.known_asset is not None], pa.string())
    rows = state.rows["asset_id"].filter(pc.is_in(state.rows["asset_id"], value_set=known))
    often = {c["values"] for c in pc.value_counts(rows).to_pylist() if c["counts"] > 1}
    passed_on = _passed_on(plan, state, same)
    for number, file in enumerate(plan.files):
        if file.known_asset in often or file.item.uri in passed_on:
            plan.files[number] = replace(file, elsewhere=True)


def _passed_on(plan: WorkPlan, state: State, same: np.ndarray) -> set[str]:
    """The files that may have lost their content to another one of the work: that has the size which it had.

    Which of the two is written first nobody knows. What belongs to the content must outlive the row that loses it.
    """
    changed = [f for f in plan.files if not same[f.index]]
    if len(changed) < 2 or not any(f.part for f in changed):
        return set()
    sizes = Counter(f.item.size_bytes for f in changed)
    uris = pa.array([f.item.uri for f in changed], pa.string())
    before = state.rows["size_bytes"].take(pc.index_in(uris, value_set=state.rows["uri"].combine_chunks()))
    unknown = sizes.pop(None, 0)
    found = set()
    for file, size in zip(changed, before.to_pylist(), strict=True):
        others = sizes[size] - (file.item.size_bytes == size) + unknown - (file.item.size_bytes is None)
        if file.part is not None and (others > 0 or size is None):
            found.add(file.item.uri)
    return found


def _share(plan: WorkPlan, state: State) -> None:
    """Mark the files that may have the content of another one: those that share their size with it."""
    sizes = [f.item.size_bytes for f in plan.files]
    known = np.asarray(state.rows["size_bytes"].fill_null(-1))
    planned = np.array([-1 if s is None else s for s in sizes], np.int64)
    values, counts = np.unique(planned, return_counts=True)
    often = set(values[counts > 1].tolist()) | {-1}
    there = set(np.intersect1d(values, known).tolist())
    own_row = {f.item.uri for f in plan.files if f.part is not None}
    by_size: dict[int, int] = {}
    if there:
        for size in known[np.isin(known, values)].tolist():
            by_size[size] = by_size.get(size, 0) + 1
    sized = zip(*(state.rows[c].to_pylist() for c in ("uri", "size_bytes")), strict=True) if own_row else ()
    before = {uri: size for uri, size in sized if uri in own_row}
    for number, (file, size) in enumerate(zip(plan.files, planned.tolist(), strict=True)):
        others = by_size.get(size, 0) - (before.get(file.item.uri) == size)  # without its own row
        if size in often or others > 0:
            plan.files[number] = replace(file, shared=True)
    if there:
        candidates = state.rows.filter(pa.array(np.isin(known, values) & (known >= 0)))
        for uri, asset, number in zip(
            *(candidates[c].to_pylist() for c in ("uri", "asset_id", "keyset")), strict=True
        ):
            if DECODE in state.keysets[number][1]:
                continue
            # Better one that this run brings up to date.
            if asset not in plan.owners or uri in own_row:
                plan.owners[asset] = uri
