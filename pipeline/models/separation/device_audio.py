"""A track on the device: copied there once, levelled there, and windows cut out of it there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.audio.reader import AudioReader
from pipeline.models.separation.window import UNTOUCHED, Level, Window
from pipeline.models.transfer import Ready, copying, upload

WHOLE_SAMPLES = 1 << 22
"""So many samples per channel stay on the device while a track is worked on: 95 s at 44.1 kHz, 34 MB of stereo."""
BLOCK_SAMPLES = 1 << 19
"""A longer one is read anew in blocks of so many, for its level and for its windows."""


class DeviceTrack:
    """A track as the backends see it: its samples on their device, in blocks.

    Args:
        reader: where the samples come from.
        device: where they go.
    """

    def __init__(self, reader: AudioReader, device: torch.device) -> None:
        self.device = device
        self.samples = reader.samples
        self._reader = reader
        self._whole: Tensor | None = None

    def blocks(self) -> Iterator[Tensor]:
        """The samples in consecutive blocks, float32 ``[channels, n]``, to be read within `copying`."""
        for start in range(0, self.samples, BLOCK_SAMPLES):
            yield self.read(start, min(start + BLOCK_SAMPLES, self.samples))

    def read(self, start: int, stop: int) -> Tensor:
        """Samples ``start`` to ``stop``, float32 ``[channels, stop - start]``.

        Raises:
            ValueError: NaN or infinity.
        """
        if self.samples > WHOLE_SAMPLES:
            return self._upload(start, stop)
        if self._whole is None:
            self._whole = self._upload(0, self.samples)
        return self._whole[:, start:stop]

    def again(self, start: int, stop: int) -> Tensor:
        """What `read` gave before, for the current stream; of a long track it is read from the reader anew."""
        with copying(self.device):
            if self._whole is None:
                audio = upload(self._reader.read(start, stop), self.device)
            else:
                audio = self._whole[:, start:stop]
            ready = Ready(self.device)
        ready.wait(audio)
        return audio

    def _upload(self, start: int, stop: int) -> Tensor:
        audio = upload(self._reader.read(start, stop), self.device)
        if audio.numel() and not math.isfinite(torch.linalg.vector_norm(audio, math.inf).item()):
            raise ValueError(f"separation: NaN or infinity after sample {start}")
        return audio

    def windows(self, windows: Iterable[Window], level: Level) -> Iterator[tuple[Window, DeviceBlock]]:
        """Each window with the block that holds it, which is read when the first of its windows is asked for."""
        chosen: list[Window] = []
        for window in windows:
            if chosen and window.start + window.size - chosen[0].start > BLOCK_SAMPLES:
                yield from self._with_block(chosen, level)
                chosen = []
            chosen.append(window)
        yield from self._with_block(chosen, level)

    def _with_block(self, windows: Sequence[Window], level: Level) -> Iterator[tuple[Window, DeviceBlock]]:
        if windows:
            # A window may lie wholly in the silence around the track.
            starts, stops = zip(*((w.start, w.start + w.size) for w in windows), strict=True)
            start = min(max(0, min(starts)), self.samples)
            block = DeviceBlock(self, start, max(start, min(self.samples, max(stops))), level)
            yield from ((window, block) for window in windows)


class DeviceBlock:
    """A stretch of a track on the device, at the level that the network expects.

    Args:
        track: of which it is a part.
        start, stop: which samples of it.
        level: what is taken out.
    """

    def __init__(self, track: DeviceTrack, start: int, stop: int, level: Level) -> None:
        self._start, self._stop = start, stop
        with copying(track.device):
            audio = track.read(start, stop)
            # In float32 and in this order, as demucs does.
            self._audio = audio if level == UNTOUCHED else (audio - level.mean) / level.scale
            self._ready = Ready(track.device)

    def window(self, window: Window) -> Tensor:
        """What the network reads, for the current stream: float32 ``[channels, window.size]``, zeros where the track
        has no samples."""
        self._ready.wait(self._audio)
        end = window.start + window.size
        inside = self._audio[:, max(0, window.start - self._start) : max(0, end - self._start)]
        # Silence before the track and behind it, each no longer than the window.
        before = min(window.size - inside.shape[1], max(0, self._start - window.start))
        return (
            pad(inside, (before, window.size - before - inside.shape[1]))
            if inside.shape[1] < window.size
            else inside
        )
