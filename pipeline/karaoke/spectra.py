"""Spectra of two tracks in step, block by block, and how cells of time and frequency are grouped.

Frame ``t`` is centred on sample ``t * HOP_LENGTH``, with zeros beyond both ends, whatever the blocks are; so
sums over frames do not depend on how the tracks were cut.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.audio.reader import AudioReader

SAMPLE_RATE = 44100
N_FFT = 4096
HOP_LENGTH = 2048
GROUP = 8
"""Frames that share their gains, 0.37 s: about a syllable."""
GROUPS_PER_BLOCK = 8
"""Groups that are in memory at once by default, 3 s: what fits the caches of a core is fastest."""
BAND_EDGES_HZ = (0.0, 120.0, 240.0, 360.0, 480.0, 640.0, 800.0, 1000.0, 1250.0, 1600.0, 2000.0, 2500.0,
                 3200.0, 4000.0, 5000.0, 6400.0, 8000.0, 11000.0, 22051.0)  # fmt: skip
"""Bands that share their gains: a third of an octave where the voice is, never narrower than 11 bins."""


def group_count(samples: int) -> int:
    """Groups of frames of a track of so many samples; the last one is filled with silence."""
    frames = -(-samples // HOP_LENGTH) + 1 if samples else 0
    return -(-frames // GROUP)


def stereo(audio: AudioReader, start: int, stop: int) -> Tensor:
    """Samples ``start`` to ``stop`` as float32 ``[2, n]``: zeros beyond both ends, one channel twice if it is mono."""
    inner = audio.read(max(0, start), max(0, min(stop, audio.samples)))
    samples = torch.from_numpy(inner.copy()).expand(2, -1)
    before, after = max(0, -start), max(0, stop - max(start, audio.samples, 0))
    return torch.nn.functional.pad(samples, (before, min(after, stop - start)))


def spectrum(samples: Tensor) -> Tensor:
    """Spectra of what lies around whole frames: float32 ``[..., (frames + 1) * HOP_LENGTH]`` → complex64
    ``[..., frames, 1 + N_FFT // 2]``."""
    return torch.fft.rfft(samples.unfold(-1, N_FFT, HOP_LENGTH) * _hann())


def blocks(
    mix: AudioReader, instrumental: AudioReader, groups: int = GROUPS_PER_BLOCK
) -> Iterator[tuple[Tensor, Tensor]]:
    """Spectra of both, ``[2, frames, bins]`` each, of so many groups of frames at a time."""
    total = group_count(mix.samples)
    for first in range(0, total, groups):
        count = min(groups, total - first) * GROUP
        start = first * GROUP * HOP_LENGTH - HOP_LENGTH
        stop = start + (count + 1) * HOP_LENGTH
        yield spectrum(stereo(mix, start, stop)), spectrum(stereo(instrumental, start, stop))


@functools.cache
def frequencies() -> Tensor:
    """Frequency of each bin, Hz."""
    return torch.fft.rfftfreq(N_FFT, 1.0 / SAMPLE_RATE)


@functools.cache
def _hann() -> Tensor:
    return torch.hann_window(N_FFT)


@functools.cache
def _bands() -> Tensor:
    """1 where a bin is in a band: ``[bins, bands]``."""
    hz = frequencies()[:, None]
    edges = torch.tensor(BAND_EDGES_HZ)
    return ((hz >= edges[:-1]) & (hz < edges[1:])).float()


def band_sums(cells: Tensor) -> Tensor:
    """Sums over bands: ``[..., bins]`` → ``[..., bands]``; ``bins`` may be only the lowest."""
    return cells @ _bands()[: cells.shape[-1]]


def group_sums(cells: Tensor) -> Tensor:
    """Sums over groups of frames and bands: ``[frames, bins]`` → float64 ``[groups, bands]``."""
    return band_sums(cells).unflatten(0, (-1, GROUP)).sum(1).double()


def products(one: Tensor, other: Tensor) -> Tensor:
    """Real part of one times the conjugate of the other, summed over channels.

    Shape: complex ``[channels, frames, bins]`` each → float32 ``[frames, bins]``.
    """
    parts = (torch.view_as_real(one) * torch.view_as_real(other)).sum(0)
    return parts[..., 0] + parts[..., 1]


def power(spectra: Tensor) -> Tensor:
    """Squared magnitude summed over channels: complex ``[channels, frames, bins]`` → float32 ``[frames, bins]``."""
    return products(spectra, spectra)


class Pair:
    """Spectra of a mix and an instrumental with their energies, cell by cell.

    Args:
        mix, instrumental: complex ``[2, frames, bins]``.
    """

    def __init__(self, mix: Tensor, instrumental: Tensor) -> None:
        self.mix, self.instrumental = mix, instrumental
        self.x, self.y, self.xy = power(mix), power(instrumental), products(mix, instrumental)
        # Of what was removed: exact where nothing was, and to -60 dB of the mix elsewhere.
        self.r = power(mix - instrumental)

    def lowest(self, bins: int) -> Pair:
        """The same of the lowest bins."""
        part = object.__new__(Pair)
        for name, value in vars(self).items():
            setattr(part, name, value[..., :bins])
        return part
