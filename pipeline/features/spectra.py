"""`SharedSpectra`: each intermediate of a track, computed at most once and only when somebody asks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

# Frames per FFT call and samples per pass over the native channels: they bound the memory of temporaries,
# and being constant they keep results independent of what else runs.
_CHUNK_FRAMES = 1024
_CHUNK_SAMPLES = 1 << 18

# Beyond this a sample is not PCM in any scaling, and its power would overflow float32.
_LARGEST_SAMPLE = 1e9

# Peaks that vote on the tuning, as in librosa.piptrack.
_TUNING_RANGE_HZ = (150.0, 4000.0)
_TUNING_PEAK_THRESHOLD = 0.1
_TUNING_RESOLUTION = 0.01

CQT_BINS_PER_OCTAVE = 36


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

    def native_chunks(self) -> Iterator[np.ndarray]:
        """The native view in consecutive pieces, float64 ``[channels, n]``."""
        self._check_native()
        for start in range(0, self.native.shape[-1], _CHUNK_SAMPLES):
            yield self.native[:, start : start + _CHUNK_SAMPLES].astype(np.float64)

    def levels(self) -> ChannelLevels | None:
        """Mean, power and peak of each native channel; None without samples."""
        return self._once(("levels",), self._levels)

    def _levels(self) -> ChannelLevels | None:
        if self.native.size == 0:
            return None
        sums, squares, peak = np.zeros((3, self.native.shape[0]))
        for chunk in self.native_chunks():
            sums += chunk.sum(axis=-1)
            squares += np.square(chunk).sum(axis=-1)
            np.maximum(peak, np.abs(chunk).max(axis=-1), out=peak)
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
            return self.mel_bank(n_fft, n_mels, fmin, fmax) @ self.power(n_fft, hop_length)

        return self._once(("mel", n_fft, hop_length, n_mels, fmin, fmax), compute)

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
        """Chroma magnitudes of ``librosa.feature.chroma_cqt``, not normalised: float32 ``[12, frames]``.

        The fine tuning is librosa's own, a fraction of a CQT bin. A track more than a sixth of a semitone off
        is shifted by whole bins on top, or its notes would lie at the edges of their pitch classes.

        Raises:
            ImportError: librosa is not installed.
        """

        def compute() -> torch.Tensor:
            import librosa

            fine = self.tuning(n_fft, hop_length, CQT_BINS_PER_OCTAVE) or 0.0
            coarse = (self.tuning(n_fft, hop_length) or 0.0) * CQT_BINS_PER_OCTAVE / 12
            with warnings.catch_warnings():
                # Its low octaves are zero-padded on clips of a few seconds; a warning per clip says nothing.
                warnings.filterwarnings("ignore", message="n_fft=.* is too large for input signal")
                matrix = librosa.feature.chroma_cqt(
                    y=self.waveform().cpu().numpy(),
                    sr=self.sample_rate,
                    hop_length=hop_length,
                    norm=None,
                    tuning=fine + round(coarse - fine),
                    bins_per_octave=CQT_BINS_PER_OCTAVE,
                )
            return torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float32)).to(self.device)

        return self._once(("chroma_cqt", n_fft, hop_length), compute)


def _require_pcm(view: str, samples: np.ndarray) -> None:
    # Written so that NaN, which compares false, is refused too; max and min need no temporary array.
    if samples.size and not (samples.max() <= _LARGEST_SAMPLE and samples.min() >= -_LARGEST_SAMPLE):
        raise ValueError(f"the {view} audio holds samples that are NaN, infinite or beyond ±1e9")


def hann_window(n_fft: int) -> torch.Tensor:
    """Periodic Hann window, float32 ``[n_fft]``."""
    # In float64 first: the float32 cosine alone would cost 1e-7.
    return torch.hann_window(n_fft, periodic=True, dtype=torch.float64).float()


def power_spectrogram(waveform: torch.Tensor, n_fft: int, hop_length: int) -> torch.Tensor:
    """Squared magnitude of the short-time Fourier transform.

    Equal to ``abs(librosa.stft(y, n_fft=n_fft, hop_length=hop_length)) ** 2``: periodic Hann window, frame
    ``t`` centred on sample ``t * hop_length``, zeros beyond both ends. The complex spectrum of only a few
    frames exists at a time.

    Shape: ``[samples]`` → float32 ``[n_fft // 2 + 1, frames]``, frames = 1 + samples // hop_length for an
    even ``n_fft``; no frames for no samples.
    """
    bins = n_fft // 2 + 1
    if waveform.numel() == 0:
        return waveform.new_zeros((bins, 0))
    window = hann_window(n_fft).to(waveform.device)
    padded = torch.nn.functional.pad(waveform, (n_fft // 2, n_fft // 2))
    frames = padded.unfold(-1, n_fft, hop_length)
    power = waveform.new_empty((bins, frames.shape[0]))
    for start in range(0, frames.shape[0], _CHUNK_FRAMES):
        spectrum = torch.fft.rfft(frames[start : start + _CHUNK_FRAMES] * window)
        power[:, start : start + _CHUNK_FRAMES] = (spectrum.real.square() + spectrum.imag.square()).T
    return power


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


def strong_peaks(power: torch.Tensor, sample_rate: int, n_fft: int, exponent: int = 1) -> np.ndarray:
    """Frequencies of the partials that tell the tuning, as ``librosa.estimate_tuning`` picks them.

    The peaks of the spectrum between 150 Hz and 4 kHz, at least a tenth of the largest bin of their frame and
    at least the median of all such peaks, interpolated by a parabola. The spectrum is that of magnitude where
    ``exponent`` is 1, of power where it is 2.

    Shape: ``[n_fft // 2 + 1, frames]`` → float64 ``[peaks]``, Hz.
    """
    chunks = [
        _spectral_peaks(power[:, start : start + _CHUNK_FRAMES].pow(exponent / 2), sample_rate, n_fft)
        for start in range(0, power.shape[1], _CHUNK_FRAMES)
    ]
    frequencies = np.concatenate([f for f, _ in chunks] or [np.zeros(0)])
    heights = np.concatenate([h for _, h in chunks] or [np.zeros(0)])
    return frequencies[heights >= np.median(heights)] if len(frequencies) else frequencies


def pitch_tuning(frequencies: np.ndarray, bins_per_octave: int) -> float | None:
    """The most common distance of ``frequencies`` (Hz) to the nearest bin of a scale through A440.

    Returns:
        fraction of a bin in [-0.5, 0.5), in steps of 0.01, or None without frequencies.
    """
    if not len(frequencies):
        return None
    residual = np.mod(bins_per_octave * np.log2(frequencies / (440.0 / 16)), 1.0)
    residual[residual >= 0.5] -= 1.0
    edges = np.linspace(-0.5, 0.5, round(1.0 / _TUNING_RESOLUTION) + 1)
    votes, _ = np.histogram(residual, edges)
    return float(edges[np.argmax(votes)])


def _spectral_peaks(spectrum: torch.Tensor, sample_rate: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (Hz) and heights of the local maxima of each column, float64 ``[peaks]`` each."""
    loudest = spectrum.amax(dim=0)
    bin_hz = sample_rate / n_fft
    first = max(1, int(np.ceil(_TUNING_RANGE_HZ[0] / bin_hz)))
    last = min(spectrum.shape[0] - 1, int(np.ceil(_TUNING_RANGE_HZ[1] / bin_hz)))
    if last <= first:
        return np.zeros(0), np.zeros(0)
    eligible = spectrum[first - 1 : last + 1]
    eligible = eligible * (eligible > _TUNING_PEAK_THRESHOLD * loudest)
    is_peak = (eligible[1:-1] > eligible[:-2]) & (eligible[1:-1] >= eligible[2:])
    row, column = torch.nonzero(is_peak, as_tuple=True)
    below, here, above = (spectrum[row + first - 1 + i, column].double() for i in range(3))
    curvature, slope = above + below - 2.0 * here, (above - below) / 2.0
    usable = slope.abs() < curvature.abs()
    shift = torch.where(usable, -slope / torch.where(usable, curvature, torch.ones_like(curvature)), 0.0)
    frequencies = (row + first + shift) * bin_hz
    return frequencies.cpu().numpy(), (here + 0.5 * slope * shift).cpu().numpy()
