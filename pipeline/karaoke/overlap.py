"""How what was left lies against what was removed, cell by cell: where the two overlap, one of them is wrong.

Two sounds that have nothing to do with each other are neither in phase nor out of it. A mask leaves and removes parts
of the same cells, in phase; what was subtracted too much is left upside down. A mask that gives a cell's share ``m`` to
the voice is wrong there by ``m (1 - m) |X|²`` on average if it is as right as a mask can be (the posterior variance of
Wiener's estimate), so the overlap alone tells how good even a good mask can have been.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.karaoke.spectra import Pair, band_sums, group_sums, power, products
from pipeline.karaoke.vocal_evidence import LevelMoments, autocorrelation, decibels, pitch_lags

LOW, MIDDLE = slice(0, 5), slice(5, 11)
"""Bands below 640 Hz, and from there to 2500 Hz."""
APART = 10.0
"""A cell is one signal's alone where it has so many times the energy of the other."""
_TINY = 1e-6
# Sign → the sums whose ratio it is, in dB.
_RATIOS = {
    "ambiguous": ("both", "left"),
    "under": ("under", "removed"),
    "over": ("over", "removed"),
    "under_of_left": ("under", "left"),
    "over_of_left": ("over", "left"),
    "apart_left": ("apart_left", "left"),
    "apart_removed": ("apart_removed", "removed"),
}
_JUDGED_RATIOS = {
    "posterior": ("backing", "posterior"),
    "wrong": ("wrong", "backing"),
    "wrong_low": ("wrong_low", "backing"),
    "wrong_mid": ("wrong_mid", "backing"),
    "rest_sdr": ("rest", "refound"),
    "refound_loud": ("refound_loud", "left_loud"),
    "refound_low": ("refound_low", "left"),
    "refound_in": ("refound_in", "left_in"),
    "refound_least": ("least", "left"),
    "removed_apart": ("removed_apart", "backing"),
    "voice_apart": ("voice_apart", "voice"),
}


def _ratios(sums: Mapping[str, float], signs: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """Ratios of sums in dB."""
    return {name: decibels(sums[one], sums[other], sums["mix"]) for name, (one, other) in signs.items()}


def _gains(product: Tensor, energy: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Energy that one signal has of another, in phase and upside down, over groups of cells.

    Args:
        product: of the two, real part, ``[frames, bins]``.
        energy: of the other.
        mix: its energy.
    """
    found, of = group_sums(product), group_sums(energy)
    gain = found / (of + 1e-3 * group_sums(mix) + 1e-20)
    held = gain * gain * of
    return held[gain > 0].sum(), held[gain < 0].sum()


class OverlapSums:
    """Sums over the cells of a mix and an instrumental."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def add(self, pair: Pair) -> None:
        """Further spectra."""
        x, y, r = pair.x, pair.y, pair.r
        product = pair.xy - y
        under, over = _gains(product, r, x)
        found = {
            "mix": x.sum(), "left": y.sum(), "removed": r.sum(),
            "product": product.sum(), "in_or_out": product.abs().sum(), "both": (y * r).sqrt().sum(),
            "under": under, "over": over,
            "apart_left": (y * (y > APART * r)).sum(), "apart_removed": (r * (r > APART * y)).sum(),
        }  # fmt: skip
        self._sums.update({name: float(value) for name, value in found.items()})

    def evidence(self) -> dict[str, float]:
        """Cosines, -1 to 1, and ratios in dB, -40 to 40."""
        s, mix = self._sums, self._sums["mix"]
        floor = _TINY * mix + 1e-20
        return _ratios(s, _RATIOS) | {
            "in_phase": s["product"] / (s["both"] + floor),
            "phase": s["in_or_out"] / (s["both"] + floor),
            "overlap": s["product"] / ((s["left"] * s["removed"]) ** 0.5 + floor),
        }


class JudgedSums:
    """Sums over the cells of excerpts: what a judge takes for the voice, in the mix and in what was left."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._moves, self._removed_moves = LevelMoments(), LevelMoments()

    def add(self, pair: Pair, voice: Tensor, refound: Tensor) -> None:
        """An excerpt.

        Args:
            pair: of mix and instrumental.
            voice: the judge's estimate of the voice in the mix, complex ``[2, frames, bins]``.
            refound: of the voice in the instrumental.
        """
        x, y, r = pair.x, pair.y, pair.r
        removed = pair.mix - pair.instrumental
        v, f = power(voice), power(refound)
        backing, wrong = power(pair.mix - voice), power(voice - removed)
        frames = r.sum(-1)
        loud = (frames > frames.median()).float()
        again, lag = autocorrelation(refound), pitch_lags(autocorrelation(voice))
        bands, wrong_bands = band_sums(f).sum(0), band_sums(wrong).sum(0)
        found = {
            "mix": x.sum(), "left": y.sum(), "removed": r.sum(), "backing": backing.sum(), "voice": v.sum(),
            "refound": f.sum(), "rest": power(pair.instrumental - refound).sum(), "wrong": wrong.sum(),
            "posterior": (wrong + (v * backing).sqrt()).sum(),
            "refound_removed": products(refound, removed).sum(),
            "refound_loud": f.sum(-1) @ loud, "left_loud": y.sum(-1) @ loud,
            "refound_low": bands[LOW].sum(),
            "wrong_low": wrong_bands[LOW].sum(), "wrong_mid": wrong_bands[MIDDLE].sum(),
            "pitch": again.gather(-1, lag)[:, 0].sum(), "pitched": again[:, 0].sum(),
            "refound_in": (f * (r > 0.1 * x)).sum(), "left_in": (y * (r > 0.1 * x)).sum(),
            "least": torch.minimum(group_sums(f), group_sums(r)).sum(),
            "removed_apart": (r * (r > APART * v)).sum(), "voice_apart": (v * (v > APART * r)).sum(),
        }  # fmt: skip
        self._sums.update({name: float(value) for name, value in found.items()})
        self._moves.add(f, v, x)
        self._removed_moves.add(f, r, x)

    def evidence(self) -> dict[str, float]:
        """Cosines and correlations, -1 to 1, and ratios in dB, -40 to 40."""
        s, mix = self._sums, self._sums["mix"]
        floor = _TINY * mix + 1e-20
        return _ratios(s, _JUDGED_RATIOS) | {
            "refound_cosine": s["refound_removed"] / ((s["refound"] * s["removed"]) ** 0.5 + floor),
            "refound_pitch": s["pitch"] / (s["pitched"] + floor),
            "refound_moves": self._moves.correlation(),
            "refound_removed_moves": self._removed_moves.correlation(),
        }
