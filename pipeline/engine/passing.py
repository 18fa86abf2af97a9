"""Which errors may not happen again: what is recorded of them is tried again by the next run."""

from __future__ import annotations

import re

from pipeline.engine.time_limit import TookTooLong

_CARD = re.compile(r"cuda|cublas|cudnn|cufft|nccl|nvrtc|\bgpu\b|out of memory", re.IGNORECASE)
_MEMORY = re.compile(r"memory|bad[ _]alloc|can't start new thread", re.IGNORECASE)


def of_card(error: BaseException) -> bool:
    """Whether a runtime says that a card is in trouble, or full: it may be done without."""
    return isinstance(error, RuntimeError) and bool(_CARD.search(str(error)))


def may_pass(error: BaseException) -> bool:
    """Whether the same work may succeed another time: a source or a disk that is away, no memory, a card in trouble, or
    a time limit, which depends on the machine and can be raised. What a runtime says of all else, it will say again."""
    if isinstance(error, (OSError, MemoryError, TookTooLong)):
        return True
    return isinstance(error, RuntimeError) and (of_card(error) or bool(_MEMORY.search(str(error))))
