"""Listing a source, with a word now and then where that takes long."""

from __future__ import annotations

import time

from pipeline.counting import plural
from pipeline.dataset.run_folder import say
from pipeline.dataset.sources.listing import Listing, SourceItem, list_source
from pipeline.dataset.sources.sound_tracks import ALL_STREAMS, expand_streams
from pipeline.dataset.storage import public_uri
from pipeline.workflows.config import ExtractConfig


def list_items(
    config: ExtractConfig, quiet: bool = False, listing: Listing | None = None
) -> list[SourceItem]:
    """The files of the source; ``listing`` is told what else was found. Raises `UserError`, see `list_source`."""
    source = config.source
    say(f"listing {public_uri(source.uri or source.manifest)}", quiet)
    items: list[SourceItem] = []
    said = time.perf_counter()
    for item in list_source(
        source.uri,
        glob=source.glob,
        manifest=source.manifest,
        storage_options=source.storage_options,
        limit=source.limit,
        exclude=config.output.uri,
        listing=listing,
    ):
        items.append(item)
        if not quiet and time.perf_counter() - said > 5:
            said = time.perf_counter()
            print(f"listing {source.uri}: {plural(len(items), 'file')} so far", flush=True)
    if source.audio_stream != ALL_STREAMS:
        return items

    def told(done: int) -> None:
        nonlocal said
        if not quiet and time.perf_counter() - said > 5:
            said = time.perf_counter()
            print(f"counting sound tracks: {plural(done, 'header')} read", flush=True)

    return expand_streams(items, source.storage_options, told)
