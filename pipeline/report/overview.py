"""The dataset at a glance, gathered from the tables part by part in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.dataset.output import Output

EXAMPLES = 20
COLUMNS = (
    "status",
    "container",
    "codec",
    "sample_rate",
    "channels",
    "duration_s",
    "loudness_integrated_lufs",
)


@dataclass
class Overview:
    """What the report shows of the tables.

    ``durations_s`` and ``loudness_lufs`` hold one number per track that has it (16 bytes a track).
    """

    formats: Counter = field(default_factory=Counter)
    durations_s: list[float] = field(default_factory=list)
    loudness_lufs: list[float] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    rows: Counter = field(default_factory=Counter)


def overview(output: Output) -> Overview:
    """Read the tables of ``output`` once."""
    found = Overview()
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            _add_tracks(found, handle)
    for batch in output.batches("failures"):
        found.rows["failures"] += batch.num_rows
        found.failures += batch.slice(0, max(0, EXAMPLES - len(found.failures))).to_pylist()
    for table in ("segments", "timings"):
        found.rows[table] = sum(batch.num_rows for batch in output.batches(table, columns=["asset_id"]))
    return found


def _add_tracks(found: Overview, handle: Any) -> None:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(handle)
    present = [name for name in COLUMNS if name in file.schema_arrow.names]
    for row in file.read(columns=present).to_pylist():
        found.rows["tracks"] += 1
        if row["container"]:
            rate = f"{row['sample_rate'] / 1000:g} kHz"
            found.formats[row["container"], row["codec"], rate, row["channels"]] += 1
        if row["duration_s"] is not None:
            found.durations_s.append(row["duration_s"])
        if row.get("loudness_integrated_lufs") is not None:
            found.loudness_lufs.append(row["loudness_integrated_lufs"])


def histogram(values: list[float], bins: int = 24, log: bool = False) -> list[dict[str, float]]:
    """Bars of a histogram: ``left``, ``right`` and ``count``; empty for no values."""
    if not values:
        return []
    data = np.asarray(values, dtype=np.float64)
    if log:
        data = data[data > 0]
        if data.size == 0:
            return []
        edges = np.geomspace(data.min(), data.max() * (1 + 1e-9) + 1e-12, bins + 1)
    else:
        edges = np.linspace(data.min(), data.max() + 1e-9, bins + 1)
    counts, edges = np.histogram(data, bins=edges)
    return [
        {"left": float(a), "right": float(b), "count": int(c)}
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
