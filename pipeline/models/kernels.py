"""Launching Triton kernels, and compiling many of them side by side. Triton is imported with the first use."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

_COMPILERS = 8

# Triton's interpreter runs kernels on the host; the tests use it.
DEVICES = ("cuda", "cpu") if os.environ.get("TRITON_INTERPRET") == "1" else ("cuda",)

_only_compiling: contextvars.ContextVar[bool] = contextvars.ContextVar("only_compiling", default=False)


def launch(kernel: Any, programs: int, *args: Any, **meta: Any) -> None:
    """Run so many programs of a ``triton.jit`` kernel on the current CUDA device and stream."""
    if _only_compiling.get():
        kernel.warmup(*args, grid=(programs,), **meta)
    else:
        kernel[(programs,)](*args, **meta)


@contextlib.contextmanager
def only_compiling() -> Iterator[None]:
    """Within, kernels are compiled side by side and not run: what comes out of them means nothing.

    Where this Triton cannot do that, or a kernel does not compile, that comes out when it is first run.
    """
    try:
        from triton import AsyncCompileMode
    except ImportError:
        yield
        return
    token = _only_compiling.set(True)
    threads = min(_COMPILERS, len(os.sched_getaffinity(0)))
    try:
        with ThreadPoolExecutor(threads) as pool, AsyncCompileMode(pool, ignore_errors=True):
            yield
    finally:
        _only_compiling.reset(token)


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
