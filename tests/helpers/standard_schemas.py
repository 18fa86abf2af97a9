"""The schemas of tables that extraction writes, for tests that make tables by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.dataset.contents import Contents, Product
from pipeline.dataset.tables.schemas import table_schema, tracks_schema
from pipeline.features import Extractor
from pipeline.stages.clap.spec import clap_product, segments_table
from pipeline.stages.features.spec import extractor_product
from pipeline.stages.separation.spec import separation_product
from pipeline.workflows.known_jobs import known_contents


def products(
    extractors: Sequence[Extractor] = (),
    clap: bool = False,
    separation: bool = False,
    *,
    embedding_space: str | None = None,
    text_queries: Sequence[str] = (),
) -> tuple[Product, ...]:
    """What a run with these computes."""
    return (
        *(extractor_product(extractor, 22050) for extractor in extractors),
        *((clap_product("key", embedding_space, text_queries),) if clap else ()),
        *((separation_product("key"),) if separation else ()),
    )


def tracks_of(
    extractors: Sequence[Extractor] = (), clap: bool = False, separation: bool = False, **more
) -> pa.Schema:
    """Schema of `tracks` of such a run."""
    return tracks_schema(products(extractors, clap, separation, **more))


def segments_of(embedding_space: str | None = None) -> pa.Schema:
    """Schema of ``segments``."""
    return table_schema(segments_table(embedding_space))


KNOWN: Contents = known_contents()
