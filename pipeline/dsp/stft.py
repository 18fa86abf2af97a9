"""Short-time Fourier transform."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from pipeline.dsp.compiled import LANES, Kernel, compiled
from pipeline.late import torch

# Frames per FFT call: they and their spectrum stay within the cache of a core. It bounds the memory of
# temporaries too, and being constant it keeps results independent of what else runs.
CHUNK_FRAMES = 64


def hann_window(n_fft: int) -> torch.Tensor:
    """Periodic Hann window, float32 ``[n_fft]``."""
    # In float64 first: the float32 cosine alone would cost 1e-7.
    return torch.hann_window(n_fft, periodic=True, dtype=torch.float64).float()


def power_spectrogram(
    waveform: torch.Tensor, n_fft: int, hop_length: int, centre: int = 0, frames: int | None = None
) -> torch.Tensor:
    """Squared magnitude of the short-time Fourier transform.

    Equal to ``abs(librosa.stft(y, n_fft=n_fft, hop_length=hop_length)) ** 2``: periodic Hann window, frame
    ``t`` centred on sample ``t * hop_length``, zeros beyond both ends. The complex spectrum of only a few
    frames exists at a time.

    Args:
        waveform: float32 ``[samples]``.
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        centre: sample that the first frame is centred on.
        frames: how many; None for all, ``1 + samples // hop_length`` for an even ``n_fft``, or none for no
            samples.

    Shape: ``[samples]`` → float32 ``[n_fft // 2 + 1, frames]``; in memory frame follows frame, as the transform
    leaves them.
    """
    bins = n_fft // 2 + 1
    if waveform.numel() == 0 or frames == 0:
        return waveform.new_zeros((bins, 0))
    window = hann_window(n_fft)
    windows = _windows(waveform, n_fft, hop_length, centre - n_fft // 2, frames)
    power = waveform.new_empty((windows.shape[0], bins))
    for start in range(0, windows.shape[0], CHUNK_FRAMES):
        chunk = slice(start, start + CHUNK_FRAMES)
        squared_magnitude(torch.fft.rfft(windows[chunk] * window), power[chunk])
    return power.T


def _windows(
    waveform: torch.Tensor, n_fft: int, hop_length: int, first: int, frames: int | None
) -> torch.Tensor:
    """Views of ``n_fft`` samples from sample ``first`` on, with zeros beyond both ends: ``[frames, n_fft]``."""
    samples = len(waveform)
    stop = samples + n_fft // 2 if frames is None else first + (frames - 1) * hop_length + n_fft
    inner = waveform[max(0, first) : max(0, stop)]
    padded = torch.nn.functional.pad(inner, (max(0, -first), max(0, stop - samples)))
    return padded.unfold(-1, n_fft, hop_length)


def squared_magnitude(spectrum: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """``abs(spectrum) ** 2`` of contiguous complex64 into contiguous float32 ``out`` of the same shape."""
    kernel = _compiled_squares() if spectrum.numel() >= LANES else None
    if kernel is None:
        return torch.mul(spectrum.real, spectrum.real, out=out).addcmul_(spectrum.imag, spectrum.imag)
    kernel(spectrum.data_ptr(), out.data_ptr(), spectrum.numel())
    return out


@cache
def _compiled_squares() -> Callable[..., None] | None:
    """Real and imaginary parts lie side by side, where torch cannot use vectors. Addresses, then the count."""

    def write(kernel: Kernel) -> None:
        build, index = kernel.build, kernel.index
        spectrum, power, count = kernel.arguments

        def squares(start: Any) -> None:
            first = build.mul(start, index(2))
            parts = [kernel.load(spectrum, build.add(first, index(i))) for i in (0, LANES)]
            real, imaginary = (kernel.shuffle(*parts, range(odd, 2 * LANES, 2)) for odd in (0, 1))
            total = build.fadd(build.fmul(real, real), build.fmul(imaginary, imaginary))
            kernel.store(total, power, start)

        kernel.whole_vectors(count, squares)

    return compiled(write, pointers=2, integers=1)
