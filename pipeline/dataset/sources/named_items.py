"""Files that are asked for by the uris of their rows, wherever they lie and whatever source once listed them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from pipeline.dataset.sources.items import SourceItem, source_item
from pipeline.dataset.sources.sound_tracks import file_of, stream_of
from pipeline.dataset.storage import filesystem, is_local

READERS = 16


def named_items(uris: Sequence[str], options: dict[str, Any] | None = None) -> list[SourceItem]:
    """An item for each uri; what cannot be looked at has no size, and what is wrong with it shows when it is read.

    Args:
        uris: as in `tracks`, with the number of a sound track where a row has one.
        options: storage options of the source.
    """
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda uri: _item(uri, options), uris))


def _item(uri: str, options: dict[str, Any] | None) -> SourceItem:
    file = file_of(uri)
    item = source_item(file, _entry(file, options))
    if file == uri:
        return item
    return replace(item, uri=uri, location=item.location or item.uri, audio_stream=stream_of(uri))


def _entry(uri: str, options: dict[str, Any] | None) -> Mapping[str, Any]:
    try:
        if is_local(uri):
            status = os.stat(uri)  # noqa: PTH116  as a listing has it
            return {"size": status.st_size, "mtime": status.st_mtime}
        fs, path = filesystem(uri, options)
        return fs.info(path)
    except Exception:  # noqa: BLE001  every fsspec backend raises its own classes
        return {}
