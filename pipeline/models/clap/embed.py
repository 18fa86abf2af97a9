"""Windows of many tracks through the CLAP tower in shared batches, and back to their tracks.

A track goes to the device as a whole, or in blocks of two minutes, and everything that is per sample happens there:
clipping, 16-bit steps, levels, windows as views. What comes back are vectors and levels.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from pipeline.audio.reader import AudioReader, mono_reader
from pipeline.audio.windows import window_spans
from pipeline.errors import Fallback, UserError
from pipeline.models.batching import BatchRunner
from pipeline.models.clap.checkpoint import Checkpoint, read_checkpoint
from pipeline.models.clap.clips import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE, Clip, ClipBlock, assemble
from pipeline.models.clap.defaults import BATCH_CLIPS, HOP_SECONDS, WINDOW_SECONDS
from pipeline.models.clap.tower import AudioTower
from pipeline.models.clap.track_windows import EmbeddedWindow, TrackWindows
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.precision import pick_precision
from pipeline.models.transfer import Download
from pipeline.models.window_batches import Answer, Batch
from pipeline.models.window_pool import LARGEST_BATCH, Call, WindowPool, device_event

T = TypeVar("T")

BLOCK_SECONDS = 120.0
"""Of a longer track so much is on the device at a time: 23 MB of samples."""


@dataclass(frozen=True)
class BatchReport:
    """What one batch was and cost.

    Args:
        items: windows in it, those of other callers among them.
        audio_s: real audio in it, s, without filling.
        padding_fraction: share of what the tower processed that was filling, 0..1.
        compute_s: tower and transfer back, s; on a GPU by its own clock.
    """

    items: int
    audio_s: float
    padding_fraction: float
    compute_s: float


@dataclass
class TrackCost:
    """What a track cost.

    Args:
        compute_s: its own preparation, and of each batch it was in the share of its audio seconds; attempts
            that failed included, so that the sum over tracks is what was spent.
        shared_s: what of it was spent in batches.
        batch: the batch that held most of its audio; None if it was in none.
    """

    compute_s: float = 0.0
    shared_s: float = 0.0
    batch: BatchReport | None = None


@dataclass
class EmbedReport:
    """What a call of `ClapEmbedder.embed_tracks` cost: per batch it had windows in, and per track in the order given.

    ``elsewhere_s`` is what the call spent on batches and on waiting for them, s: its time without its own work.
    """

    batches: list[BatchReport]
    tracks: list[TrackCost]
    elsewhere_s: float = 0.0


class _Found(NamedTuple):
    """A row of what the tower returned for a batch, not necessarily there yet."""

    rows: Download
    number: int


class ClapEmbedder:
    """Embeds tracks with one checkpoint on one device.

    Args:
        checkpoint: see `read_checkpoint`.
        device: ``cpu`` or ``cuda``.
        amp: ``auto``, ``true`` or ``false``: the transformer's matrices in bfloat16, see `pick_precision`.
        max_batch_audio_seconds: bound of a batch. Every window counts as the 10 s that the tower processes
            however short it is, since that is what takes memory; one window is always allowed.
        window_seconds: at most 10, the clip HTSAT was trained on. Shorter windows are repeated up to that.
        hop_seconds: distance between the starts of two windows.
        compile: on a GPU, have the network compiled with ``torch.compile`` by `warm_up`.

    Raises:
        UserError: a parameter is out of range, or the checkpoint is refused.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "cpu",
        amp: str | bool = "auto",
        *,
        max_batch_audio_seconds: float = BATCH_CLIPS * CLIP_SECONDS,
        window_seconds: float = WINDOW_SECONDS,
        hop_seconds: float = HOP_SECONDS,
        compile: bool = False,
    ) -> None:
        self.window = _samples("clap.window_seconds", window_seconds)
        self.hop = _samples("clap.hop_seconds", hop_seconds)
        if self.window > CLIP_SAMPLES:
            raise UserError(
                f"clap.window_seconds={window_seconds:g}: the tower takes {CLIP_SECONDS:g} s at most"
            )
        if not 0 < max_batch_audio_seconds < math.inf:
            raise UserError(f"clap.max_batch_audio_seconds={max_batch_audio_seconds:g} must be above 0")
        self.device, self.compile = device, compile
        self.precision = pick_precision(amp, device)
        short = self.precision.fallback("clap")
        self.fallbacks: list[Fallback] = [short] if short else []
        loaded = read_checkpoint(checkpoint)
        self.info = loaded.info
        self.tower = self._tower(device, self.precision.dtype, lambda: loaded)
        self.pool: WindowPool[Clip, _Found] = WindowPool(
            lambda group: self.runner, device_event(torch.device(device))
        )
        self.runner: BatchRunner[Clip, _Found] = BatchRunner(
            "clap",
            self.pool.timed(self._forward),
            device,
            max(1, int(max_batch_audio_seconds // CLIP_SECONDS)),
            key=(self.model_id, self.precision.name),
        )

    @property
    def model_id(self) -> str:
        """Architecture and weights, such as ``HTSAT-base:0123456789ab``: the embedding space."""
        return self.info.model_id

    @property
    def backend(self) -> str:
        """Architecture and number format, such as ``HTSAT-base bfloat16``."""
        return f"{self.info.architecture} {self.precision.name}"

    def warm_up(self) -> float:
        """Run noise, so that the first real batch finds kernels ready, and on a GPU its memory and the faster ways
        of `pipeline.models.clap.fast_paths`; those that do not work here are among `fallbacks`. Seconds.

        To be called before others use the GPU in this process.
        """
        started = time.perf_counter()
        full = min(self.runner.batch_items, LARGEST_BATCH)
        clips = 1 if self.device == "cpu" else max(3, full)
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, CLIP_SAMPLES).astype(np.float32)
        self.embed_tracks([noise] * clips)
        if self.device != "cpu":
            problems = self.tower.prepare(min(self.runner.batch_items, full), self.compile)
            self.fallbacks += [Fallback("clap", "a faster way", "plain torch", line) for line in problems]
        self.pool.forget_spent()
        return time.perf_counter() - started

    def embed_tracks(
        self, tracks: Sequence[np.ndarray | AudioReader]
    ) -> tuple[list[TrackWindows], EmbedReport]:
        """Embed the windows of all ``tracks``, filling batches across tracks, and across threads that call this.

        How windows fall into batches changes a component by less than 1e-5 in float32, 1e-3 in bfloat16.
        Where memory runs out the batches get smaller for good, and on a GPU a window that does not fit alone
        is run on the CPU, in float32; the tracks' ``fallbacks`` tell.

        Args:
            tracks: mono at 48 kHz, float ``[samples]`` or a reader of one channel, -1..1; values beyond are
                clipped, as LAION does. Of a reader only the blocks of waiting windows are in memory.

        Returns:
            one `TrackWindows` per track in the order given, and what it cost. A track that cannot be embedded
            carries its error and costs the others nothing but time; so does one of whose windows not even a
            single one fits into memory.

        Raises:
            torch.AcceleratorError: the GPU failed; the process cannot go on using it.
        """
        run = _Run(self, tracks)
        for answer in self.pool.run(run.clips(), run.call):
            run.take(answer)
        return run.results, run.report()

    def _tower(self, device: str, dtype: torch.dtype, read: Callable[[], Checkpoint]) -> AudioTower:
        key = ModelKey(f"clap-audio:{self.info.architecture}", self.info.sha256, device, str(dtype))
        return MODELS.get(key, lambda: AudioTower(read(), dtype).to(device))

    def _forward(self, clips: Sequence[Clip], device: str) -> list[_Found]:
        """Per clip its unit embedding and the norm before normalisation, as one row ``[513]``."""
        tower, waveforms = self.tower, assemble(clips, CLIP_SAMPLES)
        if device != self.device:
            tower = self._tower(device, torch.float32, lambda: read_checkpoint(self.info.path))
            waveforms = waveforms.to(device)
        unit, raw = tower(waveforms, return_raw=True)
        rows = Download(torch.cat([unit, raw.norm(dim=-1, keepdim=True)], dim=1))
        return [_Found(rows, number) for number in range(len(clips))]


class _Run:
    """One call of `ClapEmbedder.embed_tracks`: results and costs as they come in."""

    def __init__(self, embedder: ClapEmbedder, tracks: Sequence[np.ndarray | AudioReader]) -> None:
        self.embedder, self.tracks = embedder, tracks
        self.call = Call()
        self.results = [TrackWindows() for _ in tracks]
        self.costs = [TrackCost() for _ in tracks]
        # Of each track, the seconds it had in each batch.
        self._shares: list[Counter[int]] = [Counter() for _ in tracks]
        self._batches: dict[int, Batch] = {}

    def clips(self) -> Iterator[Clip]:
        """The windows that are not silent. Silent ones and broken tracks are settled here."""
        for track, first, block in _one_ahead(self._blocks()):
            result, cost = self.results[track], self.costs[track]
            if result.error is not None:
                continue
            started = time.perf_counter()
            try:
                block.settle()
            except ValueError as error:
                self._fail(track, error)
                continue
            result.windows += [
                EmbeddedWindow(
                    (block.begin + start) / SAMPLE_RATE, (block.begin + stop) / SAMPLE_RATE, rms, None, None
                )
                for (start, stop), rms in zip(
                    block.spans, map(block.rms_dbfs, range(len(block.spans))), strict=True
                )
            ]
            cost.compute_s += time.perf_counter() - started
            for number in filter(block.heard, range(len(block.spans))):
                if result.error is not None:
                    break
                yield Clip(track, result, first + number, block, number)

    def _blocks(self) -> Iterator[tuple[int, int, ClipBlock]]:
        """Track, number of the first window, and block, of all tracks."""
        for track, x in enumerate(self.tracks):
            try:
                for first, block in self._track_blocks(track, mono_reader(x)):
                    yield track, first, block
                    if self.results[track].error is not None:
                        break
            except (ValueError, OSError, torch.OutOfMemoryError) as error:
                self._fail(track, error)

    def _track_blocks(self, track: int, reader: AudioReader) -> Iterator[tuple[int, ClipBlock]]:
        window, hop = self.embedder.window, self.embedder.hop
        spans = window_spans(reader.samples, window, hop)
        per_block = max(1, int((BLOCK_SECONDS * SAMPLE_RATE - window) // hop) + 1)
        for first in range(0, len(spans), per_block):
            started = time.perf_counter()
            chosen = spans[first : first + per_block]
            begin, end = chosen[0][0], chosen[-1][1]
            block = ClipBlock(
                reader.read(begin, end)[0],
                begin,
                [(start - begin, stop - begin) for start, stop in chosen],
                math.gcd(window, hop),
                torch.device(self.embedder.device),
            )
            self.costs[track].compute_s += time.perf_counter() - started
            yield first, block

    def take(self, answer: Answer[Clip, _Found]) -> None:
        """Put the embedding of a window into its place."""
        clip, track = answer.item, answer.item.track
        result = self.results[track]
        self.costs[track].compute_s += answer.seconds
        self.costs[track].shared_s += answer.seconds
        if result.error is not None:
            return
        if answer.error is not None:
            self._fail(track, answer.error)
            return
        for step in answer.fallbacks:
            if step not in result.fallbacks:
                result.fallbacks.append(step)
        started = time.perf_counter()
        row = answer.value.rows.result()[answer.value.number]
        if not (np.isfinite(row).all() and row[-1] > 0):
            self._fail(
                track, FloatingPointError("the tower returned an embedding that is zero, NaN or infinite")
            )
            return
        w = result.windows[clip.index]
        result.windows[clip.index] = EmbeddedWindow(
            w.start_s, w.end_s, w.rms_dbfs, row[:-1].copy(), float(row[-1])
        )
        self._shares[track][id(answer.batch)] += clip.seconds
        self._batches[id(answer.batch)] = answer.batch
        self.costs[track].compute_s += time.perf_counter() - started

    def report(self) -> EmbedReport:
        """What it cost, once all answers are there."""
        reports = {
            key: BatchReport(b.items, b.audio_s, 1 - b.audio_s / (b.items * CLIP_SECONDS), b.compute_s)
            for key, b in self._batches.items()
        }
        for cost, shares in zip(self.costs, self._shares, strict=True):
            if shares:
                cost.batch = reports[max(shares, key=shares.__getitem__)]
        return EmbedReport(list(reports.values()), self.costs, self.call.elsewhere_s)

    def _fail(self, track: int, error: Exception) -> None:
        self.results[track].windows.clear()
        self.results[track].error = error


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """``items``, each handed on once the next one is made: a device may work on that while this one is used."""
    before: list[T] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def _samples(name: str, seconds: float) -> int:
    samples = round(seconds * SAMPLE_RATE) if math.isfinite(seconds) else 0
    if samples < 1:
        raise UserError(f"{name}={seconds:g} must be above 0")
    return samples
