"""The windows of a track, each with its level and its embedding, and the error of a track that has none."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import Fallback
from pipeline.models.clap.aggregate import aggregate


@dataclass(frozen=True)
class EmbeddedWindow:
    """One window of a track.

    Args:
        start_s: where it begins, s.
        end_s: where its audio ends, s; the filling up to the tower's 10 s does not count.
        rms_dbfs: RMS level, dB relative to full scale 1.0; None for digital silence.
        embedding: float32 ``[512]``, unit norm; None for a silent window, whose peak is below one int16 step.
        norm: length of the embedding before normalisation; None for a silent window.
    """

    start_s: float
    end_s: float
    rms_dbfs: float | None
    embedding: np.ndarray | None
    norm: float | None


@dataclass
class TrackWindows:
    """The windows of one track in order, or the error that only this track ran into.

    ``fallbacks`` are the steps that memory forced on the batches it was in.
    """

    windows: list[EmbeddedWindow] = field(default_factory=list)
    error: Exception | None = None
    fallbacks: list[Fallback] = field(default_factory=list)

    def aggregate(self, how: str) -> np.ndarray | None:
        """`pipeline.models.clap.aggregate.aggregate` over the windows that have an embedding."""
        heard = [w for w in self.windows if w.embedding is not None]
        if not heard:
            return None
        return aggregate(
            np.stack([w.embedding for w in heard]),
            how,
            seconds=np.array([w.end_s - w.start_s for w in heard]),
            rms=np.array([10 ** (w.rms_dbfs / 20) for w in heard]),
            norms=np.array([w.norm for w in heard]),
        )
