"""Blocks of a track on the device, and the clips that are cut out of them there."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.models.clap.track_windows import TrackWindows
from pipeline.models.transfer import Download, Ready, copying, upload

SAMPLE_RATE = 48000
CLIP_SAMPLES = 480000
CLIP_SECONDS = CLIP_SAMPLES / SAMPLE_RATE
"""What the tower takes at a time."""

# LAION scales by the largest int16, both ways.
FULL_SCALE = 32767.0


class ClipBlock:
    """Consecutive windows of a track, copied to the device once and brought to 16-bit steps there.

    Args:
        audio: float32 ``[samples]``, mono; values beyond ±1 are clipped.
        begin: of ``audio`` in the track, samples.
        spans: begin and end of each window, in samples from the beginning of ``audio``.
        step: divides every begin, and every end but that of ``audio``: levels are measured once per step, not once per
            window that holds it.
        device: where it goes. On a GPU nobody waits for it before `settle`.
    """

    def __init__(
        self, audio: np.ndarray, begin: int, spans: Sequence[tuple[int, int]], step: int, device: torch.device
    ) -> None:
        self.begin, self.spans, self._step = begin, list(spans), step
        with copying(device):
            samples = upload(audio, device)
            self._samples = quantise(samples)
            magnitudes = _per_step(samples, step, 2.0, torch.float64)
            peaks = _per_step(self._samples, step, math.inf, torch.float32)
            self._levels = Download(torch.stack([magnitudes, peaks.double()]))
            self._ready = Ready(device)

    def settle(self) -> None:
        """Wait for the levels. Raises `ValueError` where the audio holds NaN or infinity."""
        self._magnitudes, self._peaks = self._levels.result()
        # Sums of squares in double precision are finite wherever all samples are.
        if not np.isfinite(self._magnitudes).all():
            raise ValueError("the audio holds NaN or infinity")

    def rms_dbfs(self, number: int) -> float | None:
        """RMS level of a window, dB relative to full scale 1.0 (a full-scale sine reads -3.01); None for silence."""
        begin, end = self.spans[number]
        energy = float(np.square(self._magnitudes[self._steps(number)]).sum())
        return 10.0 * math.log10(energy / (end - begin)) if energy > 0 else None

    def heard(self, number: int) -> bool:
        """Whether a window reaches a single 16-bit step."""
        return bool(self._peaks[self._steps(number)].any())

    def window(self, number: int) -> Tensor:
        """The samples of a window, a view, for the current stream."""
        self._ready.wait(self._samples)
        begin, end = self.spans[number]
        return self._samples[begin:end]

    def _steps(self, number: int) -> slice:
        begin, end = self.spans[number]
        return slice(begin // self._step, -(-end // self._step))


class Clip:
    """A window on its way through the tower, see `pipeline.models.window_pool.PoolItem`.

    Args:
        track: number of the track it belongs to, among those of its caller.
        windows: what is known of that track.
        index: its number in the track.
        block: where its samples are.
        number: of the window in the block.
    """

    group: Hashable = "clip"

    def __init__(self, track: int, windows: TrackWindows, index: int, block: ClipBlock, number: int) -> None:
        self.track, self.index, self.block, self.number = track, index, block, number
        self.owner = id(windows)
        self._windows = windows
        begin, end = block.spans[number]
        self.seconds = (end - begin) / SAMPLE_RATE

    @property
    def unwanted(self) -> bool:
        """Whether its track has failed."""
        return self._windows.error is not None


def assemble(clips: Sequence[Clip], length: int) -> Tensor:
    """The waveforms of a batch, short ones filled as LAION does: as many whole repetitions as fit, then zeros.

    Shape:
        - returns: float32 ``[clips, length]``, on the device of the blocks
    """
    windows = [clip.block.window(clip.number) for clip in clips]
    return torch.stack([w if len(w) == length else repeat_pad(w, length) for w in windows])


def repeat_pad(window: Tensor, length: int) -> Tensor:
    """A window filled up to ``length`` samples: as many whole repetitions as fit, then zeros.

    This is LAION-CLAP's ``data_filling="repeatpad"`` (Wu et al., "Large-scale Contrastive Language-Audio Pretraining
    with Feature Fusion and Keyword-to-Caption Augmentation", ICASSP 2023;
    ``laion_clap.training.data.get_audio_features``).

    Shape: ``[samples]``, ``0 < samples <= length`` → ``[length]``.
    """
    filled = window.new_zeros(length)
    repeats = length // len(window)
    filled[: repeats * len(window)] = window.repeat(repeats)
    return filled


def quantise(samples: Tensor) -> Tensor:
    """Clip to -1..1 and truncate to steps of 1/32767, as ``laion_clap`` does by way of int16."""
    return samples.clamp(-1, 1).mul_(FULL_SCALE).trunc_().div_(FULL_SCALE)


def _per_step(samples: Tensor, step: int, order: float, dtype: torch.dtype) -> Tensor:
    """The vector norm of each stretch of ``step`` samples, and of what is left: ``[ceil(samples / step)]``."""
    whole = len(samples) - len(samples) % step
    norms = [torch.linalg.vector_norm(samples[:whole].view(-1, step), order, dim=1, dtype=dtype)]
    if whole < len(samples):
        norms.append(torch.linalg.vector_norm(samples[whole:], order, dtype=dtype)[None])
    return torch.cat(norms)
