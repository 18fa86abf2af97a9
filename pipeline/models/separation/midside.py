"""Centre extraction without a network: what is alike in both channels, within the band of a voice.

It needs no weights, so it is the last backend of the list. It finds the centre of the stereo image, which is
where the lead voice of most mixes lies, but also the snare drum and half of everything else: a stem for
measuring tendencies, not for listening. On a stereo file with identical channels everything is centre, and
vocals are simply the band.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.models.separation.base import SeparationOptions, Separator, register
from pipeline.models.separation.spectrogram import (
    HOP_LENGTH,
    N_FFT,
    envelope,
    frame_windows,
    spectrum,
    waveform,
)
from pipeline.models.separation.window import Window

LOW_HZ = (100.0, 140.0)  # the band opens between these
HIGH_HZ = (15500.0, 16500.0)  # and closes between these
# Half gain where the side lies 13.7 dB below the mid: lower takes in much of the accompaniment, higher loses
# the voice wherever it carries stereo reverberation.
SELECTIVITY = 16.0
# On mixtures of known stems the instrumental is no nearer to the backing than the mix at this level of the side over
# the mid, and farther below it; see benchmarks/RESULTS.md.
NEAR_MONO_DB = -20.0


def centre_mask(left: Tensor, right: Tensor) -> Tensor:
    """How much of the mid of each bin is centred.

    With mid M = (L + R) / 2 and side S = (L - R) / 2, ``1 - |S|² / |M|²`` is the Wiener gain for a centred
    source in M when everything else is uncorrelated between the channels; it is raised to `SELECTIVITY` to
    keep out sources that are panned a little. After Avendano and Jot 2004, "A frequency-domain approach to
    multichannel upmix", JAES 52(7/8).

    Args:
        left, right: complex spectra of one shape.

    Returns:
        0 to 1, the same shape; 0 where both are 0.
    """
    mid, side = (left + right).abs().square(), (left - right).abs().square()
    # A bin of silence has no direction: the floor, 200 dB under full scale, sends it to the accompaniment.
    gain = (mid - side) / mid.clamp(min=1e-20)
    return gain.clamp(0.0, 1.0) ** SELECTIVITY


@register
class MidSide(Separator):
    """Centre extraction in the STFT domain; takes true stereo only.

    Vocals are the same in both channels, so the accompaniment, the mix minus the vocals, keeps the whole
    stereo side signal and everything outside the band of the voice, the bass above all.

    Args:
        device: where the spectra are computed.
        frames: frames of 23 ms that are in memory at once.
    """

    name = "midside"
    version = "2"
    cpu_speed = 90.0
    sources = ("vocals", "accompaniment")
    least_side_db = NEAR_MONO_DB

    def __init__(self, device: str | torch.device = "cpu", frames: int = 512) -> None:
        self.device = torch.device(device)
        self.frames = frames
        self.segment = frames * HOP_LENGTH / self.sample_rate
        self.batch_items = 1 if self.device.type == "cpu" else 16
        self._band = _band(self.sample_rate).to(self.device)

    @classmethod
    def load(cls, device: str = "cpu", options: SeparationOptions | None = None) -> MidSide:
        return cls(device)

    def model_id(self) -> str:
        return f"{self.name}:{self.version}"

    def refuses(self, channels: int, samples: int) -> str | None:
        if channels == 1:
            return "the track is mono, so there is no stereo image to find the centre of"
        return None

    def windows(self, samples: int) -> Iterator[Window]:
        return frame_windows(samples, self.frames, fill=False)

    def separate(self, batch: Tensor) -> Tensor:
        """See `Separator.separate`. The stems sum to the mix within float32 rounding."""
        spectra = spectrum(batch)
        left, right = spectra[:, 0], spectra[:, 1]
        centre = waveform(centre_mask(left, right) * self._band * (left + right) / 2)
        vocals = centre[:, None].expand_as(batch)
        return torch.stack([vocals, batch * envelope(spectra.shape[-2], batch.device) - vocals], dim=1)


def _band(sample_rate: int) -> Tensor:
    """Gain of each bin: 1 within the band of the voice, 0 outside, linear in between."""
    frequencies = torch.fft.rfftfreq(N_FFT, 1.0 / sample_rate)
    rise = (frequencies - LOW_HZ[0]) / (LOW_HZ[1] - LOW_HZ[0])
    fall = (HIGH_HZ[1] - frequencies) / (HIGH_HZ[1] - HIGH_HZ[0])
    return torch.minimum(rise, fall).clamp(0.0, 1.0)
