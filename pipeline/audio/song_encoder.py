"""`SongEncoder`: a finished song as an mp3, flac, ogg, opus, m4a or wav file with its tags, block after block.

Length and position of every sample survive: a decoder that heeds what the file says of encoder delay and padding gives
back as many samples as went in, none of them shifted. The same input gives the same bytes. Nothing is resampled.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from pipeline.audio.encode import EncodeError
from pipeline.audio.song_dialects import left_out
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_sinks import FlacSink, explained, opened_sink
from pipeline.audio.song_tags import NO_TAGS, SongTags


class SongEncoder:
    """Writes a song in memory that does not grow with its length, but for the index of an m4a.

    A context manager: leaving it completes the file, leaving it with an error gives it up, and deletes it where it was
    opened here.

    Args:
        out: a path, or a binary file that can be read, written and sought; it is written from its position on.
        form: the format and its settings.
        sample_rate: Hz; opus is 48000 Hz, mp3 at most 48000 Hz.
        channels: mp3 and ogg 1 or 2, m4a 1, 2 or 6, opus 1, 2, 6 or 8, flac to 8, wav to 64; surround in WAV order.
        tags: texts and pictures.
        samples: the length, where it is known. With it an m4a has the exact length in FFmpeg's decoder, too, which
            hands out up to 1023 samples more without it; players that heed the whole edit list need it not.

    Raises:
        EncodeError: the format does not hold that; one line of what, why and what to choose.

    ``samples`` counts what was written; ``left_out`` says, a line each, which tags the format cannot hold.
    """

    def __init__(
        self,
        out: BinaryIO | str | Path,
        form: SongFormat,
        sample_rate: int,
        channels: int,
        *,
        tags: SongTags = NO_TAGS,
        samples: int | None = None,
    ) -> None:
        form.check(sample_rate, channels)
        self.form, self.sample_rate, self.channels = form, sample_rate, channels
        with explained(form, sample_rate, channels):
            self.left_out = left_out(tags.texts, tags.pictures, form.name)
        self.samples = 0
        self._expected = samples
        self._path = Path(out) if isinstance(out, str | Path) else None
        self._out: BinaryIO = self._path.open("w+b") if self._path is not None else out  # type: ignore[assignment]
        self._open = True
        try:
            self._sink = opened_sink(self._out, form, sample_rate, channels, tags, samples=samples)
        except BaseException:
            self._give_up()
            raise
        self._buffer = np.zeros((channels, self._sink.block), np.float32)
        # What the sink wants in front of the track lies in the buffer from the start.
        self._filled = self._sink.lead

    @property
    def clipped(self) -> int:
        """Samples beyond ±1 that an integer format cut; 0 of the others, which hold them."""
        return self._sink.quantizer.clipped if isinstance(self._sink, FlacSink) else 0

    def write(self, block: np.ndarray) -> None:
        """Append float ``[channels, n]``, full scale ±1, of any length.

        Raises:
            EncodeError: another shape, NaN or infinity, or the encoder gave up.
        """
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[0] != self.channels or not np.issubdtype(block.dtype, np.floating):
            raise EncodeError(f"a block is float [{self.channels}, n], not {block.dtype} {list(block.shape)}")
        if not self._open:
            raise EncodeError("the song is complete: nothing can be appended")
        if not np.isfinite(block).all():
            raise EncodeError("samples hold NaN or infinity: mend them before they are encoded")
        self.samples += block.shape[1]
        size, at = self._sink.block, 0
        while at < block.shape[1]:
            count = min(size - self._filled, block.shape[1] - at)
            self._buffer[:, self._filled : self._filled + count] = block[:, at : at + count]
            self._filled += count
            at += count
            if self._filled == size:
                self._flush()

    def _flush(self) -> None:
        with explained(self.form, self.sample_rate, self.channels):
            self._sink.write(self._buffer[:, : self._filled])
        self._filled = 0

    def close(self) -> None:
        """Complete the file; a second time it does nothing.

        Raises:
            EncodeError: no samples (of any format but wav), or not as many as were announced.
        """
        if not self._open:
            return
        try:
            self._complete()
        except BaseException:
            self.abandon()
            raise
        self._open = False
        if self._path is not None:
            self._out.close()
        else:
            self._out.flush()

    def _complete(self) -> None:
        if not self.samples and self.form.name != "wav":
            raise EncodeError(f"{self.form.name} cannot hold a song without samples: choose wav")
        if self._expected is not None and self.samples != self._expected:
            raise EncodeError(
                f"{self._expected} samples were announced, and {self.samples} came: announce none"
            )
        if self._filled:
            self._flush()
        with explained(self.form, self.sample_rate, self.channels):
            self._sink.finish(self.samples)

    def abandon(self) -> None:
        """Give the song up: a file that was opened here is deleted."""
        if self._open:
            self._sink.abandon()
            self._give_up()

    def _give_up(self) -> None:
        self._open = False
        if self._path is not None:
            self._out.close()
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> SongEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
