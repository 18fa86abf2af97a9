"""The DSP extractors of one track after another, on spectra they share."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.cache.entry import Entry
from pipeline.dataset.contents import Product
from pipeline.dataset.output import blob_path, npy_bytes
from pipeline.engine.batch import Blob, Track
from pipeline.engine.source_file import SourceFile
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.features.base import Extraction, Extractor
from pipeline.features.extraction import BLOCK_SECONDS, Outcome, TrackAudio, run_extractors
from pipeline.features.golden import Golden
from pipeline.features.spectra import SharedSpectra
from pipeline.features.streamed import StreamedAudio
from pipeline.stages.features.spec import NAME, extractor_product

_SERIES = ("_blob", "_inline", "_shape")
Passes = Callable[[], Iterable[SharedSpectra]]
LARGEST = float(np.finfo(np.float32).max)


class NonFiniteValue(Exception):
    """An extractor returned NaN or infinity; the value is null in the row."""


class FeaturesWorker(Worker):
    """Fills the columns of the enabled extractors, on the CPU: one core is faster than a card that waits for its
    next small kernel (`benchmarks/RESULTS.md`, "Descriptors on a GPU").

    Args:
        extractors: with their parameters.
        sample_rate: the DSP rate, Hz.
        blob_names: series to keep at all.
        max_inline_elements: larger arrays become ``.npy`` files.
        block_seconds: longer tracks are worked on in blocks of this length.
        golden: what the driver's extractors say of a known signal. Where those of this process say something else,
            the first table is refused: `OtherNumbersError`.
        common: see `pipeline.engine.worker.Worker`.
    """

    def __init__(
        self,
        extractors: Sequence[Extractor],
        sample_rate: int,
        blob_names: Sequence[str] = (),
        max_inline_elements: int = 4096,
        block_seconds: float = BLOCK_SECONDS,
        *,
        golden: Golden | None = None,
        **common: Any,
    ) -> None:
        products = [extractor_product(e, sample_rate, blob_names, max_inline_elements) for e in extractors]
        super().__init__(**{"stage": NAME, "products": products, **common})
        # Raised with the first table: Ray tries a constructor that raises again, and buries what it said.
        self.refusal = golden.refusal(extractors, sample_rate) if golden is not None else None
        self.extractors = {e.name: e for e in extractors}
        self.sample_rate = sample_rate
        self.keys = {p.name: p.key for p in self.products}
        self.blob_names = frozenset(blob_names)
        self.max_inline_elements = max_inline_elements
        self.block_seconds = block_seconds

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the columns of the extractors. Raises `OtherNumbersError`."""
        if self.refusal is not None:
            raise self.refusal
        return super().__call__(table)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """All extractors over one track after another."""
        for track in tracks:
            for outcome in self._computed(track, [self.extractors[name] for name in track.due]):
                self._settle(track, outcome)

    def _computed(self, track: Track, extractors: Sequence[Extractor]) -> list[Outcome]:
        if track.long:
            return self._outcomes_of_long(track, extractors)
        audio = self._audio(track)
        return run_extractors(extractors, audio.track, self._told(track, audio.blocks))

    def _told(self, track: Track, blocks: Passes) -> Passes:
        """``blocks``, which begins the track anew, with a word before each of how far the pass is."""
        passes = itertools.count(1)

        def told() -> Iterator[SharedSpectra]:
            number = next(passes)
            which = f", pass {number}" if number > 1 else ""
            for block in blocks():
                share = block.axis.start / block.sample_rate / max(track.duration_s or 0.0, 1e-3)
                self.progress(track, share, lambda share=share: f"features {100 * share:.0f} %{which}")
                yield block

        return told

    def restore(self, track: Track, product: Product, entry: Entry) -> None:
        """Fill in what the cache has of an extractor."""
        columns = {f.name for f in product.filled if not f.name.endswith(_SERIES)}
        values = {name: value for name, value in entry.values.items() if name in columns}
        # As `_stored` left them: what is not halved must stay as it is.
        exact = frozenset(name for name, array in entry.arrays.items() if array.dtype != np.float16)
        found = Extraction(values, entry.arrays, entry.fallbacks, entry.backend, exact)
        self._store(track, self.extractors[product.name], found)

    def _settle(self, track: Track, outcome: Outcome) -> None:
        extractor, found = outcome.extractor, outcome.extraction
        stage = f"{NAME}.{extractor.name}"
        cost = Cost(stage, outcome.seconds, batch_audio_s=track.duration_s or 0.0)
        track.costs.append(cost)
        if found is None:
            track.fail(stage, outcome.error, key=self.keys[extractor.name])
            return
        cost.backend = found.backend
        started, trouble = time.perf_counter(), len(track.failures)
        try:
            series = self._store(track, extractor, found)
            whole = len(track.failures) == trouble
            entry = Entry(found.values, series, found.fallbacks, found.backend) if whole else None
            self.done(track, extractor.name, entry)
        except Exception as error:  # noqa: BLE001  one extractor must not cost the others
            track.fail(stage, error, key=self.keys[extractor.name])
        cost.compute_s += time.perf_counter() - started

    def _outcomes_of_long(self, track: Track, extractors: Sequence[Extractor]) -> list[Outcome]:
        try:
            with self.fetcher.fetch(track, NAME) as source:
                streamed = self._streamed(source, track.mono_channel)
                return run_extractors(extractors, streamed.track, self._told(track, streamed.blocks))
        except Exception as error:  # noqa: BLE001  the source may be gone since it was decoded
            return [Outcome(extractor, error=error) for extractor in extractors]

    def _streamed(self, source: SourceFile, mono_channel: int | None) -> StreamedAudio:
        return StreamedAudio(
            source.open,
            self.sample_rate,
            block_seconds=self.block_seconds / 5,
            context_seconds=max(e.context_seconds(self.sample_rate) for e in self.extractors.values()),
            every_channel=any("channels" in e.views for e in self.extractors.values()),
            mono_channel=mono_channel,
        )

    def _audio(self, track: Track) -> TrackAudio:
        wanted = {view for e in self.extractors.values() for view in e.views}
        # Extractors touch only the views they name; one that none names is filled with what is there.
        mono, native = (v if v in wanted else next(iter(wanted)) for v in ("mono", "native"))
        return TrackAudio(
            mono=track.audio(mono)[0],
            sample_rate=track.view_rate(mono),
            native=track.audio(native),
            native_rate=track.view_rate(native),
            every_channel=track.audio("channels") if "channels" in wanted else None,
            block_seconds=self.block_seconds,
            context_seconds=max(e.context_seconds(track.view_rate(mono)) for e in self.extractors.values()),
        )

    def _store(self, track: Track, extractor: Extractor, found: Extraction) -> dict[str, np.ndarray]:
        """Put what was found into the row and its blobs; returns the series as they are stored."""
        series: dict[str, np.ndarray] = {}
        stage = f"{NAME}.{extractor.name}"
        # By extractor: another one that is computed anew must not take them along.
        track.fallbacks.extend(replace(f, stage=stage) for f in found.fallbacks)
        for name, value in found.values.items():
            track.values[name], bad = finite(value)
            if bad:
                track.fail(stage, NonFiniteValue(f"{name}: {bad} values were NaN or infinite, now null"))
        for name, array in found.arrays.items():
            if name not in self.blob_names:
                continue
            if not np.isfinite(array).all():
                track.fail(stage, NonFiniteValue(f"{name}: series holds NaN or infinity and is left out"))
                continue
            track.values[f"{name}_shape"] = list(array.shape)
            series[name] = stored = self._stored(array, name in found.full_precision)
            if array.size <= self.max_inline_elements:
                track.values[f"{name}_inline"] = stored.ravel()
                continue
            path = blob_path(track.asset_id, extractor.name, self.keys[extractor.name], name)
            track.values[f"{name}_blob"] = path
            track.blobs.append(Blob(path, name, list(array.shape), npy_bytes(stored)))
        return series

    def _stored(self, array: np.ndarray, exact: bool) -> np.ndarray:
        """Halved where it goes to a file, does not have to be exact, and fits into float16."""
        if array.size > self.max_inline_elements and not exact:
            half = array.astype(np.float16)
            if np.isfinite(half).all():
                return half
        return array.astype(np.float32)


def finite(value: Any) -> tuple[Any, int]:
    """``value`` with NaN, infinities and what float32 cannot hold replaced by None, and how many there were."""
    if value is None or isinstance(value, (str, bool)):
        return value, 0
    if isinstance(value, np.ndarray) and value.ndim:
        good = np.abs(value) <= LARGEST  # false for NaN too
        if good.all():
            return value, 0
        return [v if g else None for v, g in zip(value.tolist(), good, strict=True)], int((~good).sum())
    if isinstance(value, (list, tuple)):
        cleaned = [finite(v) for v in value]
        return [v for v, _ in cleaned], sum(n for _, n in cleaned)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None, 1
    return value, 0
