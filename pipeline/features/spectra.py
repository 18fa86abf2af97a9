"""`SharedSpectra`: each intermediate of a block of a track, computed at most once and only when somebody asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.dsp.cqt import BINS_PER_OCTAVE, chroma_cqt
from pipeline.dsp.filterbanks import apply_bands, chroma_filterbank, mel_filterbank
from pipeline.dsp.harmonics import frame_lengths, harmonic_chroma
from pipeline.dsp.onsets import Rises, rises
from pipeline.dsp.stft import hann_window, power_spectrogram
from pipeline.dsp.tuning import Partials, PeakVotes, pitch_tuning
from pipeline.features.track import Axis, TrackInfo
from pipeline.late import torch

__all__ = [
    "ChannelLevels",
    "SharedSpectra",
    "chroma_filterbank",
    "hann_window",
    "mel_filterbank",
    "pitch_tuning",
    "power_spectrogram",
]

T = TypeVar("T")

# Samples per pass over the native channels: it bounds the memory of temporaries, and being constant it keeps
# results independent of what else runs.
_CHUNK_SAMPLES = 1 << 18

# Samples of one channel at a time that stay in the cache of a core as float64.
_CACHED_SAMPLES = 1 << 15

# Beyond this a sample is not PCM in any scaling, and its power would overflow float32.
_LARGEST_SAMPLE = 1e9


@dataclass(frozen=True)
class ChannelLevels:
    """Sums over a track or a part of it, one entry per native channel, float64 ``[channels]``.

    Args:
        samples: how many per channel.
        sum: of the samples.
        square: sum of their squares.
        peak: largest absolute sample.
    """

    samples: int
    sum: np.ndarray
    square: np.ndarray
    peak: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean sample."""
        return self.sum / self.samples

    @property
    def mean_square(self) -> np.ndarray:
        """Mean squared sample; a full-scale square wave has 1."""
        return self.square / self.samples

    def __add__(self, other: ChannelLevels) -> ChannelLevels:
        return ChannelLevels(
            self.samples + other.samples,
            self.sum + other.sum,
            self.square + other.square,
            np.maximum(self.peak, other.peak),
        )


class SharedSpectra:
    """The audio of one block of a track and everything extractors derive from it together.

    Frames belong to the block their centre lies in; numbers of frames and samples count from the beginning of
    the track. Without ``place``, ``track`` and ``number`` the block is the whole track.

    Args:
        mono: mean of the channels at the DSP rate, float32 ``[samples]``, with context on either side.
        sample_rate: the DSP rate, Hz.
        native: all channels at the file's own rate, float32 ``[channels, samples]``, with context.
        native_rate: the file's own rate, Hz.
        place: where the samples of ``mono`` and of ``native`` lie in the track.
        track: what is known of the track as a whole; shared by its blocks.
        number: of the block in the track, from 0.
        every_channel: all channels at the DSP rate, ``[channels, samples]``, with the context of ``mono``; only
            where an extractor has ``channels`` among its views.

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
        *,
        place: tuple[Axis, Axis] | None = None,
        track: TrackInfo | None = None,
        number: int = 0,
        every_channel: np.ndarray | None = None,
    ) -> None:
        self.mono = mono
        self.sample_rate = sample_rate
        self.native = native
        self.native_rate = native_rate
        if place is None:
            place = Axis.whole(mono.shape[-1]), Axis.whole(native.shape[-1])
        self.axis, self.native_axis = place
        self.track = track or TrackInfo(
            sample_rate, native_rate, len(native), samples=mono.shape[-1], native_samples=native.shape[-1]
        )
        self.number = number
        self.every_channel = every_channel
        self.counts: Counter[tuple] = Counter()
        self._cache: dict[tuple, object] = {}

    def _once(self, key: tuple, compute: Callable[[], T]) -> T:
        if key not in self._cache:
            self.counts[key] += 1
            self._cache[key] = compute()
        return self._cache[key]  # type: ignore[return-value]

    def result(self, key: tuple, compute: Callable[[SharedSpectra], T]) -> T:
        """``compute`` of this block, of the first who asks for ``key``: for intermediates of one extractor."""
        return self._once(key, lambda: compute(self))

    def channels(self) -> list[SharedSpectra]:
        """The spectra of each channel at the DSP rate. They have no facts about the track."""

        def compute() -> list[SharedSpectra]:
            place = self.axis, self.native_axis
            return [
                SharedSpectra(
                    channel, self.sample_rate, self.native, self.native_rate, place=place, track=self.track
                )
                for channel in self.every_channel
            ]

        return self._once(("channels",), compute)

    def waveform(self) -> torch.Tensor:
        """The mono view with its context, float32 ``[samples]``."""

        def compute() -> torch.Tensor:
            _require_pcm("mono", self.mono)
            # Arrays out of shared memory are read-only, which torch does not support.
            return torch.from_numpy(np.require(self.mono, np.float32, ["C", "W"]))

        return self._once(("waveform",), compute)

    def _check_native(self) -> None:
        self._once(("native",), lambda: _require_pcm("native", self.native))

    @property
    def native_block(self) -> np.ndarray:
        """The native view without context, ``[channels, samples]``."""
        return self.native[:, self.native_axis.inside()]

    def native_chunks(
        self, dtype: type[np.floating] = np.float64, first: int | None = None, stop: int | None = None
    ) -> Iterator[np.ndarray]:
        """The native view in consecutive pieces, ``[channels, n]``.

        Args:
            dtype: of the pieces.
            first, stop: samples of the track; those of the block by default.
        """
        self._check_native()
        axis = self.native_axis
        first, stop = axis.start if first is None else first, axis.stop if stop is None else stop
        piece = self.native[:, first - axis.origin : stop - axis.origin]
        for start in range(0, piece.shape[-1], _CHUNK_SAMPLES):
            yield piece[:, start : start + _CHUNK_SAMPLES].astype(dtype, copy=False)

    def levels(self) -> ChannelLevels | None:
        """Sums and peak of each native channel over the block; None without samples."""
        return self._once(("levels",), self._levels)

    def _levels(self) -> ChannelLevels | None:
        block = self.native_block
        if block.size == 0:
            return None
        self._check_native()
        sums, squares, peak = np.zeros((3, block.shape[0]))
        for channel, samples in enumerate(block):
            for start in range(0, len(samples), _CACHED_SAMPLES):
                chunk = samples[start : start + _CACHED_SAMPLES]
                peak[channel] = max(peak[channel], chunk.max(), -chunk.min())
                chunk = chunk.astype(np.float64)
                sums[channel] += chunk.sum()
                squares[channel] += chunk @ chunk
        return ChannelLevels(block.shape[-1], sums, squares, peak)

    def frame_power(self, frame_seconds: float) -> np.ndarray:
        """Mean square over all native channels of consecutive frames that begin in the block; its root is the RMS.

        Args:
            frame_seconds: length of a frame, rounded to whole samples, at least one. Frames do not overlap.

        Returns:
            float64 ``[frames]``. An incomplete last frame is left out, unless it is the only one.
        """
        return self._once(("frame_power", frame_seconds), lambda: self._frame_power(frame_seconds))

    def _frame_power(self, frame_seconds: float) -> np.ndarray:
        self._check_native()
        axis, channels = self.native_axis, len(self.native)
        length = max(1, round(frame_seconds * self.native_rate))
        if axis.last and axis.start == 0:
            length = min(length, max(1, axis.stop))
        # The context holds the rest of a frame that begins in the block, unless the track ends before.
        at_hand = axis.origin + self.native.shape[-1]
        stop = min(-(-axis.stop // length), at_hand // length)
        first = -(-axis.start // length)
        frames = max(0, stop - first)
        power = np.zeros(frames)
        step = max(1, _CACHED_SAMPLES // length)
        begin = first * length - axis.origin
        for channel in self.native:
            for start in range(0, frames, step):
                stop = min(start + step, frames)
                piece = slice(begin + start * length, begin + stop * length)
                rows = channel[piece].astype(np.float64).reshape(-1, length)
                power[start:stop] += np.einsum("ij,ij->i", rows, rows)
        return power / (channels * length)

    def power(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Power spectrogram of the frames of the block, see `power_spectrogram`."""
        return self._once(
            ("power", n_fft, hop_length),
            lambda: self._power_of(n_fft, hop_length, self.axis.frames(hop_length)),
        )

    def _power_of(self, n_fft: int, hop_length: int, frames: range) -> torch.Tensor:
        centre = frames.start * hop_length - self.axis.origin
        return power_spectrogram(self.waveform(), n_fft, hop_length, centre, len(frames))

    def power_around(self, n_fft: int, hop_length: int, margin: int) -> tuple[torch.Tensor, int]:
        """`power` with up to ``margin`` frames of the track on either side.

        Returns:
            ``[bins, frames]``, and how many of the frames come before the block.
        """
        power, own = self.power(n_fft, hop_length), self.axis.frames(hop_length)
        before = range(max(0, own.start - margin), own.start)
        if self.axis.last:
            after = range(own.stop, own.stop)
        else:
            # The track may end within the context.
            at_hand = (self.axis.origin + len(self.mono)) // hop_length + 1
            after = range(own.stop, min(own.stop + margin, at_hand))
        if not before and not after:
            return power, 0
        sides = [self._power_of(n_fft, hop_length, side) for side in (before, after)]
        return torch.cat([sides[0].T, power.T, sides[1].T]).T, len(before)

    def mel_bank(self, n_fft: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """Mel filters, see `mel_filterbank`."""
        return self._once(
            ("mel_bank", n_fft, n_mels, fmin, fmax),
            lambda: mel_filterbank(self.sample_rate, n_fft, n_mels, fmin, fmax),
        )

    def mel(self, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """Mel power spectrogram, that of ``librosa.feature.melspectrogram``: float32 ``[n_mels, frames]``."""

        def compute() -> torch.Tensor:
            return apply_bands(self.mel_bank(n_fft, n_mels, fmin, fmax), self.power(n_fft, hop_length))

        return self._once(("mel", n_fft, hop_length, n_mels, fmin, fmax), compute)

    def loudest_mel(self, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float) -> float:
        """The largest value of `mel` in the whole track; 0 without frames."""

        def measure() -> float:
            mel = self.mel(n_fft, hop_length, n_mels, fmin, fmax)
            return float(mel.amax()) if mel.numel() else 0.0

        key = ("loudest_mel", n_fft, hop_length, n_mels, fmin, fmax)
        return self.track.fact(key, self.number, measure, max)

    def rises(self, n_fft: int, hop_length: int, n_mels: int) -> Rises:
        """How much louder the mel bands over all frequencies get, see `pipeline.dsp.onsets.rises`."""
        nyquist = self.sample_rate / 2
        loudest = self.loudest_mel(n_fft, hop_length, n_mels, 0.0, nyquist)

        def compute() -> Rises:
            mel = self.mel(n_fft, hop_length, n_mels, 0.0, nyquist)
            before = self.axis.frames(hop_length).start - 1
            if before >= 0:
                bank = self.mel_bank(n_fft, n_mels, 0.0, nyquist)
                frame = self._power_of(n_fft, hop_length, range(before, before + 1))
                mel = torch.cat([apply_bands(bank, frame), mel], dim=1)
            return rises(mel, loudest)

        return self._once(("rises", n_fft, hop_length, n_mels), compute)

    def tuning(self, n_fft: int, hop_length: int, bins_per_octave: int = 12) -> float | None:
        """Deviation of the track from A440, fraction of a bin, as ``librosa.estimate_tuning``; None without
        pitch. Of a track of several blocks it is found by counting, see `PeakVotes`."""
        return self._tuning(n_fft, hop_length, 1, bins_per_octave)

    def _tuning(self, n_fft: int, hop_length: int, exponent: int, bins_per_octave: int) -> float | None:
        partials = self.partials(n_fft, hop_length, exponent)
        return self._once(
            ("tuning", n_fft, hop_length, exponent, bins_per_octave), lambda: partials.tuning(bins_per_octave)
        )

    def partials(self, n_fft: int, hop_length: int, exponent: int = 1) -> Partials | PeakVotes:
        """The partials of the whole track, of peaks of magnitude where ``exponent`` is 1 and of power where it is 2."""
        resolutions = (12, BINS_PER_OCTAVE)

        def found() -> Partials:
            return Partials.find(self.power(n_fft, hop_length), self.sample_rate, n_fft, exponent)

        def votes() -> PeakVotes:
            power = self.power(n_fft, hop_length)
            return PeakVotes.count(power, self.sample_rate, n_fft, exponent, resolutions)

        key = ("peaks", n_fft, hop_length, exponent)
        if self.track.one_block:
            return self._once(key, found)
        return self.track.fact(key, self.number, votes, PeakVotes.__add__)

    def chroma_stft(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Chroma energies, the raw matrix of ``librosa.feature.chroma_stft``: float32 ``[12, frames]``."""
        # librosa.feature.chroma_stft tunes by the power spectrum, librosa.estimate_tuning by magnitude.
        tuning = self._tuning(n_fft, hop_length, 2, 12) or 0.0

        def compute() -> torch.Tensor:
            bank = chroma_filterbank(self.sample_rate, n_fft, tuning)
            return bank @ self.power(n_fft, hop_length)

        return self._once(("chroma_stft", n_fft, hop_length), compute)

    def cqt_tuning(self, n_fft: int, hop_length: int) -> float:
        """Tuning of the constant-Q transform, fraction of a CQT bin.

        The fine tuning is librosa's own. A track more than a sixth of a semitone off is shifted by whole bins
        on top, or its notes would lie at the edges of their pitch classes.
        """
        fine = self.tuning(n_fft, hop_length, BINS_PER_OCTAVE) or 0.0
        coarse = (self.tuning(n_fft, hop_length) or 0.0) * BINS_PER_OCTAVE / 12
        return fine + round(coarse - fine)

    def chroma_cqt(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Constant-Q chroma magnitudes, see `pipeline.dsp.cqt.chroma_cqt`: float32 ``[12, frames]``."""
        tuning = self.cqt_tuning(n_fft, hop_length)

        def compute() -> torch.Tensor:
            frames = self.axis.frames(hop_length)
            centre = frames.start * hop_length - self.axis.origin
            return chroma_cqt(
                self.waveform(),
                self.sample_rate,
                hop_length,
                tuning=tuning,
                centre=centre,
                frames=len(frames),
            )

        return self._once(("chroma_cqt", n_fft, hop_length), compute)

    def chroma_peaks(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """See `harmonic_chroma`, whose frames it has; the parameters are those of the tuning."""
        tuning, own = self.tuning(n_fft, hop_length) or 0.0, frame_lengths(self.sample_rate)
        return self._once(
            ("chroma_peaks", n_fft, hop_length),
            lambda: harmonic_chroma(self.power(*own), self.sample_rate, own[0], tuning),
        )

    def chroma(self, method: str, n_fft: int, hop_length: int) -> torch.Tensor:
        """`chroma_cqt`, `chroma_stft` or `chroma_peaks`."""
        return getattr(self, f"chroma_{method}")(n_fft, hop_length)

    def loudest_chroma(self, method: str, n_fft: int, hop_length: int) -> float:
        """The largest value of `chroma` in the whole track; 0 without frames."""
        chroma = self.chroma(method, n_fft, hop_length)
        return self.track.fact(
            ("loudest_chroma", method, n_fft, hop_length),
            self.number,
            lambda: float(chroma.amax()) if chroma.numel() else 0.0,
            max,
        )


def _require_pcm(view: str, samples: np.ndarray) -> None:
    # Written so that NaN, which compares false, is refused too; max and min need no temporary array.
    if samples.size and not (samples.max() <= _LARGEST_SAMPLE and samples.min() >= -_LARGEST_SAMPLE):
        raise ValueError(f"the {view} audio holds samples that are NaN, infinite or beyond ±1e9")
