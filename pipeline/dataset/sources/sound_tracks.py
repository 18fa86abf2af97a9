"""Files with several sound tracks, as rows of their own: ``source.audio_stream=all``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.probing import read_headers

ALL_STREAMS = "all"
_MARK = re.compile(r"#audio=\d+$")

# Formats of one sound track: their headers are not read in advance. A file that hides several behind such a name has
# a row for the first of them, whose `audio_streams` says so.
_SINGLE = tuple(
    ".wav .wave .w64 .flac .mp2 .mp3 .aif .aiff .aifc .au .caf .wv .ape .aac .ac3 .eac3 .ec3 .amr".split()  # noqa: SIM905
)


def file_of(uri: str) -> str:
    """The uri of the file that a row is of, without the number of its sound track."""
    return _MARK.sub("", uri)


def stream_of(uri: str) -> int | None:
    """The number of the sound track that a row is of; None of a whole file."""
    found = _MARK.search(uri)
    return None if found is None else int(found[0].rpartition("=")[2])


def expand_streams(
    items: Sequence[SourceItem],
    options: dict[str, Any] | None = None,
    said: Callable[[int], None] = lambda done: None,
) -> list[SourceItem]:
    """``items`` with one for each sound track of a file that has several, as its header says.

    The first keeps the file's uri; the others have ``#audio=1``, ``#audio=2`` … behind it.

    Args:
        options: storage options of the source.
        said: told how many headers are read after each.

    Raises:
        UserError: as `read_headers`.
    """
    asked = [number for number, item in enumerate(items) if _may_have_several(item)]
    headers = read_headers([items[number] for number in asked], options, said=said)
    counts = {
        number: header.probe.audio_streams
        for number, header in zip(asked, headers, strict=True)
        if header.probe is not None
    }
    return [row for number, item in enumerate(items) for row in _rows(item, counts.get(number, 1))]


def _may_have_several(item: SourceItem) -> bool:
    return item.problem is None and not item.uri.lower().endswith(_SINGLE)


def _rows(item: SourceItem, streams: int) -> list[SourceItem]:
    others = (
        replace(
            item,
            uri=f"{item.uri}#audio={number}",
            location=item.location or item.uri,
            audio_stream=number,
        )
        for number in range(1, streams)
    )
    return [item, *others]
