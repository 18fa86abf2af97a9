"""PCM that is read in pieces: from memory, or from a temporary file when it comes in chunks.

A long track then costs the memory of the piece in hand, whatever its length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

PIECE = 1 << 18
"""Samples per channel that `blocks` hands out at a time, 6 s at 44.1 kHz."""


class AudioReader(Protocol):
    """Float32 PCM of known length, full scale ±1."""

    @property
    def channels(self) -> int:
        """Number of channels."""

    @property
    def samples(self) -> int:
        """Length per channel."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``start`` to ``stop``, both within the track: float32 ``[channels, stop - start]``."""


class ArrayReader:
    """An array as an `AudioReader`; pieces are views.

    Args:
        audio: float ``[channels, samples]``.

    Raises:
        ValueError: any other shape or kind of number.
    """

    def __init__(self, audio: np.ndarray) -> None:
        audio = np.asarray(audio)
        if audio.ndim != 2 or not audio.shape[0] or not np.issubdtype(audio.dtype, np.floating):
            raise ValueError(f"audio is float [channels, samples], not {audio.dtype} {list(audio.shape)}")
        self._audio = audio

    @property
    def channels(self) -> int:
        return self._audio.shape[0]

    @property
    def samples(self) -> int:
        return self._audio.shape[1]

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._audio[:, start:stop].astype(np.float32, copy=False)


class Spool:
    """An `AudioReader` that is written first: PCM in a temporary file without a name.

    Args:
        channels: number of channels.
        folder: where the file lies; by default where the system keeps temporary files.
    """

    def __init__(self, channels: int, folder: str | None = None) -> None:
        self._file = tempfile.TemporaryFile(prefix="soundmill-pcm-", dir=folder)  # noqa: SIM115  closed by `close`
        self.channels = channels
        self.samples = 0
        self.peak = 0.0
        """Largest magnitude written so far; NaN once a sample was."""

    @classmethod
    def of(cls, chunks: Iterable[np.ndarray], channels: int) -> Spool:
        """Everything ``chunks`` yields, float ``[channels, n]`` each."""
        spool = cls(channels)
        for chunk in chunks:
            spool.write(chunk)
        return spool

    def write(self, block: np.ndarray) -> None:
        """Append float ``[channels, n]``. Raises `ValueError` for another number of channels."""
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise ValueError(f"a block of shape {list(block.shape)} does not have {self.channels} channels")
        interleaved = np.ascontiguousarray(block.T, dtype=np.float32)
        self._file.seek(0, 2)
        self._file.write(interleaved.data)
        self.samples += block.shape[1]
        # numpy's maximum, unlike Python's, keeps NaN.
        self.peak = float(np.maximum(self.peak, np.max(np.abs(interleaved), initial=0.0)))

    def read(self, start: int, stop: int) -> np.ndarray:
        self._file.seek(start * 4 * self.channels)
        data = self._file.read((stop - start) * 4 * self.channels)
        return np.frombuffer(data, np.float32).reshape(-1, self.channels).T

    def close(self) -> None:
        """Give the file back to the system."""
        self._file.close()


def blocks(reader: AudioReader, piece: int = PIECE) -> Iterator[np.ndarray]:
    """The track in consecutive pieces, float32 ``[channels, n]``, ``n <= piece``."""
    for start in range(0, reader.samples, piece):
        yield reader.read(start, min(start + piece, reader.samples))


def mono_reader(x: np.ndarray | AudioReader) -> AudioReader:
    """A reader of mono audio: float ``[samples]``, or a reader of one channel. Raises `ValueError` for any other."""
    if not isinstance(x, np.ndarray):
        if x.channels != 1:
            raise ValueError(f"expected a mono track, got {x.channels} channels")
        return x
    if x.ndim != 1 or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"expected a mono track of floats [samples], got {x.dtype} {list(x.shape)}")
    return ArrayReader(x[None])
