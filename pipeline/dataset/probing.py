"""What the headers of many files say, read side by side and without the files' bodies."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.audio.decode import Probe, probe_head
from pipeline.audio.stream import SeekableBytes
from pipeline.dataset.sources import SourceItem
from pipeline.dataset.storage import filesystem, is_local, local_path, one_line

HEAD_BYTES = 1 << 16
"""Enough for every header but that of an MP4 whose index is at its end, or of a file behind a large picture."""

THREADS = 16
"""Reading headers waits for disks and servers, not for the CPU."""


@dataclass(frozen=True)
class Header:
    """Of one file: what its header says, or what is wrong with it.

    Args:
        probe: None where there is no header that could be read.
        error_class, message: what is wrong; empty where nothing is.
        size_bytes: of the file, as it was found; None where it could not be.
    """

    probe: Probe | None = None
    error_class: str = ""
    message: str = ""
    size_bytes: int | None = None


def read_header(item: SourceItem, options: dict[str, Any] | None = None) -> Header:
    """The header of one file; whatever is wrong with it is told, not raised."""
    if item.problem:
        return Header(None, "UnreadableSource", item.problem, item.size_bytes)
    uri, name = item.location or item.uri, item.uri.rsplit("/", 1)[-1]
    size = item.size_bytes
    try:
        head, size, opened = _local(local_path(uri)) if is_local(uri) else _remote(uri, size, options)
        if len(head) >= size:
            return Header(probe_head(head, size, lambda: SeekableBytes(head), name), size_bytes=size)
        return Header(probe_head(head, size, opened, name), size_bytes=size)
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        return Header(None, type(error).__name__, one_line(error), size)


def read_headers(
    items: Sequence[SourceItem],
    options: dict[str, Any] | None = None,
    threads: int = THREADS,
    said: Callable[[int], None] = lambda done: None,
) -> list[Header]:
    """The headers of ``items``, in their order; ``said`` is told how many are read after each."""
    found: list[Header] = [Header()] * len(items)
    with ThreadPoolExecutor(max(1, min(threads, len(items)))) as pool:
        waiting = {pool.submit(read_header, item, options): number for number, item in enumerate(items)}
        for done, future in enumerate(as_completed(waiting), 1):
            found[waiting[future]] = future.result()
            said(done)
    return found


def _local(path: str) -> tuple[bytes, int, Callable[[], BinaryIO]]:
    # Opening a pipe that nobody writes to would wait for somebody.
    with open(path, "rb", buffering=0, opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError("is neither a file nor a directory")
        return file.read(HEAD_BYTES), found.st_size, lambda: Path(path).open("rb")


def _remote(
    uri: str, size: int | None, options: dict[str, Any] | None
) -> tuple[bytes, int, Callable[[], BinaryIO]]:
    fs, path = filesystem(uri, options)
    size = fs.info(path)["size"] if size is None else size
    head = fs.cat_file(path, start=0, end=HEAD_BYTES) if size else b""
    return head, len(head) if size is None else size, lambda: fs.open(path, "rb", block_size=HEAD_BYTES)
