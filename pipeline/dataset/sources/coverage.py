"""Which files a listing would have named if they were there: only of those can be said that they are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.dataset.sources.items import SourceItem
from pipeline.dataset.sources.walk import source_place


def covers(
    items: Sequence[SourceItem],
    uri: str | None,
    *,
    glob: str | None = None,
    manifest: str | None = None,
    storage_options: dict[str, Any] | None = None,
    limit: int | None = None,
) -> Callable[[str], bool]:
    """Tells of a uri whether the listing ``items`` looked at its place.

    Not where a manifest names the files or a limit cuts the listing short: what they leave out may well be there.
    Nor in a folder that could not be listed, which is an item with a problem.

    Args:
        items: the whole listing of the other arguments, which are those of `list_source`.
    """
    if manifest or limit is not None or not uri:
        return lambda name: False
    names = source_place(uri, glob, storage_options)
    closed = tuple(f"{item.uri.rstrip('/')}/" for item in items if item.problem)

    def covered(name: str) -> bool:
        return names(name) and not (closed and name.startswith(closed))

    return covered
