"""Ours, as `benchmarks/mastering.py` asks for it: a function for each kind of work of `mastering_peers.py`."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.mastering.plan import Plan
    from pipeline.mastering.song import Mastering

Result = tuple[np.ndarray, dict[str, Any]]
PIECE = 1 << 18
DSP_RATE = 22050
SEED = 19
# What an extractor writes before the names of its quantities.
PREFIX = "fingerprint_"


class _Clock:
    """CPU seconds of one part after the other."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.process_time()

    def done(self, part: str) -> None:
        now = time.process_time()
        self.parts[part], self._last = now - self._last, now


def _pieces(audio: np.ndarray, piece: int) -> Iterator[np.ndarray]:
    for start in range(0, audio.shape[1], piece):
        yield audio[:, start : start + piece]


def limit(audio: np.ndarray, rate: int, *, ceiling_db: float, piece: int = PIECE) -> Result:
    """The limiter alone, without a gain before it."""
    from pipeline.mastering.limiter import Limiter, Limiting
    from pipeline.mastering.processor import run

    limiter = Limiter(Limiting(ceiling_dbtp=ceiling_db), 0.0, rate, audio.shape[0])
    return np.concatenate(list(run([limiter], _pieces(audio, piece))), axis=1), {}


def loud(audio: np.ndarray, rate: int, *, lufs: float, ceiling_db: float) -> Result:
    """To a loudness and no more: no equaliser, no compressor."""
    from pipeline.mastering.presets import Preset
    from pipeline.mastering.wish import Wish

    plain = Preset(lufs=lufs, balance=0.0, ratio=1.0, max_compression_db=0.0, max_gr_db=24.0)
    return _mastered(audio, rate, Wish(plain, ceiling_dbtp=ceiling_db))


def loud_checked(audio: np.ndarray, rate: int, *, lufs: float, ceiling_db: float) -> Result:
    """The same, rendered again until its encodes at 128 kbit/s do not clip; out of the file that was written."""
    from pipeline.mastering.presets import Preset
    from pipeline.mastering.wish import Wish

    plain = Preset(lufs=lufs, balance=0.0, ratio=1.0, max_compression_db=0.0, max_gr_db=24.0)
    with _mastering(audio, rate, Wish(plain, ceiling_dbtp=ceiling_db), {}, ()) as mastering:
        return _delivered(mastering)


def _delivered(mastering: Mastering) -> Result:
    """A file whose trial encodes were heard, read again."""
    import soundfile

    from pipeline.audio.song_formats import SongFormat
    from pipeline.mastering.delivery import Delivery

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "master.flac"
        done = Delivery(mastering, SongFormat("flac"), encodes=("mp3", "m4a")).to(file, Path(folder))
        samples, _ = soundfile.read(file, dtype="float32", always_2d=True)
    return np.ascontiguousarray(samples.T), {"limited_by": done.limited_by}


def match(audio: np.ndarray, rate: int, *, reference: np.ndarray) -> Result:
    """Like a reference, in its spectrum, width, density and loudness; listening to it counts as analysis."""
    from pipeline.audio.reader import ArrayReader
    from pipeline.mastering.song import reference as heard_reference

    clock = _Clock()
    wish = replace(_wish("adaptive"), mode="reference")
    found = heard_reference(ArrayReader(reference), rate, "reference")
    clock.done("reference")
    return _mastered(audio, rate, wish, references=[found], clock=clock)


def match_checked(audio: np.ndarray, rate: int, *, reference: np.ndarray) -> Result:
    """The same, rendered again until its encodes at 128 kbit/s do not clip."""
    from pipeline.audio.reader import ArrayReader
    from pipeline.mastering.song import reference as heard_reference

    wish = replace(_wish("adaptive"), mode="reference")
    found = heard_reference(ArrayReader(reference), rate, "reference")
    with _mastering(audio, rate, wish, {}, [found]) as mastering:
        return _delivered(mastering)


def preset(audio: np.ndarray, rate: int, *, name: str) -> Result:
    """A preset of ``conf/master``, with the fingerprint it asks for."""
    clock = _Clock()
    found = _fingerprint(audio, rate)
    clock.done("fingerprint")
    return _mastered(audio, rate, _wish(name), found, clock=clock)


def in_pieces(audio: np.ndarray, rate: int, *, name: str, piece: int) -> Result:
    """The same, each piece by itself through the whole chain with the context before it, in any order."""
    from pipeline.mastering.processor import run
    from pipeline.mastering.song import chain

    made = np.full_like(audio, np.nan)
    starts = list(range(0, audio.shape[1], piece))
    random.Random(SEED).shuffle(starts)  # noqa: S311  an order, no secret
    with _mastering(audio, rate, _wish(name), _fingerprint(audio, rate), ()) as mastering:
        plan = mastering.settle()
    before = sum(processor.context for processor in chain(plan))
    # What the last samples of a piece are limited by lies behind them.
    behind = rate
    for start in starts:
        stop, origin = min(start + piece, audio.shape[1]), max(0, start - before)
        stretch = audio[:, origin : stop + behind]
        out = np.concatenate(list(run(chain(plan, origin), _pieces(stretch, PIECE))), axis=1)
        made[:, start:stop] = out[:, start - origin : stop - origin]
    return made, {}


def memory(source: str) -> None:
    """A master of a file, read and written in pieces, without the fingerprint."""
    from pipeline.audio.reader import Spool
    from pipeline.audio.stream import open_file
    from pipeline.mastering.song import Mastering

    with ExitStack() as stack:
        stream = stack.enter_context(open_file(source))
        song = stack.enter_context(closing(Spool.of(stream, stream.channels)))
        out = stack.enter_context(closing(Spool(stream.channels)))
        mastering = stack.enter_context(Mastering(song, stream.sample_rate, _wish("adaptive")))
        mastering.render(mastering.settle(), out.write)


def _wish(name: str) -> Any:
    from pipeline.mastering.wish import Wish
    from pipeline.workflows.master_presets import presets

    return Wish(presets()[name], name)


def _fingerprint(audio: np.ndarray, rate: int) -> dict[str, float | None]:
    from pipeline.audio.resample import make_view
    from pipeline.features import REGISTRY
    from pipeline.features.spectra import SharedSpectra

    mono = make_view(audio, rate, DSP_RATE, 1)[0]
    found = REGISTRY["fingerprint"]().extract(SharedSpectra(mono, DSP_RATE, audio, rate)).values
    return {name.removeprefix(PREFIX): value for name, value in found.items()}


def _mastering(
    audio: np.ndarray, rate: int, wish: Any, found: dict[str, float | None], references: Sequence[Any]
) -> Mastering:
    from pipeline.audio.reader import ArrayReader
    from pipeline.mastering.song import Mastering

    return Mastering(ArrayReader(audio), rate, wish, found, references)


def _mastered(
    audio: np.ndarray,
    rate: int,
    wish: Any,
    found: dict[str, float | None] | None = None,
    references: Sequence[Any] = (),
    *,
    clock: _Clock | None = None,
) -> Result:
    """What was rendered, with the CPU seconds of the parts and what limited it."""
    clock, made = clock or _Clock(), []
    with _mastering(audio, rate, wish, found or {}, references) as mastering:
        _ = mastering.heard
        clock.done("analysis")
        plan: Plan = mastering.settle()
        clock.done("plan")
        mastering.render(plan, made.append)
        clock.done("render")
    return np.concatenate(made, axis=1), {"parts": clock.parts, "limited_by": plan.limited_by}


JOBS: dict[str, Callable[..., Any]] = {
    "limit": limit,
    "loud": loud,
    "loud checked": loud_checked,
    "match": match,
    "match checked": match_checked,
    "preset": preset,
    "in pieces": in_pieces,
    "memory": memory,
}
