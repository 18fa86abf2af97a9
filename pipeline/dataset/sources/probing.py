"""What the headers of many files say, read side by side and without the files' bodies.

They are parsed in a process of their own (`pipeline.dataset.sources.probing_child`): a header that crashes a parser, or
keeps it busy for ever, is what is wrong with one file.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.audio.children import child_command
from pipeline.audio.decode import Probe, probe_head
from pipeline.audio.isolated import DecoderDied, DecoderHung
from pipeline.audio.stream import SeekableBytes
from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.storage import filesystem, is_local, local_path, one_line
from pipeline.errors import UserError

HEAD_BYTES = 1 << 16
"""Enough for every header but that of an MP4 whose index is at its end, or of a file behind a large picture."""

THREADS = 16
"""Reading headers waits for disks and servers, not for the CPU."""

TIMEOUT_S = 360.0
"""Without a single header for so long, a process is given up."""

START_S = 60.0
"""A process that has not begun after so long has no prospect of it."""

_READER = "pipeline.dataset.sources.probing:read_header"


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
    uri, name = item.location or item.uri, file_name(item.uri)
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
    *,
    timeout_s: float = TIMEOUT_S,
    reader: str = _READER,
) -> list[Header]:
    """The headers of ``items``, in their order.

    A process that dies, or says nothing for ``timeout_s``, is followed by one that takes what may have been at fault
    one by one, and so finds which file it was.

    Args:
        options: storage options of the source.
        said: told how many are read after each.
        timeout_s: longest time without a header, seconds.
        reader: for tests only: ``module:function`` in place of `read_header`.

    Raises:
        UserError: two files of a remote source in a row were not answered within ``timeout_s``: it is the server.
    """
    reading = _Reading(items, options, reader, timeout_s, said)
    waiting = list(range(len(items)))
    while waiting:
        died = reading.ask(waiting, max(1, threads)) is not None
        left = reading.left(waiting)
        # What a process of several threads had in hands when it died is among the first that it did not answer.
        reading.one_by_one(left[: max(1, threads)] if died else left)
        waiting = reading.left(left)
    return [reading.found[number] for number in range(len(items))]


class _Reading:
    """Headers as they are found, by the number of their item."""

    def __init__(
        self,
        items: Sequence[SourceItem],
        options: dict[str, Any] | None,
        reader: str,
        timeout_s: float,
        said: Callable[[int], None],
    ) -> None:
        self.items, self.options = items, options
        self.reader, self.timeout_s, self.said = reader, timeout_s, said
        self.found: dict[int, Header] = {}
        self._hung = 0

    def left(self, numbers: Sequence[int]) -> list[int]:
        """Those that have no header yet."""
        return [number for number in numbers if number not in self.found]

    def ask(self, numbers: Sequence[int], threads: int) -> tuple[str, str] | None:
        """Have a process read them. Returns how it died, if it did."""

        def answer(number: int, header: Header) -> None:
            # The memory is shared: with others beside it, it may be one of them that took it.
            if header.error_class != "MemoryError" or threads == 1:
                self._keep(number, header)
                self._hung = 0

        job = ({n: self.items[n] for n in numbers}, self.options, threads, self.reader)
        return _ask(job, self.timeout_s, answer)

    def one_by_one(self, numbers: Sequence[int]) -> None:
        """Read them strictly in order, so that it is known which of them ended the process. Raises `UserError`."""
        while numbers := self.left(numbers):
            death = self.ask(numbers, 1)
            if death is not None:
                guilty = self.left(numbers)[0]
                self._keep(guilty, Header(None, *death, self.items[guilty].size_bytes))
                self._hung = self._hung + 1 if death[0] == DecoderHung.__name__ else 0
                if self._hung > 1 and not is_local(self.items[guilty].uri):
                    raise UserError(
                        f"source.uri: no answer for {self.items[guilty].uri}",
                        f"two files in a row were not read within {self.timeout_s:g} s",
                        "the same again when the server answers",
                    )

    def _keep(self, number: int, header: Header) -> None:
        self.found[number] = header
        self.said(len(self.found))


def _ask(
    job: tuple[dict[int, SourceItem], dict[str, Any] | None, int, str],
    timeout_s: float,
    answer: Callable[[int, Header], None],
) -> tuple[str, str] | None:
    """Let a process do ``job``; ``answer`` is given each number and header. Returns how it died, if it did.

    Raises:
        RuntimeError: it could not begin, for a reason that is none of the files'.
    """
    with tempfile.TemporaryFile() as errors, _lifeline() as lifeline:
        child = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
            child_command("pipeline.dataset.sources.probing_child", str(lifeline), str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(lifeline,),
        )
        left, hung = set(job[0]), False
        try:
            lines = _lines(child, timeout_s)
            began = next(lines, None) is not None
            if began:
                # Through a pipe: storage options hold secrets, and everybody can read a command line.
                with suppress(BrokenPipeError):
                    pickle.dump(job, child.stdin)
                    child.stdin.flush()
                for line in lines:
                    number, fields = json.loads(line)
                    left.discard(number)
                    answer(number, _header(fields))
                    if not left:
                        return None
            hung = child.poll() is None
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
            with suppress(BrokenPipeError):
                child.stdin.close()
        if hung:
            return DecoderHung.__name__, f"its header was not read within {timeout_s:g} s"
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
        how = (
            signal.Signals(-child.returncode).name
            if child.returncode < 0
            else f"exit code {child.returncode}"
        )
        if not began or last.startswith(("ModuleNotFoundError", "ImportError", "AttributeError")):
            raise RuntimeError(f"the process that reads headers could not begin: {how}: {last}")
        return DecoderDied.__name__, f"reading its header ended the process ({how})"


@contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe's end for a child, which ends with this process: the other end is open until the context ends."""
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(write)
        os.close(read)


def _lines(child: subprocess.Popen, timeout_s: float) -> Iterator[bytes]:
    """The lines that a process writes, until it ends or writes none for so long; the first may take longer."""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        rest = b""
        limit = timeout_s + START_S
        while selector.select(limit):
            got = os.read(child.stdout.fileno(), 1 << 16)
            if not got:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(START_S)
                return
            *lines, rest = (rest + got).split(b"\n")
            limit = timeout_s
            yield from lines


def to_json(header: Header) -> dict[str, Any]:
    """For the way from the child; `_header` is the way back."""
    return asdict(header)


def _header(fields: dict[str, Any]) -> Header:
    probe = fields.pop("probe")
    return Header(None if probe is None else Probe(**probe), **fields)


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
