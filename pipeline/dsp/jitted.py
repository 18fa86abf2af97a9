"""Loops in which every value needs the one before, as machine code."""

from __future__ import annotations

import functools
from collections.abc import Callable


@functools.cache
def jitted(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` as machine code. It is kept on disk beside the module, or else in the user's cache.

    Loops in which every sample needs the one before cannot be written as operations on arrays. numba takes most of a
    second to import, therefore it is imported with the first sample that is processed: who only reads settings does not
    wait.
    """
    import numba

    # Products may be added without rounding between: that is the longest chain from one sample to the next.
    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return numba.njit(**options)(function)
