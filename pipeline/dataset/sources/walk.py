"""Walking through a source, folder by folder: on this machine, in a bucket, an archive, or behind a web server."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec

from pipeline.dataset.output import is_own_name
from pipeline.dataset.sources.addresses import (
    ARCHIVES,
    CACHES,
    WEB,
    file_name,
    scheme,
    split_chain,
    without_dots,
)
from pipeline.dataset.sources.file_glob import SUFFIXES, matcher, passed_over, sounds_like_audio, takes_hidden
from pipeline.dataset.sources.items import Listing, SourceItem, content_version, source_item
from pipeline.dataset.sources.local_folder import lies_above, local_entries, real_folder
from pipeline.dataset.storage import (
    absolute,
    archive_state,
    explain,
    filesystem,
    is_local,
    join,
    lacks_an_end,
    local_path,
    one_line,
    public_uri,
)
from pipeline.errors import UserError

MOST_LINKS = 4
"""Links to folders, one behind the other: folders that all link to each other would be walked in every order."""


@dataclass(frozen=True)
class _Walk:
    """What stays the same all through a walk.

    Args:
        root: where it begins, as the file system has it.
        base: the same as an address.
        matches: whether a file is wanted, by its path below the root.
        hidden: whether hidden folders are walked, and hidden files of systems taken.
        local: whether links are to be followed.
        exclude: an output: passed over, wherever a link leads to it; where the walk begins in it, what jobs write
            there is.
        entries: those of a folder, in fsspec's form.
        listing: is told what is passed over.
        archive: what changes with the archive that all this lies in; None where it lies in none.
    """

    root: str
    base: str
    matches: Callable[[str], bool]
    hidden: bool
    local: bool
    _: KW_ONLY
    exclude: str | None
    entries: Callable[[str], list[dict[str, Any]]]
    listing: Listing
    archive: str | None = None

    def is_own(self, place: str) -> bool:
        """Whether the file that really lies at ``place`` is one that a job wrote to the output."""
        if self.exclude is None or not place.startswith(f"{self.exclude}/"):
            return False
        return is_own_name(place[len(self.exclude) + 1 :])

    def below(self, name: str) -> str:
        """The path of ``name`` from the root on; a web address says it in percent signs."""
        root = self.root.rstrip("/")
        path = name[len(root) + 1 :] if root else name.lstrip("/")
        return unquote(path) if _lists_pages(self.base) else path

    def full(self, name: str) -> str:
        """The address of ``name``."""
        if self.local or _lists_pages(self.base):
            chain = split_chain(self.base)
            return f"{chain[0]}::{name}" if chain else name
        below = self.below(name)
        return join(self.base, below) if below else self.base


def walk_source(
    uri: str | None, glob: str | None, options: dict[str, Any] | None, exclude: str | None, listing: Listing
) -> Iterator[SourceItem]:
    """Yield the files of a source that is no manifest; see `pipeline.dataset.sources.listing.list_source`."""
    if not uri:
        raise UserError("source.uri is not set")
    try:
        if glob is None:
            uri, glob = _split_glob(uri, options)
        fs, root = filesystem(uri, options, fresh=True)
        base, entry = absolute(uri), _single(fs, root, uri)
        archive = _archive_version(uri, options)
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        raise explain(f"source.uri={uri}", error) from None
    if lacks_an_end(fs):
        listing.odd.append(f"{public_uri(uri)} ends without the mark of an end: it may have been cut off")
    if entry is not None:
        _refuse_archive(base)
        yield source_item(base, entry, archive=archive)
        return
    above: tuple[str, ...] = ()
    entries: Callable[[str], list[dict[str, Any]]] = partial(fs.ls, detail=True)
    if is_local(uri):
        exclude = os.path.realpath(exclude) if exclude else None
        entries, above = local_entries, (os.path.realpath(root),)
    elif _lists_pages(uri):
        root = root.partition("?")[0].partition("#")[0]
        entries = partial(_web_entries, fs)
    walk = _Walk(
        root,
        base,
        matcher(glob),
        takes_hidden(glob),
        is_local(uri),
        exclude=exclude,
        entries=entries,
        listing=listing,
        archive=archive,
    )
    yield from _walk_folder(root, walk, above, 0)


def _lists_pages(uri: str) -> bool:
    """Whether what lies at ``uri`` is found in the links of web pages."""
    chain = split_chain(uri)
    while chain and chain[0] in CACHES:
        uri = chain[2]
        chain = split_chain(uri)
    return not chain and scheme(uri) in WEB


def source_place(uri: str, glob: str | None, options: dict[str, Any] | None) -> Callable[[str], bool]:
    """Tells of the uri of a row whether a listing of this source would name that file, were it there.

    Of a single file, and of what cannot be listed, it names nothing.
    """
    if glob is None:
        uri, glob = _split_glob(uri, options)
    wanted, hidden, pages = matcher(glob), takes_hidden(glob), _lists_pages(uri)
    try:
        fs, root = filesystem(uri, options)
        if _single(fs, root, uri):
            return lambda name: False
    except Exception:  # noqa: BLE001  every fsspec backend raises its own classes
        return lambda name: False
    below = _below(public_uri(absolute(uri)))

    def names(name: str) -> bool:
        path = below(name)
        if not path:
            return False
        *folders, last = path.split("/")
        over = passed_over(last, False) or any(passed_over(folder, True) for folder in folders)
        return wanted(unquote(path) if pages else path) and (hidden or not over)

    return names


def _below(base: str) -> Callable[[str], str | None]:
    """Gives the path of a uri from ``base`` on; None where it lies elsewhere."""
    chain = split_chain(base)
    while chain and chain[0] in CACHES:  # links to caches are not in the uris of rows
        base, chain = chain[2], split_chain(chain[2])
    if chain is None:
        prefix = base.rstrip("/") + "/"
        return lambda name: name[len(prefix) :] if name.startswith(prefix) else None
    kind, folder, archive = chain
    inside = f"{folder.strip('/')}/" if folder.strip("/") else ""

    def member_below(name: str) -> str | None:
        found = split_chain(name)
        if found is None or (found[0], found[2]) != (kind, archive) or not found[1].startswith(inside):
            return None
        return found[1][len(inside) :]

    return member_below


def _split_glob(uri: str, options: dict[str, Any] | None) -> tuple[str, str | None]:
    """(folder, pattern) of a uri with wildcards; what exists as it is written has none."""
    chain = split_chain(uri)
    if chain and chain[0] in CACHES:
        inner, glob = _split_glob(chain[2], options)
        return (uri if glob is None else f"{chain[0]}::{inner}"), glob
    name = chain[1] if chain else uri
    wildcards = "*?[" if is_local(uri) or chain else "*["  # a question mark in a URL starts its query
    if not any(c in name for c in wildcards) or _is_there(uri, options):
        return uri, None
    base, _, _ = re.split(f"[{re.escape(wildcards)}]", name, maxsplit=1)[0].rpartition("/")
    if chain:
        return f"{chain[0]}://{base}::{chain[2]}", name[len(base) :].lstrip("/")
    if not base:
        return ("/", uri[1:]) if uri.startswith("/") else (".", uri)
    if base.endswith(":/"):
        raise UserError(
            f"source.uri={uri}: a pattern stands behind a place", "", f"{base}/BUCKET/{uri[len(base) + 1 :]}"
        )
    return base, uri[len(base) + 1 :]


def _is_there(uri: str, options: dict[str, Any] | None) -> bool:
    if is_local(uri):
        return Path(local_path(uri)).exists()
    if scheme(uri) in WEB:
        return PurePosixPath(urlsplit(uri).path).suffix.lower() in SUFFIXES and "*" not in uri
    fs, path = filesystem(uri, options, fresh=True)
    try:
        return bool(fs.info(path))
    except FileNotFoundError:
        return False


def _single(fs: fsspec.AbstractFileSystem, root: str, uri: str) -> dict[str, Any] | None:
    """The entry of ``root`` where it is a file, None where it is a folder."""
    if is_local(uri):
        entry = fs.info(root)
        return entry if entry["type"] == "file" else None
    if scheme(uri) in WEB:
        # A page that lists files and a file look alike until one is read.
        return (
            fs.info(root) if PurePosixPath(urlsplit(uri).path).suffix.lower() in SUFFIXES | _PACKED else None
        )
    if scheme(uri) in ARCHIVES:
        try:
            entry = fs.info(root)
        except FileNotFoundError:
            raise UserError(
                f"source.uri={public_uri(uri)}: does not exist",
                f"the archive has nothing called {root}",
                f"'source.uri={scheme(uri)}://::{public_uri(split_chain(uri)[2])}' for all that is in it",
            ) from None
        return entry if entry["type"] == "file" else None
    # A prefix that is empty and a bucket that refuses look the same to exists(): ask for a listing.
    found = fs.ls(root, detail=True)
    single = len(found) == 1 and found[0]["name"].strip("/") == root.strip("/") and found[0]["type"] == "file"
    return found[0] if single else None


_PACKED = frozenset({".zip", ".tar", ".tgz", ".tbz2", ".txz"})


def _archive_version(uri: str, options: dict[str, Any] | None) -> str | None:
    """What changes with the archive that ``uri`` is in, "" where nothing is known to; None where it is in none."""
    while (chain := split_chain(uri)) and chain[0] in CACHES:
        uri = chain[2]
    return content_version(archive_state(uri, options)) or "" if scheme(uri) in ARCHIVES else None


def _refuse_archive(uri: str) -> None:
    """An archive is no audio file; what is in it can be listed."""
    name = file_name(uri).lower()
    kind = "zip" if name.endswith(".zip") else "tar"
    if PurePosixPath(name).suffix in _PACKED or ".tar." in name:
        raise UserError(
            f"source.uri={public_uri(uri)}: is an archive",
            "its members are listed when it stands behind two colons",
            f"'source.uri={kind}://::{public_uri(uri)}'",
        )


def _web_entries(fs: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    """What a page links to that lies below it: no way up, no other order of the same page, nothing twice."""
    found: dict[str, dict[str, Any]] = {}
    place = folder.rstrip("/") + "/"
    for entry in fs.ls(folder, detail=True):
        name = html.unescape(entry["name"])
        below = name[len(place) :].rstrip("/") if name.startswith(place) else ""
        if below and not any(c in below for c in "?#/") and without_dots(below) == below:
            found[place + below] = {**entry, "name": place + below}
    return list(found.values())


def _walk_folder(folder: str, walk: _Walk, above: tuple[str, ...], links: int) -> Iterator[SourceItem]:
    """The files in and below ``folder``; ``above`` is where it and the folders around it really are, if local."""
    try:
        entries = sorted(walk.entries(folder), key=lambda entry: entry["name"])
    except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
        full = walk.full(folder)
        if folder == walk.root:
            raise explain(f"source.uri={full}", error) from None
        # One folder that cannot be read must not hide its neighbours.
        yield source_item(full, {}, f"is a folder that cannot be listed: {one_line(error)}")
        return
    for entry in entries:
        name = entry["name"].rstrip("/")
        if name == folder.rstrip("/"):  # S3 lists the "folder" object among its children
            continue
        relative, full = walk.below(name), walk.full(name)
        is_folder = entry["type"] == "directory"
        over = None if walk.hidden else passed_over(relative.rpartition("/")[2], is_folder)
        if over and (is_folder or walk.matches(relative)):
            walk.listing.passed_over[over] += 1
        elif is_folder:
            real = real_folder(entry, above[-1]) if walk.local else full
            if real == walk.exclude:
                continue
            if walk.matches(relative) and sounds_like_audio(relative):
                yield source_item(full, {}, "is a directory with the name of an audio file")
            yield from _walk_deeper(name, real, entry, walk, above, links=links)
        elif walk.matches(relative) and not walk.is_own(
            f"{above[-1].rstrip('/')}/{name.rpartition('/')[2]}" if walk.local else full
        ):
            odd = entry.get("problem") or "is neither a file nor a directory"
            problem = None if entry["type"] == "file" else odd
            if walk.archive is not None and "::" in relative:
                problem = "has two colons in its name, which is how an address in an archive goes on"
            yield source_item(full, entry, problem, walk.archive)


def _walk_deeper(
    name: str, real: str, entry: Mapping[str, Any], walk: _Walk, above: tuple[str, ...], *, links: int
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
    elif _may_hold_a_match(walk.below(name), walk):
        yield source_item(name, {}, problem)


def _may_hold_a_match(folder: str, walk: _Walk) -> bool:
    """Whether audio files right in ``folder`` would be taken."""
    return any(walk.matches(f"{folder}/any{suffix}") for suffix in SUFFIXES)
