"""Listing a source, with a word now and then where that takes long."""

from __future__ import annotations

import time

from pipeline.dataset.sources import SourceItem, list_source
from pipeline.workflows.config import ExtractConfig


def list_items(config: ExtractConfig, quiet: bool = False) -> list[SourceItem]:
    """The files of the source. Raises `UserError`, see `list_source`."""
    source = config.source
    items: list[SourceItem] = []
    said = time.perf_counter()
    for item in list_source(
        source.uri,
        glob=source.glob,
        manifest=source.manifest,
        storage_options=source.storage_options,
        limit=source.limit,
        exclude=config.output.uri,
    ):
        items.append(item)
        if not quiet and time.perf_counter() - said > 5:
            said = time.perf_counter()
            print(f"listing {source.uri}: {len(items)} files so far", flush=True)
    return items
