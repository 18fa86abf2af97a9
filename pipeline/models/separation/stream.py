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
from pipeline.errors import Fallback
from pipeline.models.batching import BatchRunner
from pipeline.models.memory import MemoryProbe
from pipeline.models.separation.base import Separator, Window
from pipeline.models.separation.overlap import OverlapAdd, read_window

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


class _Track:
    """What is in flight of one track."""

    def __init__(self, number: int, reader: AudioReader) -> None:
        self.number, self.reader = number, reader
        self.overlap_add: OverlapAdd | None = None
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
        on_cpu: gives the same backend on the CPU, for a window that the GPU has no memory for.
        memory: see `BatchRunner`.

    Attributes:
        shares: per track, the largest batch it was in, once it is done.
        fallbacks: per track, the steps that were taken because memory ran out.
    """

    def __init__(
        self,
        separator: Separator,
        tracks: Sequence[AudioReader],
        on_cpu: Callable[[], Separator] | None = None,
        memory: MemoryProbe | None = None,
    ) -> None:
        self.separator = separator
        self.shares = [BatchShare() for _ in tracks]
        self.fallbacks: list[list[Fallback]] = [[] for _ in tracks]
        self._readers = tracks
        self._on_cpu = on_cpu or (lambda: separator)
        self._memory = memory
        self._runners: dict[int, BatchRunner[_Job, Tensor]] = {}

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
                if batch and step.window.size != batch[0].window.size:
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
            if reader.channels != 2:
                raise ValueError(f"separation needs stereo, not {reader.channels} channel(s)")
            level = separator.level(reader)
            if level is None or not reader.samples:
                yield from _silence(track.number, reader.samples, len(separator.sources))
                return
            track.overlap_add = OverlapAdd(reader.samples, level)
            for window in separator.windows(reader.samples):
                if track.failed:
                    return
                audio = read_window(reader, window, level)
                track.pending += 1
                yield _Job(track, window, audio)
        except (ValueError, OSError) as error:
            yield from self._fail(track, error)

    def _flush(self, batch: list[_Job]) -> Iterator[Piece]:
        jobs = [job for job in batch if not job.track.failed]
        batch.clear()
        if not jobs:
            return
        runner = self._runner(jobs[0].window.size)
        results = self._run(runner, jobs)
        steps = runner.take_fallbacks()
        for number in {job.track.number for job in jobs}:
            self.fallbacks[number] += steps
        weight = self.separator.transition(jobs[0].window.size)
        for job, result in zip(jobs, results, strict=True):
            job.track.pending -= 1
            if job.track.failed:
                continue
            if isinstance(result, Exception):
                yield from self._fail(job.track, result)
                continue
            yield from self._checked(job.track, job.track.overlap_add.add(job.window, result, weight))
            if job.track.cut and not job.track.pending and not job.track.failed:
                yield from self._finish(job.track)

    def _runner(self, size: int) -> BatchRunner[_Job, Tensor]:
        """One per length of window: what an item takes is measured for items of one size."""
        if size not in self._runners:
            full = size >= self.separator.segment * self.separator.sample_rate
            key = (self.separator.model_id(), self.separator.amp, size) if full else None
            self._runners[size] = BatchRunner(
                "separation",
                self._forward,
                self.separator.device.type,
                self.separator.batch_items,
                key,
                self._memory,
            )
        return self._runners[size]

    def _run(self, runner: BatchRunner[_Job, Tensor], jobs: list[_Job]) -> Sequence[Tensor | Exception]:
        try:
            return runner.run(jobs)
        except torch.AcceleratorError:
            raise  # the GPU context is lost: only a new process can go on
        except Exception as error:  # noqa: BLE001  one window's trouble must not cost its neighbours
            if len(jobs) == 1:
                return [error]
        return [self._run(runner, [job])[0] for job in jobs]

    def _forward(self, jobs: Sequence[_Job], device: str) -> Sequence[Tensor]:
        separator = self.separator if device == self.separator.device.type else self._on_cpu()
        with torch.inference_mode():
            windows = torch.from_numpy(np.stack([job.audio for job in jobs])).to(separator.device)
            stems = separator.separate(windows).float().cpu()
        seconds = windows.shape[0] * windows.shape[-1] / separator.sample_rate
        for job in jobs:
            share = self.shares[job.track.number]
            if len(jobs) > share.items:
                share.items, share.audio_s = len(jobs), seconds
        return stems

    def _finish(self, track: _Track) -> Iterator[Piece]:
        yield from self._checked(track, track.overlap_add.rest())
        track.overlap_add = None
        if not track.failed:
            yield Piece(track.number, done=True)

    def _checked(self, track: _Track, block: np.ndarray) -> Iterator[Piece]:
        if not np.isfinite(block).all():
            error = ValueError("separation: the stems hold NaN or infinity: the samples are too large")
            yield from self._fail(track, error)
        elif block.shape[-1]:
            yield Piece(track.number, block)

    def _fail(self, track: _Track, error: Exception) -> Iterator[Piece]:
        if not track.failed:
            track.failed = True
            yield Piece(track.number, done=True, error=error)


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


def _silence(number: int, samples: int, sources: int) -> Iterator[Piece]:
    for start in range(0, samples, _SILENCE):
        yield Piece(number, np.zeros((sources, 2, min(_SILENCE, samples - start)), np.float32))
    yield Piece(number, done=True)
