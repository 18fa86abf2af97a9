"""Decoders for songs, each a process that may die of one: as many as are used at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.audio.isolated_stream import StreamDecoder


class Decoders:
    """Lends decoders to threads, and keeps them for the next song.

    Args:
        make: begins one.
    """

    def __init__(self, make: Callable[[], StreamDecoder]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._idle: list[StreamDecoder] = []
        self._closed = False

    def warm(self) -> None:
        """Begin one, and wait until it can decode. Raises `pipeline.audio.isolated_stream.DecoderUnavailable`."""
        with self.one() as decoder:
            decoder.wait_until_ready()

    @contextmanager
    def one(self) -> Iterator[StreamDecoder]:
        """A decoder that nobody else has."""
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        decoder = decoder or self._make()
        try:
            yield decoder
        finally:
            with self._lock:
                kept = not self._closed
                if kept:
                    self._idle.append(decoder)
            if not kept:
                decoder.close()

    def close(self) -> None:
        """End them; those that are lent end when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.close()
