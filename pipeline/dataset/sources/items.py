"""The files that a source has, as a listing knows them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.counting import plural
from pipeline.dataset.sources.file_list import ListedFiles
from pipeline.dataset.storage import public_uri


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
        audio_stream: which of the file's audio streams this is, from 0; None of a whole file.
    """

    uri: str
    size_bytes: int | None = None
    problem: str | None = None
    location: str | None = None
    version: str | None = None
    audio_stream: int | None = None


@dataclass
class Listing:
    """What a listing finds besides files; complete once all of them have been yielded.

    Args:
        passed_over: what was not listed, and how often.
        odd: what is strange about the source, a sentence each.
        manifest: what a manifest holds, None without one.
        rows: uri → the row of the manifest that names it.
        named: the uri of a row → the name that the listing had for it, where that is another one.
        again: rows that name a file which a row before them names.
        gone: files of this machine that a manifest names and that are not there.
    """

    passed_over: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    manifest: ListedFiles | None = None
    rows: dict[str, int] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    again: int = 0
    gone: int = 0

    def notes(self) -> list[str]:
        """What a user should know of it, a sentence each."""
        found = [*self.odd]
        found += [f"{plural(count, what)} passed over" for what, count in sorted(self.passed_over.items())]
        if self.manifest is not None:
            parts = [f"the manifest has {plural(len(self.manifest.uris), 'row')}"]
            parts += [f"{_names(self.again)} a file that a row before names, which counts"] * bool(self.again)
            parts += [f"{_names(self.gone)} a file that is not there"] * bool(self.gone)
            found += ["; ".join(parts), *self.manifest.notes]
        return found


def _names(rows: int) -> str:
    return f"{plural(rows, 'row')} name{'s' if rows == 1 else ''}"


def source_item(
    full: str, entry: Mapping[str, Any], problem: str | None = None, archive: str | None = None
) -> SourceItem:
    """The file at ``full``.

    Args:
        full: its address, credentials included.
        entry: what the file system's listing says of it.
        problem: why it cannot be read, where that is known.
        archive: what changes with the archive that it is a member of; None of any other file.
    """
    odd = _name_problem(full)
    text, location = (public_uri(full), full) if odd is None else (_text(public_uri(full)), _text(full))
    return SourceItem(
        text,
        entry.get("size"),
        problem or odd,
        None if location == text else location,
        content_version(entry) if archive is None else member_version(entry, archive),
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


def member_version(entry: Mapping[str, Any], archive: str) -> str | None:
    """Of a member of an archive: the check sum that a zip has, or else its time and what the archive is."""
    checksum = entry.get("CRC")
    if isinstance(checksum, int):
        return f"crc32:{checksum:08x}"
    return f"{content_version(entry) or 0} in {archive}" if archive else None


def _name_problem(name: str) -> str | None:
    try:
        name.encode()
    except UnicodeEncodeError:
        return "has a name that is not UTF-8"
    return None


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def real_name(path: str, folders: dict[str, str]) -> str:
    """``path`` with the links to folders in it followed; a link to a file is a name of its own, as in a listing.

    Args:
        folders: of those seen, where they really are; it is added to.
    """
    folder, _, name = path.rpartition("/")
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return f"{folders[folder].rstrip('/')}/{name}"
