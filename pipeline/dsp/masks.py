"""Masks that tell the lasting from the broad in a spectrogram, and what they let through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.dsp.median import median_network, reflected, row_medians
from pipeline.dsp.stft import hann_window, power_spectrogram
from pipeline.dsp.transpose import transposed
from pipeline.late import torch

# Elements of the spectrogram per pass, and the least number of frames: they bound the memory of temporaries,
# and being constant they keep results independent of what else runs.
_CHUNK_ELEMENTS = 1 << 16
_LEAST_CHUNK_FRAMES = 64

_SMALLEST = 2.0**-126  # the smallest normal float32


@dataclass(frozen=True)
class Masking:
    """How the two parts are told apart.

    Args:
        kernel_size: frames, and bins, of the medians.
        power: exponent of the soft masks; 2 makes them Wiener filters.
        margin_harmonic: factor by which the harmonic median must exceed the percussive one.
        margin_percussive: the reverse. Beyond 1 there is a residual that belongs to neither part.
        hard: masks of 0 and 1 instead of soft ones.
    """

    kernel_size: int = 31
    power: float = 2.0
    margin_harmonic: float = 1.0
    margin_percussive: float = 1.0
    hard: bool = False


def masks(
    power: torch.Tensor, masking: Masking, first: int = 0, last: int | None = None
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Harmonic and percussive masks of a spectrogram, some frames at a time.

    The median over ``kernel_size`` frames of each bin leaves what lasts, the median over ``kernel_size`` bins
    of each frame what is broad (D. Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx
    2010), with the margins of J. Driedger, M. Müller and S. Disch ("Extending harmonic-percussive separation of
    audio signals", ISMIR 2014). Equal within 1e-6 to ``librosa.decompose.hpss(power ** 0.5, mask=True)``
    wherever the magnitude is either zero or above 1e-18: squaring keeps the order, so the medians are those of
    the magnitudes, and the masks follow from them.

    Args:
        power: squared magnitudes, float32 ``[bins, frames]``.
        masking: the parameters.
        first, last: the frames wanted; those on either side are context. All of them by default.

    Yields:
        index of the first frame, then the masks of the harmonic and of the percussive part, both float32
        ``[bins, n]`` in [0, 1].
    """
    for start, lasting, broad in _medians(power, masking.kernel_size, first, last):
        yield start, *(mask.T for mask in _mask_pair(lasting, broad, masking))


def energy_by_group(
    power: torch.Tensor, masking: Masking, group: int, number: int, *, first: int = 0, last: int | None = None
) -> torch.Tensor:
    """Energy of the harmonic and of the percussive part, per group of frames and per bin.

    Args:
        power, masking, first, last: see `masks`; at least one frame is wanted.
        group: frames per group; groups count from the first frame of the track.
        number: number of the first frame wanted in the track.

    Shape: → float64 ``[2, groups, bins]``, from the group of the first frame wanted to that of the last one.
    """
    frames = power.T.contiguous()
    bins, last = power.shape[0], power.shape[1] if last is None else last
    groups = (number + last - first - 1) // group + 1 - number // group
    sums = power.new_zeros((2, groups, bins), dtype=torch.float64)
    # How far frame 0 of ``power`` is from the beginning of the first group.
    shift = number % group - first
    for start, lasting, broad in _medians(power, masking.kernel_size, first, last):
        stop = start + len(lasting)
        for index in range((start + shift) // group, (stop - 1 + shift) // group + 1):
            begin, end = max(start, index * group - shift), min(stop, (index + 1) * group - shift)
            rows = slice(begin - start, end - start)
            sums[:, index] += _part_energies(frames[begin:end], lasting[rows], broad[rows], masking)
    return sums


def _medians(
    power: torch.Tensor, size: int, first: int, last: int | None
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """The medians over frames and over bins of the frames wanted, some at a time.

    Yields:
        index of the first frame, then both medians, ``[n, bins]``.
    """
    last = power.shape[1] if last is None else last
    step = max(_LEAST_CHUNK_FRAMES, _CHUNK_ELEMENTS // max(1, power.shape[0] - 1))
    frames = power.T.contiguous()
    for start in range(first, last, step):
        stop = min(start + step, last)
        lasting = _median_over_frames(frames, start, stop, size)
        yield start, lasting, _median_over_bins(frames[start:stop], size)


def _median_over_frames(frames: torch.Tensor, start: int, stop: int, size: int) -> torch.Tensor:
    first = start - size // 2
    last = first + median_network(size).padded_length(stop - start)
    positions = reflected(torch.arange(first, last), len(frames))
    return row_medians(frames, positions, size)[: stop - start]


def _median_over_bins(frames: torch.Tensor, size: int) -> torch.Tensor:
    bins = frames.shape[1]
    positions = torch.arange(median_network(size).padded_length(bins)) - size // 2
    return transposed(row_medians(transposed(frames), reflected(positions, bins), size)[:bins])


def _part_energies(
    power: torch.Tensor, lasting: torch.Tensor, broad: torch.Tensor, masking: Masking
) -> torch.Tensor:
    """Energy of both parts of some frames per bin: three of ``[n, bins]`` → ``[2, bins]``."""
    wiener = masking == Masking(masking.kernel_size)
    kernel = _compiled_energies() if wiener and power.shape[1] >= LANES else None
    if kernel is None:
        return torch.stack([(mask.square_() * power).sum(0) for mask in _mask_pair(lasting, broad, masking)])
    sums = power.new_empty((2, power.shape[1]))
    addresses = (x.data_ptr() for x in (power, lasting, broad, sums))
    kernel(*addresses, *power.shape)
    return sums


@cache
def _compiled_energies() -> Callable[..., None] | None:
    """`_part_energies` of the masks of `Masking()`: all in one pass. Addresses, then frames and bins."""

    def write(kernel: Kernel) -> None:
        build = kernel.build
        *matrices, sums, frames, bins = kernel.arguments
        one, half, least, nothing = (kernel.constant(x) for x in (1.0, 0.5, _SMALLEST, 0.0))

        def column(bin_: Any) -> None:
            def frame(row: Any, *totals: Any) -> list[Any]:
                offset = build.add(build.mul(row, bins), bin_)
                power, lasting, broad = (kernel.load(matrix, offset) for matrix in matrices)
                mask = build.fdiv(lasting, build.fadd(lasting, broad))
                # Not where the larger one is too small, but where it is not large enough: 0 / 0 is neither.
                sound = build.fcmp_ordered(">=", kernel.extreme(True, lasting, broad), least)
                harmonic = build.select(sound, mask, half)
                masks_ = harmonic, build.fsub(one, harmonic)
                return [
                    build.fadd(total, build.fmul(build.fmul(m, m), power))
                    for total, m in zip(totals, masks_, strict=True)
                ]

            for part, total in enumerate(kernel.repeat(frames, 1, frame, [nothing, nothing])):
                kernel.store(total, sums, build.add(build.mul(bins, kernel.index(part)), bin_))

        kernel.whole_vectors(bins, column)

    return compiled(write, pointers=4, integers=2)


def _mask_pair(
    lasting: torch.Tensor, broad: torch.Tensor, masking: Masking
) -> tuple[torch.Tensor, torch.Tensor]:
    plain = masking.margin_harmonic == masking.margin_percussive == 1.0
    rivals = (
        (lasting, broad * masking.margin_harmonic**2),
        (broad, lasting * masking.margin_percussive**2),
    )
    if masking.hard:
        return tuple((own > other).float() for own, other in rivals)
    if plain:
        harmonic = _soft_mask(*rivals[0], masking.power, nothing=0.5)
        return harmonic, 1.0 - harmonic
    return tuple(_soft_mask(own, other, masking.power, nothing=0.0) for own, other in rivals)


def _soft_mask(own: torch.Tensor, other: torch.Tensor, power: float, nothing: float) -> torch.Tensor:
    """``own / (own + other)`` of squared magnitudes raised to half of ``power``, as librosa.util.softmask.

    Where both are zero the mask is ``nothing``.
    """
    larger = torch.maximum(own, other)
    if power != 2.0:
        # In proportion to the larger one, whose power then neither overflows nor vanishes.
        scale = larger.clamp(min=_SMALLEST)
        own, other = (own / scale).pow(power / 2), (other / scale).pow(power / 2)
    mask = own / (own + other)
    return torch.where(larger < _SMALLEST, nothing, mask)


def separate(
    waveform: torch.Tensor, n_fft: int = 2048, hop_length: int = 512, masking: Masking | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms of the harmonic and of the percussive part, as ``librosa.effects.hpss`` within 1e-4.

    With margins of 1 and soft masks they sum to the input. The complex spectrum of only some frames exists at
    a time; the power spectrum exists as a whole.

    Args:
        waveform: float32 ``[samples]``.
        n_fft: FFT length, samples.
        hop_length: samples between frames, at most half of ``n_fft``.
        masking: the defaults of `Masking` when None.

    Shape: two of float32 ``[samples]``.

    Raises:
        ValueError: ``hop_length`` is above half of ``n_fft``, from where the windows leave gaps.
    """
    if not 0 < 2 * hop_length <= n_fft:
        raise ValueError(f"hop_length={hop_length} must lie within 1..{n_fft // 2}, half of n_fft")
    power = power_spectrogram(waveform, n_fft, hop_length)
    count = power.shape[1]
    window = hann_window(n_fft)
    half = n_fft // 2
    padded = torch.nn.functional.pad(waveform, (half, half))
    blocks = count + -(-n_fft // hop_length)
    parts = padded.new_zeros((2, blocks, hop_length))
    weight = padded.new_zeros((blocks, hop_length))
    _overlap_add(weight, (window * window).expand(count, -1))
    for start, *pair in masks(power, masking or Masking()):
        frames = padded.unfold(-1, n_fft, hop_length)[start : start + pair[0].shape[1]]
        spectrum = torch.fft.rfft(frames * window)
        for part, mask in zip(parts, pair, strict=True):
            _overlap_add(part[start:], torch.fft.irfft(spectrum * mask.T, n=n_fft) * window)
    harmonic, percussive, weight = (
        total.reshape(-1)[half : half + len(waveform)] for total in (*parts, weight)
    )
    return harmonic / weight, percussive / weight


def _overlap_add(blocks: torch.Tensor, frames: torch.Tensor) -> None:
    """Add frame ``i`` to the samples that begin with block ``i``.

    Shape: ``[at least n + ceil(n_fft / hop_length) - 1, hop_length]``, ``[n, n_fft]``.
    """
    count, length = frames.shape
    hop_length = blocks.shape[1]
    for index, start in enumerate(range(0, length, hop_length)):
        piece = frames[:, start : start + hop_length]
        blocks[index : index + count, : piece.shape[1]] += piece
