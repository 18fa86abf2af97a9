"""Files that have a row under another name: the way to them leads through another link to a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.sources.addresses import is_local
from pipeline.dataset.sources.items import Listing, SourceItem, real_name
from pipeline.dataset.sources.sound_tracks import file_of


def known_names(
    items: Sequence[SourceItem], uris: pa.ChunkedArray, listing: Listing | None = None
) -> list[SourceItem]:
    """``items``, those under the uri of their row that have one which leads there by another way.

    A folder may be named first and its files in a manifest later, through links or as they really lie.

    Args:
        uris: of the rows that are there.
        listing: is told under which name the listing had them.
    """
    if not len(uris):
        return list(items)
    listed = pa.array([i.uri for i in items], pa.string())
    there = pc.is_in(listed, value_set=uris.combine_chunks())
    new = [n for n in pc.indices_nonzero(pc.invert(there)).to_pylist() if is_local(items[n].uri)]
    if not new:
        return list(items)
    names = {items[n].uri.rpartition("/")[2] for n in new}
    folders: dict[str, str] = {}
    rows: dict[str, str] = {}
    for uri in uris.filter(pc.invert(pc.is_in(uris, value_set=listed))).to_pylist():
        if uri.rpartition("/")[2] in names and is_local(uri):
            rows.setdefault(real_name(uri, folders), uri)
    found = list(items)
    for n in new if rows else ():
        known = rows.pop(real_name(items[n].uri, folders), None)
        if known is not None:
            found[n] = replace(items[n], uri=known)
            if listing is not None:
                listing.named[known] = file_of(items[n].uri)
    return found
