"""Pieces of a recording as FLAC at its own rate: samples as they are, with one gain where the recording would clip."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from pipeline.audio.encode import write_flac24
from pipeline.audio.reader import AudioReader, blocks
from pipeline.dataset.contents import Artifact
from pipeline.dataset.output import Output
from pipeline.engine.batch import Blob, Track
from pipeline.engine.scratch import scratch_folder
from pipeline.engine.uploading import uploaded
from pipeline.errors import Fallback

MOST_CHANNELS = 8
"""That FLAC holds."""
IN_MEMORY = 1 << 22
"""Samples of all channels; more goes through a temporary file."""


class RecordingFiles:
    """Writes pieces of one recording. Nothing is read before the first one is asked for.

    Args:
        track: whose recording it is; its blobs and fallbacks are told.
        output: where the files go.
        reader: opens the recording.
    """

    def __init__(self, track: Track, output: Output, reader: Callable[[], AudioReader]) -> None:
        self._track, self._output, self._open = track, output, reader

    @cached_property
    def audio(self) -> AudioReader:
        """The recording."""
        return self._open()

    @cached_property
    def refused(self) -> bool:
        """Whether FLAC does not hold it, which a fallback of the track says."""
        channels = self._track.channels or 1
        if channels > MOST_CHANNELS:
            reason = f"FLAC holds {MOST_CHANNELS} channels, and the recording has {channels}"
            self._track.fallbacks.append(Fallback("clips", "FLAC files", "none", reason))
        return channels > MOST_CHANNELS

    @cached_property
    def gain(self) -> float:
        """Of all files of the recording: below 1 where its samples lie above full scale, as those of floats may."""
        peak = max((float(np.max(np.abs(block), initial=0.0)) for block in blocks(self.audio)), default=0.0)
        # The largest 24-bit code is one step below full scale.
        return (1.0 - 2.0**-23) / peak if peak > 1.0 else 1.0

    @property
    def gain_db(self) -> float:
        """The same in dB."""
        return 20.0 * math.log10(self.gain)

    def write(self, artifact: Artifact, name: str, start: int, stop: int) -> str | None:
        """Write samples ``start`` to ``stop`` and return the path; None where there are none, or FLAC holds none.

        At once: a recording may have thousands of such files.
        """
        if self.refused:
            return None
        piece = _Piece(self.audio, start, min(stop, self.audio.samples), self.gain)
        if piece.samples <= 0:
            return None
        path = artifact.path(self._track.asset_id, f"{name}{artifact.suffix}")
        blob_name, shape = f"{artifact.name}_{name}", [piece.channels, piece.samples]
        if piece.samples * piece.channels <= IN_MEMORY:
            out = io.BytesIO()
            write_flac24(piece, 1.0, self._track.sample_rate, out)
            data = out.getvalue()
            self._output.write(path, data)
            digest = hashlib.sha256(data).hexdigest()
            self._track.blobs.append(Blob(path, blob_name, shape, None, len(data), sha256=digest))
            return path
        with scratch_folder() as folder:
            file = folder / "part.flac"
            with file.open("wb") as written:
                write_flac24(piece, 1.0, self._track.sample_rate, written)
            self._track.blobs.append(uploaded(self._output, path, blob_name, shape, file))
        return path


class _Piece:
    """Samples of a recording, with a gain."""

    def __init__(self, audio: AudioReader, start: int, stop: int, gain: float) -> None:
        self._audio, self._start, self._gain = audio, start, np.float32(gain)
        self.channels, self.samples = audio.channels, stop - start

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `AudioReader`."""
        block = self._audio.read(self._start + start, self._start + stop)
        return block if self._gain == 1.0 else block * self._gain
