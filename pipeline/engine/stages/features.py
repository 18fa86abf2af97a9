"""The DSP extractors of one track after another, on spectra they share."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.output import blob_path, npy_bytes
from pipeline.engine.batch import Blob, Track, add_stage, tracks_of
from pipeline.engine.timing import Cost, StageClock
from pipeline.features.base import Extraction, Extractor
from pipeline.features.spectra import SharedSpectra
from pipeline.models.device import set_threads

NAME = "features"


class NonFiniteValue(Exception):
    """An extractor returned NaN or infinity; the value is null in the row."""


class FeaturesStage:
    """Fills the columns of the enabled extractors.

    Args:
        extractors: with their parameters.
        sample_rate: the DSP rate, for the extractor keys.
        device: ``cpu`` or ``cuda``.
        threads: torch threads of this process.
        blob_names: series to keep at all.
        max_inline_elements: larger arrays become ``.npy`` files.
        drop: names of the columns nobody reads after this stage.
    """

    def __init__(
        self,
        extractors: Sequence[Extractor],
        sample_rate: int,
        device: str = "cpu",
        threads: int = 1,
        blob_names: Sequence[str] = (),
        max_inline_elements: int = 4096,
        drop: frozenset[str] = frozenset(),
    ) -> None:
        # Samples are views of Ray's shared memory, which nobody may write; torch warns about that.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        set_threads(threads)
        self.extractors = list(extractors)
        self.keys = {e.name: e.key(sample_rate) for e in extractors}
        self.device = device
        self.blob_names = frozenset(blob_names)
        self.max_inline_elements = max_inline_elements
        self.drop = drop
        self.fields = [f for e in extractors for f in (*e.columns(), pa.field(f"key@{e.name}", pa.string()))]

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with one more set of columns; rows without audio get nulls."""
        clock = StageClock()
        tracks = tracks_of(table)
        for track in tracks:
            if track.decoded:
                self._one(track)
        return add_stage(table, tracks, NAME, self.fields, clock, drop=self.drop.__contains__)

    def _one(self, track: Track) -> None:
        wanted = {view for e in self.extractors for view in e.views}
        native = track.audio("native" if "native" in wanted else "mono")
        spectra = SharedSpectra(
            mono=track.audio("mono")[0] if "mono" in wanted else native.mean(axis=0),
            sample_rate=track.view_rate("mono") if "mono" in wanted else track.view_rate("native"),
            native=native,
            native_rate=track.view_rate("native" if "native" in wanted else "mono"),
            device=self.device,
        )
        for extractor in self.extractors:
            stage = f"{NAME}.{extractor.name}"
            cost = Cost(stage, device=self.device, backend="torch", batch_audio_s=track.duration_s or 0.0)
            track.costs.append(cost)
            started = time.perf_counter()
            try:
                found = extractor.extract(spectra)
                cost.backend = found.backend
                self._store(track, extractor, found)
                track.values[f"key@{extractor.name}"] = self.keys[extractor.name]
            except Exception as error:  # noqa: BLE001  one extractor's bug or one odd file must not cost the others
                track.fail(stage, error)
            cost.compute_s = time.perf_counter() - started

    def _store(self, track: Track, extractor: Extractor, found: Extraction) -> None:
        stage = f"{NAME}.{extractor.name}"
        track.fallbacks.extend(found.fallbacks)
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
            if array.size <= self.max_inline_elements:
                track.values[f"{name}_inline"] = array.astype(np.float32).ravel()
                continue
            path = blob_path(track.asset_id, extractor.name, self.keys[extractor.name], name)
            track.values[f"{name}_blob"] = path
            half = array.astype(np.float16)
            data = npy_bytes(half if np.isfinite(half).all() else array.astype(np.float32))
            track.blobs.append(Blob(path, name, list(array.shape), data))


def finite(value: Any) -> tuple[Any, int]:
    """``value`` with NaN and infinities replaced by None, and how many there were."""
    if value is None or isinstance(value, (str, bool)):
        return value, 0
    if isinstance(value, np.ndarray) and value.ndim:
        good = np.isfinite(value)
        if good.all():
            return value, 0
        return [v if g else None for v, g in zip(value.tolist(), good, strict=True)], int((~good).sum())
    if isinstance(value, (list, tuple)):
        cleaned = [finite(v) for v in value]
        return [v for v, _ in cleaned], sum(n for _, n in cleaned)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    return value, 0
