"""Tracks in, stems out: windows of many tracks in packed batches, overlap-add, memory set by the batch.

Of each track only the windows of the batch in hand and the samples that the next window still adds to are in
memory; stems leave as blocks as soon as no window can change them. Tracks come out in the order they went in,
and neither their number nor the size of the batch changes what is computed for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.audio.reader import ArrayReader, AudioReader
from pipeline.models.separation.base import Level, Separator, Window

# Length of the blocks of a silent track, which no window sets.
_SILENCE = 1 << 18


class Piece(NamedTuple):
    """Something that happened to a track; its pieces are consecutive.

    Args:
        track: its number.
        block: the next samples of its stems, float32 ``[sources, 2, n]``, ``n >= 1``.
        done: whether this is its last piece; then there may be no block.
        error: why it could not be separated; then it is its last piece.
    """

    track: int
    block: np.ndarray | None = None
    done: bool = False
    error: Exception | None = None


@dataclass
class BatchShare:
    """The largest batch that a track had a window in.

    Args:
        items: windows in it.
        audio_s: audio in it, s.
    """

    items: int = 0
    audio_s: float = 0.0


class OverlapAdd:
    """Adds the windows of one track and hands out what is complete.

    Args:
        samples: length of the track; what is handed out sums to it exactly.
        level: what was taken out of the track and is put back.
    """

    def __init__(self, samples: int, level: Level = Level()) -> None:
        self._samples, self._level = samples, level
        self._sum: Tensor | None = None
        self._weights: Tensor | None = None
        self._position = 0

    def add(self, window: Window, stems: Tensor, weight: Tensor | None) -> np.ndarray:
        """Take the next window and return the samples before it, which no later one can change.

        Args:
            window: its place; offsets rise.
            stems: ``[sources, 2, window.size]``.
            weight: ``[n]``, ``n >= window.length``, or None for 1 without normalisation.

        Returns:
            float32 ``[sources, 2, n]``; ``n`` may be 0.
        """
        first = window.offset - window.start
        kept = stems[..., first : first + window.length].float()
        if self._sum is None:
            self._position = window.offset
            self._sum = kept.new_zeros(*kept.shape[:-1], 0)
            self._weights = None if weight is None else weight.new_zeros(0)
        complete = self._take(window.offset)
        self._sum = _grown(self._sum, window.length)
        if weight is None:
            self._sum[..., : window.length] += kept.to(self._sum.device)
            return complete
        weight = weight[: window.length]
        self._weights = _grown(self._weights, window.length)
        self._weights[: window.length] += weight
        self._sum[..., : window.length] += (weight * kept.to(weight.device)).to(self._sum.device)
        return complete

    def rest(self) -> np.ndarray:
        """What is left after the last window."""
        return self._take(self._position + self._sum.shape[-1])

    def _take(self, until: int) -> np.ndarray:
        count = until - self._position
        done = self._sum[..., :count]
        if self._weights is not None:
            done = done / self._weights[:count]
            self._weights = self._weights[count:].clone()
        # A view would keep the whole buffer alive.
        self._sum = self._sum[..., count:].clone()
        start = min(count, max(0, -self._position))
        end = max(start, min(count, self._samples - self._position))
        self._position = until
        done = done[..., start:end]
        if self._level != Level():
            done = done * self._level.scale + self._level.mean
        return done.cpu().numpy()


def _grown(buffer: Tensor, size: int) -> Tensor:
    missing = size - buffer.shape[-1]
    return torch.nn.functional.pad(buffer, (0, missing)) if missing > 0 else buffer


class _Track:
    """What is in flight of one track."""

    def __init__(self, number: int, reader: AudioReader) -> None:
        self.number, self.reader = number, reader
        self.overlap_add: OverlapAdd | None = None
        self.level = Level()
        self.pending = 0  # windows cut and not yet added
        self.cut = False  # whether all windows are
        self.failed = False


class _Job(NamedTuple):
    track: _Track
    window: Window
    audio: np.ndarray


class SeparationStream:
    """Iterates over the `Piece` objects of a block of tracks.

    Args:
        separator: the backend.
        tracks: stereo, at ``separator.sample_rate``.
        run: what runs a batch; by default ``separator.separate``.

    Attributes:
        shares: per track, the largest batch it was in, once it is done.
    """

    def __init__(
        self,
        separator: Separator,
        tracks: Sequence[AudioReader],
        run: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.separator = separator
        self.shares = [BatchShare() for _ in tracks]
        self._readers = tracks
        self._run = run or separator.separate

    def __iter__(self) -> Iterator[Piece]:
        batch: list[_Job] = []
        for number, reader in enumerate(self._readers):
            track = _Track(number, reader)
            for step in self._cut(track):
                if isinstance(step, Piece):
                    # In order: what the tracks before it still have in the batch comes first.
                    yield from self._flush(batch)
                    yield step
                    continue
                if batch and len(step.audio[0]) != len(batch[0].audio[0]):
                    yield from self._flush(batch)
                batch.append(step)
                if len(batch) >= self.separator.batch_items:
                    yield from self._flush(batch)
            track.cut = True
            if not track.failed and not track.pending and track.overlap_add is not None:
                yield from self._finish(track)
        yield from self._flush(batch)

    def _cut(self, track: _Track) -> Iterator[_Job | Piece]:
        """The windows of a track, or the pieces of one that no network needs to see."""
        reader, separator = track.reader, self.separator
        try:
            _check(reader)
            level = separator.level(reader)
            if level is None or not reader.samples:
                yield from _silence(track.number, reader.samples, len(separator.sources))
                return
            track.level = level
            track.overlap_add = OverlapAdd(reader.samples, level)
            for window in separator.windows(reader.samples):
                if track.failed:
                    return
                audio = read_window(reader, window, level)
                track.pending += 1
                yield _Job(track, window, audio)
        except (ValueError, OSError) as error:
            if not track.failed:
                track.failed = True
                yield Piece(track.number, done=True, error=error)

    def _flush(self, batch: list[_Job]) -> Iterator[Piece]:
        jobs = [job for job in batch if not job.track.failed]
        batch.clear()
        if not jobs:
            return
        with torch.inference_mode():
            windows = torch.from_numpy(np.stack([job.audio for job in jobs])).to(self.separator.device)
            stems = self._run(windows)
        seconds = windows.shape[0] * windows.shape[-1] / self.separator.sample_rate
        weight = self.separator.transition(windows.shape[-1])
        for job, result in zip(jobs, stems, strict=True):
            share = self.shares[job.track.number]
            if len(jobs) > share.items:
                share.items, share.audio_s = len(jobs), seconds
            job.track.pending -= 1
            yield from self._add(job, result, weight)

    def _add(self, job: _Job, stems: Tensor, weight: Tensor | None) -> Iterator[Piece]:
        track = job.track
        if track.failed:
            return
        block = track.overlap_add.add(job.window, stems, weight)
        yield from self._checked(track, block)
        if track.cut and not track.pending and not track.failed:
            yield from self._finish(track)

    def _finish(self, track: _Track) -> Iterator[Piece]:
        yield from self._checked(track, track.overlap_add.rest())
        track.overlap_add = None
        if not track.failed:
            yield Piece(track.number, done=True)

    def _checked(self, track: _Track, block: np.ndarray) -> Iterator[Piece]:
        if not np.isfinite(block).all():
            track.failed = True
            error = ValueError("separation: the stems hold NaN or infinity: the samples are too large")
            yield Piece(track.number, done=True, error=error)
        elif block.shape[-1]:
            yield Piece(track.number, block)


def stream_track(separator: Separator, audio: np.ndarray | AudioReader) -> Iterator[np.ndarray]:
    """The stems of one track in blocks, float32 ``[sources, 2, n]``; their lengths sum to the track's.

    Args:
        audio: stereo at ``separator.sample_rate``, an array ``[2, samples]`` or a reader.

    Raises:
        ValueError: it is not stereo, or holds NaN or infinity, or values too large for float32 arithmetic.
    """
    reader = ArrayReader(audio) if isinstance(audio, np.ndarray) else audio
    for piece in SeparationStream(separator, [reader]):
        if piece.error is not None:
            raise piece.error
        if piece.block is not None:
            yield piece.block


def separate_track(separator: Separator, audio: np.ndarray | AudioReader) -> np.ndarray:
    """All stems at once, float32 ``[sources, 2, samples]``; needs memory for the whole track."""
    blocks = list(stream_track(separator, audio))
    if not blocks:
        return np.zeros((len(separator.sources), 2, 0), np.float32)
    return np.concatenate(blocks, axis=-1)


def read_window(reader: AudioReader, window: Window, level: Level = Level()) -> np.ndarray:
    """What the network reads: float32 ``[channels, window.size]``, zeros where the track has no samples.

    Raises:
        ValueError: NaN or infinity.
    """
    out = np.zeros((reader.channels, window.size), np.float32)
    start, stop = max(0, window.start), min(reader.samples, window.start + window.size)
    if start < stop:
        inside = reader.read(start, stop)
        if not np.isfinite(inside).all():
            raise ValueError(f"separation: NaN or infinity after sample {start}")
        if level != Level():
            # In float32 and in this order, as demucs does.
            inside = (inside - np.float32(level.mean)) / np.float32(level.scale)
        out[:, start - window.start : stop - window.start] = inside
    return out


def _check(reader: AudioReader) -> None:
    if reader.channels != 2:
        raise ValueError(f"separation needs stereo, not {reader.channels} channel(s)")


def _silence(number: int, samples: int, sources: int) -> Iterator[Piece]:
    for start in range(0, samples, _SILENCE):
        yield Piece(number, np.zeros((sources, 2, min(_SILENCE, samples - start)), np.float32))
    yield Piece(number, done=True)
