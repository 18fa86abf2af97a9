"""Input files: a folder, a glob, one file, a manifest, or any fsspec URL; listed lazily and in a fixed order."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.local_folder import lies_above, local_entries, real_folder
from pipeline.dataset.storage import (
    absolute,
    explain,
    filesystem,
    is_local,
    join,
    local_path,
    one_line,
    public_uri,
)
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
        location: where to read it, when that differs from the uri that is written down: credentials and
            signatures in a URL are for reading only.
        version: what the listing says of the content: an ETag, or the time of the last change; None where it
            says nothing.
    """

    uri: str
    size_bytes: int | None = None
    problem: str | None = None
    location: str | None = None
    version: str | None = None


def list_source(
    uri: str | None,
    *,
    glob: str | None = None,
    manifest: str | None = None,
    storage_options: dict[str, Any] | None = None,
    limit: int | None = None,
    exclude: str | None = None,
) -> Iterator[SourceItem]:
    """Yield the inputs, folder by folder, sorted by path component.

    Args:
        uri: folder, file, glob or URL; also the base of relative uris in ``manifest``.
        glob: pattern relative to ``uri`` (``*``, ``?``, ``[...]``, ``**/``); without one, `SUFFIXES` decide.
        manifest: csv, jsonl or parquet with a ``uri`` column.
        limit: stop after so many.
        exclude: a folder that is passed over; the output may lie inside the source.

    Raises:
        UserError: missing source, wrong credentials, no audio found, unusable manifest.
    """
    if manifest:
        items = _from_manifest(manifest, uri, storage_options)
    else:
        items = _walk(uri, glob, storage_options, absolute(exclude) if exclude else None)
    count = 0
    for item in items:
        yield item
        count += 1
        if limit is not None and count >= limit:
            return
    if count == 0 and manifest:
        raise UserError(
            f"source.manifest={manifest} has no rows", do="a csv, jsonl or parquet with a uri per row"
        )
    if count == 0:
        wanted = f"matching {glob}" if glob else "with a known audio suffix"
        ours = "nothing there" if glob else "known are .wav, .flac, .mp3, .ogg, .m4a, .opus and some more"
        do = "'source.glob=**/*' takes every file, whatever its name; source.uri=… is another folder"
        raise UserError(f"source.uri={uri}: no file {wanted} found", ours, do)


MOST_LINKS = 4
"""Links to folders, one behind the other: folders that all link to each other would be walked in every order."""


@dataclass(frozen=True)
class _Walk:
    """What stays the same all through a walk.

    Args:
        root: where it begins.
        exclude: a folder that is passed over, wherever a link leads to it.
        entries: those of a folder, in fsspec's form.
        full: name of an entry → its uri.
    """

    root: str
    matches: Callable[[str], bool]
    local: bool
    exclude: str | None
    entries: Callable[[str], list[dict[str, Any]]]
    full: Callable[[str], str]


def _walk(
    uri: str | None, glob: str | None, options: dict[str, Any] | None, exclude: str | None
) -> Iterator[SourceItem]:
    if not uri:
        raise UserError("source.uri is not set")
    if glob is None:
        uri, glob = _split_glob(uri)
    fs, root = filesystem(uri, options)
    try:
        single = _is_file(fs, root, uri)
        entry = fs.info(root) if single else {}
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(f"source.uri={uri}", error) from None
    if single:
        yield _item(absolute(uri), entry)
        return
    if is_local(uri):
        exclude = os.path.realpath(exclude) if exclude else None
        walk = _Walk(root, _matcher(glob), True, exclude, local_entries, str)
        yield from _walk_folder(root, walk, (os.path.realpath(root),), 0)
        return
    walk = _Walk(
        root, _matcher(glob), False, exclude, lambda folder: fs.ls(folder, detail=True), fs.unstrip_protocol
    )
    yield from _walk_folder(root, walk, (), 0)


def _split_glob(uri: str) -> tuple[str, str | None]:
    """(folder, pattern) of a uri with wildcards; a path that exists as it is has none."""
    wildcards = "*?[" if is_local(uri) else "*["  # a question mark in a URL starts its query
    if not any(c in uri for c in wildcards) or (is_local(uri) and Path(local_path(uri)).exists()):
        return uri, None
    head = re.split(f"[{re.escape(wildcards)}]", uri, maxsplit=1)[0]
    base, _, _ = head.rpartition("/")
    if not base:
        return ("/", uri[1:]) if uri.startswith("/") else (".", uri)
    return base, uri[len(base) + 1 :]


def _is_file(fs: fsspec.AbstractFileSystem, root: str, uri: str) -> bool:
    if is_local(uri):
        return fs.info(root)["type"] == "file"
    if uri.startswith(("http://", "https://")):
        return PurePosixPath(urlsplit(uri).path).suffix.lower() in SUFFIXES
    # A prefix that is empty and a bucket that refuses look the same to exists(): ask for a listing.
    found = fs.ls(root, detail=True)
    return len(found) == 1 and found[0]["name"] == root and found[0]["type"] == "file"


def _matcher(glob: str | None) -> Callable[[str], bool]:
    if glob is None:
        return _sounds_like_audio
    # fnmatch's "*" crosses "/"; a shell's does not.
    pattern = re.compile(_glob_to_regex(glob))
    return lambda relative: pattern.fullmatch(relative) is not None


def _sounds_like_audio(path: str) -> bool:
    """Whether the suffix is that of an audio file: `PurePosixPath.suffix`, made for a hundred thousand names."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SUFFIXES


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


def _walk_folder(folder: str, walk: _Walk, above: tuple[str, ...], links: int) -> Iterator[SourceItem]:
    """The files in and below ``folder``; ``above`` is where it and the folders around it really are, if local."""
    try:
        entries = sorted(walk.entries(folder), key=lambda entry: entry["name"])
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        full = walk.full(folder)
        if folder == walk.root:
            raise explain(f"source.uri={full}", error) from None
        # One folder that cannot be read must not hide its neighbours.
        yield _item(full, {}, f"is a folder that cannot be listed: {one_line(error)}")
        return
    for entry in entries:
        name = entry["name"].rstrip("/")
        if name == folder.rstrip("/"):  # S3 lists the "folder" object among its children
            continue
        relative = name[len(walk.root.rstrip("/")) + 1 :]
        full = walk.full(name)
        if entry["type"] == "directory":
            real = real_folder(entry, above[-1]) if walk.local else full
            if real == walk.exclude:
                continue
            if walk.matches(relative) and _sounds_like_audio(relative):
                yield _item(full, {}, "is a directory with the name of an audio file")
            yield from _walk_deeper(name, real, entry, walk, above, links)
        elif walk.matches(relative):
            odd = entry.get("problem") or "is neither a file nor a directory"
            yield _item(full, entry, None if entry["type"] == "file" else odd)


def _walk_deeper(
    name: str, real: str, entry: Mapping[str, Any], walk: _Walk, above: tuple[str, ...], links: int
) -> Iterator[SourceItem]:
    if not walk.local:
        yield from _walk_folder(name, walk, above, links)
        return
    if real in above:  # what is there is listed under the name that led here
        return
    problem = None
    if lies_above(real, above):
        problem = "is a link to a folder above the one that it lies in, and is not followed"
    elif entry.get("link") and links == MOST_LINKS:
        problem = f"is a link to a folder behind {MOST_LINKS} others, and is not followed"
    if problem is None:
        yield from _walk_folder(name, walk, (*above, real), links + bool(entry.get("link")))
    elif _may_hold_a_match(name[len(walk.root.rstrip("/")) + 1 :], walk):
        yield _item(name, {}, problem)


def _may_hold_a_match(folder: str, walk: _Walk) -> bool:
    """Whether audio files right in ``folder`` would be taken."""
    return any(walk.matches(f"{folder}/any{suffix}") for suffix in SUFFIXES)


def _item(full: str, entry: Mapping[str, Any], problem: str | None = None) -> SourceItem:
    odd = _name_problem(full)
    text, location = (public_uri(full), full) if odd is None else (_text(public_uri(full)), _text(full))
    return SourceItem(
        text,
        entry.get("size"),
        problem or odd,
        None if location == text else location,
        content_version(entry),
    )


# What the file systems of fsspec call it: S3, GCS and Azure, HTTP, local and SFTP, HDFS. The best first.
_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified")


def content_version(entry: Mapping[str, Any]) -> str | None:
    """What a listing's ``entry`` says that changes with the content; None where it says nothing."""
    for name in _VERSION_FIELDS:
        value = entry.get(name)
        if value is None:
            continue
        if isinstance(value, (str, int, float)) and value:
            return repr(value) if isinstance(value, float) else str(value).strip('"')
        if hasattr(value, "isoformat"):
            return value.isoformat()
    return None


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
            uri = join(root, uri) if relative else local_path(uri)
        yield _item(uri, _local_entry(uri) if is_local(uri) else {})


def _local_entry(path: str) -> dict[str, Any]:
    """Size and time of a file that a manifest names; what is wrong with it shows when it is read."""
    try:
        status = os.stat(path)  # noqa: PTH116  a Path per row of a manifest is what costs here
    except (OSError, ValueError):
        return {}
    return {"size": status.st_size, "mtime": status.st_mtime}


def _manifest_uris(manifest: str, options: dict[str, Any] | None) -> Iterator[str]:
    fs, path = filesystem(manifest, options)
    suffix = PurePosixPath(path).suffix.lower()
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".parquet": _parquet_rows}
    if suffix not in readers:
        raise UserError(f"{manifest}: a manifest is .csv, .jsonl or .parquet with a uri column")
    try:
        handle = fs.open(path, "rb")
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(f"source.manifest={manifest}", error) from None
    seen: set[str] = set()
    try:
        with handle:
            for number, row in enumerate(readers[suffix](handle, manifest), 1):
                uri = row.get("uri")
                if not isinstance(uri, str) or not uri.strip():
                    raise UserError(f"{manifest}: row {number} has no uri")
                if uri.strip() not in seen:  # a file named twice is still one file
                    seen.add(uri.strip())
                    yield uri.strip()
    except (UnicodeError, csv.Error, OSError, pa.ArrowException) as error:
        raise UserError(f"{manifest}: cannot be read as {suffix[1:]} ({one_line(error)})") from None


def _no_uri_column(manifest: str, columns: Sequence[str]) -> UserError:
    return UserError(
        f"source.manifest={manifest} has no uri column",
        f"it has {', '.join(columns) or 'none at all'}",
        "the header `uri` over the column of paths or URLs",
    )


def _csv_rows(handle, manifest: str) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.TextIOWrapper(handle, encoding="utf-8-sig", newline=""))
    if "uri" not in (reader.fieldnames or []):
        raise _no_uri_column(manifest, reader.fieldnames or [])
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
    try:
        file = pq.ParquetFile(handle)
    except pa.ArrowInvalid as error:
        raise UserError(f"{manifest}: not a Parquet file ({error})") from None
    if "uri" not in file.schema_arrow.names:
        raise _no_uri_column(manifest, file.schema_arrow.names)
    for batch in file.iter_batches(columns=["uri"]):
        yield from batch.to_pylist()
