"""Columns of `tracks` that a user's manifest brought: told by their name, and widened where types differ."""

from __future__ import annotations

import pyarrow as pa

PREFIX = "source_"
# The one column of that prefix that is of the file and the run.
_OURS = frozenset({"source_version"})


def is_of_the_user(column: str) -> bool:
    """Whether a column of `tracks` is one of a manifest: it belongs to a uri, whatever is computed of its content."""
    return column.startswith(PREFIX) and column not in _OURS


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds what either of two holds; of what has nothing in common, strings."""
    if one == other:
        return one
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)]
    if not all(numbers):
        return pa.string()
    both_whole = pa.types.is_integer(one) and pa.types.is_integer(other)
    return pa.int64() if both_whole else pa.float64()
