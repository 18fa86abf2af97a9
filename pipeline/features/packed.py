"""Several tracks in one buffer, so that one call of a kernel does the work of all of them.

Frames are independent of each other: with zeros between the tracks, each frame sees the samples it would see if
its track were alone. What comes out is one matrix with the frames of all tracks side by side; a track's own
frames are a view of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.features.onset import Rises, rises
from pipeline.features.stft import hann_window, squared_magnitude

SAMPLES_PER_CALL = 1 << 24
"""Samples of all frames per FFT call: 64 MiB, as much for their spectrum, and half of it for the power."""


@dataclass(frozen=True)
class Layout:
    """Tracks one after another with zeros between them.

    Args:
        samples: float32 ``[all samples and gaps]``, on the device.
        starts: where each track begins, int64 ``[tracks]``.
        lengths: samples of each track, int64 ``[tracks]``.
    """

    samples: torch.Tensor
    starts: np.ndarray
    lengths: np.ndarray

    def inside(self) -> torch.Tensor:
        """Which samples belong to a track: bool, like ``samples``."""
        mask = np.zeros(len(self.samples), dtype=bool)
        for start, length in zip(self.starts, self.lengths, strict=True):
            mask[start : start + length] = True
        return torch.from_numpy(mask).to(self.samples.device)


def lay_out(
    waveforms: Sequence[np.ndarray], gap: int, device: torch.device | str, multiple: int = 1
) -> Layout:
    """Copy tracks into one buffer.

    Args:
        waveforms: float32 ``[samples]`` each, may be read-only.
        gap: least number of zeros before, between and after them.
        device: where the buffer is wanted.
        multiple: each track begins at a multiple of it.
    """
    lengths = np.array([len(w) for w in waveforms], dtype=np.int64)
    starts, end = np.zeros(len(lengths), dtype=np.int64), 0
    for index, length in enumerate(lengths):
        starts[index] = -(-(end + gap) // multiple) * multiple
        end = int(starts[index] + length)
    samples = np.zeros(end + gap, dtype=np.float32)
    for start, waveform in zip(starts, waveforms, strict=True):
        samples[start : start + len(waveform)] = waveform
    return Layout(torch.from_numpy(samples).to(device), starts, lengths)


def frame_spans(lengths: Sequence[int], hop_length: int) -> list[slice]:
    """Columns of each track in a packed matrix: ``1 + samples // hop_length`` frames, none without samples."""
    ends = np.cumsum([1 + n // hop_length if n else 0 for n in lengths]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def packed_power(
    waveforms: Sequence[np.ndarray], n_fft: int, hop_length: int, device: torch.device | str
) -> torch.Tensor:
    """`pipeline.features.stft.power_spectrogram` of several tracks, `SAMPLES_PER_CALL` per FFT call.

    Args:
        waveforms: float32 ``[samples]`` each.
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        device: where it is computed.

    Shape: → float32 ``[n_fft // 2 + 1, frames of all tracks]``, the columns by `frame_spans`; in memory frame
    follows frame.
    """
    layout = lay_out(waveforms, n_fft - n_fft // 2, device)
    spans = frame_spans(layout.lengths, hop_length)
    firsts = [
        start - n_fft // 2 + hop_length * np.arange(span.stop - span.start)
        for start, span in zip(layout.starts, spans, strict=True)
    ]
    first = torch.from_numpy(np.concatenate(firsts)).to(device)
    windows, window = layout.samples.unfold(0, n_fft, 1), hann_window(n_fft).to(device)
    power = layout.samples.new_empty((len(first), n_fft // 2 + 1))
    step = max(1, SAMPLES_PER_CALL // n_fft)
    for start in range(0, len(first), step):
        rows = slice(start, start + step)
        frames = windows.index_select(0, first[rows]).mul_(window)
        squared_magnitude(torch.fft.rfft(frames), power[rows])
    return power.T


def packed_rises(mel: torch.Tensor, spans: Sequence[slice]) -> list[Rises]:
    """`pipeline.features.onset.rises` of each track of a packed mel power spectrogram ``[n_mels, frames]``.

    Args:
        mel: power.
        spans: of the tracks, each at least one frame.
    """
    loudest_frames = mel.amax(dim=0).cpu().numpy()
    loudest = [loudest_frames[span].max() for span in spans]
    # Silence has no rises, whatever it is divided by.
    divisors = [np.full(s.stop - s.start, x if x > 0 else 1.0) for s, x in zip(spans, loudest, strict=True)]
    scale = torch.from_numpy(np.concatenate(divisors).astype(np.float32)).to(mel.device)
    every = rises(mel / scale, 1.0)
    # The one from the last frame of a track to the first one of the next is nobody's.
    within = [slice(s.start, s.stop - 1) for s in spans]
    return [Rises(every.level[w], every.amplitude[w]) for w in within]
