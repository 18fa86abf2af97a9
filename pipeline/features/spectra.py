"""`SharedSpectra`: each intermediate of a track, computed at most once and only when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from pipeline.features.cqt import BINS_PER_OCTAVE, chroma_cqt
from pipeline.features.filterbanks import apply_bands, chroma_filterbank, mel_filterbank
from pipeline.features.onset import Rhythm, TempoSearch, find_rhythm, onset_strength
from pipeline.features.pitch import pitch_tuning, strong_peaks
from pipeline.features.stft import hann_window, power_spectrogram

__all__ = [
    "ChannelLevels",
    "SharedSpectra",
    "chroma_filterbank",
    "hann_window",
    "mel_filterbank",
    "pitch_tuning",
    "power_spectrogram",
    "strong_peaks",
]

T = TypeVar("T")

# Samples per pass over the native channels: it bounds the memory of temporaries, and being constant it keeps
# results independent of what else runs.
_CHUNK_SAMPLES = 1 << 18

# Beyond this a sample is not PCM in any scaling, and its power would overflow float32.
_LARGEST_SAMPLE = 1e9


@dataclass(frozen=True)
class ChannelLevels:
    """Sums over one track, one entry per native channel, float64 ``[channels]``.

    Args:
        mean: mean sample.
        mean_square: mean squared sample; a full-scale square wave has 1.
        peak: largest absolute sample.
    """

    mean: np.ndarray
    mean_square: np.ndarray
    peak: np.ndarray


class SharedSpectra:
    """The audio of one track and everything extractors derive from it together.

    Args:
        mono: mean of the channels at the DSP rate, float32 ``[samples]``.
        sample_rate: the DSP rate, Hz.
        native: all channels at the file's own rate, float32 ``[channels, samples]``.
        native_rate: the file's own rate, Hz.
        device: where the spectra are computed.

    ``counts`` says how often each intermediate was computed; a count above one is a bug.

    A track without samples has spectra of zero frames. Methods raise ``ValueError`` when the audio they read
    holds NaN, infinities or samples beyond ±1e9.
    """

    def __init__(
        self,
        mono: np.ndarray,
        sample_rate: int,
        native: np.ndarray,
        native_rate: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self.mono = mono
        self.sample_rate = sample_rate
        self.native = native
        self.native_rate = native_rate
        self.device = torch.device(device)
        self.counts: Counter[tuple] = Counter()
        self._cache: dict[tuple, object] = {}

    def _once(self, key: tuple, compute: Callable[[], T]) -> T:
        if key not in self._cache:
            self.counts[key] += 1
            self._cache[key] = compute()
        return self._cache[key]  # type: ignore[return-value]

    def waveform(self) -> torch.Tensor:
        """The mono view on the device, float32 ``[samples]``."""

        def compute() -> torch.Tensor:
            _require_pcm("mono", self.mono)
            # Arrays out of shared memory are read-only, which torch does not support.
            return torch.from_numpy(np.require(self.mono, np.float32, ["C", "W"])).to(self.device)

        return self._once(("waveform",), compute)

    def _check_native(self) -> None:
        self._once(("native",), lambda: _require_pcm("native", self.native))

    def native_chunks(self, dtype: type[np.floating] = np.float64) -> Iterator[np.ndarray]:
        """The native view in consecutive pieces, ``[channels, n]``."""
        self._check_native()
        for start in range(0, self.native.shape[-1], _CHUNK_SAMPLES):
            yield self.native[:, start : start + _CHUNK_SAMPLES].astype(dtype, copy=False)

    def levels(self) -> ChannelLevels | None:
        """Mean, power and peak of each native channel; None without samples."""
        return self._once(("levels",), self._levels)

    def _levels(self) -> ChannelLevels | None:
        if self.native.size == 0:
            return None
        sums, squares, peak = np.zeros((3, self.native.shape[0]))
        for chunk in self.native_chunks():
            sums += chunk.sum(axis=-1)
            squares += [row @ row for row in chunk]
            np.maximum(peak, np.maximum(chunk.max(axis=-1), -chunk.min(axis=-1)), out=peak)
        samples = self.native.shape[-1]
        return ChannelLevels(sums / samples, squares / samples, peak)

    def frame_power(self, frame_seconds: float) -> np.ndarray:
        """Mean square over all native channels of consecutive frames; its root is the RMS.

        Args:
            frame_seconds: length of a frame, rounded to whole samples, at least one. Frames do not overlap.

        Returns:
            float64 ``[frames]``. An incomplete last frame is left out, unless it is the only one.
        """
        return self._once(("frame_power", frame_seconds), lambda: self._frame_power(frame_seconds))

    def _frame_power(self, frame_seconds: float) -> np.ndarray:
        self._check_native()
        channels, samples = self.native.shape
        if self.native.size == 0:
            return np.zeros(0)
        length = min(max(1, round(frame_seconds * self.native_rate)), samples)
        frames = samples // length
        power = np.empty(frames)
        step = max(1, _CHUNK_SAMPLES // length)
        for first in range(0, frames, step):
            last = min(first + step, frames)
            chunk = self.native[:, first * length : last * length].astype(np.float64)
            power[first:last] = np.square(chunk).reshape(channels, last - first, length).mean(axis=(0, 2))
        return power

    def power(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Power spectrogram of the mono view, see `power_spectrogram`."""
        return self._once(
            ("power", n_fft, hop_length), lambda: power_spectrogram(self.waveform(), n_fft, hop_length)
        )

    def mel_bank(self, n_fft: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """Mel filters on the device, see `mel_filterbank`."""
        return self._once(
            ("mel_bank", n_fft, n_mels, fmin, fmax),
            lambda: mel_filterbank(self.sample_rate, n_fft, n_mels, fmin, fmax).to(self.device),
        )

    def mel(self, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """Mel power spectrogram, that of ``librosa.feature.melspectrogram``: float32 ``[n_mels, frames]``."""

        def compute() -> torch.Tensor:
            return apply_bands(self.mel_bank(n_fft, n_mels, fmin, fmax), self.power(n_fft, hop_length))

        return self._once(("mel", n_fft, hop_length, n_mels, fmin, fmax), compute)

    def onset_strength(self, n_fft: int, hop_length: int, n_mels: int) -> np.ndarray:
        """Onset envelope over all frequencies, see `pipeline.features.onset.onset_strength`."""

        def compute() -> np.ndarray:
            mel = self.mel(n_fft, hop_length, n_mels, 0.0, self.sample_rate / 2)
            return onset_strength(mel, n_fft, hop_length)

        return self._once(("onset_strength", n_fft, hop_length, n_mels), compute)

    def rhythm(self, n_fft: int, hop_length: int, n_mels: int, search: TempoSearch) -> Rhythm | None:
        """Tempo and beats, see `pipeline.features.onset.find_rhythm`; None without a steady beat."""

        def compute() -> Rhythm | None:
            mel = self.mel(n_fft, hop_length, n_mels, 0.0, self.sample_rate / 2)
            strength = self.onset_strength(n_fft, hop_length, n_mels)
            return find_rhythm(mel, strength, n_fft, hop_length, self.sample_rate / hop_length, search)

        return self._once(("rhythm", n_fft, hop_length, n_mels, search), compute)

    def tuning(self, n_fft: int, hop_length: int, bins_per_octave: int = 12) -> float | None:
        """Deviation from A440, fraction of a bin, as ``librosa.estimate_tuning``; None without pitch."""
        return self._once(
            ("tuning", n_fft, hop_length, bins_per_octave),
            lambda: pitch_tuning(self._peaks(n_fft, hop_length, exponent=1), bins_per_octave),
        )

    def _peaks(self, n_fft: int, hop_length: int, exponent: int) -> np.ndarray:
        return self._once(
            ("peaks", n_fft, hop_length, exponent),
            lambda: strong_peaks(self.power(n_fft, hop_length), self.sample_rate, n_fft, exponent),
        )

    def chroma_stft(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Chroma energies, the raw matrix of ``librosa.feature.chroma_stft``: float32 ``[12, frames]``."""

        def compute() -> torch.Tensor:
            # librosa.feature.chroma_stft tunes by the power spectrum, librosa.estimate_tuning by magnitude.
            tuning = pitch_tuning(self._peaks(n_fft, hop_length, exponent=2), 12) or 0.0
            bank = chroma_filterbank(self.sample_rate, n_fft, tuning).to(self.device)
            return bank @ self.power(n_fft, hop_length)

        return self._once(("chroma_stft", n_fft, hop_length), compute)

    def chroma_cqt(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Constant-Q chroma magnitudes, see `pipeline.features.cqt.chroma_cqt`: float32 ``[12, frames]``.

        The fine tuning is librosa's own, a fraction of a CQT bin. A track more than a sixth of a semitone off
        is shifted by whole bins on top, or its notes would lie at the edges of their pitch classes.

        Raises:
            ValueError: the DSP rate is too low for its highest octave.
        """

        def compute() -> torch.Tensor:
            fine = self.tuning(n_fft, hop_length, BINS_PER_OCTAVE) or 0.0
            coarse = (self.tuning(n_fft, hop_length) or 0.0) * BINS_PER_OCTAVE / 12
            tuning = fine + round(coarse - fine)
            return chroma_cqt(self.waveform(), self.sample_rate, hop_length, tuning)

        return self._once(("chroma_cqt", n_fft, hop_length), compute)


def _require_pcm(view: str, samples: np.ndarray) -> None:
    # Written so that NaN, which compares false, is refused too; max and min need no temporary array.
    if samples.size and not (samples.max() <= _LARGEST_SAMPLE and samples.min() >= -_LARGEST_SAMPLE):
        raise ValueError(f"the {view} audio holds samples that are NaN, infinite or beyond ±1e9")
