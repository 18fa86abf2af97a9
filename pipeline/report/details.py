"""What the report says of single tracks: the few thousand on the map and the outliers, read a second time."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from pipeline.dataset.output import Output
from pipeline.dataset.storage import public_uri
from pipeline.features.key import unsure
from pipeline.report.formatting import clock, key_label
from pipeline.report.overview import Overview
from pipeline.report.table_reading import identities, present, scan

_COLUMNS = (
    "asset_id",
    "uri",
    "container",
    "codec",
    "sample_rate",
    "channels",
    "duration_s",
    "key_name",
    "key_mode",
    "key_confidence",
    "tempo_bpm",
    "loudness_integrated_lufs",
    "tags_top",
)
MOST_TAGS = 4
"""Tags that are named of one content."""

# Longest part of a location that is shown.
_LONGEST = 400
MOST_URIS = 5
"""Files that are named of one content."""


@dataclass
class Track:
    """One content, for people.

    Args:
        uris: of its files, the first `MOST_URIS`.
        files: how many there are.
        facts: duration, format, key, tempo, loudness and the first tags, as far as known.
        format: container; empty where unknown.
    """

    uris: list[str]
    files: int
    facts: str
    format: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.uris[0].rstrip("/").rsplit("/", 1)[-1] or self.uris[0]

    @property
    def link(self) -> str:
        """``file://…`` of a file on this machine; empty for others, and for names that were shortened."""
        uri = self.uris[0]
        return f"file://{quote(uri)}" if uri.startswith("/") and len(uri) <= _LONGEST else ""


def tracks(output: Output, found: Overview, ids: Collection[int]) -> dict[int, Track]:
    """The tracks whose identity is among ``ids``; one whose part was written anew meanwhile may be missing."""
    known: dict[int, Track] = {}
    for identity, row in select(output, found, ids, _COLUMNS):
        track = known.setdefault(identity, Track([], 0, facts(row), row.get("container") or ""))
        track.files += 1
        if len(track.uris) < MOST_URIS:
            track.uris.append(_shortened(public_uri(row["uri"] or "")))
    return known


def select(
    output: Output, found: Overview, ids: Collection[int], columns: Iterable[str]
) -> Iterable[tuple[int, dict[str, Any]]]:
    """The rows whose identity is among ``ids``, as (identity, row); only parts that hold one are read."""
    wanted = np.array(sorted(ids), np.uint64)
    if not len(wanted):
        return
    parts = np.unique(found.parts[np.isin(found.ids, wanted)])
    for rows, _ in scan(output, [found.names[part] for part in parts], [*columns, "status"]):
        rows = rows.filter(pa.array(present(rows)))
        these = identities(rows)
        places = np.flatnonzero(np.isin(these, wanted))
        for place, row in zip(places.tolist(), rows.take(pa.array(places)).to_pylist(), strict=True):
            yield int(these[place]), row


def facts(row: dict[str, Any]) -> str:
    """A line such as ``3 min 05 s · flac 44.1 kHz ×2 · A minor · 96 BPM · -14.0 LUFS · guitar, slow``."""
    said = []
    if _known(row.get("duration_s")):
        said.append(clock(row["duration_s"]))
    if row.get("container"):
        rate = f" {row['sample_rate'] / 1000:g} kHz" if row.get("sample_rate") else ""
        said.append(f"{row['container']}{rate} ×{row.get('channels') or '?'}")
    if row.get("key_name") and row.get("key_mode"):
        weak = _known(row.get("key_confidence")) and unsure(row["key_confidence"])
        said.append(key_label(row["key_name"], row["key_mode"]) + (", unsure" if weak else ""))
    if _known(row.get("tempo_bpm")):
        said.append(f"{row['tempo_bpm']:.0f} BPM")
    if _known(row.get("loudness_integrated_lufs")):
        said.append(f"{row['loudness_integrated_lufs']:.1f} LUFS".replace("-", "−"))
    if row.get("tags_top"):
        said.append(", ".join(row["tags_top"][:MOST_TAGS]))
    return " · ".join(said)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _shortened(uri: str) -> str:
    return uri if len(uri) <= _LONGEST else f"{uri[: _LONGEST // 3]} … {uri[-2 * _LONGEST // 3 :]}"


def common_folder(uris: Iterable[str]) -> str:
    """The longest folder that all of ``uris`` lie in, with its slash; empty where there is none."""
    folders = [uri[: uri.rfind("/") + 1] for uri in uris]
    if not folders:
        return ""
    # The first and the last in order agree on what all agree on.
    first, last = min(folders), max(folders)
    same = next(
        (n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first[: first[:same].rfind("/") + 1]
