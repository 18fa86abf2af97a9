"""Weights from FFT bins to mel bands and to pitch classes."""

from __future__ import annotations

import warnings

import numpy as np

from pipeline.late import torch

# Neighbouring bands per matrix product of `apply_bands`.
_BANDS_PER_PRODUCT = 8


def apply_bands(bank: torch.Tensor, spectrum: torch.Tensor) -> torch.Tensor:
    """``bank @ spectrum`` for filters of narrow support in ascending order, such as mel bands.

    A few rows at a time, on only the bins where one of them is not zero.

    Shape: ``[bands, bins]``, ``[bins, frames]`` → ``[bands, frames]``.
    """
    bands = spectrum.new_zeros((bank.shape[0], spectrum.shape[1]))
    used = (bank != 0).numpy()
    for start in range(0, bank.shape[0], _BANDS_PER_PRODUCT):
        rows = slice(start, start + _BANDS_PER_PRODUCT)
        bins = np.flatnonzero(used[rows].any(axis=0))
        if len(bins):
            columns = slice(int(bins[0]), int(bins[-1]) + 1)
            torch.mm(bank[rows, columns], spectrum[columns], out=bands[rows])
    return bands


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
    """Triangular mel filters of unit area (Slaney's Auditory Toolbox), equal to ``librosa.filters.mel``.

    Shape: float32 ``[n_mels, n_fft // 2 + 1]``. A row is zero where its band is narrower than an FFT bin.
    """
    from torchaudio.functional import melscale_fbanks

    with warnings.catch_warnings():
        # The mel extractor records empty bands itself, with the track they belong to.
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        bank = melscale_fbanks(
            n_fft // 2 + 1, fmin, fmax, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
    return bank.T.contiguous()


def chroma_filterbank(sample_rate: int, n_fft: int, tuning: float = 0.0) -> torch.Tensor:
    """Weights from FFT bins to the 12 pitch classes, C first, equal to ``librosa.filters.chroma``.

    Gaussian bumps around each pitch class, at least a semitone wide, each column of unit length, under a
    Gaussian in log frequency with its centre at 5 octaves above A0 and a deviation of 2 octaves (Ellis,
    "Chroma feature analysis and synthesis", 2007).

    Args:
        sample_rate: Hz.
        n_fft: FFT length.
        tuning: deviation from A440 in semitones.

    Shape: float32 ``[12, n_fft // 2 + 1]``.
    """
    n_chroma, centre_octave, octave_width = 12, 5.0, 2.0
    frequencies = np.arange(1, n_fft) * (sample_rate / n_fft)
    a0 = 440.0 * 2.0 ** (tuning / n_chroma) / 16
    pitch = n_chroma * np.log2(frequencies / a0)
    # The bin at 0 Hz has no pitch: it is put 1.5 octaves below bin 1.
    pitch = np.concatenate(([pitch[0] - 1.5 * n_chroma], pitch))
    width = np.append(np.maximum(np.diff(pitch), 1.0), 1.0)
    half = n_chroma // 2
    distance = pitch[None, :] - np.arange(n_chroma)[:, None]
    distance = np.remainder(distance + half + 10 * n_chroma, n_chroma) - half
    weights = np.exp(-0.5 * (2.0 * distance / width) ** 2)
    weights /= np.linalg.norm(weights, axis=0)
    weights *= np.exp(-0.5 * ((pitch / n_chroma - centre_octave) / octave_width) ** 2)
    weights = np.roll(weights, -3, axis=0)[:, : n_fft // 2 + 1]
    return torch.from_numpy(np.ascontiguousarray(weights, dtype=np.float32))
