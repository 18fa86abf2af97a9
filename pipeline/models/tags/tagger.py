"""Patches of many tracks through both networks in shared batches, and back to their tracks.

A track goes to the device in blocks of two minutes, and its spectrogram is made there; what comes back are tags and
embeddings. Of a track only their sums are kept, and the patches' own only where they are wanted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.audio.reader import AudioReader, mono_reader
from pipeline.errors import Fallback
from pipeline.models.batching import BatchRunner
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.precision import normalise_amp, pick_precision
from pipeline.models.tags import checkpoint
from pipeline.models.tags.front_end import PATCH_SAMPLES, log_mel, patch_span, patches_of, read_patches
from pipeline.models.tags.names import NETWORKS, PATCH_SECONDS, SAMPLE_RATE, TAGS, UNITS
from pipeline.models.tags.network import Musicnn
from pipeline.models.transfer import Download, Ready, copying, upload
from pipeline.models.window_batches import Answer, Batch
from pipeline.models.window_pool import Call, WindowPool, device_event

BATCH_PATCHES = 16
"""On a CPU more of them gain nothing."""

BLOCK_PATCHES = 40
"""Of a longer track so many are on the device at a time, two minutes."""

AUDIBLE = 1.0 / 32768.0
"""A patch that stays below one 16-bit step is silence, and has no tags."""

_ROW = TAGS + UNITS
# Two halves that cancel leave rounding noise, which points nowhere.
_DEGENERATE = 1e-6


class Networks(nn.Module):
    """Both networks on the same patches: ``[batch, 187, 96]`` → float32 ``[batch, 500]``, MagnaTagATune's first.

    Args:
        loaded: their weights.
        bfloat16: whether convolutions and products run in it.

    Raises:
        ValueError: the weights do not fit.
    """

    def __init__(self, loaded: checkpoint.Checkpoint, bfloat16: bool = False) -> None:
        super().__init__()
        self.networks = nn.ModuleList(Musicnn(loaded.variables[name]) for name in NETWORKS)
        self.bfloat16 = bfloat16

    @torch.inference_mode()
    def forward(self, patches: Tensor) -> Tensor:
        with torch.autocast(patches.device.type, torch.bfloat16, enabled=self.bfloat16):
            return torch.cat([network(patches) for network in self.networks], dim=1)


@dataclass(frozen=True)
class TaggedPatch:
    """One patch of a track.

    Args:
        start_s, end_s: where its audio begins and ends, s.
        mtt, msd: probabilities of the tags, float32 ``[50]`` each; None for silence.
        embedding: float32 ``[400]``, unit norm, see `embedding_of`; None for silence.
    """

    start_s: float
    end_s: float
    mtt: np.ndarray | None = None
    msd: np.ndarray | None = None
    embedding: np.ndarray | None = None


@dataclass
class TrackTags:
    """What was found of one track, or the error that only this track ran into.

    Args:
        heard: patches with sound.
        patches: all of them, where they were asked for.
        fallbacks: steps that memory forced on the batches it was in.
    """

    heard: int = 0
    patches: list[TaggedPatch] = field(default_factory=list)
    error: Exception | None = None
    fallbacks: list[Fallback] = field(default_factory=list)
    sums: np.ndarray = field(default_factory=lambda: np.zeros(_ROW * len(NETWORKS)), repr=False)

    def tags(self, network: str) -> np.ndarray | None:
        """Mean probabilities over the patches with sound, float32 ``[50]``; None where there are none."""
        begin = NETWORKS.index(network) * _ROW
        return (self.sums[begin : begin + TAGS] / self.heard).astype(np.float32) if self.heard else None

    def embedding(self) -> np.ndarray | None:
        """`embedding_of` the mean over the patches with sound; None where there are none."""
        return embedding_of(self.sums / self.heard) if self.heard else None


def embedding_of(row: np.ndarray) -> np.ndarray | None:
    """The layers before the tags of both networks, each brought to unit norm, side by side, and the whole again.

    Args:
        row: ``[500]``, as `Networks` gives it, or a mean of such.

    Returns:
        float32 ``[400]`` of unit norm; None where a layer is zero.
    """
    halves = [row[n * _ROW + TAGS : (n + 1) * _ROW].astype(np.float64) for n in range(len(NETWORKS))]
    lengths = [np.linalg.norm(half) for half in halves]
    if min(lengths) < _DEGENERATE:
        return None
    units = np.concatenate([half / length for half, length in zip(halves, lengths, strict=True)])
    return (units / np.linalg.norm(units)).astype(np.float32)


@dataclass
class TrackCost:
    """What a track cost.

    Args:
        compute_s: its own preparation, and of each batch it was in the share of its audio seconds.
        shared_s: what of it was spent in batches.
        batch: that which held most of its audio; None if it was in none.
    """

    compute_s: float = 0.0
    shared_s: float = 0.0
    batch: Batch | None = None
    shares: Counter[int] = field(default_factory=Counter, repr=False)

    def add(self, batch: Batch, seconds: float) -> None:
        """``seconds`` of the track's audio were in ``batch``."""
        self.shares[id(batch)] += seconds
        if self.batch is None or self.shares[id(batch)] > self.shares[id(self.batch)]:
            self.batch = batch


class _Row(NamedTuple):
    """A row of what the networks returned for a batch, not necessarily there yet."""

    rows: Download
    number: int


class _Patch:
    """A patch on its way through the networks, see `pipeline.models.window_pool.PoolItem`."""

    group: Hashable = "patch"

    def __init__(self, track: int, result: TrackTags, block: _Block, number: int) -> None:
        self.track, self.block, self.number = track, block, number
        self.owner = id(result)
        self.span = begin, end = block.spans[number]
        self.seconds = end - begin
        self._result = result

    @property
    def unwanted(self) -> bool:
        """Whether its track has failed."""
        return self._result.error is not None


class _Block:
    """Patches ``first`` to ``last`` (exclusive) of a track on the device."""

    def __init__(self, reader: AudioReader, first: int, last: int, device: torch.device) -> None:
        self.first = first
        audio = np.ascontiguousarray(read_patches(reader, first, last))
        if not np.isfinite(audio).all():
            raise ValueError("the audio holds NaN or infinity")
        spans = (patch_span(number, reader.samples) for number in range(first, last))
        self.spans = [(begin / SAMPLE_RATE, end / SAMPLE_RATE) for begin, end in spans]
        edges = range(0, (last - first) * PATCH_SAMPLES, PATCH_SAMPLES)
        self.heard = [bool(np.abs(audio[edge : edge + PATCH_SAMPLES]).max() >= AUDIBLE) for edge in edges]
        with copying(device):
            self.patches = log_mel(upload(audio, device))
            self._ready = Ready(device)

    def patch(self, number: int) -> Tensor:
        """Of the block, ``[187, 96]``, for the current stream."""
        self._ready.wait(self.patches)
        return self.patches[number]


class Tagger:
    """Tags tracks on one device.

    Args:
        device: ``cpu`` or ``cuda``.
        amp: ``auto``, ``true`` or ``false``: convolutions and products in bfloat16; ``auto`` does so on a GPU only, as
            on a CPU the filters' transforms are as quick without.
        batch_items: patches in a batch.
        keep_patches: whether `TrackTags.patches` are wanted.

    Raises:
        UserError: the weights are missing or damaged.
        ValueError: they are not musicnn's.
    """

    def __init__(
        self,
        device: str = "cpu",
        amp: str | bool = "auto",
        *,
        batch_items: int = BATCH_PATCHES,
        keep_patches: bool = False,
    ) -> None:
        self.device, self.keep_patches = device, keep_patches
        on_cpu = torch.device(device).type == "cpu"
        wanted = "false" if on_cpu and normalise_amp(amp, "tags.amp") == "auto" else amp
        self.precision = pick_precision(wanted, device)
        short = self.precision.fallback("tags")
        self.fallbacks: list[Fallback] = [short] if short else []
        self.model_id = checkpoint.model_id()
        self.networks = self._load(device, self.precision.dtype == torch.bfloat16)
        self.pool: WindowPool[_Patch, _Row] = WindowPool(
            lambda group: self.runner, device_event(torch.device(device))
        )
        key = (self.model_id, self.precision.name)
        self.runner: BatchRunner[_Patch, _Row] = BatchRunner(
            "tags", self.pool.timed(self._forward), device, batch_items, key=key
        )

    @property
    def backend(self) -> str:
        """Network and number format, such as ``musicnn float32``."""
        return f"musicnn {self.precision.name}"

    def warm_up(self) -> None:
        """Run noise, so that the first real batch finds kernels ready, and on a GPU its memory."""
        patches = 1 if self.device == "cpu" else max(3, self.runner.batch_items)
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, patches * PATCH_SAMPLES).astype(np.float32)
        self.tag_tracks([noise])
        self.pool.forget_spent()

    def tag_tracks(
        self, tracks: Sequence[np.ndarray | AudioReader], call: Call | None = None
    ) -> tuple[list[TrackTags], list[TrackCost]]:
        """Tag all ``tracks``, filling batches across tracks, and across threads that call this.

        How patches fall into batches changes a probability by less than 1e-5 in float32.

        Args:
            tracks: mono at 16 kHz, float ``[samples]`` or a reader of one channel, -1..1. Of a reader only the blocks
                of waiting patches are in memory.
            call: of this caller, to read its costs from.

        Returns:
            what was found and what it cost, per track in the order given. A track that cannot be tagged carries its
            error and costs the others nothing but time.

        Raises:
            torch.AcceleratorError: the GPU failed; the process cannot go on using it.
        """
        results = [TrackTags() for _ in tracks]
        costs = [TrackCost() for _ in tracks]
        for answer in self.pool.run(self._patches(tracks, results, costs), call):
            self._take(answer, results[answer.item.track], costs[answer.item.track])
        return results, costs

    def _patches(
        self,
        tracks: Sequence[np.ndarray | AudioReader],
        results: Sequence[TrackTags],
        costs: Sequence[TrackCost],
    ) -> Iterator[_Patch]:
        """The patches that are not silent. Broken tracks are settled here."""
        for number, (track, result, cost) in enumerate(zip(tracks, results, costs, strict=True)):
            try:
                reader = mono_reader(track)
                count = patches_of(reader.samples)
                for first in range(0, count, BLOCK_PATCHES):
                    started = time.perf_counter()
                    block = _Block(
                        reader, first, min(first + BLOCK_PATCHES, count), torch.device(self.device)
                    )
                    cost.compute_s += time.perf_counter() - started
                    for place, (span, heard) in enumerate(zip(block.spans, block.heard, strict=True)):
                        if result.error is not None:
                            break
                        if self.keep_patches:
                            result.patches.append(TaggedPatch(*span))
                        if heard:
                            yield _Patch(number, result, block, place)
                    if result.error is not None:
                        break
            except torch.AcceleratorError:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, it is of this track
                _fail(result, error)

    def _take(self, answer: Answer[_Patch, _Row], result: TrackTags, cost: TrackCost) -> None:
        """Put what came of a patch into its track."""
        patch = answer.item
        cost.compute_s += answer.seconds
        cost.shared_s += answer.seconds
        if result.error is not None:
            return
        if answer.error is not None:
            _fail(result, answer.error)
            return
        result.fallbacks += [step for step in answer.fallbacks if step not in result.fallbacks]
        row = answer.value.rows.result()[answer.value.number]
        if not np.isfinite(row).all():
            _fail(result, FloatingPointError("the network returned NaN or infinity"))
            return
        result.heard += 1
        result.sums += row
        if self.keep_patches:
            mtt, msd = (row[n * _ROW : n * _ROW + TAGS].copy() for n in range(len(NETWORKS)))
            result.patches[patch.block.first + patch.number] = TaggedPatch(
                *patch.span, mtt, msd, embedding_of(row)
            )
        cost.add(answer.batch, patch.seconds)

    def _forward(self, patches: Sequence[_Patch], device: str) -> list[_Row]:
        networks, stacked = self.networks, torch.stack([p.block.patch(p.number) for p in patches])
        if device != self.device:
            networks, stacked = self._load(device, False), stacked.to(device)
        rows = Download(networks(stacked))
        return [_Row(rows, number) for number in range(len(patches))]

    def _load(self, device: str, bfloat16: bool) -> Networks:
        key = ModelKey("musicnn", self.model_id, device, "bfloat16" if bfloat16 else "float32")
        return MODELS.get(key, lambda: Networks(checkpoint.read_checkpoint(), bfloat16).to(device))


def padding_fraction(batch: Batch) -> float:
    """Share of what the networks processed in a batch that was repeated to fill patches, 0..1."""
    return max(0.0, 1.0 - batch.audio_s / (batch.items * PATCH_SECONDS))


def _fail(result: TrackTags, error: Exception) -> None:
    result.patches.clear()
    result.error = error
