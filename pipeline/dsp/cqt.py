"""Constant-Q chroma, the matrix of ``librosa.feature.chroma_cqt`` without its cost.

Each octave of filters reads the track at the lowest rate that holds it, as in C. Schörkhuber and A. Klapuri,
"Constant-Q transform toolbox for music processing", 2010. A rate is halved by one matrix product, and an octave
is one more: with filters of a few hundred samples that is cheaper than a Fourier transform per frame. librosa
drops the least 1 % of each filter's spectrum and keeps a rate longer; nothing else differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.late import torch

OCTAVES = 7
BINS_PER_OCTAVE = 36
C1_HZ = 440.0 * 2.0 ** (-45 / 12)

# Frames per matrix product: their samples stay within the cache of a core.
_CHUNK_FRAMES = 2048

# A filter of a Hann window of length L has decayed by 3 dB at 0.75 / L from its centre (Harris, 1978), and is
# zero at 2 / L.
_HANN_HALF_BANDWIDTH = 0.75
_HANN_FIRST_ZERO = 2.0

# Half-band low-pass: flat within 1e-4 up to 0.4 of the new rate, and what would alias below that is down by
# 95 dB. Taps at odd distances from its centre; the others are zero but for the centre, which is 1/2.
_HALF_BAND_TAPS = 32
_HALF_BAND_EDGE = 0.4
_HALF_BAND_KAISER_BETA = 9.7
_HALF_BAND_BLOCK = 32

# The constant-Q transform spans 7 octaves from C1. Its longest filter, 51.9 periods of C1 (32.7 Hz), lasts
# 1.6 s; its highest one, half a semitone sharp and with its skirt, reaches 4.3 kHz.
LEAST_SECONDS = 1.6
HIGHEST_HZ = 4300.0


def cqt_obstacle(sample_rate: int, samples: int) -> str | None:
    """Why the constant-Q transform cannot run on a clip of ``samples`` at ``sample_rate`` Hz, or None."""
    if sample_rate / 2 < HIGHEST_HZ:
        return f"the constant-Q transform reaches {HIGHEST_HZ:g} Hz, half the sample rate does not"
    if samples < LEAST_SECONDS * sample_rate:
        return f"the clip is shorter than the longest constant-Q filter, {LEAST_SECONDS:g} s"
    return None


@dataclass(frozen=True)
class Octave:
    """The filters of one octave, at the rate they run at.

    Args:
        halvings: how many times the rate of the track is halved before.
        frequencies: centres in ascending order, Hz, float64 ``[BINS_PER_OCTAVE]``.
    """

    halvings: int
    frequencies: np.ndarray


def quality_factor() -> float:
    """Centre frequency over bandwidth of every filter: 51.9, as ``librosa.filters.wavelet_lengths`` has it."""
    ratio = 2.0 ** (2.0 / BINS_PER_OCTAVE)
    return (ratio + 1.0) / (ratio - 1.0)


def highest_frequency(tuning: float = 0.0) -> float:
    """Upper edge of the highest filter, Hz; ``tuning`` is a fraction of a bin."""
    centre = C1_HZ * 2.0 ** (OCTAVES + (tuning - 1.0) / BINS_PER_OCTAVE)
    return centre * (1.0 + _HANN_HALF_BANDWIDTH / quality_factor())


def plan_octaves(sample_rate: float, tuning: float) -> list[Octave]:
    """All octaves from the highest down, each at the lowest rate the half-band filter leaves whole."""
    octaves = []
    halvings = 0
    for octave in reversed(range(OCTAVES)):
        bins = np.arange(octave * BINS_PER_OCTAVE, (octave + 1) * BINS_PER_OCTAVE)
        frequencies = C1_HZ * 2.0 ** ((bins + tuning) / BINS_PER_OCTAVE)
        edge = frequencies[-1] * (1.0 + _HANN_FIRST_ZERO / quality_factor())
        while edge <= _HALF_BAND_EDGE * sample_rate / 2 ** (halvings + 1):
            halvings += 1
        octaves.append(Octave(halvings, frequencies))
    return octaves


def wavelets(frequencies: np.ndarray, sample_rate: float) -> list[np.ndarray]:
    """Complex exponentials under a periodic Hann window, each of unit sum of magnitudes.

    Equal to ``librosa.filters.wavelet`` with ``filter_scale=1, norm=1, gamma=0`` before its padding.

    Args:
        frequencies: Hz, ``[filters]``.
        sample_rate: Hz.

    Returns:
        complex128 ``[about quality_factor() * sample_rate / frequency]`` each.
    """
    filters = []
    for frequency in frequencies:
        length = quality_factor() * sample_rate / frequency
        time = np.arange(-length // 2, length // 2)
        window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(len(time)) / len(time))
        filters.append(window / window.sum() * np.exp(2j * np.pi * frequency / sample_rate * time))
    return filters


def octave_matrix(octave: Octave, sample_rate: float) -> torch.Tensor:
    """Real and imaginary parts of an octave's filters, centred, scaled as ``librosa.cqt(scale=True)``.

    Args:
        octave: from `plan_octaves`.
        sample_rate: of the track, Hz, before any halving.

    Shape: float32 ``[samples, 2 * BINS_PER_OCTAVE]``, all real parts first.
    """
    filters = wavelets(octave.frequencies, sample_rate / 2**octave.halvings)
    longest = max(len(f) for f in filters)
    matrix = np.zeros((longest, 2 * len(filters)))
    # librosa scales by the root of the length at the full rate.
    gains = np.sqrt(quality_factor() * sample_rate / octave.frequencies)
    for index, (wavelet, gain) in enumerate(zip(filters, gains, strict=True)):
        start = (longest - len(wavelet)) // 2
        rows = slice(start, start + len(wavelet))
        matrix[rows, index], matrix[rows, index + len(filters)] = gain * wavelet.real, gain * wavelet.imag
    return torch.from_numpy(matrix.astype(np.float32))


def octave_matrices(octaves: list[Octave], sample_rate: float) -> Iterator[torch.Tensor]:
    """`octave_matrix` of each: an octave lower at half the rate has the same filters, but for their gain."""
    known: Octave | None = None
    for octave in octaves:
        if known is None or not same_filters(octave, known):
            known, matrix = octave, octave_matrix(octave, sample_rate)
        yield matrix * relative_gain(octave, known)


def same_filters(octave: Octave, known: Octave) -> bool:
    """Whether the filters of two octaves, each at its own rate, are the same but for their gain."""
    a, b = (o.frequencies * 2**o.halvings for o in (octave, known))
    return np.allclose(a, b, rtol=1e-12, atol=0.0)


def relative_gain(octave: Octave, known: Octave) -> float:
    """Gain of the filters of ``octave`` over those of ``known``, where `same_filters` holds."""
    return math.sqrt(known.frequencies[0] / octave.frequencies[0])


def pitch_class_fold() -> torch.Tensor:
    """Sums the bins of an octave by pitch class: ``[BINS_PER_OCTAVE, 12]``.

    A pitch class is the bin on its pitch and one on either side; bin 0 is the pitch of C.
    """
    return torch.eye(12).repeat_interleave(BINS_PER_OCTAVE // 12, dim=0).roll(-1, dims=0)


def half_band_taps() -> np.ndarray:
    """The taps at distances -31, -29, … 31 of the half-band filter, float64; they sum to 1/2."""
    distance = np.arange(1 - _HALF_BAND_TAPS, _HALF_BAND_TAPS, 2)
    window = np.kaiser(2 * _HALF_BAND_TAPS + 1, _HALF_BAND_KAISER_BETA)[distance + _HALF_BAND_TAPS]
    taps = np.sinc(distance / 2) / 2 * window
    return taps / taps.sum() / 2


def halve_rate(samples: torch.Tensor) -> torch.Tensor:
    """Low-pass and drop every second sample; zeros beyond both ends, no delay.

    Shape: float32 ``[n]`` → ``[ceil(n / 2)]``.
    """
    taps, block = half_band_taps(), _HALF_BAND_BLOCK
    # A block of outputs is a product of a banded matrix with the odd samples around it.
    band = np.zeros((block + len(taps) - 1, block), dtype=np.float32)
    for column in range(block):
        band[column : column + len(taps), column] = taps
    length = (len(samples) + 1) // 2
    blocks = -(-length // block)
    odd, side = samples[1::2], len(taps) // 2
    odd = torch.nn.functional.pad(odd, (side, blocks * block + side - 1 - len(odd)))
    matrix = torch.from_numpy(band)
    halved = samples.new_empty((blocks, block))
    windows = odd.unfold(0, len(band), block)
    for start in range(0, blocks, _CHUNK_FRAMES):
        rows = slice(start, start + _CHUNK_FRAMES)
        torch.mm(windows[rows], matrix, out=halved[rows])
    return halved.reshape(-1)[:length].add_(samples[::2], alpha=0.5)


def chroma_cqt(
    samples: torch.Tensor,
    sample_rate: float,
    hop_length: int,
    *,
    tuning: float = 0.0,
    centre: int = 0,
    frames: int | None = None,
) -> torch.Tensor:
    """Constant-Q magnitudes of 7 octaves from C1, 36 bins each, summed by pitch class.

    That of ``librosa.feature.chroma_cqt(norm=None, bins_per_octave=36)``. Frame ``t`` is centred on sample
    ``centre + t * hop_length``, zeros lie beyond both ends; at a halved rate its centre is the nearest sample.

    Args:
        samples: float32 ``[samples]``.
        sample_rate: Hz, at least twice `highest_frequency`.
        hop_length: samples between frames, any.
        tuning: deviation from A440, fraction of a bin.
        centre: sample that the first frame is centred on.
        frames: how many; None for all, ``1 + samples // hop_length``, or none for no samples.

    Shape: float32 ``[12, frames]``, C first.

    Raises:
        ValueError: the sample rate is too low.
    """
    if sample_rate < 2.0 * highest_frequency(tuning):
        raise ValueError(
            f"constant-Q chroma reaches {highest_frequency(tuning):.0f} Hz, beyond half of {sample_rate:g} Hz"
        )
    if frames is None:
        frames = 1 + len(samples) // hop_length if len(samples) else 0
    chroma = samples.new_zeros((frames, 12))
    halvings, halved = 0, samples
    octaves = plan_octaves(sample_rate, tuning) if frames else []
    for octave, matrix in zip(octaves, octave_matrices(octaves, sample_rate), strict=True):
        while halvings < octave.halvings:
            halved = halve_rate(halved)
            halvings += 1
        _add_octave(chroma, halved, matrix, centre / 2**halvings, hop_length / 2**halvings)
    return chroma.T.contiguous()


def _add_octave(
    chroma: torch.Tensor, samples: torch.Tensor, matrix: torch.Tensor, centre: float, hop: float
) -> None:
    """Add the magnitudes of one octave to ``chroma`` ``[frames, 12]``; ``centre`` and ``hop`` may be fractions."""
    fold = pitch_class_fold()
    before = len(matrix) // 2
    # Half a sample up, so that the index of the nearest sample is a floor.
    after = max(0, math.floor(centre + (len(chroma) - 1) * hop + 0.5) - before + len(matrix) - len(samples))
    windows = torch.nn.functional.pad(samples, (before, after)).unfold(0, len(matrix), 1)
    for start in range(0, len(chroma), _CHUNK_FRAMES):
        rows = chroma[start : start + _CHUNK_FRAMES]
        if hop == int(hop) and centre == int(centre):
            chosen = windows[int(centre) + start * int(hop) :: int(hop)][: len(rows)]
        else:
            index = torch.arange(start, start + len(rows), dtype=torch.float64)
            chosen = windows[(centre + index * hop + 0.5).floor().long()]
        real, imaginary = (chosen @ matrix).chunk(2, dim=1)
        magnitude = real.square().addcmul_(imaginary, imaginary).sqrt_()
        rows.addmm_(magnitude, fold)
