"""Values that cannot be right: NaN and infinity anywhere, embeddings that are not unit vectors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NORM_TOLERANCE = 1e-3
"""How far the norm of an embedding may be from 1: float32 sums over 512 values stay below 1e-6 of it, half
precision that a reader may have stored below 1e-3."""


def non_finite_rows(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Numbers of the rows with NaN or infinity in a float or list-of-float column; nulls are fine."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(array.type):
        bad = ~_finite(array.flatten())
        return np.unique(pc.list_parent_indices(array).to_numpy()[bad]) if bad.any() else np.empty(0, int)
    return np.flatnonzero(~_finite(array))


def _finite(array: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.is_finite(array), True).to_numpy(zero_copy_only=False)


def is_float(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold NaN."""
    return pa.types.is_floating(kind.value_type if pa.types.is_list(kind) else kind)


def bad_embeddings(column: pa.ChunkedArray) -> dict[int, str]:
    """Row → what is wrong with its embedding: ``NaN or infinity``, ``all zero`` or its norm."""
    array = column.combine_chunks()
    there = array.is_valid().to_numpy(zero_copy_only=False)
    values = array.flatten()
    holes = values.is_null().to_numpy(zero_copy_only=False)
    flat = values.fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64)
    flat[holes] = np.nan
    norm = np.sqrt(np.bincount(pc.list_parent_indices(array).to_numpy(), flat**2, minlength=len(array)))
    found = {}
    for row in np.flatnonzero(there & ~(np.abs(norm - 1) <= NORM_TOLERANCE)):
        if not np.isfinite(norm[row]):
            found[int(row)] = "holds NaN, infinity or null"
        else:
            found[int(row)] = f"has norm {norm[row]:.4g}, not 1" if norm[row] else "is all zero"
    return found
