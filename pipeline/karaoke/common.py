"""The measures that are asked for by name, against the mix. None of them tells a good instrumental from a bad one:
all are best where nothing was removed, so nothing here is ever used to choose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.audio.reader import AudioReader
from pipeline.karaoke.spectra import blocks, power

SNR_LIMIT_DB = 100.0
SNR_BEST_DB = 30.0
"""The signal-to-noise ratio that the common formula counts as full marks."""
_STEP = 1 << 18


@dataclass(frozen=True)
class Common:
    """Four measures of an instrumental Y against its mix X, over all channels.

    Args:
        karaoke_snr_db: ``10 log10(Σ X² / Σ (X - Y)²)``, dB, at most `SNR_LIMIT_DB`: what was removed counts as
            noise, voice and all. None where the mix is silent.
        karaoke_rms_change_db: level of Y less that of X (root mean square), dB. None where either is silent.
        karaoke_spectral_similarity: cosine between the magnitude spectrograms, 0..1 (of each cell
            the root of the channels' summed power; FFT of 4096, hop of 2048,
            Hann). None where either is silent.
        karaoke_score_common: ``0.7 s + 0.3 c`` with the signal-to-noise ratio from 0 to `SNR_BEST_DB` as s in
            0..1, and the similarity as c: the formula in common use. None where one of the two is None.
    """

    karaoke_snr_db: float | None
    karaoke_rms_change_db: float | None
    karaoke_spectral_similarity: float | None
    karaoke_score_common: float | None


class CommonSums:
    """`Common` of spectra and samples that come in blocks."""

    def __init__(self) -> None:
        self._mix = self._instrumental = self._removed = 0.0
        self._xx = self._yy = self._xy = 0.0

    def add_samples(self, mix: Tensor, instrumental: Tensor) -> None:
        """Further samples of both, float32 ``[channels, n]``."""
        mix, instrumental = mix.double(), instrumental.double()
        self._mix += float(mix.square().sum())
        self._instrumental += float(instrumental.square().sum())
        self._removed += float((mix - instrumental).square().sum())

    def add_energies(self, xx: Tensor, yy: Tensor) -> None:
        """Further cells of both: squared magnitudes ``[frames, bins]``, summed over channels."""
        self._xx += float(xx.sum(dtype=torch.float64))
        self._yy += float(yy.sum(dtype=torch.float64))
        self._xy += float((xx * yy).sqrt().sum(dtype=torch.float64))

    def result(self) -> Common:
        """The measures of what was added."""
        snr = change = similarity = score = None
        if self._mix > 0.0:
            noise = max(self._removed, self._mix * 10.0 ** (-SNR_LIMIT_DB / 10.0))
            snr = 10.0 * math.log10(self._mix / noise)
            if self._instrumental > 0.0:
                change = 10.0 * math.log10(self._instrumental / self._mix)
        if self._xx > 0.0 and self._yy > 0.0:
            similarity = min(1.0, self._xy / math.sqrt(self._xx * self._yy))
        if snr is not None and similarity is not None:
            score = 0.7 * min(max(snr / SNR_BEST_DB, 0.0), 1.0) + 0.3 * similarity
        return Common(snr, change, similarity, score)


def add_track(sums: CommonSums, mix: AudioReader, instrumental: AudioReader) -> None:
    """Adds the samples of a whole track, piece by piece."""
    for start in range(0, mix.samples, _STEP):
        stop = min(start + _STEP, mix.samples)
        pair = (torch.from_numpy(audio.read(start, stop).copy()) for audio in (mix, instrumental))
        sums.add_samples(*pair)


def common_measures(mix: AudioReader, instrumental: AudioReader) -> Common:
    """The four measures of a track.

    Args:
        mix, instrumental: 44.1 kHz, of the same length and number of channels.
    """
    sums = CommonSums()
    add_track(sums, mix, instrumental)
    for pair in blocks(mix, instrumental):
        sums.add_energies(*(power(spectra) for spectra in pair))
    return sums.result()
