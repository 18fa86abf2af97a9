"""What all parts of the mastering chain have in common: they are fed in pieces and keep their place.

A processor works in blocks that lie on a grid of the song, not of the pieces it is given: block number ``k`` begins at
sample ``k * block`` of the song, whatever the pieces. The same samples therefore give the same bits, whether a song
comes whole or in pieces of any length. Where rendering begins inside a song (``origin``), what comes out settles to the
same within the context that the processor names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np


class Processor(Protocol):
    """A step of the chain with state; as many samples come out as went in, none of them shifted.

    ``push`` returns what is settled, which may be less (or, later, more) than was pushed; ``finish`` the rest. Whoever
    makes one says where in the song its first sample lies (``origin``, samples; 0 for the whole song).
    """

    context: int
    """Samples before ``origin`` that have to be rendered, too, and thrown away, so that what follows is that of the
    whole song within 1e-6."""

    def push(self, samples: np.ndarray) -> np.ndarray:
        """The next samples, float32 ``[channels, n]`` of any ``n``, 0 included → float32 ``[channels, m]``."""
        ...

    def finish(self) -> np.ndarray:
        """What is left, float32 ``[channels, m]``; nothing may be pushed after it."""
        ...


class Grid:
    """Cuts pieces into the blocks of a song's grid.

    Args:
        channels: of the pieces.
        block: samples per block.
        origin: where in the song the first sample lies: the first block is shorter where it lies within one.
    """

    def __init__(self, channels: int, block: int, origin: int = 0) -> None:
        self.block = block
        self.position = origin
        """The first sample of the song that was not handed out yet."""
        self._rest = np.empty((channels, 0), np.float32)

    def push(self, samples: np.ndarray) -> np.ndarray:
        """All whole blocks that are there now, as one float32 ``[channels, m]``; ``m`` may be 0."""
        joined = samples if not self._rest.shape[1] else np.concatenate([self._rest, samples], axis=1)
        whole = (self.position + joined.shape[1]) // self.block * self.block - self.position
        count = max(0, whole)
        self._rest = np.array(joined[:, count:], np.float32)
        self.position += count
        return joined[:, :count].astype(np.float32, copy=False)

    def finish(self) -> np.ndarray:
        """The last block, which may be short or empty."""
        rest, self._rest = self._rest, self._rest[:, :0]
        self.position += rest.shape[1]
        return rest


def run(processors: Iterable[Processor], pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """``pieces`` through all ``processors``, one after the other; of any lengths, together as long as the song."""
    chain = list(processors)
    for piece in pieces:
        yield through(chain, piece)
    for place, processor in enumerate(chain):
        yield through(chain[place + 1 :], processor.finish())


def through(chain: Iterable[Processor], piece: np.ndarray) -> np.ndarray:
    """What comes out of ``chain`` for a piece, float32 ``[channels, m]``."""
    for processor in chain:
        piece = processor.push(piece)
    return piece
