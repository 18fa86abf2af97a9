"""Tracks in, stems out: windows of many tracks in packed batches, overlap-add, memory set by the batch.

A track goes to the device in blocks, its windows are views of them, and what the network makes of those is added up
where it is. Of each track only the blocks of the windows in hand and the samples that the next window still adds to
are in memory; stems leave as blocks as soon as no window can change them. Tracks come out in the order they went in,
and neither their number nor the size of the batch changes what is computed for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.audio.reader import ArrayReader, AudioReader
from pipeline.counting import plural
from pipeline.errors import Fallback
from pipeline.models.batching import BatchRunner
from pipeline.models.memory import MemoryProbe
from pipeline.models.separation.base import Separator
from pipeline.models.separation.device_audio import DeviceBlock, DeviceTrack
from pipeline.models.separation.names import DROP, stems_written
from pipeline.models.separation.overlap import OverlapAdd
from pipeline.models.separation.residual import Remainder
from pipeline.models.separation.window import Window
from pipeline.models.transfer import Download, copying
from pipeline.models.window_batches import Answer
from pipeline.models.window_pool import Call, WindowPool, device_event

# One window and two are how `BatchRunner` learns what a window takes.
FILLED_FROM = 3
# What is the trouble of one track; anything else ends them all.
TRACKS_OWN = (ValueError, OSError, torch.OutOfMemoryError)
# Length of the blocks of a silent track, which no window sets.
_SILENCE = 1 << 18


class Piece(NamedTuple):
    """Something that happened to a track; its pieces are consecutive.

    Args:
        track: its number.
        block: the next samples of its stems, float32 ``[sources, 2, n]``, ``n >= 1``, on the backend's device.
        done: whether this is its last piece; then there may be no block.
        error: why it could not be separated; then it is its last piece.
    """

    track: int
    block: Tensor | None = None
    done: bool = False
    error: Exception | None = None


@dataclass
class Share:
    """What a track had of the batches it was in.

    Args:
        items: windows in the largest of them.
        audio_s: audio in that one, s.
        compute_s: of the time spent on all of them, and on its own windows, what is its own, s.
        fallbacks: steps that were taken because memory ran out.
    """

    items: int = 0
    audio_s: float = 0.0
    compute_s: float = 0.0
    fallbacks: list[Fallback] = field(default_factory=list)


class _Track:
    """What is in flight of one track."""

    def __init__(self, number: int, reader: AudioReader) -> None:
        self.number, self.reader = number, reader
        self.overlap_add: OverlapAdd | None = None
        self.remainder: Remainder | None = None
        self.error: Exception | None = None
        self.finite: Tensor | None = None


@dataclass(frozen=True)
class _Job:
    """A window on its way, see `pipeline.models.window_pool.PoolItem`."""

    track: _Track
    window: Window
    block: DeviceBlock
    sample_rate: int

    @property
    def group(self) -> Hashable:
        return self.window.size

    @property
    def owner(self) -> Hashable:
        return id(self.track)

    @property
    def seconds(self) -> float:
        return self.window.size / self.sample_rate

    @property
    def unwanted(self) -> bool:
        return self.track.error is not None


class SeparationPool:
    """One backend's windows in shared batches, for any number of `SeparationStream` in as many threads.

    Args:
        separator: the backend.
        on_cpu: gives the same backend on the CPU, for a window that the GPU has no memory for.
        memory: see `BatchRunner`.
    """

    def __init__(
        self,
        separator: Separator,
        on_cpu: Callable[[], Separator] | None = None,
        memory: MemoryProbe | None = None,
    ) -> None:
        self.separator = separator
        self._on_cpu = on_cpu or (lambda: separator)
        self._memory = memory
        self.windows: WindowPool[_Job, Tensor] = WindowPool(self._runner, device_event(separator.device))
        self._weights: dict[int, Tensor | None] = {}
        # Batches that have run, by length of window: to others nothing is filled up, for they may not fit.
        self._fitting: set[tuple[int, int]] = set()

    def sizes(self) -> list[int]:
        """The batches that a GPU had best be given, smallest first; others are filled up to them with silence."""
        most = self.separator.batch_items
        return sorted({max(FILLED_FROM, most // 4), most})

    def _filled(self, windows: Tensor) -> Tensor:
        """A batch of one of `sizes` that has run already: cuDNN plans anew for every other size."""
        count, length = len(windows), windows.shape[-1]
        if windows.device.type == "cpu" or count < FILLED_FROM:
            return windows
        fitting = (size for size in self.sizes() if size >= count and (size, length) in self._fitting)
        return pad(windows, (0, 0, 0, 0, 0, next(fitting, count) - count))

    def _separated(self, separator: Separator, windows: Tensor) -> Tensor:
        """The stems of a batch, filled up for the network; a size that has become too large is not filled up to."""
        filled = self._filled(windows)
        batch = len(filled), filled.shape[-1]
        try:
            stems = separator.separate(filled)
        except Exception:
            self._fitting.discard(batch)
            raise
        self._fitting.add(batch)
        return stems[: len(windows)]

    def transition(self, size: int) -> Tensor | None:
        """`Separator.transition` on the device."""
        if size not in self._weights:
            weight = self.separator.transition(size)
            self._weights[size] = None if weight is None else weight.to(self.separator.device)
        return self._weights[size]

    def _runner(self, size: Hashable) -> BatchRunner[_Job, Tensor]:
        """One per length of window: what an item takes is measured for items of one size."""
        separator = self.separator
        full = size >= separator.segment * separator.sample_rate
        key = (separator.model_id(), separator.amp, size) if full else None
        return BatchRunner(
            "separation",
            self.windows.timed(self._forward),
            separator.device.type,
            separator.batch_items,
            key=key,
            memory=self._memory,
        )

    @torch.inference_mode()
    def _forward(self, jobs: Sequence[_Job], device: str) -> Sequence[Tensor]:
        separator = self.separator if device == self.separator.device.type else self._on_cpu()
        windows = torch.stack([job.block.window(job.window) for job in jobs]).to(separator.device)
        stems = self._separated(separator, windows)
        # What is added up stays where the windows came from.
        return stems.float().to(self.separator.device)


class SeparationStream:
    """Iterates over the `Piece` objects of a block of tracks.

    Args:
        pool: the backend, alone or with other streams that share its batches.
        tracks: stereo, at the backend's ``sample_rate``.
        residual: where the part of the mix goes that is in no stem, see `pipeline.models.separation.residual`; by
            default nowhere, and the stems are the backend's own.

    Attributes:
        sources: the stems in the order of the blocks' first axis.
        shares: what each track had of the batches, complete once it is done.
        call: this stream's use of the pool.
    """

    def __init__(
        self, pool: SeparationPool | Separator, tracks: Sequence[AudioReader], residual: str = DROP
    ) -> None:
        self.pool = pool if isinstance(pool, SeparationPool) else SeparationPool(pool)
        self.separator = self.pool.separator
        self.residual = residual
        self.sources = stems_written(self.separator.sources, residual)
        self.shares = [Share() for _ in tracks]
        self.call = Call()
        self._tracks = [_Track(number, reader) for number, reader in enumerate(tracks)]

    def __iter__(self) -> Iterator[Piece]:
        waiting = iter(self._tracks)
        current = next(waiting, None)
        for answer in self.pool.windows.run(self._cut_all(), self.call):
            while current is not answer.item.track:
                yield from self._end(current)
                current = next(waiting)
            yield from self._take(answer)
        while current is not None:
            yield from self._end(current)
            current = next(waiting, None)

    def _cut_all(self) -> Iterator[_Job]:
        for track in self._tracks:
            try:
                yield from self._cut(track)
            except TRACKS_OWN as error:
                track.error = track.error or error

    def _cut(self, track: _Track) -> Iterator[_Job]:
        """The windows of a track; none of one that no network needs to see."""
        reader, separator = track.reader, self.separator
        if reader.channels != 2:
            raise ValueError(f"separation needs stereo, not {plural(reader.channels, 'channel')}")
        if not reader.samples:
            return
        audio = DeviceTrack(reader, separator.device)
        with copying(separator.device):
            level = separator.level(audio)
        if level is None:
            return
        track.overlap_add = OverlapAdd(reader.samples, level)
        track.remainder = Remainder(separator.sources, self.residual, audio)
        for window, block in audio.windows(separator.windows(reader.samples), level):
            if track.error is not None:
                return
            yield _Job(track, window, block, separator.sample_rate)

    @torch.inference_mode()
    def _added(self, track: _Track, window: Window, stems: Tensor) -> Tensor:
        weight = self.pool.transition(window.size)
        return self._checked(track, track.remainder.add(track.overlap_add.add(window, stems, weight)))

    @torch.inference_mode()
    def _rest(self, track: _Track) -> Tensor:
        return self._checked(track, track.remainder.add(track.overlap_add.rest(), last=True))

    def _checked(self, track: _Track, block: Tensor) -> Tensor:
        # Asked for when the track ends: on a GPU each question would wait for all that was launched.
        finite = torch.isfinite(block).all()
        track.finite = finite if track.finite is None else track.finite.logical_and_(finite)
        return block

    def _take(self, answer: Answer[_Job, Tensor]) -> Iterator[Piece]:
        track, share = answer.item.track, self.shares[answer.item.track.number]
        share.compute_s += answer.seconds
        if track.error is not None:
            return
        if answer.error is not None:
            track.error = answer.error
            return
        if answer.batch.items > share.items:
            share.items, share.audio_s = answer.batch.items, answer.batch.audio_s
        share.fallbacks += [step for step in answer.fallbacks if step not in share.fallbacks]
        try:
            block = self._added(track, answer.item.window, answer.value)
        except TRACKS_OWN as error:
            track.error = error
            return
        if block.shape[-1]:
            yield Piece(track.number, block)

    def _end(self, track: _Track) -> Iterator[Piece]:
        """The last pieces of a track, whose windows are all added."""
        if track.error is None and track.overlap_add is None:
            yield from _silence(track, len(self.sources), self.separator.device)
        elif track.error is None:
            try:
                block = self._rest(track)
            except TRACKS_OWN as error:
                track.error = error
            else:
                if block.shape[-1]:
                    yield Piece(track.number, block)
                if not track.finite:
                    text = "separation: the stems hold NaN or infinity: the samples are too large"
                    track.error = ValueError(text)
        track.overlap_add = track.remainder = None
        yield Piece(track.number, done=True, error=track.error)


def _silence(track: _Track, sources: int, device: torch.device) -> Iterator[Piece]:
    for start in range(0, track.reader.samples, _SILENCE):
        size = min(_SILENCE, track.reader.samples - start)
        yield Piece(track.number, torch.zeros(sources, 2, size, device=device))


def stream_track(
    separator: Separator, audio: np.ndarray | AudioReader, residual: str = DROP
) -> Iterator[np.ndarray]:
    """The stems of one track in blocks on the host, float32 ``[sources, 2, n]``; their lengths sum to the track's.

    Args:
        audio: stereo at ``separator.sample_rate``, an array ``[2, samples]`` or a reader.
        residual: see `SeparationStream`.

    Raises:
        ValueError: it is not stereo, or holds NaN or infinity, or values too large for float32 arithmetic; the
            latter shows in the end.
    """
    reader = ArrayReader(audio) if isinstance(audio, np.ndarray) else audio
    for piece in SeparationStream(separator, [reader], residual):
        if piece.error is not None:
            raise piece.error
        if piece.block is not None:
            yield Download(piece.block).result()


def separate_track(separator: Separator, audio: np.ndarray | AudioReader, residual: str = DROP) -> np.ndarray:
    """All stems at once, float32 ``[sources, 2, samples]``; needs memory for the whole track. See `stream_track`."""
    blocks = list(stream_track(separator, audio, residual))
    if not blocks:
        return np.zeros((len(stems_written(separator.sources, residual)), 2, 0), np.float32)
    return np.concatenate(blocks, axis=-1)
