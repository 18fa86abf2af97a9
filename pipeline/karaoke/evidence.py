"""Signs of how good an instrumental is, from the mix and the instrumental alone, in bounded memory.

One pass over both tracks sums what needs no network: common measures, what became of the centre of the stereo image,
of bass, air and side, how periodic each is, and whether what was left moves with what was removed. Then a judge, a
separator the caller passes, takes voices out of the few most vocal excerpts of the mix, and of the same excerpts of the
instrumental: what it finds there again was left.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.audio.reader import AudioReader
from pipeline.karaoke.common import Common, CommonSums, add_track
from pipeline.karaoke.overlap import JudgedSums, OverlapSums
from pipeline.karaoke.spectra import (
    GROUP,
    GROUPS_PER_BLOCK,
    HOP_LENGTH,
    SAMPLE_RATE,
    Pair,
    blocks,
    frequencies,
    group_count,
    power,
    spectrum,
    stereo,
)
from pipeline.karaoke.vocal_evidence import (
    FLOOR,
    LevelMoments,
    PitchSums,
    VocalSums,
    autocorrelation,
    centre_voice,
    decibels,
    periodicity,
)

EXCERPT_GROUPS = 31
"""Groups of an excerpt the judge gets, 11.5 s: what Spleeter takes in one go."""
SECONDS_PER_EXCERPT = 180.0
"""A track has one excerpt for so many seconds: of songs the judge takes about a sixth of a separation then."""
MOST_EXCERPTS = 4
BASS_HZ, AIR_HZ = 120.0, 8000.0
CENTRE_BINS = 1024
"""Lowest bins, up to 11 kHz, where the centre is looked at."""


@dataclass(frozen=True)
class Judge:
    """A separator that looks for voice.

    Args:
        name: what the calibration knows it by, such as ``spleeter``.
        vocals: float32 ``[2, samples]`` at 44.1 kHz → the voice in it, the same shape.
    """

    name: str
    vocals: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Evidence:
    """What is known of an instrumental.

    Args:
        common: measures against the mix.
        signs: name → value, most in dB; names of the judge's begin with ``judge_``.
        voice_db: level of the voice found in the mix's most vocal excerpts, by the judge if there is one, less
            that of the mix there, dB.
        silent_mix, silent_instrumental: whether there is no sound at all, or 60 dB less than in the mix.
    """

    common: Common
    signs: dict[str, float]
    voice_db: float
    silent_mix: bool
    silent_instrumental: bool


class _Pass:
    """Sums of the pass without a network."""

    def __init__(self) -> None:
        self.common, self.centre = CommonSums(), VocalSums()
        self.sums: Counter[str] = Counter()
        self.moves = LevelMoments()
        self.overlap = OverlapSums()
        self.vocal: list[Tensor] = []

    def add(self, mix: Tensor, instrumental: Tensor) -> None:
        pair = Pair(mix, instrumental)
        x, y, r = pair.x, pair.y, pair.r
        self.common.add_energies(x, y)
        voice = centre_voice(mix[..., :CENTRE_BINS])
        self.centre.add(pair.lowest(CENTRE_BINS), voice)
        hz = frequencies()
        removed = mix - instrumental
        side, side_left, side_removed = (
            power((both[0] - both[1])[None]) / 2 for both in (mix, instrumental, removed)
        )
        # A cell that holds far less than the mix is a hole, where the voice was taken out or more.
        found = {
            "mix": x.sum(), "instrumental": y.sum(), "removed": r.sum(),
            "bass_mix": x[..., hz < BASS_HZ].sum(), "bass_removed": r[..., hz < BASS_HZ].sum(),
            "air_mix": x[..., hz >= AIR_HZ].sum(), "air_removed": r[..., hz >= AIR_HZ].sum(),
            "side_mix": side.sum(), "side_removed": side_removed.sum(),
            "side_left": side_left.sum(),
            "risen": (y - x).clamp(min=0).sum(), "holes": (x * (y < 0.01 * x)).sum(),
        }  # fmt: skip
        for name, spectra in {"mix": mix, "instrumental": instrumental, "removed": removed}.items():
            correlation = autocorrelation(spectra)
            energy, periodic = correlation[:, 0], periodicity(correlation)
            found |= {f"{name}_pitch_weight": energy.sum(), f"{name}_pitch": energy @ periodic}
            if name == "mix":
                # Which excerpts are the most vocal is asked of the mix alone: the same for all its instrumentals.
                vocal = power(voice).sum(-1) * periodic.clamp(min=0)
                self.vocal.append(vocal.unflatten(0, (-1, GROUP)).sum(1).double())
        self.sums.update({name: float(value) for name, value in found.items()})
        self.moves.add(y, r, x)
        self.overlap.add(pair)

    def signs(self) -> dict[str, float]:
        s, mix = self.sums, self.sums["mix"]
        found = {f"centre_{name}": value for name, value in self.centre.evidence().items()}
        for part in ("bass", "air", "side"):
            found[part] = decibels(s[f"{part}_removed"], s[f"{part}_mix"], mix)
        found["side_left"] = decibels(s["side_left"], s["side_mix"], mix)
        found["width"] = decibels(s["side_mix"], mix, mix)
        found["removed"] = decibels(s["removed"], mix, mix)
        found["level"] = decibels(s["instrumental"], mix, mix)
        found["risen"], found["holes"] = decibels(s["risen"], mix, mix), decibels(s["holes"], mix, mix)
        for name in ("mix", "instrumental", "removed"):
            weight = s[f"{name}_pitch_weight"] + FLOOR * s["mix_pitch_weight"] + 1e-20
            found[f"pitch_{name}"] = s[f"{name}_pitch"] / weight
        found["moves_together"] = self.moves.correlation()
        found["removed_width"] = decibels(s["side_removed"], s["removed"], mix)
        return found | self.overlap.evidence()


def excerpts(vocal: np.ndarray, seconds: float) -> list[int]:
    """First groups of the most vocal excerpts, which do not overlap, in the order of time.

    Args:
        vocal: energy of what sounds like a voice in each group.
        seconds: length of the track, which tells how many there are.
    """
    length = min(EXCERPT_GROUPS, len(vocal))
    wanted = min(max(1, int(seconds / SECONDS_PER_EXCERPT)), MOST_EXCERPTS)
    sums = np.convolve(vocal, np.ones(length), mode="valid")
    chosen: list[int] = []
    # Stable, so that the first of equals is taken.
    for first in np.argsort(-sums, kind="stable"):
        if len(chosen) == wanted:
            break
        if all(abs(first - other) >= length for other in chosen):
            chosen.append(int(first))
    return sorted(chosen)


def gather(
    mix: AudioReader,
    instrumental: AudioReader,
    judge: Judge | None = None,
    groups_per_block: int = GROUPS_PER_BLOCK,
) -> Evidence:
    """The evidence on one track.

    Args:
        mix, instrumental: 44.1 kHz; the same length and number of channels, one or two.
        judge: looks for voice in excerpts; None for evidence without a network.
        groups_per_block: groups of frames in memory at once; the result does not depend on it.

    Raises:
        ValueError: lengths or channels differ, there are more than two, or samples are not finite.
    """
    if (mix.channels, mix.samples) != (instrumental.channels, instrumental.samples):
        raise ValueError(
            f"mix and instrumental differ: {mix.channels} × {mix.samples} samples"
            f" and {instrumental.channels} × {instrumental.samples}"
        )
    if mix.channels not in (1, 2):
        raise ValueError(f"karaoke is scored in mono or stereo, not in {mix.channels} channels")
    summed = _Pass()
    add_track(summed.common, mix, instrumental)
    for pair in blocks(mix, instrumental, groups_per_block):
        summed.add(*pair)
    energy, left = summed.sums["mix"], summed.sums["instrumental"]
    if not (math.isfinite(energy) and math.isfinite(left)):
        raise ValueError(
            "mix or instrumental holds NaN, infinity, or samples too large for float32 arithmetic"
        )
    silent, nothing_left = not energy > 0.0, not left > 1e-6 * energy
    signs, voice_db = summed.signs(), summed.centre.voice_db()
    if judge is not None and not silent:
        # Of an instrumental of nothing, too: whether there was a voice to remove is told by the same ear.
        heard, voice_db = _heard(mix, instrumental, judge, torch.cat(summed.vocal).numpy())
        signs |= {f"judge_{name}": value for name, value in heard.items() if not nothing_left}
    return Evidence(summed.common.result(), signs, voice_db, silent, nothing_left)


def _heard(
    mix: AudioReader, instrumental: AudioReader, judge: Judge, vocal: np.ndarray
) -> tuple[dict[str, float], float]:
    """What the judge hears in the most vocal excerpts, and the level of the voice there."""
    sums, pitch, moves, judged = VocalSums(), PitchSums(), LevelMoments(), JudgedSums()
    length = min(EXCERPT_GROUPS, group_count(mix.samples)) * GROUP
    for first in excerpts(vocal, mix.samples / SAMPLE_RATE):
        start = first * GROUP * HOP_LENGTH - HOP_LENGTH
        pair = [stereo(audio, start, start + (length + 1) * HOP_LENGTH) for audio in (mix, instrumental)]
        voice, refound = (spectrum(_checked(judge, samples.numpy())) for samples in pair)
        x, y = (spectrum(samples) for samples in pair)
        both = Pair(x, y)
        sums.add(both, voice, refound)
        pitch.add(x, y, voice)
        moves.add(both.y, power(voice), both.x)
        judged.add(both, voice, refound)
    found = sums.evidence() | pitch.evidence() | judged.evidence() | {"moves": moves.correlation()}
    return found, sums.voice_db()


def _checked(judge: Judge, samples: np.ndarray) -> Tensor:
    voice = np.asarray(judge.vocals(samples), np.float32)
    if voice.shape != samples.shape or not np.isfinite(voice).all():
        raise ValueError(
            f"the judge {judge.name} answered {list(voice.shape)} to {list(samples.shape)}, or not finite"
        )
    return torch.from_numpy(voice)
