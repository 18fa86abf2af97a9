"""What decoders make of a master that was written: of the file, where it is lossy, and of encodes on trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audio.resample import StreamResampler, to_stereo
from pipeline.audio.song_formats import SongFormat, held_channels, held_rate
from pipeline.audio.stream import open_file
from pipeline.audio.trial_encode import TrialEncode
from pipeline.mastering.levels import Levels
from pipeline.mastering.meter import Measured, Meter

TRIAL_BIT_RATE = 128_000
TRIAL_DBTP = 0.0
"""What a decoder may make of a trial encode: full scale."""
GRIDS = (0.0, 0.25)
"""Frames by which the song begins later in an encode on trial. Songs limited hard peak up to 1.1 dB higher or lower on
another grid; of MP3, whose granule is half a frame, halves are the same grid."""


@dataclass(frozen=True)
class Check:
    """What a decoder made of an encode.

    Args:
        allowed_dbtp: what its highest true peak may be.
        found: what it is, and the rest.
        own: whether this is the file itself.
    """

    allowed_dbtp: float
    found: Measured
    own: bool

    @property
    def levels(self) -> Levels:
        return self.found.levels

    @property
    def excess_db(self) -> float:
        peak = self.levels.true_peak_dbtp
        return -math.inf if peak is None else peak - self.allowed_dbtp


def measured(file: Path, *, spectrum: bool = True) -> Measured:
    """What a decoder makes of a file. Raises `DecodeError`."""
    with open_file(file) as stream:
        meter = Meter(stream.sample_rate, stream.channels, spectrum=spectrum)
        for block in stream:
            meter.add(block)
    return meter.result()


def on_trial(
    master: Iterable[np.ndarray], samples: int, sample_rate: int, channels: int, names: Sequence[str]
) -> list[Check]:
    """What decoders make of a song at 128 kbit/s in each of these formats, on each of `GRIDS`.

    Args:
        master: blocks, float32 ``[channels, n]``.
        samples: of all of them together.
        sample_rate: Hz.
        channels: of which a format gets two at most.
        names: of the formats.
    """
    trials = [_Trial(name, sample_rate, channels, later) for name in names for later in GRIDS]
    for block, last in _with_last(master, samples):
        for trial in trials:
            trial.push(block, last)
    return [Check(TRIAL_DBTP, trial.meter.result(), False) for trial in trials]


def _with_last(blocks: Iterable[np.ndarray], samples: int) -> Iterator[tuple[np.ndarray, bool]]:
    left = samples
    for block in blocks:
        left -= block.shape[1]
        yield block, left <= 0


class _Trial:
    """An encode at a rate that the format holds, and what is measured of it."""

    def __init__(self, name: str, sample_rate: int, channels: int, later: float) -> None:
        form = SongFormat(name, bit_rate=TRIAL_BIT_RATE)
        self._folded = channels > 2
        held = min(2, held_channels(form, channels))
        rate = held_rate(form, sample_rate, held)
        self._resampler = StreamResampler(sample_rate, rate, held)
        self._encode = TrialEncode(form, rate, held, later=later)
        self.meter = Meter(rate, held, spectrum=False)

    def push(self, block: np.ndarray, last: bool) -> None:
        mixed = to_stereo(block) if self._folded else block
        self.meter.add(self._encode.push(self._resampler.push(mixed, last=last)))
        if last:
            self.meter.add(self._encode.finish())
