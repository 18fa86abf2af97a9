"""Running quantities that no other extractor has, and the fingerprint is made of."""

from __future__ import annotations

import math

import numpy as np

from pipeline.dsp.filterbanks import chroma_filterbank
from pipeline.dsp.stft import power_spectrogram
from pipeline.features.running import GroupMeans
from pipeline.features.spectra import SharedSpectra
from pipeline.features.statistics import frames_per_group
from pipeline.features.track import TrackInfo
from pipeline.late import torch

BAND_EDGES_HZ = (20.0, 60.0, 250.0, 500.0, 2000.0, 4000.0, 8000.0, 20000.0)
BASS, MID = 1, 3
"""Which of the bands are compared as bass and as mid: 60..250 and 500..2000 Hz."""

LARGEST_RATIO_DB = 60.0
"""A ratio of two bands that differ by more is this: of a pure tone it would be made of rounding errors."""

FRAME_SECONDS = 0.05
FRAMES_PER_PIECE = 20
SILENT_DBFS = -60.0

CHROMA_RATE_HZ = 2.0
"""Chroma vectors per second, to the nearest whole number of frames averaged."""
_STRONGEST = 3
_SILENT_CHROMA_DB = -60.0
# The squares of the shares of music, less the even one, add up to 0.02..0.3, those of noise to 0.0002..0.001.
_EVEN = 0.005
_MOST_BEATS = 4

# FFT bins are about this wide: the lowest band is four of them, and a mid band a hundred.
_BIN_HZ = 10.0
# Windows whose spectra are in memory at a time.
_CHUNK_WINDOWS = 256


class BandEnergies:
    """Energy of the native channels in `BAND_EDGES_HZ`, as Welch has it: windows that overlap by half, all alike.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self.n_fft = 1 << max(4, round(math.log2(sample_rate / _BIN_HZ)))
        frequencies = np.arange(self.n_fft // 2 + 1) * (sample_rate / self.n_fft)
        # Not the one at half the rate: 8 kHz hold nothing of the band that begins at 4 kHz.
        self._bins = np.searchsorted(frequencies[:-1], BAND_EDGES_HZ)
        self._energy = np.zeros(self.n_fft // 2 + 1)

    def add(self, block: SharedSpectra) -> None:
        """Take in the windows centred in the next block; beyond the ends of the track there are zeros."""
        hop, axis = self.n_fft // 2, block.native_axis
        frames = axis.frames(hop)
        # They are checked there, and there alone.
        block.levels()
        for channel in block.native:
            samples = torch.from_numpy(np.require(channel, np.float32, ["C", "W"]))
            for start in range(frames.start, frames.stop, _CHUNK_WINDOWS):
                count = min(_CHUNK_WINDOWS, frames.stop - start)
                power = power_spectrogram(samples, self.n_fft, hop, start * hop - axis.origin, count)
                # As a product it is a third faster than as a sum.
                self._energy += (power @ torch.ones(count)).double().numpy()

    def energies(self) -> np.ndarray:
        """Energy of each band in no particular unit, float64 ``[7]``; 0 where the rate ends below it."""
        return np.array(
            [self._energy[a:b].sum() for a, b in zip(self._bins[:-1], self._bins[1:], strict=True)]
        )


def ratio_db(energy: float, other: float) -> float | None:
    """``10 log10`` of a ratio of energies, within ±`LARGEST_RATIO_DB`; None where both are 0."""
    if energy <= 0.0 and other <= 0.0:
        return None
    if energy <= 0.0 or other <= 0.0:
        return LARGEST_RATIO_DB if energy > 0.0 else -LARGEST_RATIO_DB
    ratio = 10.0 * (math.log10(energy) - math.log10(other))
    return min(max(ratio, -LARGEST_RATIO_DB), LARGEST_RATIO_DB)


class Pieces:
    """Level and peak of consecutive pieces of 1 s of a track, which begin where the track does.

    A piece is 20 frames of 50 ms, over all channels. An incomplete last one is left out, unless it is the only one;
    so are those below -60 dBFS, which are silent.

    Args:
        sample_rate: native, Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._length = FRAMES_PER_PIECE * max(1, round(FRAME_SECONDS * sample_rate))
        self._power: list[np.ndarray] = []
        self._peaks = np.zeros(0)

    def add(self, block: SharedSpectra) -> None:
        """Take in the next block, which may end within a piece."""
        self._power.append(block.frame_power(FRAME_SECONDS))
        axis, samples = block.native_axis, block.native_block
        first, stop = axis.start // self._length, -(-axis.stop // self._length)
        self._peaks = np.pad(self._peaks, (0, max(0, stop - len(self._peaks))))
        # To the first piece that begins in the block, then whole pieces, then the rest.
        head = min(-axis.start % self._length, samples.shape[1])
        whole = (samples.shape[1] - head) // self._length
        tail = head + whole * self._length
        begun = first + (head > 0)
        for channel in samples:
            rows = channel[head:tail].reshape(whole, self._length)
            peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1)) if whole else np.zeros(0)
            self._raise(begun, peaks)
            for piece, rest in ((first, channel[:head]), (begun + whole, channel[tail:])):
                if len(rest):
                    self._raise(piece, np.array([max(rest.max(), -rest.min())]))

    def _raise(self, piece: int, peaks: np.ndarray) -> None:
        place = slice(piece, piece + len(peaks))
        self._peaks[place] = np.maximum(self._peaks[place], peaks)

    def silence_ratio(self) -> float | None:
        """Share of the frames of 50 ms below -60 dBFS; None without samples."""
        power = np.concatenate(self._power or [np.zeros(0)])
        return float((power < 10.0 ** (SILENT_DBFS / 10.0)).mean()) if len(power) else None

    def level_spread_db(self) -> float | None:
        """Standard deviation of the RMS levels of the pieces that sound, dB; None where fewer than two do."""
        power, _ = self._sounding()
        return float(np.std(10.0 * np.log10(power))) if len(power) >= 2 else None

    def peak_consistency(self) -> float | None:
        """Mean peak of the pieces that sound over the peak of the track, 0..1; None where none does."""
        _, peaks = self._sounding()
        return float(peaks.mean() / self._peaks.max()) if len(peaks) else None

    def _sounding(self) -> tuple[np.ndarray, np.ndarray]:
        frames = np.concatenate(self._power or [np.zeros(0)])
        count = len(frames) // FRAMES_PER_PIECE
        if count:
            power = frames[: count * FRAMES_PER_PIECE].reshape(count, FRAMES_PER_PIECE).mean(axis=1)
        else:
            power = frames.mean(keepdims=True) if len(frames) else frames
        heard = power >= 10.0 ** (SILENT_DBFS / 10.0)
        return power[heard], self._peaks[: len(power)][heard]


class PitchClasses:
    """Energy of the 12 pitch classes in steps of about half a second, at A4 = 440 Hz.

    Those of ``librosa.feature.chroma_stft`` with neither norm nor tuning, each class over what it has of white noise.
    Tuning would take a pass of its own over a long track, and hardly matters here: a song half a semitone off has the
    same stability and peakiness within 0.05. A step more than 60 dB below the loudest one does not sound.

    Args:
        track: its DSP rate matters.
        n_fft: FFT length, samples.
        hop_length: samples between frames.
    """

    def __init__(self, track: TrackInfo, n_fft: int, hop_length: int) -> None:
        bank = chroma_filterbank(track.sample_rate, n_fft)
        # White noise would have more of some classes, and the same ones all the time.
        self._bank = bank / bank.sum(dim=1, keepdim=True)
        self._n_fft, self._hop = n_fft, hop_length
        self._steps = GroupMeans(frames_per_group(track.sample_rate, hop_length, CHROMA_RATE_HZ))
        self._frames = 0

    def add(self, block: SharedSpectra) -> None:
        """Take in the frames of the next block."""
        power = block.power(self._n_fft, self._hop)
        if power.shape[1]:
            self._steps.add(block.axis.frames(self._hop).start, (self._bank @ power).numpy())
            self._frames += power.shape[1]

    def _sounding(self) -> tuple[np.ndarray, np.ndarray]:
        """The steps that sound as shares of their energy, ``[steps, 12]``, and their numbers."""
        if not self._frames:
            return np.zeros((0, 12)), np.zeros(0, np.int64)
        energy = self._steps.means().T.astype(np.float64)
        total = energy.sum(axis=1)
        heard = np.flatnonzero((total > 0.0) & (total >= total.max() * 10.0 ** (_SILENT_CHROMA_DB / 10.0)))
        return energy[heard] / total[heard, None], heard

    def stability(self) -> float | None:
        """How alike a step's pitch classes are to those of the next one, 0..1, mean of all pairs of neighbours.

        It is ``a·b / (|a| |b| + 0.005)`` of their shares less the even one, 1/12, and 0 where that is negative: their
        correlation, which fades where no class stands out, so that noise has none. A held note has 1, a change to
        notes of other classes 0. None where no two neighbours sound.
        """
        shares, numbers = self._sounding()
        apart = shares - 1.0 / shares.shape[1]
        norms = np.sqrt(np.square(apart).sum(axis=1))
        products = (apart[1:] * apart[:-1]).sum(axis=1)
        alike = (products / (norms[1:] * norms[:-1] + _EVEN))[np.diff(numbers) == 1]
        return float(np.clip(alike, 0.0, 1.0).mean()) if len(alike) else None

    def peakiness(self) -> float | None:
        """How much more than their even share the three strongest classes of a step have, 0..1, mean of the steps.

        0 where all twelve are alike, 1 where three have all the energy. None where nothing sounds.
        """
        shares, _ = self._sounding()
        if not len(shares):
            return None
        strongest = np.sort(shares, axis=1)[:, -_STRONGEST:].sum(axis=1).mean()
        even = _STRONGEST / shares.shape[1]
        return float(min(max((strongest - even) / (1.0 - even), 0.0), 1.0))


def rhythm_stability(strength: np.ndarray, period: float) -> float:
    """How alike the onsets are one to four beats later, 0..1: the largest correlation of the envelope with itself.

    The envelope is smoothed over three frames first: a period is hardly ever a whole number of them.

    Args:
        strength: onset envelope, ``[frames]``.
        period: of a beat, frames.
    """
    smooth = np.convolve(strength, (0.25, 0.5, 0.25), "same")
    found = [0.0]
    for beats in range(1, _MOST_BEATS + 1):
        lag = round(beats * period)
        if 2 * lag > len(smooth):
            break
        pair = smooth[:-lag], smooth[lag:]
        if all(x.std() > 0.0 for x in pair):
            found.append(float(np.corrcoef(*pair)[0, 1]))
    return min(max(found), 1.0)
