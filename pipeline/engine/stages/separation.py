"""Source separation: levels and shares of the stems, and the stems themselves where asked for."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from pipeline.audio.encode import encode_flac24
from pipeline.dataset.output import stem_path
from pipeline.dataset.schemas import SEPARATION
from pipeline.engine.batch import Blob, Track, add_stage, tracks_of
from pipeline.engine.process import start_torch
from pipeline.engine.timing import Cost, StageClock
from pipeline.errors import Fallback
from pipeline.features.base import stable_key
from pipeline.models.separation import Separator, choose, load_backend, stem_statistics

NAME = "separation"
FIELDS = (*SEPARATION, pa.field(f"key@{NAME}", pa.string()))


class SeparationStage:
    """Fills ``separation_backend``, ``stem_share_*`` and ``stem_rms_*``.

    Args:
        backends: in the order wanted; the first that can run on a track does.
        save_stems: also write each stem as FLAC.
        device: ``cpu`` or ``cuda``.
        threads, seed: of torch in this process.
        drop: names of the columns nobody reads after this stage.
    """

    def __init__(
        self,
        backends: Sequence[str],
        save_stems: bool = False,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        drop: frozenset[str] = frozenset(),
    ) -> None:
        self.device, self.standing = start_torch(NAME, device, threads, seed)
        self.backends = list(backends)
        self.save_stems = save_stems
        self.drop = drop
        self.load = functools.partial(load_backend, device=self.device)
        choose(self.backends, self.load)  # so that no track waits for the weights

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the separation columns; rows without audio or a backend get nulls."""
        clock = StageClock()
        tracks = tracks_of(table)
        for track in tracks:
            if track.decoded:
                self._one(track)
        return add_stage(table, tracks, NAME, FIELDS, clock, drop=self.drop.__contains__)

    def _one(self, track: Track) -> None:
        started = time.perf_counter()
        cost = Cost(NAME, device=self.device, batch_audio_s=track.duration_s or 0.0)
        track.costs.append(cost)
        track.fallbacks.extend(self.standing)
        try:
            if self.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            audio = track.audio("separation")
            choice = choose(self.backends, self.load, track.channels, audio.shape[1])
            if choice.fallback is not None:
                track.fallbacks.append(choice.fallback)
            if choice.separator is not None:
                cost.backend = choice.separator.name
                cost.padding_fraction = choice.separator.padding_fraction(audio.shape[1])
                self._separate(track, choice.separator, audio)
            if self.device == "cuda":
                cost.gpu_peak_bytes = torch.cuda.max_memory_allocated()
        except torch.AcceleratorError:
            raise  # the GPU context is lost: only a new process can go on
        except Exception as error:  # noqa: BLE001  one track's trouble must not cost its neighbours
            track.fail(NAME, error)
        cost.compute_s = time.perf_counter() - started

    def _separate(self, track: Track, separator: Separator, audio: np.ndarray) -> None:
        kept: list[np.ndarray] = []
        statistics = stem_statistics(
            separator.stream(audio), separator.sources, on_block=kept.append if self.save_stems else None
        )
        track.values["separation_backend"] = separator.name
        for stem in separator.sources:
            track.values[f"stem_share_{stem}"] = statistics.shares[stem]
            track.values[f"stem_rms_{stem}_dbfs"] = statistics.rms_dbfs[stem]
        if kept:
            self._save(track, separator, np.concatenate(kept, axis=-1))
        # Last: a row has the key only if everything asked for is there.
        track.values[f"key@{NAME}"] = stable_key(
            {
                "name": NAME,
                "version": separator.version,
                "model": separator.model_id(),
                "stems": self.save_stems,
            }
        )

    def _save(self, track: Track, separator: Separator, stems: np.ndarray) -> None:
        for stem, samples in zip(separator.sources, stems, strict=True):
            data, gain_db = encode_flac24(samples, separator.sample_rate)
            if gain_db:
                reason = f"the stem {stem} peaks above full scale"
                track.fallbacks.append(Fallback(NAME, f"{stem} at 0 dB", f"{gain_db:.2f} dB", reason))
            path = stem_path(track.asset_id, stem)
            track.blobs.append(Blob(path, stem, list(samples.shape), data))
