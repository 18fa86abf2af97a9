"""Vectors compare only within one embedding space: an output holds one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.errors import UserError

_KEY = b"embedding_space"


def embedding_space(schema: pa.Schema) -> str | None:
    """The space of the embeddings in a table, such as ``HTSAT-base:0123456789ab``; None where it has none."""
    name = (schema.metadata or {}).get(_KEY)
    return None if name is None else name.decode()


def output_spaces(output: Output) -> dict[str, str]:
    """Embedding space → a part that carries it. Only the footers of the parts are read."""
    found: dict[str, str] = {}
    for table in ("tracks", *output.contents.tables):
        for part in output.parts(table):
            with output.fs.open(output.path(part), "rb") as handle:
                space = embedding_space(pq.read_schema(handle))
            if space is not None:
                found.setdefault(space, part)
    return found


def require_space(output: Output, space: str) -> None:
    """Check that no table below ``output`` carries another embedding space than ``space``.

    Raises:
        UserError: one does; the line names both.
    """
    for other, part in output_spaces(output).items():
        if other != space:
            raise UserError(
                f"{output.uri} holds CLAP embeddings of {other}, this run would add those of {space}",
                f"the two do not compare, and {part} has the former",
                "another output.uri, the clap.checkpoint of that output, or output.overwrite=true to replace it",
            )


def require_spaces(output: Output, contents: Contents) -> None:
    """`require_space` of each product of a run that has vectors. Raises `UserError`."""
    for product in contents:
        space = product.metadata.get(_KEY.decode())
        if space is not None and product.key is not None:
            require_space(output, space)
