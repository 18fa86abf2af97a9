"""Extractors over a track that is decoded as it is read: nothing but a block of it is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pipeline.audio.mixing import for_mono
from pipeline.audio.resample import StreamResampler, to_mono
from pipeline.audio.stream import PcmStream
from pipeline.features.extraction import ALIGNMENT, BLOCK_SECONDS
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import Axis, TrackInfo


class StreamedAudio:
    """A track on disk, read anew for each pass. For `pipeline.features.extraction.run_extractors`.

    Args:
        opened: opens the track, see `pipeline.audio.stream`.
        sample_rate: the DSP rate, Hz.
        block_seconds: length of a block.
        context_seconds: audio on either side of it, the most any extractor asks for.
        every_channel: whether an extractor reads all channels at the DSP rate.
        on_end: is handed the stream at the end of the first pass over the whole track.
        mono_channel: the channel that stands for the mix where that cancels, see `pipeline.audio.mixing`.
    """

    def __init__(
        self,
        opened: Callable[[], PcmStream],
        sample_rate: int,
        block_seconds: float = BLOCK_SECONDS / 5,
        context_seconds: float = 2.0,
        *,
        every_channel: bool = False,
        on_end: Callable[[PcmStream], None] = lambda stream: None,
        mono_channel: int | None = None,
    ) -> None:
        self.opened = opened
        self.sample_rate = sample_rate
        self.context_seconds = context_seconds
        self.every_channel = every_channel
        self.on_end = on_end
        self.mono_channel = mono_channel
        self.step = max(1, round(block_seconds * sample_rate / ALIGNMENT)) * ALIGNMENT
        with opened() as stream:
            self.native_rate, self.channels = stream.sample_rate, stream.channels
        self.native_step = round(self.step * self.native_rate / sample_rate)
        self.track = TrackInfo(sample_rate, self.native_rate, self.channels, one_block=False)

    def blocks(self) -> Iterator[SharedSpectra]:
        """The blocks in order; each is good until the next one.

        Raises:
            DecodeError: on reaching what is wrong with the track.
        """
        native = _Shelf(self.channels, self.native_step, round(self.context_seconds * self.native_rate))
        # The mix is resampled as such: it is not, to the last bit, the mean of the resampled channels.
        width = 1 + self.channels * self.every_channel
        dsp = _Shelf(width, self.step, round(self.context_seconds * self.sample_rate))
        with self.opened() as stream:
            filled = self._fill(stream, native, dsp)
            number, last = 0, False
            while not last:
                complete = False
                while not complete and not (native.full() and dsp.full()):
                    complete = next(filled, True)
                last = complete and native.at_end() and dsp.at_end()
                if last:
                    self._end(stream, native, dsp)
                yield self._block(native, dsp, number, last)
                number += 1
                native.move_on()
                dsp.move_on()

    def _fill(self, stream: PcmStream, native: _Shelf, dsp: _Shelf) -> Iterator[bool]:
        """Put the track on the shelves, a piece each time; True once it is all there."""
        resampler = StreamResampler(self.native_rate, self.sample_rate, dsp.width)
        for piece in stream:
            native.put(piece)
            mix = to_mono(for_mono(piece, self.mono_channel))
            dsp.put(resampler.push(np.concatenate([mix, piece]) if self.every_channel else mix))
            yield False
        dsp.put(resampler.push(np.zeros((dsp.width, 0), np.float32), last=True))
        while True:
            yield True

    def _end(self, stream: PcmStream, native: _Shelf, dsp: _Shelf) -> None:
        if self.track.native_samples is None:
            self.track.samples, self.track.native_samples = dsp.stop, native.stop
            self.on_end(stream)

    def _block(self, native: _Shelf, dsp: _Shelf, number: int, last: bool) -> SharedSpectra:
        samples = dsp.at_hand()
        return SharedSpectra(
            samples[0],
            self.sample_rate,
            native.at_hand(),
            self.native_rate,
            place=(dsp.axis(last), native.axis(last)),
            track=self.track,
            number=number,
            every_channel=samples[1:] if self.every_channel else None,
        )


class _Shelf:
    """The samples of a block and its context, in an array that is filled from the left and moved on."""

    def __init__(self, width: int, step: int, context: int) -> None:
        self.width = width
        self.step = step
        self.before = -(-context // ALIGNMENT) * ALIGNMENT
        self.wanted = step + context
        self.start = 0
        self.origin = 0
        self.stop = 0
        self._samples = np.empty((width, self.before + self.wanted), np.float32)

    def put(self, piece: np.ndarray) -> None:
        """Add samples at the end."""
        used = self.stop - self.origin
        if used + piece.shape[1] > self._samples.shape[1]:
            larger = np.empty((self.width, used + piece.shape[1]), np.float32)
            larger[:, :used] = self._samples[:, :used]
            self._samples = larger
        self._samples[:, used : used + piece.shape[1]] = piece
        self.stop += piece.shape[1]

    def full(self) -> bool:
        """Whether the block and the context behind it are there."""
        return self.stop >= self.start + self.wanted

    def at_end(self) -> bool:
        """Whether nothing is left behind the block, once everything was put."""
        return self.stop <= self.start + self.step

    def at_hand(self) -> np.ndarray:
        return self._samples[:, : self.stop - self.origin]

    def axis(self, last: bool) -> Axis:
        return Axis(self.origin, self.start, min(self.start + self.step, self.stop), last)

    def move_on(self) -> None:
        """Let the next block begin where this one ends."""
        self.start = min(self.start + self.step, self.stop)
        origin = max(0, self.start - self.before)
        kept = self._samples[:, origin - self.origin : self.stop - self.origin]
        # The regions may overlap: numpy copies through a buffer where it must.
        self._samples[:, : kept.shape[1]] = kept
        self.origin = origin
