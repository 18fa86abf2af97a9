"""Spectra of a batch of windows and back, in Spleeter's framing, and how a track is cut for them.

The framing: one window of silence before the track, as much after it as the last frame needs, and a periodic
Hann window for analysis and for synthesis. With a hop of a quarter window every sample lies in four frames,
whose squared windows sum to 3/2; hence the factor 2/3. A stretch of the track is a group of frames; its
neighbours' frames reach three hops into it, so what comes back is added, not joined.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.models.separation.window import Window

N_FFT = 4096
HOP_LENGTH = 1024
_OVERLAP = N_FFT // HOP_LENGTH
_GAIN = 2.0 / 3.0


def frame_count(samples: int) -> int:
    """Frames of a track of ``samples`` samples: one per hop of the track and of the silence before it."""
    return -(-(samples + N_FFT) // HOP_LENGTH) if samples else 0


def frame_windows(samples: int, frames: int, fill: bool) -> Iterator[Window]:
    """Stretches of ``frames`` frames that cover the track.

    Args:
        samples: length of the track.
        frames: per stretch.
        fill: whether the last one is as long as the others, filled with silence.
    """
    total = frame_count(samples)
    for first in range(0, total, frames):
        count = frames if fill else min(frames, total - first)
        start, size = first * HOP_LENGTH - N_FFT, (count + _OVERLAP - 1) * HOP_LENGTH
        yield Window(start, size, start, size)


def spectrum(audio: Tensor) -> Tensor:
    """Unnormalised spectra of the frames of each stretch.

    Shape:
        - audio: float32 ``[..., (frames + 3) * HOP_LENGTH]``
        - returns: complex64 ``[..., frames, 1 + N_FFT // 2]``
    """
    return torch.fft.rfft(audio.unfold(-1, N_FFT, HOP_LENGTH) * _hann(audio.device))


def waveform(spectra: Tensor) -> Tensor:
    """Inverse of `spectrum` wherever four frames overlap, and this stretch's share where they do not.

    Shape:
        - spectra: complex64 ``[..., frames, 1 + N_FFT // 2]``
        - returns: float32 ``[..., (frames + 3) * HOP_LENGTH]``
    """
    window = _hann(spectra.device) * _GAIN
    return _overlap_add(torch.fft.irfft(spectra, n=N_FFT) * window)


@functools.cache
def _hann(device: torch.device) -> Tensor:
    return torch.hann_window(N_FFT, device=device)


def _overlap_add(frames: Tensor) -> Tensor:
    done = frames.shape[-2] * HOP_LENGTH
    out = frames.new_zeros(*frames.shape[:-2], done + N_FFT - HOP_LENGTH)
    for part in range(_OVERLAP):
        begin = part * HOP_LENGTH
        out[..., begin : begin + done] += frames[..., begin : begin + HOP_LENGTH].flatten(-2)
    return out


def envelope(frames: int, device: str | torch.device = "cpu") -> Tensor:
    """What `waveform` makes of the spectra of a constant 1: 1 wherever four frames overlap, less at both ends."""
    window = (torch.hann_window(N_FFT, device=device).square() * _GAIN).expand(frames, N_FFT)
    return _overlap_add(window)
