"""Source separation: levels and shares of the stems, and the stems themselves where asked for."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from pipeline.audio.reader import ArrayReader
from pipeline.dataset.cache.entry import Entry
from pipeline.dataset.output import Output, blob_path
from pipeline.engine.batch import Track
from pipeline.engine.made_views import MadeView
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.errors import Fallback
from pipeline.models.precision import pick_precision
from pipeline.models.separation import (
    SeparationOptions,
    SeparationPool,
    SeparationStream,
    Separator,
    StemFold,
    load_backend,
)
from pipeline.models.separation.base import SAMPLE_RATE
from pipeline.models.separation.choose import choose
from pipeline.models.separation.names import ACCOMPANIMENT, AUTO_CPU_SECONDS, DROP, stems_written
from pipeline.stages.separation.heard import hear
from pipeline.stages.separation.spec import NAME, STEM_FILES, VIEW, VOCALS, separation_key, separation_product
from pipeline.stages.separation.stem_files import StemFiles


class SeparationWorker(Worker):
    """Fills the ``separation_*`` and ``stem_*`` columns.

    Each track goes to the backend that `choose` takes for it; the windows of all tracks that have the same backend
    share batches, those of several tables among them, each of which is worked on in a thread of its own. What such a
    batch costs is split by audio seconds.

    Args:
        backends: in the order wanted, the first that can run on a track does; or ``["auto"]``.
        options: what the backends are told.
        auto_cpu_seconds: see `choose`.
        save_stems: also write each stem as FLAC.
        save_arrays: also write each stem as ``.npy``.
        output: where those go.
        batch_items: most windows in a batch on a GPU; 0 leaves it to the backends.
        residual: where the part of a track goes that is in none of its stems, see
            `pipeline.models.separation.residual`. Levels and shares are those of the stems with it.
        takes_near_mono: a backend that needs the stereo image also takes what hardly has one.
        common: see `pipeline.engine.worker.Worker`. The cache has no stems: where they are saved they are computed.

    Raises:
        ValueError: stems are to be saved and there is no ``output``.
    """

    def __init__(
        self,
        backends: Sequence[str],
        *,
        options: SeparationOptions | None = None,
        auto_cpu_seconds: float = AUTO_CPU_SECONDS,
        save_stems: bool = False,
        save_arrays: bool = False,
        output: Output | None = None,
        batch_items: int = 0,
        residual: str = ACCOMPANIMENT,
        takes_near_mono: bool = True,
        **common: Any,
    ) -> None:
        if (save_stems or save_arrays) and output is None:
            raise ValueError("stems are to be saved and there is no output")
        if common.get("makes") and residual != DROP:
            raise ValueError("the vocals that later stages read are without residual: residual=drop")
        super().__init__(**{"stage": NAME, "products": (separation_product(),), **common})
        self.backends = list(backends)
        self.options = options or SeparationOptions()
        self.auto_cpu_seconds = auto_cpu_seconds
        self.save_stems, self.save_arrays = save_stems, save_arrays
        self.output = output
        self.batch_items = batch_items
        self.residual = residual
        self.takes_near_mono = takes_near_mono
        self._pools: dict[str, SeparationPool] = {}
        self._making = threading.Lock()
        self.keeps = self.keeps and not (save_stems or save_arrays)
        moved = pick_precision(self.options.amp, self.device).fallback(NAME)
        self.standing = [*self.standing, *([moved] if moved else [])]
        first = choose(self.backends, self._load)  # so that no track waits for the weights
        if self.device == "cuda" and first.separator is not None:
            self._warm_up(self._pool(first.separator.name))
            if first.separator.plain:
                step = Fallback(NAME, "fused kernels", "plain torch", first.separator.plain)
                self.standing.append(step)
        saved = {
            "auto_cpu_seconds": auto_cpu_seconds,
            "save_stems": save_stems,
            "save_arrays": save_arrays,
            "residual": residual,
            "takes_near_mono": takes_near_mono,
        }
        self.settle_key(NAME, lambda: separation_key(self.backends, self._load, self.options, saved))

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Separate the tracks, those of the same backend together."""
        groups: dict[str, list[Track]] = {}
        for track in tracks:
            self._choose(track, groups)
        for name, group in groups.items():
            self._separate(self._pool(name), group, clock)

    def usage(self) -> dict[str, Any]:
        """Where the seconds of this process went, see `WindowPool.spent`, of all backends together."""
        sums: Counter[str] = Counter()
        for pool in list(self._pools.values()) if self.device == "cuda" else ():
            sums.update(pool.windows.spent())
        return dict(sums)

    def _load(self, name: str) -> Separator:
        return load_backend(name, self.device, self.options)

    def _pool(self, name: str) -> SeparationPool:
        with self._making:
            if name not in self._pools:
                separator = self._load(name)
                if self.batch_items and self.device == "cuda":
                    separator.batch_items = min(separator.batch_items, self.batch_items)
                on_cpu = functools.partial(load_backend, name, "cpu", self.options)
                self._pools[name] = SeparationPool(separator, on_cpu)
            return self._pools[name]

    def _warm_up(self, pool: SeparationPool) -> None:
        """Run noise, so that the first tracks find kernels and memory ready, and what a window takes is known."""
        separator, rng = pool.separator, np.random.default_rng(0)
        # Three windows to learn what one takes, then a batch of each size that is run.
        for windows in (3, *pool.sizes()):
            samples = round(windows * separator.segment * SAMPLE_RATE)
            noise = rng.uniform(-0.1, 0.1, (2, samples)).astype(np.float32)
            for _ in SeparationStream(pool, [ArrayReader(noise)]):
                pass
        pool.windows.forget_spent()

    def _choose(self, track: Track, groups: dict[str, list[Track]]) -> None:
        """Put the track with those of the same backend, and say why it is there."""
        if not track.due:  # its columns came from the cache, and what is said of it is said anew
            track.costs.clear()
            track.fallbacks.clear()
        track.costs.append(Cost(NAME, device=self.device, batch_audio_s=track.duration_s or 0.0))
        track.fallbacks.extend(self.standing)
        samples = round((track.duration_s or 0.0) * SAMPLE_RATE)
        if VIEW.name in track.views:
            samples = track.audio(VIEW.name).shape[1]
        choice = choose(
            self.backends,
            self._load,
            track.channels,
            samples,
            threads=self.threads,
            auto_cpu_seconds=self.auto_cpu_seconds,
            side_db=None if self.takes_near_mono else functools.partial(self._side_db, track),
        )
        track.values["separation_choice"] = choice.reason
        if choice.fallback is not None:
            track.fallbacks.append(choice.fallback)
        if choice.separator is None:
            # Nothing here takes such a track, today or in the next run.
            track.values[f"failkey@{NAME}"] = self.key(NAME)
        else:
            groups.setdefault(choice.separator.name, []).append(track)

    def _side_db(self, track: Track) -> float | None:
        """Level of a track's side over its mid, dB; None for silence, and for what cannot be read."""
        try:
            with ExitStack() as stack:
                return hear(self.reader(track, VIEW, stack, counted=False), VIEW.sample_rate).side_db
        except Exception:  # noqa: BLE001  it is raised again, and said, when the track is separated
            return None

    def _separate(self, pool: SeparationPool, tracks: list[Track], clock: StageClock) -> None:
        separator = pool.separator
        chosen = {track.index: track.fallbacks[len(self.standing) :] for track in tracks}
        started = time.perf_counter()
        with ExitStack() as stack:
            tracks, readers = self.readers(tracks, VIEW, stack)
            stream = SeparationStream(pool, readers, self.residual)
            self._drain(stream, separator, tracks)
        clock.exclude(stream.call.elsewhere_s)
        own_s = time.perf_counter() - started - stream.call.elsewhere_s
        seconds = [reader.samples / separator.sample_rate for reader in readers]
        for track, reader, share, audio in zip(tracks, readers, stream.shares, seconds, strict=True):
            track.fallbacks.extend(share.fallbacks)
            [cost] = track.costs
            cost.backend = separator.name
            cost.batch_items, cost.batch_audio_s = max(1, share.items), share.audio_s or audio
            cost.padding_fraction = separator.padding_fraction(reader.samples)
            own = own_s * (audio / sum(seconds) if sum(seconds) else 1 / len(tracks))
            cost.compute_s, cost.shared_s = share.compute_s + own, share.compute_s
            if self.device == "cuda":
                cost.gpu_peak_bytes = torch.cuda.max_memory_allocated()
            # After such a step it may be another device's result.
            if not share.fallbacks and f"key@{NAME}" in track.values:
                entry = Entry(dict(track.values), {}, chosen[track.index], separator.name)
                self.done(track, NAME, entry)

    def _drain(self, stream: SeparationStream, separator: Separator, tracks: list[Track]) -> None:
        """Fold the pieces of each track, which come one track after the other."""
        current, result = -1, None
        try:
            for piece in stream:
                if piece.track != current:
                    current, result = piece.track, _Result(self, separator, tracks[piece.track])
                result.take(piece.block, piece.done, piece.error)
        finally:
            if result is not None:
                result.close()


class _Result:
    """What becomes of one track. Whatever fails in here is a failure of its track only."""

    def __init__(self, stage: SeparationWorker, separator: Separator, track: Track) -> None:
        self._stage, self._separator, self._track = stage, separator, track
        self._stems = stems_written(separator.sources, stage.residual)
        self._fold = StemFold(self._stems)
        self._files: StemFiles | None = None
        self._vocals = MadeView(track, VOCALS, 2, separator.sample_rate) if track.makes else None
        self._failed = False

    def take(self, block: torch.Tensor | None, done: bool, error: Exception | None) -> None:
        """One piece of a `SeparationStream`."""
        if self._failed:
            return
        try:
            if error is not None:
                raise error
            if block is not None:
                self._add(block)
            if done:
                self._store()
        except Exception as problem:  # noqa: BLE001  one track's trouble must not cost its neighbours
            self._failed = True
            self._track.values = {"separation_choice": self._track.values.get("separation_choice")}
            self._track.blobs.clear()
            self._track.fail(NAME, problem, key=self._stage.key(NAME))
        if done or self._failed:
            self.close()

    def _add(self, block: torch.Tensor) -> None:
        self._fold.add(block)
        if self._vocals is not None:
            self._vocals.write(block[self._stems.index("vocals")].cpu().numpy())
        if self._stage.save_stems or self._stage.save_arrays:
            if self._files is None:
                self._files = StemFiles(self._stage.output, self._stems)
            self._files.add(block)

    def _store(self) -> None:
        track, separator = self._track, self._separator
        if self._vocals is not None:
            self._vocals.done()
        statistics = self._fold.statistics()
        key = self._stage.key(NAME)
        track.values.update(separation_backend=separator.name, separation_model=separator.model_id())
        for stem in self._stems:
            track.values[f"stem_share_{stem}"] = statistics.shares[stem]
            track.values[f"stem_rms_{stem}_dbfs"] = statistics.rms_dbfs[stem]
        if self._files is not None:
            self._save(key)
        # Last: a row has the key only if everything asked for is there.
        if track.due:
            self._stage.done(track, NAME)

    def _save(self, key: str) -> None:
        track = self._track
        if self._stage.save_stems:
            blobs, gains = self._files.write_flac(
                lambda stem: STEM_FILES.path(track.asset_id, f"{stem}.flac"), self._separator.sample_rate
            )
            track.blobs += blobs
            track.values.update({f"stem_gain_{stem}_db": gain for stem, gain in gains.items()})
        if self._stage.save_arrays:
            blobs = self._files.write_npy(lambda stem: blob_path(track.asset_id, NAME, key, stem))
            track.blobs += blobs
            track.values.update({f"stem_{blob.name}_blob": blob.path for blob in blobs})

    def close(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None
