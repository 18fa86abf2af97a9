"""What is measured of the sound of a clip: DNSMOS, and speech over what is between it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.audio.reader import AudioReader
from pipeline.speech.clips import Clip
from pipeline.speech.segments import Region
from pipeline.stages.vad.spec import VIEW

DNSMOS = ("sig", "bak", "ovrl", "p808")
AROUND_S = 3.0
"""Before and after a clip, where what is between speech is looked for, s."""
FRAME = 320
"""Samples over which the power of noise is taken, 20 ms."""
LEAST_S = 0.1
"""Of speech, and of what is between it, for a level, s."""


class ClipMeter:
    """Measures clips.

    Args:
        dnsmos: whether by networks, too.
        hop_seconds: from one of their windows to the next, s.
        threads: of their runtime.
    """

    def __init__(self, dnsmos: bool, hop_seconds: int = 1, threads: int = 1) -> None:
        self._networks: Any = None
        self._hop_seconds = hop_seconds
        if dnsmos:
            from pipeline.models.speech.quality import Dnsmos

            self._networks = Dnsmos.load(threads=threads)

    def measure(self, heard: AudioReader, clip: Clip, regions: Sequence[Region]) -> dict[str, float | None]:
        """Columns of a clip; null what is not defined.

        Args:
            heard: the recording, mono, at the rate of the view.
            regions: of speech in all of it, in order.
        """
        found: dict[str, float | None] = {f"dnsmos_{name}": None for name in DNSMOS}
        found["snr_db"] = snr_db(heard, clip, regions)
        if self._networks is not None:
            quality = self._networks.quality(_span(heard, clip.start_s, clip.end_s), self._hop_seconds)
            if quality is not None:
                found |= {f"dnsmos_{name}": getattr(quality, name) for name in DNSMOS}
        return found


def snr_db(heard: AudioReader, clip: Clip, regions: Sequence[Region]) -> float | None:
    """Power of the speech in a clip over that of the noise in it and around it, in dB; the latter is taken off the
    former. Noise is the median of the frames in which nobody speaks: what of a word is left in them does not count.

    Null where there is too little of either, and where the speech is no louder.
    """
    rate = VIEW.sample_rate
    start, end = max(0.0, clip.start_s - AROUND_S), clip.end_s + AROUND_S
    samples = _span(heard, start, end)
    speech = np.zeros(len(samples), bool)
    first = bisect_left(regions, start, key=lambda region: region.end_s)
    for region in regions[first:]:
        if region.start_s >= end:
            break
        speech[_at(region.start_s - start) : _at(region.end_s - start)] = True
    within = np.zeros(len(samples), bool)
    within[_at(clip.start_s - start) : _at(clip.end_s - start)] = True
    voice, rest = samples[speech & within], samples[~speech]
    if min(len(voice), len(rest)) < LEAST_S * rate:
        return None
    frames = rest[: len(rest) // FRAME * FRAME].reshape(-1, FRAME)
    noise = float(np.median(np.square(frames, dtype=np.float64).mean(axis=1)))
    signal = float(np.square(voice, dtype=np.float64).mean()) - noise
    return 10.0 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _at(seconds: float) -> int:
    return max(0, round(seconds * VIEW.sample_rate))


def _span(heard: AudioReader, start_s: float, end_s: float) -> np.ndarray:
    first = min(_at(start_s), heard.samples)
    return heard.read(first, max(first, min(heard.samples, _at(end_s))))[0]
