"""One song on its way to its master: listened to, planned, rendered.

Three passes over the song, none of which holds more than a piece of it in memory:

1. `Mastering.listen` measures the song as it is.
2. `Mastering.settle` sends it through equaliser and compressor, keeps what comes out in a temporary file with the level
   of each of its blocks, and finds the gain with which the limiter reaches the loudness: nothing is rendered for that.
3. `Mastering.render` applies that gain and the limiter, anywhere in the song.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np

from pipeline.audio.reader import PIECE, ArrayReader, AudioReader, blocks
from pipeline.mastering.drafting import Heard, Reference, draft
from pipeline.mastering.dynamics import Compressor
from pipeline.mastering.equalizer import Equalizer, design
from pipeline.mastering.gain import LoudnessProfile, settle_gain
from pipeline.mastering.limiter import Limiter
from pipeline.mastering.meter import STEPS_PER_SECOND, Measured, Meter
from pipeline.mastering.plan import Plan
from pipeline.mastering.presets import Preset
from pipeline.mastering.processor import Processor, run
from pipeline.mastering.shaped import Behind, InOrder, Shaped
from pipeline.mastering.wish import Wish

_WARM_RATE = 44100
# Freed once, blocks up to this size are kept from then on: glibc's limit is 32 MB.
_KEPT = 30 << 20

Progress = Callable[[str, float], None]
"""Is told a part of the work (``analysis``, ``plan``, ``render``, and, where a file is written, ``encode``) and which
share of it is done, 0 to 1."""


@dataclass(frozen=True)
class Rendered:
    """What was rendered.

    Args:
        measured: of it.
        max_gain_reduction_db: of the limiter.
        gain_reduction_db: of the limiter, the most in each second.
    """

    measured: Measured
    max_gain_reduction_db: float
    gain_reduction_db: tuple[float, ...]


def listen(reader: AudioReader, sample_rate: int, progress: Progress = lambda part, share: None) -> Heard:
    """Measure a song. Raises `ValueError` for NaN and infinity."""
    meter = Meter(sample_rate, reader.channels)
    done = 0
    for block in blocks(reader):
        meter.add(block)
        done += block.shape[1]
        progress("analysis", done / reader.samples)
    measured = meter.result()
    return Heard(
        sample_rate,
        reader.channels,
        reader.samples,
        levels=measured.levels,
        spectrum=measured.spectrum,
        short_term_lufs=measured.short_term_lufs,
    )


def reference(reader: AudioReader, sample_rate: int, asset_id: str) -> Reference:
    """A song that others shall sound like. Raises `ValueError` where it holds no sound."""
    heard = listen(reader, sample_rate)
    if heard.levels.lufs is None:
        raise ValueError("it has no loudness: it is silent, or shorter than 0.4 s")
    return Reference(asset_id, heard.levels, heard.spectrum)


def shaping(plan: Plan, origin: int = 0) -> list[Processor]:
    """What comes before the gain: the equaliser and the compressor."""
    chain: list[Processor] = []
    if plan.curve is not None:
        filters = design(plan.curve, plan.sample_rate, plan.phase)
        chain.append(Equalizer(filters, plan.channels, origin))
    if plan.compression is not None:
        chain.append(Compressor(plan.compression, plan.sample_rate, plan.channels, origin))
    return chain


def chain(plan: Plan, origin: int = 0) -> list[Processor]:
    """All that a plan does to a song, as processors; their contexts add up."""
    limiter = Limiter(plan.limiting, plan.gain_db, plan.sample_rate, plan.channels, origin)
    return [*shaping(plan, origin), limiter]


class Mastering(AbstractContextManager):
    """A song and a wish. Leaving the context removes the temporary file.

    Args:
        reader: the song.
        sample_rate: Hz.
        wish: what the master shall be.
        fingerprint: quantity → value; may be empty.
        references: of the modes that need them.
        heard: what was found by listening to it before; None to listen now.
        progress: is told how far it is.
        beside: a thread of it compresses and measures each piece while the next one is equalised; None does it between.
        folder: where a temporary file lies; None is the system's.
    """

    def __init__(
        self,
        reader: AudioReader,
        sample_rate: int,
        wish: Wish,
        fingerprint: Mapping[str, float | None] | None = None,
        references: Sequence[Reference] = (),
        *,
        heard: Heard | None = None,
        progress: Progress = lambda part, share: None,
        beside: Executor | None = None,
        folder: str | None = None,
    ) -> None:
        self._beside, self._folder = beside, folder
        _keep_memory()
        self.reader, self.sample_rate, self.wish = reader, sample_rate, wish
        self.fingerprint, self.references = dict(fingerprint or {}), tuple(references)
        self.progress = progress
        self.max_compression_db: float | None = None
        self._heard = heard
        self._draft: Plan | None = None
        self._shaped: Shaped | None = None
        self._profile: LoudnessProfile | None = None
        self._rendering: Meter | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shaped is not None:
            self._shaped.close()
            self._shaped = None

    @property
    def heard(self) -> Heard:
        """What is known of the song: it is listened to where that was not done before."""
        if self._heard is None:
            self._heard = listen(self.reader, self.sample_rate, self.progress)
        return self._heard

    @property
    def target_lufs(self) -> float | None:
        """The loudness that is promised; None of silence."""
        return self._shape().target_lufs

    @property
    def lufs_so_far(self) -> float | None:
        """Integrated loudness of what is rendered up to now, or was last; None of silence, and before there is any."""
        return None if self._rendering is None else self._rendering.lufs_so_far()

    def settle(self, *, ceiling_dbtp: float | None = None, target_lufs: float | None = None) -> Plan:
        """The plan with its gain.

        Args:
            ceiling_dbtp: another ceiling of the limiter than was wished for.
            target_lufs: another loudness than was promised.
        """
        plan = self._shape()
        limiting = (
            plan.limiting if ceiling_dbtp is None else replace(plan.limiting, ceiling_dbtp=ceiling_dbtp)
        )
        target = plan.target_lufs if target_lufs is None else target_lufs
        # A song without loudness has no target: any does to be told why.
        wanted = plan.preset.lufs if target is None else target
        found = settle_gain(self._profile, wanted, limiting, plan.preset.max_gr_db)
        return plan.with_gain(found.gain_db, limiting, found.lufs, found.limited_by)

    def rendered(self, plan: Plan, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """The master from sample ``start`` to ``stop``, float32 ``[channels, n]`` each, as of the whole song."""
        yield from self._limited(plan, self._limiter(plan, start), start, stop)

    def render(
        self,
        plan: Plan,
        write: Callable[[np.ndarray], None],
        start: int = 0,
        stop: int | None = None,
        *,
        reduced: Callable[[float], None] | None = None,
    ) -> Rendered:
        """Hand the master, or a stretch of it, to ``write`` piece by piece, and measure it.

        ``reduced`` is told behind each piece the most that the limiter took away in it, dB, to a tenth of a second.
        """
        limiter, meter = self._limiter(plan, start), Meter(plan.sample_rate, plan.channels)
        self._rendering = meter
        end, done = self.reader.samples if stop is None else stop, start
        for block in self._limited(plan, limiter, start, stop):
            write(block)
            meter.add(block)
            if reduced is not None:
                reduced(limiter.max_reduction_since(done * STEPS_PER_SECOND // plan.sample_rate))
            done += block.shape[1]
            self.progress("render", (done - start) / max(1, end - start))
        reduction = limiter.reduction_db()[start * STEPS_PER_SECOND // plan.sample_rate :]
        return Rendered(meter.result(), limiter.max_gain_reduction_db, _per_second(reduction))

    def stretch(self, seconds: float) -> tuple[int, int]:
        """First and last sample, the latter excluded, of the loudest stretch of that length; of all, for 0."""
        wanted = max(1, round(seconds * self.sample_rate))
        if seconds <= 0.0 or wanted >= self.reader.samples:
            return 0, self.reader.samples
        loudness = np.array([-math.inf if one is None else one for one in self.heard.short_term_lufs])
        powers = np.concatenate([10.0 ** (loudness / 10.0), np.zeros(1)])
        window = np.ones(min(len(powers), max(1, round(seconds))))
        start = int(np.argmax(np.convolve(powers, window, "valid"))) * self.sample_rate
        start = min(start, self.reader.samples - wanted)
        return start, start + wanted

    def _limiter(self, plan: Plan, origin: int) -> Limiter:
        return Limiter(
            plan.limiting, plan.gain_db, plan.sample_rate, plan.channels, origin, levels=self._profile.levels
        )

    def _limited(self, plan: Plan, limiter: Limiter, start: int, stop: int | None) -> Iterator[np.ndarray]:
        shaped = self.reader if self._shaped is None else self._shaped.reader
        end = shaped.samples if stop is None else stop
        pieces = (shaped.read(at, min(at + PIECE, end)) for at in range(start, end, PIECE))
        yield from run([limiter], pieces)

    def _shape(self) -> Plan:
        """The song through equaliser and compressor, once; the plan without its gain."""
        if self._draft is not None:
            return self._draft
        plan = draft(self.heard, self.wish, self.fingerprint, self.references)
        profile = LoudnessProfile(plan.sample_rate, plan.channels, plan.limiting)
        processors = shaping(plan)
        # What is not changed need not be kept: the limiter reads the song itself.
        self._shaped, done = Shaped(plan.channels, plan.samples, self._folder) if processors else None, 0
        behind = Behind(processors[1:], self._shaped, profile)
        with InOrder(self._beside) as calls:
            for block in run(processors[:1], blocks(self.reader)):
                calls.do(behind.push, block)
                done += block.shape[1]
                self.progress("plan", done / max(1, plan.samples))
            calls.do(behind.finish)
        compressor = next((one for one in processors if isinstance(one, Compressor)), None)
        self.max_compression_db = None if compressor is None else max(compressor.reduction().max_db)
        self._profile, self._draft = profile, plan
        return plan


@functools.cache
def warm() -> None:
    """Load and compile all that masters need, once per process: the first song that somebody waits for need not."""
    # Beats over noise, far below the loudness that is asked for: something for every part to do.
    beats = 0.02 * np.random.default_rng(0).standard_normal((2, 2 * _WARM_RATE)).astype(np.float32)
    beats[:, :: _WARM_RATE // 4] = 0.9
    preset = Preset(high_shelf_db=1.0, ratio=2.0, crossovers_hz=(200.0, 3000.0), max_gr_db=24.0)
    with Mastering(ArrayReader(beats), _WARM_RATE, Wish(preset)) as mastering:
        mastering.render(mastering.settle(), lambda block: None)


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep what it is given back: by default it returns each block of a few MB to the system, and
    the next one is zeroed page by page, which is a fifth of all that is done here. It learns from what is freed."""
    np.empty(_KEPT, np.uint8)


def _per_second(reduction_db: np.ndarray) -> tuple[float, ...]:
    """The most of each ten."""
    whole = np.pad(reduction_db, (0, -len(reduction_db) % STEPS_PER_SECOND))
    return tuple(np.round(whole.reshape(-1, STEPS_PER_SECOND).max(axis=1), 2).tolist())
