"""Temporary files that are read while they are written, by several threads at once."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.audio.isolated_stream import Written
from pipeline.audio.reader import blocks

_FLOAT_BYTES = 4


class GrowingFile:
    """Bytes in a temporary file without a name, which is gone with the process whatever ends it.

    Args:
        folder: where it lies; by default where the system keeps temporary files.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="soundmill-listening-", dir=folder, buffering=0)  # noqa: SIM115  closed by `close`
        # Held while the file is read, so that none reads what another file has meanwhile.
        self._lock = threading.Lock()
        self.size = 0
        """Bytes that are there."""

    def append(self, data: bytes | memoryview) -> None:
        """More bytes behind the last ones. Raises `OSError` where the disk is full, `ValueError` once it is closed."""
        left = memoryview(data).cast("B")
        with self._lock:
            at = self.size
            while left:
                written = os.pwrite(self._file.fileno(), left, at)
                left, at = left[written:], at + written
            self.size = at

    @property
    def descriptor(self) -> int:
        """Of the file, for another process that writes to it; see `written`."""
        return self._file.fileno()

    def written(self) -> None:
        """Take what another process has written."""
        with self._lock:
            self.size = os.fstat(self._file.fileno()).st_size

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes, fewer at the end. Raises `ValueError` once it is closed."""
        with self._lock:
            return os.pread(self._file.fileno(), count, start)

    def close(self) -> None:
        """Give the file back to the system."""
        with self._lock:
            self._file.close()


class Recording:
    """A decoded song: an `AudioReader` that several masters are made of at once.

    Args:
        form: of the samples.
        file: of the samples, which is closed with this one.
    """

    def __init__(self, form: Written, file: GrowingFile) -> None:
        self.sample_rate, self.channels, self.mono_channel = (
            form.sample_rate,
            form.channels,
            form.mono_channel,
        )
        self._file = file

    @classmethod
    def decoded(cls, decode: Callable[[int], Written], folder: str | None = None) -> Recording:
        """What ``decode`` writes to the descriptor that it is given.

        Args:
            folder: see `GrowingFile`.

        Raises:
            Exception: what ``decode`` raises; nothing is kept then.
        """
        file = GrowingFile(folder)
        try:
            form = decode(file.descriptor)
            file.written()
        except BaseException:
            file.close()
            raise
        return cls(form, file)

    @property
    def samples(self) -> int:
        """Length per channel."""
        return self._file.size // (_FLOAT_BYTES * self.channels)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop``, float32 ``[channels, n]``."""
        frame = _FLOAT_BYTES * self.channels
        data = self._file.read(start * frame, (stop - start) * frame)
        return np.frombuffer(data, np.float32).reshape(-1, self.channels).T

    def close(self) -> None:
        """Give the file back to the system."""
        self._file.close()


class Replayed:
    """A recording as a stream, for `pipeline.features.streamed.StreamedAudio`, which reads one from its beginning.

    Args:
        recording: all of it.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.sample_rate, self.channels = recording.sample_rate, recording.channels

    def __enter__(self) -> Replayed:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held."""

    def __iter__(self) -> Iterator[np.ndarray]:
        return blocks(self._recording)
