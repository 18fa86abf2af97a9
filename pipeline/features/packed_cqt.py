"""Constant-Q chroma of several tracks at once, each with its own tuning.

The rate is halved for all tracks together. The filters of an octave depend on the tuning, so the frames are cut
into tiles of one track each, and one batched product takes every tile with the filters of its track.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.features.cqt import (
    BINS_PER_OCTAVE,
    Octave,
    chunk_frames,
    halve_rate,
    octave_matrix,
    pitch_class_fold,
    plan_octaves,
    relative_gain,
    same_filters,
)
from pipeline.features.packed import Layout, lay_out

# Frames per tile: the last tile of a track is only partly used, and a tile costs a copy of its filters, which
# are as large as the samples of some 70 frames.
_TILE = 32


def packed_chroma_cqt(
    waveforms: Sequence[np.ndarray],
    sample_rate: float,
    hop_length: int,
    tunings: Sequence[float],
    device: torch.device | str,
) -> list[torch.Tensor]:
    """`pipeline.features.cqt.chroma_cqt` of several tracks.

    Args:
        waveforms: float32 ``[samples]`` each, at least one sample.
        sample_rate: Hz, at least twice `highest_frequency` of every tuning.
        hop_length: samples between frames.
        tunings: of each track, fraction of a bin.
        device: where it is computed.

    Shape: → float32 ``[12, frames]`` each.
    """
    plans = [plan_octaves(sample_rate, tuning) for tuning in tunings]
    # A tuning may lift an octave beyond the edge up to which the rate can be halved.
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, plan in enumerate(plans):
        alike.setdefault(tuple(octave.halvings for octave in plan), []).append(index)
    found: list[torch.Tensor] = [torch.empty(0)] * len(plans)
    for members in alike.values():
        group = _Group([waveforms[i] for i in members], hop_length)
        chroma = group.chroma([plans[i] for i in members], sample_rate, device)
        for index, part in zip(members, chroma, strict=True):
            found[index] = part
    return found


@dataclass(frozen=True)
class _Bank:
    """The filters of an octave for each different tuning, ``[tunings, longest, 2 * BINS_PER_OCTAVE]``."""

    matrices: torch.Tensor
    octave: Octave


class _Group:
    """Tracks whose rate is halved at the same octaves, their frames cut into tiles."""

    def __init__(self, waveforms: Sequence[np.ndarray], hop_length: int) -> None:
        self.waveforms = waveforms
        self.hop_length = hop_length
        self.frames = [1 + len(w) // hop_length for w in waveforms]
        tiles = [-(-count // _TILE) for count in self.frames]
        self.ends = np.cumsum(tiles)
        self.track = np.repeat(np.arange(len(tiles)), tiles)
        # Frames beyond the last one of a track, up to the end of its tile, are the last one again.
        rows = [np.minimum(np.arange(n * _TILE), f - 1) for n, f in zip(tiles, self.frames, strict=True)]
        self.number = np.concatenate(rows)

    def chroma(
        self, plans: Sequence[list[Octave]], sample_rate: float, device: torch.device | str
    ) -> list[torch.Tensor]:
        """See `packed_chroma_cqt`; ``plans`` has the octaves of each track."""
        different = {plan[0].frequencies[0]: plan for plan in plans}
        order = {frequency: index for index, frequency in enumerate(different)}
        bank_of_track = np.array([order[plan[0].frequencies[0]] for plan in plans])
        bank_of_tile = torch.from_numpy(bank_of_track[self.track]).to(device)
        octaves, banks = plans[0], list(_banks(list(different.values()), sample_rate, device))
        # At any rate half of the longest filter fits into the gap, with a sample to spare for rounding.
        gap = max((b.matrices.shape[1] // 2 + 2) << o.halvings for o, b in zip(octaves, banks, strict=True))
        layout = lay_out(self.waveforms, gap, device, 1 << octaves[-1].halvings)
        samples, inside, halvings = layout.samples, layout.inside(), 0
        chroma = samples.new_zeros((len(self.number), 12))
        for octave, bank in zip(octaves, banks, strict=True):
            while halvings < octave.halvings:
                # What the low-pass leaves beyond the end of a track is not there when the track is alone.
                samples, inside, halvings = halve_rate(samples), inside[::2], halvings + 1
                samples.mul_(inside)
            first = self._first_samples(layout, halvings, bank.matrices.shape[1]).to(device)
            gain = relative_gain(octave, bank.octave)
            _add_tiles(chroma, samples, first, bank.matrices, bank_of_tile, gain)
        starts = [0, *(self.ends[:-1] * _TILE)]
        return [chroma[s : s + count].T for s, count in zip(starts, self.frames, strict=True)]

    def _first_samples(self, layout: Layout, halvings: int, length: int) -> torch.Tensor:
        """Where the filters of each frame begin, at a halved rate: int64 ``[frames of all tiles]``."""
        centre = np.floor(self.number * (self.hop_length / 2**halvings) + 0.5).astype(np.int64)
        start = (layout.starts >> halvings)[np.repeat(self.track, _TILE)]
        return torch.from_numpy(start + centre - length // 2)


def _banks(plans: Sequence[list[Octave]], sample_rate: float, device: torch.device | str) -> Iterator[_Bank]:
    """The filters of each octave, those of one octave after the other; see `octave_matrices`."""
    known: _Bank | None = None
    for octaves in zip(*plans, strict=True):
        if known is None or not same_filters(octaves[0], known.octave):
            matrices = [octave_matrix(octave, sample_rate) for octave in octaves]
            known = _Bank(_centred(matrices).to(device), octaves[0])
        yield known


def _centred(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Filters of different lengths as one tensor, zeros around the shorter ones, centre on centre."""
    longest = max(len(matrix) for matrix in matrices)
    stack = matrices[0].new_zeros((len(matrices), longest, 2 * BINS_PER_OCTAVE))
    for target, matrix in zip(stack, matrices, strict=True):
        start = longest // 2 - len(matrix) // 2
        target[start : start + len(matrix)] = matrix
    return stack


def _add_tiles(
    chroma: torch.Tensor,
    samples: torch.Tensor,
    first: torch.Tensor,
    matrices: torch.Tensor,
    bank_of_tile: torch.Tensor,
    gain: float,
) -> None:
    """Add the magnitudes of one octave to ``chroma`` ``[tiles * _TILE, 12]``."""
    length = matrices.shape[1]
    windows, fold = samples.unfold(0, length, 1), pitch_class_fold().to(samples.device)
    step = max(1, chunk_frames(samples.device) // _TILE)
    for start in range(0, len(bank_of_tile), step):
        tiles = slice(start, start + step)
        rows = slice(start * _TILE, (start + step) * _TILE)
        chosen = windows.index_select(0, first[rows]).view(-1, _TILE, length)
        product = torch.bmm(chosen, matrices.index_select(0, bank_of_tile[tiles])).flatten(0, 1)
        real, imaginary = product.chunk(2, dim=1)
        magnitude = real.square().addcmul_(imaginary, imaginary).sqrt_()
        chroma[rows].addmm_(magnitude, fold, alpha=gain)
