"""Harmonic and percussive parts by median filtering of the spectrogram."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import torch

from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, blob_columns, column, register
from pipeline.features.layout import transposed
from pipeline.features.median import median_network, reflected, row_medians
from pipeline.features.running import GroupMeans
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import decibels_above, frames_per_group
from pipeline.features.stft import hann_window, power_spectrogram
from pipeline.features.track import TrackInfo

MASKS = ("soft", "hard")
PARTS = ("harmonic", "percussive")
_SOURCE = "Fitzgerald, 2010; Driedger, Müller and Disch, 2014; librosa.decompose.hpss"

# Elements of the spectrogram per pass, and the least number of frames: they bound the memory of temporaries,
# and being constant they keep results independent of what else runs. A GPU wants more at a time.
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 23}
_LEAST_CHUNK_FRAMES = 64

_SMALLEST = torch.finfo(torch.float32).tiny


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
    bins, frames = power.shape
    elements = _CHUNK_ELEMENTS.get(power.device.type, _CHUNK_ELEMENTS["cpu"])
    step = max(_LEAST_CHUNK_FRAMES, elements // max(1, bins - 1))
    last = frames if last is None else last
    for start in range(first, last, step):
        stop = min(start + step, last)
        lasting = _median_over_frames(power, start, stop, masking.kernel_size)
        broad = _median_over_bins(power[:, start:stop], masking.kernel_size)
        yield start, *_mask_pair(lasting, broad, masking)


def _median_over_frames(power: torch.Tensor, start: int, stop: int, size: int) -> torch.Tensor:
    first = start - size // 2
    last = first + median_network(size).padded_length(stop - start)
    positions = reflected(torch.arange(first, last, device=power.device), power.shape[1])
    return row_medians(power.T, positions, size)[: stop - start].T


def _median_over_bins(power: torch.Tensor, size: int) -> torch.Tensor:
    bins = power.shape[0]
    positions = torch.arange(median_network(size).padded_length(bins), device=power.device) - size // 2
    medians = row_medians(transposed(power.T), reflected(positions, bins), size)[:bins]
    return transposed(medians).T


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
        waveform: float32 ``[samples]``, on any device.
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
    window = hann_window(n_fft).to(waveform.device)
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


class _Energies:
    """Sums over the frames of a spectrogram that comes in chunks.

    Args:
        group: frames per column of the matrix.

    ``total`` is the energy over all bins, ``mel`` the means per mel band and group.
    """

    def __init__(self, group: int) -> None:
        self.group = group
        self.total = 0.0
        self.mel = GroupMeans(group)

    def add(self, start: int, power: torch.Tensor, bank: torch.Tensor) -> None:
        """Add the chunk ``[bins, n]`` that begins at frame ``start`` of the track."""
        groups = torch.arange(start, start + power.shape[1], device=power.device) // self.group
        first, last = start // self.group, (start + power.shape[1] - 1) // self.group + 1
        members = groups[:, None] == torch.arange(first, last, device=power.device)
        # A product, because index_add_ is in no fixed order on a GPU.
        sums = power @ members.float()
        self.total += float(sums.double().sum())
        counts = members.sum(dim=0).cpu().numpy()
        self.mel.add_sums(first, (bank @ sums).double().cpu().numpy(), counts)


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
                f"hpss_{part}", "dB", f"mel levels [n_mels, time] of the {part} part, {rate}"
            )
        )
        samples = (
            field
            for part in PARTS * self.waveforms
            for field in blob_columns(f"hpss_{part}_waveform", "1", f"samples of the {part} part, mono")
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
        power, before = block.power_around(hpss.n_fft, hpss.hop_length, hpss.kernel_size // 2 + 1)
        for start, *pair in masks(power, hpss.masking(), before, before + len(frames)):
            chunk = power[:, start : start + pair[0].shape[1]]
            for part, mask in zip(self.parts, pair, strict=True):
                part.add(frames.start + start - before, mask.square_().mul_(chunk), bank)
        if hpss.waveforms:
            parts = separate(block.waveform(), hpss.n_fft, hpss.hop_length, hpss.masking())
            for waveform, part in zip(self.waveforms, parts, strict=True):
                waveform.append(part[block.axis.inside()].cpu().numpy())

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
