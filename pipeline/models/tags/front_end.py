"""What musicnn's networks see: patches of a log-mel spectrogram.

Frame ``t`` of a track is centred on sample ``256 t``, in a periodic Hann window of 512; beyond both ends the track is
mirrored. Power in 96 mel bands of unit area (Slaney) up to 8 kHz, then ``log10(10000 x + 1)``: librosa's mel
spectrogram with its defaults of 2019, as in musicnn's ``extractor.py``. That keeps the power in 16 bits before the
logarithm, where what is loud overflows; here it stays in 32.

Patches of 187 frames follow one another; what is left at the end is no patch, as in the original. A track shorter than
a patch is one: its frames are repeated until there are enough, as they were when the networks were trained
(``"pad_short": "repeat-pad"`` in their ``config.json``). A track shorter than a window has no frames.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pipeline.audio.reader import AudioReader
from pipeline.dsp.filterbanks import mel_filterbank
from pipeline.dsp.stft import hann_window
from pipeline.models.tags.names import HOP, PATCH_FRAMES, SAMPLE_RATE

N_FFT = 512
N_MELS = 96
PATCH_SAMPLES = PATCH_FRAMES * HOP
GAIN = 10000.0


def patches_of(samples: int) -> int:
    """Patches of a track of so many samples; 0 where it is shorter than a window."""
    if samples < N_FFT:
        return 0
    return max(1, (1 + samples // HOP) // PATCH_FRAMES)


def patch_span(patch: int, samples: int) -> tuple[int, int]:
    """Where a patch begins and ends in a track of so many samples: at its first frame and at the next patch's, or with
    the track."""
    return patch * PATCH_SAMPLES, min((patch + 1) * PATCH_SAMPLES, samples)


def read_patches(reader: AudioReader, first: int, last: int) -> np.ndarray:
    """The samples under patches ``first`` to ``last`` (exclusive), with half a window on both sides.

    Of a track's beginning and end that is the track itself, mirrored.

    Returns:
        float32 ``[samples]``, for `log_mel`.
    """
    frames = min((last - first) * PATCH_FRAMES, 1 + reader.samples // HOP)
    begin = first * PATCH_SAMPLES - N_FFT // 2
    end = begin + (frames - 1) * HOP + N_FFT
    audio = reader.read(max(0, begin), min(end, reader.samples))[0]
    beyond = (max(0, -begin), max(0, end - reader.samples))
    return np.pad(audio, beyond, mode="reflect") if any(beyond) else audio


def log_mel(audio: Tensor) -> Tensor:
    """The patches of what `read_patches` gave.

    Shape: float32 ``[samples]`` → ``[patches, 187, 96]``, on the device of ``audio``.
    """
    window, bank = _tables(audio.device)
    spectrum = torch.fft.rfft(audio.unfold(0, N_FFT, HOP) * window)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = torch.log10(power @ bank * GAIN + 1.0)
    if len(mel) < PATCH_FRAMES:
        mel = mel.repeat(-(-PATCH_FRAMES // len(mel)), 1)[:PATCH_FRAMES]
    return mel.view(-1, PATCH_FRAMES, N_MELS)


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """The window ``[512]``, and the mel bands as columns ``[257, 96]``."""
    bank = mel_filterbank(SAMPLE_RATE, N_FFT, N_MELS, 0.0, SAMPLE_RATE / 2)
    return hann_window(N_FFT).to(device), bank.T.contiguous().to(device)
