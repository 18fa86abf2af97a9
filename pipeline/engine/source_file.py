"""Fetching the files of a source: in memory where they are small, on disk where they are not."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.audio.choice import FIRST, Choice
from pipeline.audio.mixing import for_mono
from pipeline.audio.reader import AudioReader, Spool
from pipeline.audio.resample import view_blocks
from pipeline.audio.stream import AudioFile
from pipeline.audio.views import View
from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.sources.sound_tracks import file_of
from pipeline.dataset.storage import filesystem, is_local, local_path, one_line
from pipeline.engine.batch import Track
from pipeline.errors import Fallback

T = TypeVar("T")

IN_MEMORY_BYTES = 256 << 20
"""Larger files stay on disk, remote ones in a temporary file."""

_HASH_BYTES = 1 << 20


class UnreadableSource(Exception):
    """The listing already says that this cannot be read."""


class SourceFile(AudioFile):
    """A fetched file."""

    def sha256(self) -> str:
        """Of the content, hex."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        digest = hashlib.sha256()
        with self.path.open("rb") as file:
            while chunk := file.read(_HASH_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def content_id(self) -> str:
        """What tells this sound from any other: `sha256`, of any track but the first hashed again with the choice."""
        digest = self.sha256()
        if self.choice == FIRST:
            return digest
        return hashlib.sha256(f"{digest}#audio={self.choice}".encode()).hexdigest()


def _local(name: str, path: Path, choice: Choice = FIRST) -> SourceFile:
    """A file on this machine. Whatever its listing said, it may be a pipe now, or a device, and never end."""
    _check_regular(path.stat())
    # It may be replaced meanwhile: opening a pipe that nobody writes to would wait for somebody.
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        state = os.fstat(file.fileno())
        _check_regular(state)
        if state.st_size > IN_MEMORY_BYTES:
            return SourceFile(name, state.st_size, path=path, choice=choice)
        data = file.read(state.st_size)
    return SourceFile(name, len(data), data, choice=choice)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise UnreadableSource("is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableSource("is neither a file nor a directory")


class Fetcher:
    """Fetches the files of one source.

    Args:
        storage_options: for its file system.
        attempts: tries per remote file.
        choice: which of several sound tracks, of files whose row does not say.
    """

    def __init__(
        self, storage_options: dict[str, Any] | None = None, attempts: int = 3, choice: Choice = FIRST
    ) -> None:
        self.storage_options = storage_options
        self.attempts = attempts
        self.choice = choice

    @contextmanager
    def fetch(self, track: Track, stage: str) -> Iterator[SourceFile]:
        """The file of a track, for as long as the context lasts; retries are recorded with the track.

        Raises:
            UnreadableSource: the listing says so, or it is a pipe or a device.
            OSError: it cannot be read, and whatever else the file system raises; ``attempts`` says how often
                it was tried.
        """
        if track.problem:
            raise UnreadableSource(track.problem)
        uri = track.location or track.uri
        name = file_name(file_of(track.uri))
        choice = self.choice if track.audio_stream is None else track.audio_stream
        if is_local(uri):
            yield _local(name, Path(local_path(uri)), choice)
            return
        fs, remote = filesystem(uri, self.storage_options)
        if (track.size_bytes or 0) <= IN_MEMORY_BYTES:
            data = self._tried(track, stage, lambda: fs.cat_file(remote))
            yield SourceFile(name, len(data), data, choice=choice)
            return
        with tempfile.NamedTemporaryFile(prefix="soundmill-", suffix=Path(name).suffix[:12]) as copy:
            self._tried(track, stage, lambda: fs.get_file(remote, copy.name))
            path = Path(copy.name)
            yield SourceFile(name, path.stat().st_size, path=path, choice=choice)

    def reader(self, track: Track, stage: str, view: View, stack: ExitStack) -> AudioReader:
        """A decoded view of a track too long to travel: a temporary file of its samples.

        Args:
            track: decoded.
            stage: who asks.
            stack: closes the file.

        Raises:
            Exception: as `fetch`, or a `DecodeError`, where the source has changed since it was decoded.
        """
        with self.fetch(track, stage) as source, source.open() as stream:
            rate, channels = view.sample_rate or stream.sample_rate, view.channels or stream.channels
            spool = Spool(channels)
            stack.callback(spool.close)
            alone = track.mono_channel if channels == 1 else None
            pieces = (for_mono(piece, alone) for piece in stream)
            for block in view_blocks(pieces, stream.sample_rate, rate, channels):
                spool.write(block)
        return spool

    def _tried(self, track: Track, stage: str, read: Callable[[], T]) -> T:
        for attempt in range(1, self.attempts + 1):
            try:
                return read()
            except (FileNotFoundError, PermissionError, IsADirectoryError):
                raise
            except Exception as error:
                if attempt == self.attempts:
                    error.attempts = attempt  # type: ignore[attr-defined]
                    raise
                time.sleep(0.2 * 4 ** (attempt - 1))
                reason = f"attempt {attempt} failed: {type(error).__name__}: {one_line(error, 120)}"
                track.fallbacks.append(Fallback(stage, "fetch", "retry", reason))
        raise AssertionError("unreachable: the last attempt returns or raises")
