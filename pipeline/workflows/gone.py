"""Files that are there no longer: their rows are marked or dropped, and a file of another name takes them over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.sound_tracks import file_of
from pipeline.dataset.tables.failures import status_of
from pipeline.dataset.tables.merge import among, replaced
from pipeline.dataset.tables.rehome import rehome
from pipeline.dataset.tables.rewrite import failures_of, read_if_there, rewrite_part
from pipeline.dataset.tables.row_index import State, read_state
from pipeline.dataset.tables.schemas import GONE

KEEP, MARK, DROP = "keep", "mark", "drop"
EXAMPLES = 3


def gone_uris(items: Sequence[SourceItem], state: State, covers: Callable[[str], bool]) -> list[str]:
    """The files that have a row and are not in the listing, though it ``covers`` the place where they were."""
    listed = pa.array([i.uri for i in items], pa.string())
    rows = state.rows
    candidates = pc.and_(
        pc.invert(pc.is_in(rows["uri"], value_set=listed)), pc.not_equal(rows["status"], GONE).fill_null(True)
    )
    found = [uri for uri in rows.filter(candidates)["uri"].to_pylist() if covers(file_of(uri))]
    if not any(uri != file_of(uri) for uri in found):
        return found
    # A sound track that is not asked for any more is there as long as its file.
    files = {item.uri for item in items}
    return [uri for uri in found if file_of(uri) not in files]


def revive(output: Output, items: Sequence[SourceItem], state: State) -> int:
    """Give files that are back the status that they had; how many there are."""
    marked = state.rows.filter(pc.equal(state.rows["status"], GONE))
    back = marked.filter(pc.is_in(marked["uri"], value_set=pa.array([i.uri for i in items], pa.string())))
    for name, uris in _by_part(back, state).items():
        found: dict[str, list[dict]] = defaultdict(list)
        for row in failures_of(output, name).to_pylist():
            found[row["uri"]].append(row)
        _set_status(output, name, {uri: status_of(found[uri]) for uri in uris})
    return back.num_rows


def settle_gone(output: Output, gone: Collection[str], before: State, mode: str, folder: RunFolder) -> None:
    """At the end of a run: what becomes of the rows of files that are ``gone``.

    The row of a file that only has another name now goes in any case but ``keep``: its values live on in the row of
    the new name, which came in with this run.

    Args:
        before: what the output held when the run began.
        mode: ``keep``, ``mark`` (status ``gone``) or ``drop`` (rows, arrays and stems).
    """
    if mode == KEEP or not gone:
        return
    state = read_state(output)
    rows = state.rows
    mine = among(rows["uri"], gone)
    new = pc.invert(pc.is_in(rows["uri"], value_set=before.rows["uri"].combine_chunks()))
    names = dict(zip(*(rows.filter(new)[c].to_pylist() for c in ("asset_id", "uri")), strict=True))
    left = rows.filter(mine)
    renamed = {
        uri: names[asset]
        for uri, asset in zip(*(left[c].to_pylist() for c in ("uri", "asset_id")), strict=True)
        if asset in names
    }
    dropped = set(gone) if mode == DROP else set(renamed)
    drop(output, dropped, state)
    marked = left.filter(pc.invert(among(left["uri"], dropped)))
    for name, uris in _by_part(marked, state).items():
        _set_status(output, name, dict.fromkeys(uris, GONE))
    _say(folder, renamed, sorted(set(gone) - set(renamed)), mode)


def drop(output: Output, uris: Collection[str], state: State) -> None:
    """Remove the rows of files, and the arrays and stems that no other file refers to."""
    if not uris:
        return
    leaving = among(state.rows["uri"], uris)
    rows = state.rows.filter(leaving)
    elsewhere = state.rows.filter(pc.invert(leaving))["asset_id"]
    shared = set(
        rows.filter(pc.is_in(rows["asset_id"], value_set=elsewhere.combine_chunks()))["asset_id"].to_pylist()
    )
    parts = _by_part(rows, state)
    for name, some in parts.items():
        rewrite_part(output, name, some, shared=shared)
    if shared:
        rehome(output, parts, read_state(output))


def _by_part(rows: pa.Table, state: State) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for uri, part in zip(*(rows[c].to_pylist() for c in ("uri", "part")), strict=True):
        found[state.parts[part]].append(uri)
    return found


def _set_status(output: Output, name: str, status: Mapping[str, str]) -> None:
    table = read_if_there(output, f"tracks/{name}")
    if table is None:
        raise FileNotFoundError(f"{output.uri}/tracks/{name}")
    old = zip(*(table[c].to_pylist() for c in ("uri", "status")), strict=True)
    output.write_table(
        f"tracks/{name}", replaced(table, {"status": [status.get(uri, was) for uri, was in old]})
    )


def _say(folder: RunFolder, renamed: Mapping[str, str], others: Sequence[str], mode: str) -> None:
    if renamed:
        pairs = [f"{_name(a)} → {_name(b)}" for a, b in list(renamed.items())[:EXAMPLES]]
        folder.log(
            "renamed",
            f"{plural(len(renamed), 'file')} under another name, not computed again: {_some(pairs, len(renamed))}",
            files=len(renamed),
        )
    if others:
        what = "marked as gone" if mode == MARK else "dropped with what belonged to them"
        text = (
            f"{plural(len(others), 'file')} no longer there, {what}: {_some(map(_name, others), len(others))}"
        )
        folder.log("gone", text, files=len(others))


def _some(names: Iterable[str], total: int) -> str:
    return ", ".join(list(names)[:EXAMPLES]) + (" …" if total > EXAMPLES else "")


def _name(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]
