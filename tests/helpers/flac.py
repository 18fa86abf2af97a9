"""FLAC of samples in memory."""

from __future__ import annotations

import io

import numpy as np

from pipeline.audio.encode import write_flac24
from pipeline.audio.reader import ArrayReader


def encode_flac24(samples: np.ndarray, sample_rate: int) -> tuple[bytes, float]:
    """`write_flac24` of float ``[channels, samples]``: the bytes, and the gain that was applied, dB."""
    samples = np.asarray(samples, dtype=np.float32)
    out = io.BytesIO()
    peak = float(np.max(np.abs(samples), initial=0.0))
    gain_db = write_flac24(ArrayReader(samples), peak, sample_rate, out)
    return out.getvalue(), gain_db
