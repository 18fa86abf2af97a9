"""Input files: a folder, a glob, one file, a manifest, or any fsspec URL; listed lazily and in a fixed order."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pipeline.dataset.storage import absolute, explain, filesystem, is_local, join, local_path
from pipeline.errors import UserError

SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "wav wave w64 flac ogg oga opus mp2 mp3 aif aiff aifc au caf wv ape",
        "m4a m4b aac ac3 amr wma mp4 m4v mov mkv mka webm",
    )
    for suffix in line.split()
)


@dataclass(frozen=True)
class SourceItem:
    """One input.

    Args:
        uri: absolute path or URL.
        size_bytes: None where the listing does not say.
        problem: why it cannot be read, where that is known from the listing alone.
    """

    uri: str
    size_bytes: int | None = None
    problem: str | None = None


def list_source(
    uri: str | None,
    *,
    glob: str | None = None,
    manifest: str | None = None,
    storage_options: dict[str, Any] | None = None,
    limit: int | None = None,
) -> Iterator[SourceItem]:
    """Yield the inputs, folder by folder, sorted by path component.

    Args:
        uri: folder, file, glob or URL; also the base of relative uris in ``manifest``.
        glob: pattern relative to ``uri`` (``*``, ``?``, ``[...]``, ``**/``); without one, `SUFFIXES` decide.
        manifest: csv, jsonl or parquet with a ``uri`` column.
        limit: stop after so many.

    Raises:
        UserError: missing source, wrong credentials, no audio found, unusable manifest.
    """
    items = _from_manifest(manifest, uri, storage_options) if manifest else _walk(uri, glob, storage_options)
    count = 0
    for item in items:
        yield item
        count += 1
        if limit is not None and count >= limit:
            return
    if count == 0:
        where = manifest or uri
        wanted = f"matching {glob}" if glob else "with a known audio suffix"
        raise UserError(f"{where}: no file {wanted} found; check source.uri and source.glob")


def _walk(uri: str | None, glob: str | None, options: dict[str, Any] | None) -> Iterator[SourceItem]:
    if not uri:
        raise UserError("source.uri is not set")
    if glob is None and any(c in uri for c in "*?["):
        head = re.split(r"[*?\[]", uri, maxsplit=1)[0]
        base = head.rsplit("/", 1)[0] if "/" in head else "."
        glob = uri[len(base) :].lstrip("/") if base != "." else uri
        uri = base or "/"
    fs, root = filesystem(uri, options)
    try:
        if not is_local(uri):
            # A prefix that is empty and a bucket that refuses look the same to exists(): ask for a listing.
            found = fs.ls(root, detail=True)
            kind = "file" if len(found) == 1 and found[0]["name"] == root else "directory"
        else:
            kind = fs.info(root)["type"]
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(uri, error) from None
    if kind == "file":
        info = fs.info(root)
        yield SourceItem(absolute(uri), info.get("size"))
        return
    yield from _walk_folder(fs, root, root, _matcher(glob), uri, frozenset())


def _matcher(glob: str | None):
    if glob is None:
        return lambda relative: PurePosixPath(relative).suffix.lower() in SUFFIXES
    # fnmatch's "*" crosses "/"; a shell's does not.
    pattern = re.compile(_glob_to_regex(glob))
    return lambda relative: pattern.fullmatch(relative) is not None


def _glob_to_regex(glob: str) -> str:
    out, i = "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + r"(?:[^/]+/)*", i + 3
        elif glob.startswith("**", i):
            out, i = out + r".*", i + 2
        elif glob[i] == "*":
            out, i = out + r"[^/]*", i + 1
        elif glob[i] == "?":
            out, i = out + r"[^/]", i + 1
        elif glob[i] == "[" and "]" in glob[i + 1 :]:
            end = glob.index("]", i + 1) + 1
            out, i = out + fnmatch.translate(glob[i:end])[4:-3], end
        else:
            out, i = out + re.escape(glob[i]), i + 1
    return out


def _walk_folder(
    fs: fsspec.AbstractFileSystem, folder: str, root: str, matches, uri: str, seen: frozenset[str]
) -> Iterator[SourceItem]:
    real = str(Path(folder).resolve()) if is_local(uri) else folder
    if real in seen:  # a symlink loop
        return
    try:
        entries = sorted(fs.ls(folder, detail=True), key=lambda entry: entry["name"])
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(folder, error) from None
    for entry in entries:
        name = entry["name"].rstrip("/")
        if name == folder.rstrip("/"):  # S3 lists the "folder" object among its children
            continue
        relative = name[len(root.rstrip("/")) + 1 :]
        full = name if is_local(uri) else fs.unstrip_protocol(name)
        if entry["type"] == "directory":
            if matches(relative) and PurePosixPath(relative).suffix.lower() in SUFFIXES:
                yield SourceItem(_text(full), None, "is a directory with the name of an audio file")
            yield from _walk_folder(fs, name, root, matches, uri, seen | {real})
        elif matches(relative):
            if entry["type"] == "file":
                yield SourceItem(_text(full), entry.get("size"), _name_problem(full))
            else:
                yield SourceItem(_text(full), None, f"is neither a file nor a directory but {entry['type']}")


def _name_problem(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return None


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _from_manifest(manifest: str, base: str | None, options: dict[str, Any] | None) -> Iterator[SourceItem]:
    root = absolute(base) if base else absolute(manifest).rsplit("/", 1)[0]
    for uri in _manifest_uris(manifest, options):
        if is_local(uri):
            relative = not uri.startswith(("/", "~", "file://"))
            yield SourceItem(join(root, uri) if relative else local_path(uri))
        else:
            yield SourceItem(uri)


def _manifest_uris(manifest: str, options: dict[str, Any] | None) -> Iterator[str]:
    fs, path = filesystem(manifest, options)
    suffix = PurePosixPath(path).suffix.lower()
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".parquet": _parquet_rows}
    if suffix not in readers:
        raise UserError(f"{manifest}: a manifest is .csv, .jsonl or .parquet with a uri column")
    try:
        handle = fs.open(path, "rb")
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(manifest, error) from None
    with handle:
        for number, row in enumerate(readers[suffix](handle, manifest), 1):
            uri = row.get("uri")
            if not isinstance(uri, str) or not uri.strip():
                raise UserError(f"{manifest}: row {number} has no uri")
            yield uri.strip()


def _csv_rows(handle, manifest: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""))
    if "uri" not in (reader.fieldnames or []):
        raise UserError(f"{manifest}: no uri column, only {', '.join(reader.fieldnames or ['nothing'])}")
    yield from reader


def _jsonl_rows(handle, manifest: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(handle, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{manifest}: line {number} is not JSON ({error})") from None
            if not isinstance(row, dict):
                raise UserError(f"{manifest}: line {number} is not a JSON object with a uri")
            yield row


def _parquet_rows(handle, manifest: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(handle)
    except pa.ArrowInvalid as error:
        raise UserError(f"{manifest}: not a Parquet file ({error})") from None
    if "uri" not in file.schema_arrow.names:
        raise UserError(f"{manifest}: no uri column, only {', '.join(file.schema_arrow.names)}")
    for batch in file.iter_batches(columns=["uri"]):
        yield from batch.to_pylist()
