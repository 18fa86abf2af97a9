"""Analysis and synthesis of one track in groups of frames, so that memory does not grow with its length.

The framing is Spleeter's: one window of silence before the track, as much after it as the last frame needs,
and a periodic Hann window for analysis and for synthesis. With a hop of a quarter window every sample lies in
four frames, whose squared windows sum to 3/2; hence the factor 2/3.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

N_FFT = 4096
HOP_LENGTH = 1024
_OVERLAP = N_FFT // HOP_LENGTH
_GAIN = 2.0 / 3.0


def frame_count(samples: int) -> int:
    """Frames of a track of ``samples`` samples: one per hop of the track and of the silence before it."""
    return -(-(samples + N_FFT) // HOP_LENGTH) if samples else 0


def check_stereo(audio: np.ndarray) -> np.ndarray:
    """``audio`` as float32 ``[2, samples]``. Raises `ValueError` for any other shape or kind of number."""
    audio = np.asarray(audio)
    if audio.ndim != 2 or audio.shape[0] != 2 or not np.issubdtype(audio.dtype, np.floating):
        raise ValueError(f"separation needs float audio [2, samples], got {audio.dtype} {list(audio.shape)}")
    return audio.astype(np.float32, copy=False)


def spectrum_groups(
    audio: np.ndarray, frames_per_group: int, device: str | torch.device = "cpu"
) -> Iterator[torch.Tensor]:
    """The spectrum of a track, ``frames_per_group`` frames at a time.

    Args:
        audio: float32 ``[channels, samples]``.
        frames_per_group: frames per group; the last group has what is left.
        device: where the spectra are computed.

    Yields:
        complex64 ``[channels, frames, 1 + N_FFT // 2]``, unnormalised; `frame_count` frames in all.

    Raises:
        ValueError: a sample of the group is NaN or infinite.
    """
    window = torch.hann_window(N_FFT, device=device)
    total = frame_count(audio.shape[-1])
    for first in range(0, total, frames_per_group):
        frames = min(frames_per_group, total - first)
        chunk = _padded(audio, first * HOP_LENGTH - N_FFT, (frames + _OVERLAP - 1) * HOP_LENGTH)
        if not np.isfinite(chunk).all():
            raise ValueError(
                f"separation: NaN or infinity after sample {max(0, first - _OVERLAP) * HOP_LENGTH}"
            )
        windows = torch.from_numpy(chunk).to(device).unfold(-1, N_FFT, HOP_LENGTH)
        yield torch.fft.rfft(windows * window)


def _padded(audio: np.ndarray, start: int, length: int) -> np.ndarray:
    """Samples ``start`` to ``start + length``, zeros where the track has none."""
    chunk = np.zeros((audio.shape[0], length), np.float32)
    inside = audio[:, max(0, start) : max(0, start + length)]
    offset = max(0, -start)
    chunk[:, offset : offset + inside.shape[-1]] = inside
    return chunk


class OverlapAdd:
    """Inverse of `spectrum_groups`: carries the samples that the next group still adds to.

    Args:
        samples: length of the track; what is returned sums to it exactly.
    """

    def __init__(self, samples: int) -> None:
        self._tail: torch.Tensor | None = None
        self._position = -N_FFT
        self._samples = samples

    def add(self, spectrum: torch.Tensor) -> np.ndarray:
        """Take the next group and return the samples that are complete with it.

        Args:
            spectrum: complex64 ``[..., frames, 1 + N_FFT // 2]``.

        Returns:
            float32 ``[..., n]``; ``n`` is 0 while only the silence before the track is complete.

        Raises:
            ValueError: a sample is NaN or infinite.
        """
        window = torch.hann_window(N_FFT, device=spectrum.device) * _GAIN
        frames = torch.fft.irfft(spectrum, n=N_FFT) * window
        done = frames.shape[-2] * HOP_LENGTH
        out = frames.new_zeros(*frames.shape[:-2], done + N_FFT - HOP_LENGTH)
        if self._tail is not None:
            out[..., : N_FFT - HOP_LENGTH] = self._tail
        for part in range(_OVERLAP):
            begin = part * HOP_LENGTH
            out[..., begin : begin + done] += frames[..., begin : begin + HOP_LENGTH].flatten(-2)
        # A view would keep the whole group alive until the next one.
        self._tail = out[..., done:].clone()
        start = min(done, max(0, -self._position))
        end = min(done, max(0, self._samples - self._position))
        self._position += done
        block = out[..., start:end].cpu().numpy()
        if not np.isfinite(block).all():
            raise ValueError("separation: the samples are too large for float32 arithmetic")
        return block
