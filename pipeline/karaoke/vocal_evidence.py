"""What an estimate of the voice, whoever made it, says of an instrumental."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from pipeline.karaoke.decomposition import fit
from pipeline.karaoke.spectra import Pair, band_sums, frequencies, group_sums, power, products

FLOOR = 1e-4
"""Of the mix's energy: what is more than 40 dB below is counted as that."""
BAND_HZ = (120.0, 8000.0)
"""Where a voice is looked for without a judge."""
DOMINATED = 4.0
"""A cell is the voice's where its energy is so many times that of everything else."""
UNVOICED = 0.01
"""A frame has no voice where less than this share of its energy is one."""


def decibels(energy: float, reference: float, mix: float) -> float:
    """Ratio of energies in dB, both no lower than `FLOOR` of the mix."""
    floor = FLOOR * mix + 1e-20
    return 10.0 * math.log10((max(energy, 0.0) + floor) / (max(reference, 0.0) + floor))


def centre_voice(mix: Tensor) -> Tensor:
    """What is alike in both channels in the band of a voice, with soft borders: a voice estimate without a network.

    The gain is that of a centred source in the mid when all else is uncorrelated, ``1 - |S|² / |M|²``, to the
    fourth power, after Avendano and Jot 2004, "A frequency-domain approach to multichannel upmix", JAES 52(7/8).

    Shape: complex ``[2, frames, bins]`` → the same.
    """
    mid, side = (mix[0] + mix[1]) / 2, (mix[0] - mix[1]) / 2
    energy = power(mid[None])
    gain = ((energy - power(side[None])) / energy.clamp(min=1e-20)).clamp(0.0, 1.0).square().square()
    hz = frequencies()[: mix.shape[-1]]
    band = ((hz / BAND_HZ[0]).clamp(0, 1) ** 4) * ((BAND_HZ[1] / hz.clamp(min=1.0)).clamp(0, 1) ** 4)
    centre = mid * (gain * band)
    return centre.expand(2, -1, -1)


class VocalSums:
    """Sums over cells that tell what became of an estimated voice."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def add(self, pair: Pair, voice: Tensor, refound: Tensor | None = None) -> None:
        """Further spectra.

        Args:
            pair: of mix and instrumental.
            voice: the estimate of the voice in the mix, complex ``[2, frames, bins]``.
            refound: the same judge's estimate of the voice in the instrumental.
        """
        x, y, r = pair.x, pair.y, pair.r
        v, xv, yv = power(voice), products(pair.mix, voice), products(pair.instrumental, voice)
        # The backing is the mix less the voice, so its energies follow.
        b = (x + v - 2 * xv).clamp(min=0)
        dominated = v > DOMINATED * b
        unvoiced = (v.sum(-1) < UNVOICED * x.sum(-1)).float()
        in_backing = pair.xy - yv
        groups = {"backing": group_sums(b), "voice": group_sums(v), "backing_voice": group_sums(xv - v)}
        parts = fit(
            group_sums(y),
            **groups,
            backing_instrumental=group_sums(in_backing),
            voice_instrumental=group_sums(yv),
        )
        found = {
            "mix": x.sum(), "instrumental": y.sum(), "voice": v.sum(), "backing": b.sum(), "removed": r.sum(),
            "left": parts.left, "damage": parts.damage, "in_backing": in_backing.sum(),
            "voice_of_removed": (xv - yv).sum(),
            "dominated_mix": (x * dominated).sum(), "dominated_left": (y * dominated).sum(),
            "unvoiced_mix": x.sum(-1) @ unvoiced, "unvoiced_removed": r.sum(-1) @ unvoiced,
            "excess": (r - v).clamp(min=0).sum(), "missed": (v - r).clamp(min=0).sum(),
        }  # fmt: skip
        if refound is not None:
            f, fv = power(refound), products(refound, voice)
            again = fit(
                group_sums(f),
                **groups,
                backing_instrumental=group_sums(products(refound, pair.mix) - fv),
                voice_instrumental=group_sums(fv),
            )
            found |= {"refound": f.sum(), "refound_same": again.left}
        self._sums.update({name: float(value) for name, value in found.items()})

    def voice_db(self) -> float:
        """Level of the estimated voice below the mix, dB."""
        return decibels(self._sums["voice"], self._sums["mix"], self._sums["mix"])

    def evidence(self) -> dict[str, float]:
        """Ratios in dB, -40 to 40."""
        s = self._sums
        mix = s["mix"]
        noise = s["left"] + s["damage"]
        target = s["in_backing"] ** 2 / s["backing"] if s["backing"] > 0 else 0.0
        cosine = s["voice_of_removed"] / math.sqrt(s["voice"] * s["removed"] + 1e-20 + 1e-12 * mix * mix)
        found = {
            "voice": decibels(s["voice"], s["backing"], mix),
            "left": decibels(s["left"], s["voice"], mix),
            "left_of_backing": decibels(s["left"], s["backing"], mix),
            "damage": decibels(s["damage"], s["backing"], mix),
            "distance": decibels(noise, s["backing"], mix),
            "sdr": decibels(target, max(s["instrumental"] - target, 0.0), mix),
            "removed": decibels(s["removed"], s["voice"], mix),
            "cosine": cosine,
            "dominated": decibels(s["dominated_left"], s["dominated_mix"], mix),
            "unvoiced": decibels(s["unvoiced_removed"], s["unvoiced_mix"], mix),
            "excess": decibels(s["excess"], s["backing"], mix),
            "missed": decibels(s["missed"], s["voice"], mix),
        }
        if "refound" in s:
            found |= {
                "refound": decibels(s["refound"], s["voice"], mix),
                "refound_same": decibels(s["refound_same"], s["voice"], mix),
                "refound_of_backing": decibels(s["refound"], s["backing"], mix),
                "noise": decibels(noise + s["refound"], s["backing"], mix),
            }
        return found


SHORTEST_LAG, LONGEST_LAG = 44100 // 500, 44100 // 80
"""Periods of a voice, samples."""
PITCHED_HZ = (120.0, 4000.0)


def autocorrelation(spectra: Tensor) -> Tensor:
    """Of the mid of each frame between 120 and 4000 Hz: complex ``[2, frames, bins]`` → ``[frames, N_FFT]``."""
    hz = frequencies()
    band = ((hz >= PITCHED_HZ[0]) & (hz <= PITCHED_HZ[1])).float()
    return torch.fft.irfft(power((spectra[0] + spectra[1])[None]) * band)


def periodicity(correlation: Tensor) -> Tensor:
    """How periodic each frame is at the pitches of a voice, 80 to 500 Hz: highest normalised autocorrelation,
    ``[frames, N_FFT]`` → ``[frames]``, about -1..1."""
    return correlation[:, SHORTEST_LAG:LONGEST_LAG].amax(-1) / correlation[:, 0].clamp(min=1e-20)


def pitch_lags(correlation: Tensor) -> Tensor:
    """Period of each frame's strongest pitch of a voice, samples: ``[frames, N_FFT]`` → int64 ``[frames, 1]``."""
    return correlation[:, SHORTEST_LAG:LONGEST_LAG].argmax(-1, keepdim=True) + SHORTEST_LAG


class LevelMoments:
    """How the levels of two signals move together over time, band by band."""

    def __init__(self) -> None:
        self._moments: Tensor | float = 0.0
        self._frames = 0

    def add(self, one: Tensor, other: Tensor, mix: Tensor) -> None:
        """Further energies of cells, ``[frames, bins]``; levels 40 dB below the mix's are counted as that."""
        a, b, x = (band_sums(cells).double() for cells in (one, other, mix))
        # Per frame, so that the result does not depend on the blocks.
        floor = FLOOR * x.sum(-1, keepdim=True) + 1e-20
        a, b = torch.log(a + floor), torch.log(b + floor)
        self._moments = self._moments + torch.stack([a, b, a * a, b * b, a * b]).sum(1)
        self._frames += len(a)

    def correlation(self) -> float:
        """Mean over the bands of the voice of Pearson's correlation of log energies; 0 where nothing moves."""
        if not self._frames:
            return 0.0
        mean_a, mean_b, aa, bb, ab = self._moments / self._frames
        spread = ((aa - mean_a**2).clamp(min=0) * (bb - mean_b**2).clamp(min=0)).sqrt() + 1e-3
        return float(((ab - mean_a * mean_b) / spread)[1:16].mean())


class PitchSums:
    """How much of a judge's voice is still heard at its own pitch, whatever any mask says."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def add(self, mix: Tensor, instrumental: Tensor, voice: Tensor) -> None:
        """Further spectra, complex ``[2, frames, bins]``."""
        sung = autocorrelation(voice)
        lag = pitch_lags(sung)
        weight = sung.gather(-1, lag)[:, 0].clamp(min=0)
        found = {"weight": weight.sum()}
        for name, spectra in {"mix": mix, "left": instrumental, "removed": mix - instrumental}.items():
            correlation = autocorrelation(spectra)
            at_pitch = correlation.gather(-1, lag)[:, 0]
            found[name] = at_pitch.sum()
            if name == "mix":
                found["all"] = correlation[:, 0].sum()
            found[f"{name}_periodic"] = weight @ (at_pitch / correlation[:, 0].clamp(min=1e-20))
        self._sums.update({name: float(value) for name, value in found.items()})

    def evidence(self) -> dict[str, float]:
        """Energy at the pitch, dB, and how periodic it is there, -1..1."""
        s = self._sums
        weight = s["weight"] + 1e-20
        return {
            "pitch_left": decibels(s["left"], s["mix"], s["all"]),
            "pitch_removed": decibels(s["removed"], s["mix"], s["all"]),
            "pitch_of_mix": s["mix_periodic"] / weight,
            "pitch_of_left": s["left_periodic"] / weight,
            "pitch_of_removed": s["removed_periodic"] / weight,
        }
