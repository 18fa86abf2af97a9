"""The dataset at a glance, gathered from the tables part by part in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset.output import Output
from pipeline.features.key import KEYS, unsure
from pipeline.report.row_sample import Sample
from pipeline.report.table_reading import identities, numbers, present, scan, vectors

NUMBERS = (
    "duration_s",
    "loudness_integrated_lufs",
    "loudness_true_peak_dbtp",
    "loudness_rms_dbfs",
    "tempo_bpm",
    "quality_clipping_ratio",
    "quality_silence_ratio",
    "spectral_centroid_mean_hz",
)
"""What is held of every track, as float32."""

FORMAT = ("container", "codec", "sample_rate", "channels")
# Contents whose embedding or descriptors are held, for the map and for near-duplicates.
SAMPLE = 20_000
LEAST_ON_MAP = 3
"""Contents with a vector: fewer make no map."""

DESCRIPTORS = {
    "mfcc_mean": "MFCC",
    "chroma_mean": "chroma",
    "spectral_contrast_mean": "spectral contrast",
    "spectral_centroid_mean_hz": "centroid",
    "spectral_bandwidth_mean_hz": "bandwidth",
    "spectral_rolloff_mean_hz": "rolloff",
    "spectral_flatness_mean": "flatness",
}
"""What stands in for embeddings where there are none, and what people call it. Frequencies count as octaves."""

_LISTS = ("mfcc_mean", "chroma_mean", "spectral_contrast_mean")
_KEY = ("key_name", "key_mode", "key_confidence")
_KEY_NAMES = [f"{tonic} {mode}" for tonic, mode in KEYS]


@dataclass
class Overview:
    """What the report shows of the tables: 45 bytes a track, and a sample of the vectors of each kind.

    Args:
        rows: tracks.
        status: tracks by status.
        formats: tracks by (container, codec, sample rate in Hz, channels).
        values: column of `NUMBERS` → one float32 per track, NaN where there is none.
        keys: number in `pipeline.features.key.KEYS` per track, -1 where none was found.
        unsure: whether the key is weak, see `pipeline.features.key.UNSURE`, per track.
        ids: of the contents, uint64, see `pipeline.report.table_reading.identities`.
        names: the parts of `tracks`.
        parts: number of the part that holds the row.
        embedding: the column of `tracks` with vectors to compare: of those that products declare, the first that enough
            contents for a map have a value in; empty where there is none.
        embeddings, descriptors: of up to `SAMPLE` contents.
        groups: the columns that ``descriptors`` consists of, with their widths.
    """

    rows: Counter = field(default_factory=Counter)
    status: Counter = field(default_factory=Counter)
    formats: Counter = field(default_factory=Counter)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))
    unsure: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    names: list[str] = field(default_factory=list)
    parts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    embedding: str = ""
    embeddings: Sample = field(default_factory=lambda: Sample(SAMPLE))
    descriptors: Sample = field(default_factory=lambda: Sample(SAMPLE))
    groups: dict[str, int] = field(default_factory=dict)

    def known(self, column: str) -> np.ndarray:
        """The values of a column of `NUMBERS` that are known."""
        values = self.values[column]
        return values[np.isfinite(values)]


def overview(output: Output) -> Overview:
    """Read ``tracks`` of ``output`` once."""
    own = [name for product in output.contents.ordered() for name in product.unit_vectors]
    found = Overview(names=output.parts("tracks"))
    samples = {name: Sample(SAMPLE) for name in own}
    columns = dict.fromkeys(("asset_id", "status", *FORMAT, *NUMBERS, *_KEY, *own, *DESCRIPTORS))
    held: dict[str, list[np.ndarray]] = {name: [] for name in (*NUMBERS, "keys", "unsure", "ids", "parts")}
    for everything, origins in scan(output, found.names, list(columns)):
        there = present(everything)
        rows, parts = everything.filter(pa.array(there)), origins[there]
        ids = identities(rows)
        _count(found, rows)
        for name in NUMBERS:
            held[name].append(numbers(rows, name))
        held["keys"].append(_key_numbers(rows))
        held["unsure"].append(unsure(numbers(rows, "key_confidence")) & (held["keys"][-1] >= 0))
        held["ids"].append(ids)
        held["parts"].append(parts)
        for name, sample in samples.items():
            places, matrix = vectors(rows, name, sample.size)
            sample.add(ids[places], matrix)
        places, matrix = _descriptors(found, rows)
        found.descriptors.add(ids[places], matrix)
    for name in NUMBERS:
        found.values[name] = _all(held[name], np.float32)
    found.keys, found.ids = _all(held["keys"], np.int8), _all(held["ids"], np.uint64)
    found.unsure, found.parts = _all(held["unsure"], bool), _all(held["parts"], np.int32)
    found.embedding = _chosen({name: len(sample.result()[0]) for name, sample in samples.items()})
    if found.embedding:
        found.embeddings = samples[found.embedding]
    return found


def _chosen(contents: Mapping[str, int]) -> str:
    """The embedding that is shown, of those that so many contents have; none where none have any.

    CLAP's come first, then those of the tags; a few of the former in a table of the latter are no map.
    """
    least = max(LEAST_ON_MAP, max(contents.values(), default=0) / 2)
    enough = [name for name, count in contents.items() if count >= least]
    return next(iter(enough or [name for name, count in contents.items() if count]), "")


def _all(pieces: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(pieces) if pieces else np.empty(0, kind)


def _count(found: Overview, rows: pa.Table) -> None:
    found.rows["tracks"] += rows.num_rows
    for entry in rows["status"].value_counts().to_pylist():
        found.status[entry["values"]] += entry["counts"]
    decoded = rows.filter(pc.is_valid(rows["container"]))
    for entry in decoded.group_by(list(FORMAT)).aggregate([([], "count_all")]).to_pylist():
        found.formats[tuple(entry[name] for name in FORMAT)] += entry["count_all"]


def _key_numbers(rows: pa.Table) -> np.ndarray:
    if not {"key_name", "key_mode"} <= set(rows.schema.names):
        return np.full(rows.num_rows, -1, np.int8)
    names = pc.binary_join_element_wise(
        rows["key_name"].cast(pa.string()), rows["key_mode"].cast(pa.string()), " "
    )
    found = pc.index_in(names, pa.array(_KEY_NAMES))
    return found.fill_null(-1).to_numpy().astype(np.int8)


def _descriptors(found: Overview, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Rows that have all descriptors, and these side by side; which they are is settled by the first that has any."""
    pieces: dict[str, np.ndarray] = {}
    for name in DESCRIPTORS:
        if found.groups and name not in found.groups:
            continue
        if name in _LISTS:
            places, matrix = vectors(rows, name, found.groups.get(name))
        else:
            values = numbers(rows, name)
            if name.endswith("_hz"):
                values = np.log2(np.where(values > 0, values, np.nan))
            places = np.flatnonzero(np.isfinite(values))
            matrix = values[places, None]
        if len(places) or found.groups:
            filled = np.full((rows.num_rows, found.groups.get(name, matrix.shape[1])), np.nan, np.float32)
            filled[places] = matrix
            pieces[name] = filled
    if not pieces:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    found.groups = found.groups or {name: piece.shape[1] for name, piece in pieces.items()}
    together = np.concatenate(list(pieces.values()), axis=1)
    complete = np.flatnonzero(np.isfinite(together).all(axis=1))
    return complete, together[complete]
