"""Input files: a folder, a glob, one file, a manifest, an archive, or any fsspec URL; listed in a fixed order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pipeline.dataset.sources.addresses import WEB, innermost, is_relative, parent, scheme, without_dots
from pipeline.dataset.sources.file_glob import SUFFIXES
from pipeline.dataset.sources.file_list import read_listed
from pipeline.dataset.sources.items import Listing, SourceItem, real_name, source_item
from pipeline.dataset.sources.walk import source_place, walk_source
from pipeline.dataset.storage import absolute, is_local, join, local_path, public_uri
from pipeline.errors import UserError

__all__ = ["SUFFIXES", "Listing", "SourceItem", "list_source", "source_place"]


def list_source(
    uri: str | None,
    *,
    glob: str | None = None,
    manifest: str | None = None,
    storage_options: dict[str, Any] | None = None,
    limit: int | None = None,
    exclude: str | None = None,
    listing: Listing | None = None,
) -> Iterator[SourceItem]:
    """Yield the inputs, folder by folder, sorted by path component; no two have the same uri.

    Args:
        uri: folder, file, glob, URL or chain (`pipeline.dataset.sources.addresses`); also the base of relative uris in
            ``manifest``.
        glob: pattern relative to ``uri`` (``*``, ``?``, ``[...]``, ``**/``); without one, `SUFFIXES` decide. As in a
            shell, hidden folders and the ``._`` files that macOS leaves are taken where the pattern has the dot.
        manifest: csv, tsv, json, jsonl or parquet with a ``uri`` column.
        limit: stop after so many.
        exclude: a folder that is passed over; the output may lie inside the source.
        listing: is told what else there is to say.

    Raises:
        UserError: missing source, wrong credentials, no audio found, unusable manifest.
    """
    listing = Listing() if listing is None else listing
    if manifest:
        items = _from_manifest(manifest, uri, storage_options, listing)
    else:
        items = walk_source(uri, glob, storage_options, absolute(exclude) if exclude else None, listing)
    count = 0
    for item in items:
        yield item
        count += 1
        if limit is not None and count >= limit:
            return
    if count == 0 and manifest:
        raise UserError(
            f"source.manifest={manifest} has no rows",
            do="a csv, tsv, json, jsonl or parquet with a uri per row",
        )
    if count == 0:
        wanted = f"matching {glob}" if glob else "with a known audio suffix"
        ours = "nothing there" if glob else "known are .wav, .flac, .mp3, .ogg, .m4a, .opus and some more"
        do = "'source.glob=**/*' takes every file, whatever its suffix; source.uri=… is another folder"
        raise UserError(f"source.uri={uri}: no file {wanted} found", ours, do)


def _from_manifest(
    manifest: str, base: str | None, options: dict[str, Any] | None, listing: Listing
) -> Iterator[SourceItem]:
    root = absolute(base) if base else parent(manifest)
    listing.manifest = read_listed(manifest, options)
    places: dict[str, tuple[int, str]] = {}
    folders: dict[str, str] = {}
    row = -1
    for chunk in listing.manifest.uris.iterchunks():
        for text in chunk.to_pylist():
            row += 1
            full = _place(text, root)
            local = is_local(full)
            place = real_name(full, folders) if local else public_uri(full)
            before = places.setdefault(place, (row, full))
            if before[0] != row:
                _refuse_queries(manifest, row, full, *before)
                listing.again += 1
                continue
            entry = _local_entry(full) if local else {}
            listing.gone += local and not entry
            item = source_item(full, entry)
            listing.rows[item.uri] = row
            yield item


def _place(text: str, root: str) -> str:
    """The one spelling of what a manifest names: as written where that is a file here, and else without spaces."""
    bare = text.strip()
    if not is_local(bare):
        # A key of an object store may end in a space; no scheme begins with one, and no web address has any.
        return absolute(bare if scheme(innermost(bare)) in WEB else text.lstrip())
    if is_local(root) or not is_relative(bare):
        path = _local_place(text, root)
        return path if text == bare or os.path.lexists(path) else _local_place(bare, root)
    return absolute(join(root, without_dots(bare)))


def _local_place(text: str, root: str) -> str:
    """Below ``root`` if relative; so is what begins with ``~`` where something of that name is there."""
    if text.startswith("~") and is_local(root) and os.path.lexists(f"{root}/{text.split('/', 1)[0]}"):
        return local_path(f"{root}/{text}")
    return local_path(join(root, text) if is_relative(text) else text)


def _refuse_queries(manifest: str, row: int, full: str, first: int, other: str) -> None:
    """Two web addresses that differ in their queries only may be two files, of which one name would be left."""
    if full != other and scheme(innermost(full)) in WEB:
        raise UserError(
            f"{manifest}: rows {first + 1} and {row + 1} have one name, {public_uri(full)}",
            "what differs in their URLs may be a signature, and is not written down",
            "one of the two rows, or URLs that differ before the question mark",
        )


def _local_entry(path: str) -> dict[str, Any]:
    """Size and time of a file that a manifest names; what is wrong with it shows when it is read."""
    try:
        status = os.stat(path)  # noqa: PTH116  a Path per row of a manifest is what costs here
    except (OSError, ValueError):
        return {}
    return {"size": status.st_size, "mtime": status.st_mtime}
