"""All extractors over one track, whatever its length: as one block, or block by block in several passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.features.base import Extraction, Extractor, Running
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import Axis, Pending, TrackInfo

BLOCK_SECONDS = 600.0
"""A longer track comes in blocks of this length. It bounds memory: 10 min of stereo take about 0.5 GB."""

# Blocks of the mono view begin on multiples of this, so that the constant-Q transform, which halves the rate
# again and again, sees the same samples wherever a block begins.
ALIGNMENT = 4096

# Tuning first, then what depends on it: no extractor asks for facts in more steps than this.
_MOST_PASSES = 4


class TrackTooLong(Exception):
    """An extractor that reads whole tracks was given one that comes in blocks."""


@dataclass
class Outcome:
    """What one extractor made of a track.

    Args:
        extractor: which one.
        extraction: its columns, None where it failed.
        error: what it failed with.
        seconds: what it took, in all passes.
    """

    extractor: Extractor
    extraction: Extraction | None = None
    error: Exception | None = None
    seconds: float = 0.0


@dataclass
class TrackAudio:
    """A decoded track in memory.

    Args:
        mono: mean of the channels at the DSP rate, float32 ``[samples]``.
        sample_rate: the DSP rate, Hz.
        native: all channels at the file's own rate, float32 ``[channels, samples]``.
        native_rate: the file's own rate, Hz.
        every_channel: all channels at the DSP rate, ``[channels, samples]``, where an extractor reads them.
    """

    mono: np.ndarray
    sample_rate: int
    native: np.ndarray
    native_rate: int
    every_channel: np.ndarray | None = None
    block_seconds: float = BLOCK_SECONDS
    context_seconds: float = 2.0
    track: TrackInfo = field(init=False)

    def __post_init__(self) -> None:
        samples, native = self.mono.shape[-1], self.native.shape[-1]
        step = self._steps()
        one = samples <= step[0] and native <= step[1]
        self.track = TrackInfo(
            self.sample_rate,
            self.native_rate,
            len(self.native),
            samples=samples,
            native_samples=native,
            one_block=one,
        )

    def _steps(self) -> tuple[int, int]:
        """Samples per block of the mono and of the native view."""
        mono = max(1, round(self.block_seconds * self.sample_rate / ALIGNMENT)) * ALIGNMENT
        return mono, round(mono * self.native_rate / self.sample_rate)

    def blocks(self) -> Iterator[SharedSpectra]:
        """The blocks in order, as views."""
        if self.track.one_block:
            place = Axis.whole(self.mono.shape[-1]), Axis.whole(self.native.shape[-1])
            yield self._block(place, 0)
            return
        steps = self._steps()
        lengths = self.mono.shape[-1], self.native.shape[-1]
        count = max(-(-length // step) for length, step in zip(lengths, steps, strict=True))
        for number in range(count):
            place = tuple(
                block_axis(number, count, step, length, round(self.context_seconds * rate))
                for step, length, rate in zip(
                    steps, lengths, (self.sample_rate, self.native_rate), strict=True
                )
            )
            yield self._block(place, number)

    def _block(self, place: tuple[Axis, Axis], number: int) -> SharedSpectra:
        mono, native = place
        contexts = [
            slice(axis.origin, axis.stop + (0 if axis.last else round(self.context_seconds * rate)))
            for axis, rate in ((mono, self.sample_rate), (native, self.native_rate))
        ]
        channels = self.every_channel
        return SharedSpectra(
            self.mono[contexts[0]],
            self.sample_rate,
            self.native[:, contexts[1]],
            self.native_rate,
            place=place,
            track=self.track,
            number=number,
            every_channel=None if channels is None else channels[:, contexts[0]],
        )


def block_axis(number: int, count: int, step: int, length: int, context: int) -> Axis:
    """Where block ``number`` of ``count`` lies: ``step`` samples each, the last one up to ``length``."""
    start = min(number * step, length)
    last = number == count - 1
    stop = length if last else min(start + step, length)
    origin = max(0, start - -(-context // ALIGNMENT) * ALIGNMENT)
    return Axis(origin, start, stop, last)


def run_extractors(
    extractors: Sequence[Extractor], track: TrackInfo, blocks: Callable[[], Iterable[SharedSpectra]]
) -> list[Outcome]:
    """Run all ``extractors`` on a track.

    A track of one block is read once. Of a longer one, facts about the whole (its tuning, its loudest band) are
    gathered by passes of their own before the one that computes the columns; ``blocks`` is called for each.

    Args:
        extractors: with their parameters.
        track: shared by the blocks.
        blocks: begins the track anew.

    Returns:
        an outcome per extractor, in order. One that fails does not stop the others.
    """
    outcomes = [Outcome(extractor) for extractor in extractors]
    if not track.one_block:
        for outcome in outcomes:
            if not outcome.extractor.takes_blocks():
                reason = f"{outcome.extractor.name} reads whole tracks and this one comes in blocks"
                outcome.error = TrackTooLong(reason)
        _survey(outcomes, track, blocks)
    running: dict[int, Running] = {}
    for block in blocks():
        for number, outcome in enumerate(outcomes):
            if outcome.error is None:
                with _Guard(outcome):
                    _step(running, number, outcome, block)
    for number, outcome in enumerate(outcomes):
        if outcome.error is None and outcome.extraction is None:
            with _Guard(outcome):
                outcome.extraction = running[number].finish()
    return outcomes


def _step(running: dict[int, Running], number: int, outcome: Outcome, block: SharedSpectra) -> None:
    if not outcome.extractor.takes_blocks():
        outcome.extraction = outcome.extractor.extract(block)
        return
    if number not in running:
        running[number] = outcome.extractor.start(block.track)
    running[number].add(block)


def _survey(
    outcomes: Sequence[Outcome], track: TrackInfo, blocks: Callable[[], Iterable[SharedSpectra]]
) -> None:
    """Passes over the track until no extractor waits for a fact about the whole."""
    waiting = [outcome for outcome in outcomes if outcome.error is None]
    for _ in range(_MOST_PASSES):
        for block in blocks():
            for outcome in waiting.copy():
                with _Guard(outcome):
                    try:
                        outcome.extractor.start(track).add(block)
                    except Pending:
                        continue
                # Done with, for better or worse.
                waiting.remove(outcome)
            if not waiting:
                return
        track.conclude()
    for outcome in waiting:
        outcome.error = RuntimeError(f"a fact about the track is missing after {_MOST_PASSES} passes")


class _Guard:
    """Times what an extractor does and keeps its error from the others."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        self.outcome.seconds += time.perf_counter() - self.started
        if not isinstance(error, Exception):
            return False
        self.outcome.error = error
        return True
