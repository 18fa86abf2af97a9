"""Sliding median by a network of minima and maxima over whole rows.

The medians of neighbouring windows share most of their work. A tile of ``2**n`` windows has its common samples
sorted once; then the tile is halved again and again, each half merges in the samples that only its own windows
have, and all samples drop out that can no longer be the median. So does L. Sugy in two dimensions ("A fast
parallel median filtering algorithm using hierarchical tiling", SIGGRAPH 2025); the sorting networks are K.
Batcher's ("Sorting networks and their applications", 1968). A window of 31 samples costs 26 minima or maxima
per sample, however the samples are ordered, and as there is no branch each of them runs over many samples at
once: over the lanes of a vector where the network is compiled, over whole rows in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.late import torch

# Larger networks than this are not compiled: it would take seconds.
_LARGEST_COMPILED = 63

# A value of the network: its id, and by how many tiles ahead of the present one it is taken.
Wire = tuple[int, int]


@dataclass(frozen=True)
class Network:
    """Straight-line code for all medians of a tile, see `median_network`.

    Args:
        size: samples per window.
        tile: windows per tile. Values 0 … ``tile - 1`` are the samples of a tile.
        steps: step ``i`` computes value ``tile + i``, the larger (True) or smaller (False) of two wires.
        released: values that no step after step ``i`` reads.
        outputs: the medians of the tile's windows; window ``j`` has the samples ``j`` … ``j + size - 1``.
    """

    size: int
    tile: int
    steps: tuple[tuple[bool, Wire, Wire], ...]
    released: tuple[tuple[int, ...], ...]
    outputs: tuple[Wire, ...]

    def padded_length(self, windows: int) -> int:
        """Samples to feed in for so many windows: whole tiles, the last ones only partly used."""
        tiles = -(-windows // self.tile)
        return -(-(tiles * self.tile + self.size - 1) // self.tile) * self.tile


class _Builder:
    """Collects steps; the same step asked for twice, also in another tile, is taken once."""

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self.steps: list[tuple[bool, Wire, Wire]] = []
        self.known: dict[tuple[bool, Wire, Wire], int] = {}

    def sample(self, position: int) -> Wire:
        return position % self.tile, position // self.tile

    def extreme(self, larger: bool, a: Wire, b: Wire) -> Wire:
        ahead = min(a[1], b[1])
        first, second = sorted(((a[0], a[1] - ahead), (b[0], b[1] - ahead)))
        step = (larger, first, second)
        if step not in self.known:
            self.known[step] = self.tile + len(self.steps)
            self.steps.append(step)
        return self.known[step], ahead

    def merge(self, a: list[Wire], b: list[Wire]) -> list[Wire]:
        """Batcher's odd-even merge of two ascending lists of any lengths."""
        if not a or not b:
            return a + b
        if len(a) == len(b) == 1:
            return [self.extreme(False, a[0], b[0]), self.extreme(True, a[0], b[0])]
        even, odd = self.merge(a[::2], b[::2]), self.merge(a[1::2], b[1::2])
        pairs = min(len(even) - 1, len(odd))
        merged = even[:1]
        for x, y in zip(odd[:pairs], even[1 : pairs + 1], strict=True):
            merged += [self.extreme(False, x, y), self.extreme(True, x, y)]
        return merged + even[pairs + 1 :] + odd[pairs:]

    def ascending(self, first: int, last: int) -> list[Wire]:
        """The samples ``first`` … ``last - 1``, sorted."""
        if last - first < 2:
            return [self.sample(p) for p in range(first, last)]
        middle = first + (1 << (last - first - 1).bit_length() - 1)
        return self.merge(self.ascending(first, middle), self.ascending(middle, last))

    def medians(self, size: int, candidates: list[Wire], first: int) -> list[Wire]:
        """Medians of as many windows, from window ``first`` on, as there are candidates.

        The candidates are, ascending, those of the samples common to these windows that can be the median of
        one of them. With half as many windows, each has ``half`` of its own samples in common with the rest
        of its half; once they are merged in, ``half`` of all fall below and ``half`` above every median.
        """
        if len(candidates) == 1:
            return candidates
        half = len(candidates) // 2
        medians: list[Wire] = []
        for start, own in ((first, first + half - 1), (first + half, first + size)):
            merged = self.merge(candidates, self.ascending(own, own + half))
            medians += self.medians(size, merged[half : 2 * half], start)
        return medians


@lru_cache(maxsize=32)
def median_network(size: int) -> Network:
    """The network of the median of ``size`` samples; of an even number, the upper one of the middle pair.

    Raises:
        ValueError: ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"size={size} must be positive")
    tile = 1 << ((size + 1) // 2).bit_length() - 1
    builder = _Builder(tile)
    common = builder.ascending(tile - 1, size)
    rank = size // 2
    outputs = builder.medians(size, common[rank - tile + 1 : rank + 1], 0)
    return _pruned(size, tile, builder.steps, outputs)


def _pruned(size: int, tile: int, steps: Sequence[tuple[bool, Wire, Wire]], outputs: list[Wire]) -> Network:
    """The network without the steps that lead to no output."""
    needed = {value for value, _ in outputs}
    for index in reversed(range(len(steps))):
        if tile + index in needed:
            needed.update(wire[0] for wire in steps[index][1:])
    kept = [index for index in range(len(steps)) if tile + index in needed]
    number = {p: p for p in range(tile)} | {tile + index: tile + new for new, index in enumerate(kept)}

    def renumbered(wire: Wire) -> Wire:
        return number[wire[0]], wire[1]

    final = [(steps[i][0], renumbered(steps[i][1]), renumbered(steps[i][2])) for i in kept]
    last_use = {wire[0]: index for index, step in enumerate(final) for wire in step[1:]}
    for value, _ in outputs:
        last_use.pop(number[value], None)
    released: list[list[int]] = [[] for _ in final]
    for value, index in last_use.items():
        released[index].append(value)
    return Network(
        size, tile, tuple(final), tuple(map(tuple, released)), tuple(renumbered(wire) for wire in outputs)
    )


def row_medians(x: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
    """Medians of consecutive windows over chosen rows, window ``i`` over ``positions[i : i + size]``.

    They are exact: nothing is computed but minima and maxima.

    Args:
        x: without NaN, ``[rows, columns]``.
        positions: rows of ``x``, int64 ``[n]``, a multiple of the tile of ``median_network(size)``.
        size: rows per window.

    Shape: → ``[a multiple of the tile, columns]``, at least ``n - size + 1`` less a tile.
    """
    network = median_network(size)
    compilable = x.dtype == torch.float32 and x.shape[1] >= LANES and size <= _LARGEST_COMPILED
    kernel = _compiled_network(size) if compilable else None
    if kernel is None:
        # The same operations at two thirds of torch's price: a call costs less, and there are hundreds.
        chosen = x.index_select(0, positions).numpy()
        return torch.from_numpy(_run(network, chosen))
    if x.stride(1) != 1:
        x = x.contiguous()
    tiles = (len(positions) - size + 1) // network.tile
    medians = x.new_empty((tiles * network.tile, x.shape[1]))
    if tiles:
        offsets = positions * x.stride(0)
        kernel(x.data_ptr(), offsets.data_ptr(), medians.data_ptr(), tiles, x.shape[1])
    return medians


@lru_cache(maxsize=8)
def _compiled_network(size: int) -> Callable[..., None] | None:
    """The network over `LANES` columns at a time, all its values in registers.

    Its arguments are the addresses of the samples, of the offset of each row from there (int64) and of the
    medians, then the number of tiles and of columns.
    """
    network = median_network(size)

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        samples, offsets, medians, tiles, columns = kernel.arguments

        def tile(number: Any) -> None:
            row = build.mul(number, index(network.tile))
            kernel.whole_vectors(columns, lambda column: medians_of_a_tile(row, column))

        def medians_of_a_tile(row: Any, column: Any) -> None:
            values: dict[Wire, Any] = {}

            def value(wire: Wire) -> Any:
                if wire not in values:
                    number, ahead = wire
                    if number < network.tile:
                        position = build.add(row, index(number + ahead * network.tile))
                        offset = build.add(kernel.load(offsets, position, index), column)
                        values[wire] = kernel.load(samples, offset)
                    else:
                        larger, a, b = network.steps[number - network.tile]
                        a, b = ((of, ahead + further) for of, further in (a, b))
                        values[wire] = kernel.extreme(larger, value(a), value(b))
                return values[wire]

            for number, wire in enumerate(network.outputs):
                offset = build.mul(build.add(row, index(number)), columns)
                kernel.store(value(wire), medians, build.add(offset, column))

        kernel.repeat(tiles, 1, tile)

    return compiled(write, pointers=3, integers=2)


def _run(network: Network, padded: np.ndarray) -> np.ndarray:
    """Run the network over all tiles of ``padded`` at once."""
    tile = network.tile
    tiles = (len(padded) - network.size + 1) // tile
    samples = padded.reshape(-1, tile, padded.shape[1])
    values: list[np.ndarray | None] = [samples[:, p] for p in range(tile)]
    for (larger, (a, a_ahead), (b, b_ahead)), released in zip(network.steps, network.released, strict=True):
        x, y = values[a][a_ahead:], values[b][b_ahead:]
        length = min(len(x), len(y))
        values.append((np.maximum if larger else np.minimum)(x[:length], y[:length]))
        for value in released:
            values[value] = None
    medians = [values[value][ahead : ahead + tiles] for value, ahead in network.outputs]
    return np.stack(medians, 1).reshape(tiles * tile, padded.shape[1])


def reflected(positions: torch.Tensor, length: int) -> torch.Tensor:
    """Positions within a signal that is mirrored at its ends, the end samples doubled: ``d c b a|a b c d|…``.

    This is ``mode="reflect"`` of scipy.ndimage, which numpy calls ``symmetric``.
    """
    positions = positions.remainder(2 * length)
    return torch.minimum(positions, 2 * length - 1 - positions)
