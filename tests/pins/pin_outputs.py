"""An output as plain values that can be written down: without what belongs to a run, to a folder or to a clock.

Only pyarrow, numpy and soundfile read it, so that no change of the project's own readers can hide a change of what lies
on the disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

TABLES = ("tracks", "segments", "timings", "failures")
# The uri, the asset and its artifacts are checked apart, and stand for files; the version is a time.
OF_THE_RUN = {"run_id", "source_version", "first_seen", "uri", "asset_id", "artifacts"}
# What a stage took, and what else was in its batch, is no result.
OF_A_TIMING = ("stage", "device", "backend")
LONGEST = 8
"""Longer lists are written down as a summary."""
DIGITS = 6
"""Significant ones, of a float that is written down."""
_OWN = re.compile(r"(blobs|stems)/([0-9a-f]{2})/\2[0-9a-f]{62}/")
_DIGITS = 16


def read(output: Path, table: str) -> list[pa.Table]:
    """The parts of a table, in the order of their names."""
    return [pq.ParquetFile(path).read() for path in sorted((output / table).glob("*.parquet"))]


def rows(output: Path, table: str) -> list[dict[str, Any]]:
    """The rows of all parts."""
    return [row for part in read(output, table) for row in part.to_pylist()]


def schemas(output: Path) -> dict[str, Any]:
    """Table → its columns in order, each with type, metadata and whether it may be null; and the schema's metadata.

    Raises:
        AssertionError: two parts of a table have not the same.
    """
    found = {}
    for table in TABLES:
        kinds = [_schema(part.schema) for part in read(output, table)]
        assert kinds, f"there is no {table}"
        assert all(kind == kinds[0] for kind in kinds), f"parts of {table} have different columns"
        found[table] = kinds[0]
    return found


def _schema(schema: pa.Schema) -> dict[str, Any]:
    columns = {f.name: [str(f.type), f.nullable, _text(f.metadata)] for f in schema}
    return {"metadata": _text(schema.metadata), "order": schema.names, "columns": columns}


def _text(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in sorted((metadata or {}).items())}


def payloads(output: Path, run_id: str, folder: Path) -> dict[str, Any]:
    """What the manifest of a run consists of, as far as files of ``folder`` go: keys of it and of an entry, and
    extractor → column → kinds of values."""
    manifest = json.loads((output / "runs" / run_id / "manifest.json").read_text())
    entries, extractors = set(), set()
    kinds: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for asset in (a for a in manifest["assets"] if Path(a["uri"]).is_relative_to(folder)):
        entries |= set(asset)
        for extractor in asset["extractors"]:
            extractors |= set(extractor)
            for column, value in (extractor["payload"] or {}).items():
                kinds[extractor["name"]][column].add(_kind(value))
    return {
        "manifest": sorted(manifest),
        "asset": sorted(entries),
        "extractor": sorted(extractors),
        "payloads": {
            n: {c: sorted(k) for c, k in sorted(found.items())} for n, found in sorted(kinds.items())
        },
    }


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(value)) + "}"
    if isinstance(value, list):
        return f"list of {', '.join(sorted({_kind(item) for item in value if item is not None}))}"
    return "null" if value is None else type(value).__name__


def values(output: Path, source: Path) -> dict[str, dict[str, Any]]:
    """Name of a file → its row, its failures, windows and stages, and the arrays and stems that it refers to.

    Floats have six digits; long lists and arrays are summaries.

    Raises:
        AssertionError: rows, paths or files do not belong together.
    """
    return {name: _rounded(content) for name, content in _contents(output, source, _summary).items()}


def hashes(output: Path, source: Path) -> dict[str, dict[str, str]]:
    """Name of a file → what of it → beginning of the sha256 of every bit of that."""
    found: dict[str, dict[str, str]] = {}
    for name, content in _contents(output, source, lambda path: _digest(path.read_bytes())).items():
        whole = {
            table: _digest(json.dumps(content[table]).encode()) for table in ("track", "failures", "segments")
        }
        found[name] = whole | content["files"]
    return found


def _contents(output: Path, source: Path, file: Any) -> dict[str, dict[str, Any]]:
    tracks = rows(output, "tracks")
    names = {row["uri"]: Path(row["uri"]).relative_to(source).as_posix() for row in tracks}
    assets = {row["asset_id"]: names[row["uri"]] for row in tracks}
    assert len(assets) == len(names) == len(tracks), "a file has two rows, or two files have one content"
    found: dict[str, dict[str, Any]] = {}
    for row in tracks:
        _check_asset(row, output)
        content = {"track": _bare(row, source), "failures": [], "segments": [], "timings": [], "files": {}}
        found[names[row["uri"]]] = content
        for path in _files(output, row["asset_id"]):
            content["files"][_anonymous(path.relative_to(output).as_posix())] = file(path)
    for row in rows(output, "segments"):
        found[assets[row["asset_id"]]]["segments"].append(_bare(row, source))
    for row in rows(output, "failures"):
        assert assets[row["asset_id"]] == names[row["uri"]]
        found[names[row["uri"]]]["failures"].append(_bare(row, source))
    for row in rows(output, "timings"):
        assert not row["cache_hit"]
        found[assets[row["asset_id"]]]["timings"].append(" ".join(str(row[column]) for column in OF_A_TIMING))
    for content in found.values():
        content["segments"].sort(key=lambda s: s["segment_index"])
        content["failures"].sort(key=lambda f: f["stage"])
        content["timings"].sort()
    known = {path for row in tracks for path in _files(output, row["asset_id"])}
    there = {p for kind in ("blobs", "stems") for p in (output / kind).rglob("*") if p.is_file()}
    assert there == known, "files of no asset"
    return found


def _check_asset(row: Mapping[str, Any], output: Path) -> None:
    """The id is the hash of the bytes, and what is said of arrays and stems is true of those that lie under it."""
    path = Path(row["uri"])
    if path.is_file():
        data = path.read_bytes()
        assert (row["asset_id"], row["size_bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    there = {p.relative_to(output).as_posix(): p.read_bytes() for p in _files(output, row["asset_id"])}
    told = {a["path"]: (a["size_bytes"], a["sha256"]) for a in row["artifacts"] or ()}
    assert told == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in there.items()}


def _files(output: Path, asset: str) -> list[Path]:
    return sorted(p for kind in ("blobs", "stems") for p in (output / kind / asset[:2] / asset).glob("*"))


def _bare(row: Mapping[str, Any], source: Path) -> dict[str, Any]:
    return {
        name: _plain(name, value, str(source))
        for name, value in row.items()
        if value is not None and name not in OF_THE_RUN
    }


def _plain(name: str, value: Any, source: str) -> Any:
    if isinstance(value, str):
        return _anonymous(value).replace(source, "<source>")
    if isinstance(value, Mapping):
        return {key: _plain(name, item, source) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if name.endswith("_keys"):
            return dict(value)
        return [_plain(name, item, source) for item in value]
    return value


def _anonymous(text: str) -> str:
    return _OWN.sub(r"\1/<asset>/", text)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def _summary(path: Path) -> dict[str, Any]:
    """Of an array its type, shape and some statistics; of a stem its format, too."""
    if path.suffix == ".npy":
        array = np.load(path, allow_pickle=False)
        return {"dtype": str(array.dtype), "shape": list(array.shape), **_statistics(array)}
    info = soundfile.info(path)
    audio = soundfile.read(path)[0]
    return {
        "format": f"{info.format} {info.subtype}, {info.samplerate} Hz, {info.channels} channels, {info.frames} frames",
        **_statistics(audio),
    }


def _statistics(array: np.ndarray, picked: int = 5) -> dict[str, Any]:
    flat = array.astype(np.float64).ravel()
    if not flat.size:
        return {}
    some = flat[np.linspace(0, flat.size - 1, picked).astype(int)]
    return {"mean": flat.mean(), "std": flat.std(), "some": some.tolist()}


def _rounded(value: Any) -> Any:
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return _shortened(value) if _is_long(value) else [_rounded(item) for item in value]
    return value


def _is_long(value: Sequence[Any]) -> bool:
    return len(value) > LONGEST and all(item is None or isinstance(item, (int, float)) for item in value)


def _shortened(value: Sequence[float | None]) -> dict[str, Any]:
    defined = np.array([item for item in value if item is not None], np.float64)
    nulls = {"nulls": len(value) - defined.size} if defined.size < len(value) else {}
    return {"length": len(value), **nulls, **_rounded(_statistics(defined, 3))}
