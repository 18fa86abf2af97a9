"""The stems of one track on their way to the output: through temporary files, never whole in memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from pipeline.audio.encode import write_flac24, write_npy
from pipeline.audio.reader import Spool
from pipeline.dataset.output import Output
from pipeline.engine.batch import Blob
from pipeline.models.transfer import Download


class StemFiles:
    """Collects the blocks of a track's stems and writes them once their peaks are known.

    A block is on its way from the device while the one before it is written. The samples lie in temporary files (in
    ``$TMPDIR``), 8 bytes per stereo sample and stem, until `close`.

    Args:
        output: where the files go.
        sources: stem names in the order of the blocks' first axis.
    """

    def __init__(self, output: Output, sources: Sequence[str]) -> None:
        self._output = output
        self._spools = {name: Spool(2) for name in sources}
        self._coming: Download | None = None

    def add(self, block: torch.Tensor) -> None:
        """Append float32 ``[sources, 2, n]``, on any device."""
        before, self._coming = self._coming, Download(block)
        self._spool(before)

    def _spool(self, block: Download | None) -> None:
        if block is not None:
            for spool, samples in zip(self._spools.values(), block.result(), strict=True):
                spool.write(samples)

    def _complete(self) -> None:
        before, self._coming = self._coming, None
        self._spool(before)

    def write_flac(self, path: Callable[[str], str], sample_rate: int) -> tuple[list[Blob], dict[str, float]]:
        """Write each stem as 24-bit FLAC below the output.

        Returns:
            what was written, and by stem the gain that keeps it from clipping, dB.

        Raises:
            EncodeError: the track has no samples.
        """
        self._complete()
        blobs, gains = [], {}
        for name, spool in self._spools.items():

            def encode(out: BinaryIO, name: str = name, spool: Spool = spool) -> None:
                gains[name] = write_flac24(spool, spool.peak, sample_rate, out)

            blobs.append(self._write(path(name), name, encode))
        return blobs, gains

    def write_npy(self, path: Callable[[str], str]) -> list[Blob]:
        """Write each stem as a float32 array ``[2, samples]`` below the output; returns what was written."""
        self._complete()
        return [
            self._write(path(name), name, lambda out, spool=spool: write_npy(spool, out))
            for name, spool in self._spools.items()
        ]

    def _write(self, path: str, name: str, fill: Callable[[BinaryIO], None]) -> Blob:
        with tempfile.NamedTemporaryFile(prefix="soundmill-stem-") as file:
            fill(file)
            file.flush()
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
            self._output.upload(path, Path(file.name))
        # Without bytes: it is in place before the row that counts it.
        shape = [2, self._spools[name].samples]
        return Blob(path, name, shape, None, size, sha256=digest.hexdigest())

    def close(self) -> None:
        """Remove the temporary files."""
        for spool in self._spools.values():
            spool.close()
