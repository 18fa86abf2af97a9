"""Harmonic and percussive parts by median filtering of the spectrogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.masks import Masking, energy_by_group, separate
from pipeline.dsp.stft import hann_window
from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, blob_columns, column, register
from pipeline.features.running import GroupMeans
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import decibels_above, frames_per_group
from pipeline.features.track import TrackInfo
from pipeline.late import torch

MASKS = ("soft", "hard")
PARTS = ("harmonic", "percussive")
_SOURCE = "Fitzgerald, 2010; Driedger, Müller and Disch, 2014; librosa.decompose.hpss"


class _Energies:
    """Sums over the frames of one part, which come block by block.

    Args:
        group: frames per column of the matrix.

    ``total`` is the energy over all bins, ``mel`` the means per mel band and group.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        self.total = 0.0
        self.mel = GroupMeans(group)

    def add(self, frames: range, energy: torch.Tensor, bank: torch.Tensor) -> None:
        """Add the energy ``[groups, bins]`` of frames of the track; ``bank`` is ``[n_mels, bins]``."""
        self.total += float(energy.sum())
        first = frames.start // self.group
        counts = np.bincount(np.arange(frames.start, frames.stop) // self.group - first)
        self.mel.add_sums(first, (bank @ energy.float().T).double().numpy(), counts)


@register
@dataclass(frozen=True)
class Hpss(Extractor):
    """Share of the harmonic and of the percussive part in the energy, and the mel spectrogram of each.

    The energy of a part is the sum over its power spectrogram (one-sided, all frames), which is that of the
    track times the square of the mask: ``sum(abs(part) ** 2)`` of the two results of
    ``librosa.decompose.hpss``. Two soft masks add up to 1, their squares to less, so the two energies do not
    add up to that of the track; each share is of the sum of the two, ``E_h / (E_h + E_p)``, and the shares
    add up to 1 whatever the masks.

    The matrices are those of the ``mel`` extractor, power averaged over groups of frames and 0 dB for a
    full-scale sine in its FFT bin, from 0 Hz to half the sample rate, of each part.

    Args:
        n_fft: FFT length, samples.
        hop_length: samples between frames.
        kernel_size: frames, and bins, of the two medians.
        margin_harmonic: factor by which the harmonic median must exceed the percussive one, at least 1.
        margin_percussive: the reverse. Beyond 1, what belongs to neither part counts nowhere.
        power: exponent of the soft masks.
        mask: ``soft`` or ``hard``.
        n_mels: mel bands of the matrices.
        floor_db: the least value in the matrices.
        series_rate_hz: frames per second of the matrices, to the nearest whole number of frames averaged.
        waveforms: also give the samples of each part at the DSP rate, see `separate`.
    """

    name: ClassVar[str] = "hpss"
    version: ClassVar[str] = "2"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "shares of the harmonic and percussive parts, and their mel spectrograms"

    n_fft: int = 2048
    hop_length: int = 512
    kernel_size: int = 31
    margin_harmonic: float = 1.0
    margin_percussive: float = 1.0
    power: float = 2.0
    mask: str = "soft"
    n_mels: int = 128
    floor_db: float = -100.0
    series_rate_hz: float = 2.0
    waveforms: bool = False

    @classmethod
    def widest(cls) -> Hpss:
        """With waveforms."""
        return cls(waveforms=True)

    def check(self) -> None:
        for parameter in ("hop_length", "n_mels", "series_rate_hz"):
            value = getattr(self, parameter)
            if not value > 0:
                raise ValueError(f"{parameter}={value} must be positive")
        if self.n_fft < 16:
            raise ValueError(f"n_fft={self.n_fft} must be at least 16")
        if not 1 <= self.kernel_size <= 255:
            raise ValueError(f"kernel_size={self.kernel_size} must lie within 1..255")
        if not 0.1 <= self.power <= 100:
            raise ValueError(f"power={self.power} must lie within 0.1..100")
        for parameter in ("margin_harmonic", "margin_percussive"):
            value = getattr(self, parameter)
            if not 1 <= value <= 1000:
                raise ValueError(f"{parameter}={value} must lie within 1..1000")
        if self.mask not in MASKS:
            raise ValueError(f"mask={self.mask} must be one of {', '.join(MASKS)}")
        if not -300 <= self.floor_db < 0:
            raise ValueError(f"floor_db={self.floor_db} must lie within -300..0")
        if self.waveforms and 2 * self.hop_length > self.n_fft:
            raise ValueError(f"waveforms=true needs a hop_length of at most {self.n_fft // 2}, half of n_fft")

    def columns(self) -> tuple[pa.Field, ...]:
        shares = (
            column(
                f"hpss_{part}_share",
                pa.float32(),
                "ratio",
                f"energy of the {part} part over that of both parts, in [0, 1]; undefined for silence",
                _SOURCE,
            )
            for part in PARTS
        )
        rate = f"power averaged to about {self.series_rate_hz:g} frames/s"
        matrices = (
            field
            for part in PARTS
            for field in blob_columns(
                f"hpss_{part}", "dB", f"mel levels [n_mels, time] of the {part} part, {rate}", _SOURCE
            )
        )
        samples = (
            field
            for part in PARTS * self.waveforms
            for field in blob_columns(
                f"hpss_{part}_waveform", "1", f"samples of the {part} part, mono", _SOURCE
            )
        )
        return (*shares, *matrices, *samples)

    def context_seconds(self, sample_rate: int) -> float:
        """The medians reach half a kernel beyond the block."""
        reach = (self.kernel_size // 2 + 1) * self.hop_length + self.n_fft
        return 2.0 + reach / sample_rate

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; None without samples, the shares also where no part has energy."""
        return _HpssRun(self, track)

    def masking(self) -> Masking:
        """How the parts are told apart."""
        return Masking(
            self.kernel_size, self.power, self.margin_harmonic, self.margin_percussive, self.mask == "hard"
        )

    def empty_bands(self, bank: torch.Tensor, sample_rate: int) -> list[Fallback]:
        empty = int((bank.amax(dim=1) == 0).sum())
        if not empty:
            return []
        wanted = f"hpss.n_mels={self.n_mels} with n_fft={self.n_fft}"
        reason = f"bands narrower than an FFT bin of {sample_rate / self.n_fft:.1f} Hz"
        return [Fallback("features", wanted, f"{self.floor_db:g} dB in {empty} bands", reason)]


def _shared_energies(block: SharedSpectra, hpss: Hpss, group: int) -> torch.Tensor:
    """`energy_by_group` of the frames of a block, once for all who ask with the same parameters."""
    n_fft, hop_length, masking = hpss.n_fft, hpss.hop_length, hpss.masking()

    def compute(asked: SharedSpectra) -> torch.Tensor:
        power, before = asked.power_around(n_fft, hop_length, hpss.kernel_size // 2 + 1)
        frames = asked.axis.frames(hop_length)
        return energy_by_group(power, masking, group, frames.start, first=before, last=before + len(frames))

    return block.result(("hpss_energy", n_fft, hop_length, masking, group), compute)


class _HpssRun(Running):
    def __init__(self, hpss: Hpss, track: TrackInfo) -> None:
        self.hpss = hpss
        group = frames_per_group(track.sample_rate, hpss.hop_length, hpss.series_rate_hz)
        self.parts = [_Energies(group) for _ in PARTS]
        self.reference = float(hann_window(hpss.n_fft).double().sum() / 2) ** 2
        self.frames = 0
        self.fallbacks: list[Fallback] = []
        self.waveforms: list[list[np.ndarray]] = [[], []]

    def add(self, block: SharedSpectra) -> None:
        hpss, frames = self.hpss, block.axis.frames(self.hpss.hop_length)
        bank = block.mel_bank(hpss.n_fft, hpss.n_mels, 0.0, block.sample_rate / 2)
        if not self.frames:
            self.fallbacks = hpss.empty_bands(bank, block.sample_rate)
        self.frames += len(frames)
        if len(frames):
            energies = _shared_energies(block, hpss, self.parts[0].group)
            for part, energy in zip(self.parts, energies, strict=True):
                part.add(frames, energy, bank)
        if hpss.waveforms:
            parts = separate(block.waveform(), hpss.n_fft, hpss.hop_length, hpss.masking())
            for waveform, part in zip(self.waveforms, parts, strict=True):
                waveform.append(part[block.axis.inside()].numpy())

    def finish(self) -> Extraction:
        values: dict[str, float | None] = {f"hpss_{part}_share": None for part in PARTS}
        if not self.frames:
            return Extraction(values)
        both = sum(part.total for part in self.parts)
        if both > 0.0:
            values = {
                f"hpss_{name}_share": part.total / both for name, part in zip(PARTS, self.parts, strict=True)
            }
        series = {
            f"hpss_{name}": decibels_above(
                part.mel.means() / np.float32(self.reference), self.hpss.floor_db
            ).astype(np.float32)
            for name, part in zip(PARTS, self.parts, strict=True)
        }
        if self.hpss.waveforms:
            names = [f"hpss_{part}_waveform" for part in PARTS]
            series |= {name: np.concatenate(w) for name, w in zip(names, self.waveforms, strict=True)}
        return Extraction(
            values, series, self.fallbacks, full_precision=frozenset(n for n in series if "waveform" in n)
        )
