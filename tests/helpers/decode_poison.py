"""Decoders that do what no decoder may, by the name of the file; run in the child of an `IsolatedDecoder`.

A name that is none of these is decoded as always. The name is the file's without its suffix and a number.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import time

import numpy as np

from pipeline.audio.stream import PcmStream, open_file
from pipeline.audio.validate import private_memory
from pipeline.audio.views import DecodedViews, decode_views

DECODER = "helpers.decode_poison:decode"
OPENER = "helpers.decode_poison:opened"


def decode(file, wanted, allocate, progress) -> DecodedViews:
    act = _ACTS.get(file.name.partition(".")[0].rstrip("0123456789"))
    if act is not None:
        act(allocate, progress)
    return decode_views(file, wanted, allocate, progress)


def opened(path, limits, name) -> PcmStream:
    """The same for a `pipeline.audio.isolated_stream.StreamDecoder`; ``unexpected`` ends inside of the file."""
    act = _ACTS.get(name.partition(".")[0].rstrip("0123456789"))
    if act is not None:
        act(private_memory, lambda frames: None)
    return _Deadly(path) if name.startswith("unexpected") else open_file(path, limits)


class _Deadly(PcmStream):
    """Ends its process behind its first blocks."""

    def __init__(self, path) -> None:
        whole = open_file(path)
        super().__init__(whole.data, whole._opened)

    def __iter__(self):
        for number, block in enumerate(super().__iter__()):
            if number == 3:
                os.abort()
            yield block


def _hang_holding_pythons_lock(allocate, progress) -> None:
    re.match("(a+)+$", "a" * 60 + "b")


def _never_get_on(allocate, progress) -> None:
    while True:
        progress(0)
        time.sleep(0.01)


def _take_its_time(allocate, progress) -> None:
    """Longer than any timeout of the tests, a block at a time."""
    for _ in range(50):
        time.sleep(0.1)
        progress(1)


def _eat(allocate, progress) -> None:
    """And get on with it: what ends it is the limit of memory, not that of time."""
    held = []
    while True:
        held.append(np.ones(8 << 20, np.float32))
        progress(1)


def _write_into_the_file_before(allocate, progress) -> None:
    first = allocate((1, 1024))
    ctypes.memset(first.ctypes.data - 4096, 1, 4096)


def _raise(allocate, progress) -> None:
    raise RuntimeError("no decoder says\nthis")


def _leak(allocate, progress) -> None:
    _LEAKED.append(np.ones(48 << 20, np.float32))


_LEAKED: list[np.ndarray] = []
_ACTS = {
    "abort": lambda *_: os.abort(),
    "kill": lambda *_: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda *_: ctypes.memset(8, 0, 1),
    "exit": lambda *_: os._exit(3),
    "hang": lambda *_: time.sleep(3600),
    "lock": _hang_holding_pythons_lock,
    "idle": _never_get_on,
    "slow": _take_its_time,
    "eat": _eat,
    "raise": _raise,
    "scribble": _write_into_the_file_before,
    "leak": _leak,
}
