"""File systems by URL: one place that knows fsspec and its options."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.tar import TarFileSystem
from fsspec.implementations.zip import ZipFileSystem

from pipeline.dataset.sources.addresses import (
    ARCHIVES,
    CACHES,
    absolute,
    is_local,
    join,
    local_path,
    public_uri,
    scheme,
    split_chain,
)
from pipeline.dataset.sources.explain import explain, one_line
from pipeline.errors import UserError

__all__ = ["absolute", "explain", "filesystem", "is_local", "join", "local_path", "one_line", "public_uri"]

# s3fs waits for minutes by default when an endpoint does not answer.
S3_CLIENT = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}
# What a compressed tar begins with, and fsspec's name for it.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_OPEN_ARCHIVES = 4
_open = threading.local()


def filesystem(
    uri: str, options: dict[str, Any] | None = None, fresh: bool = False
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of ``uri`` and the path in it.

    Archives stay open in the thread that asks, a few of them: the list of what is in one is read once.

    Args:
        uri: a local path, any fsspec URL, or a chain (`pipeline.dataset.sources.addresses`).
        options: for remote file systems; besides what fsspec takes, ``endpoint`` and ``region`` are
            understood for S3. Ignored for local paths, so that one set of options can serve a remote
            source with a local output. In a chain they are those of the innermost place; a dictionary under the
            name of a link (``simplecache: {cache_storage: …}``) is that link's.
        fresh: open an archive anew, whatever was open.

    Raises:
        UserError: unknown protocol, a chain that is not read, or a protocol whose package is not installed.
        Exception: what the file system raises that an archive lies in, and what is wrong with the archive.
    """
    if is_local(uri):
        return LocalFileSystem(auto_mkdir=False), local_path(uri)
    chain = split_chain(uri)
    if chain:
        return _chained(uri, *chain, options=options, fresh=fresh)
    protocol = scheme(uri)
    if protocol in ARCHIVES:
        raise UserError(
            f"{uri}: {protocol}:// does not say in which archive",
            "the archive comes behind two colons",
            f"{protocol}://FOLDER::/PATH/TO/ARCHIVE.{protocol}, or {protocol}://::/PATH/TO/ARCHIVE.{protocol} for all",
        )
    own = dict(options or {})
    for name in (*ARCHIVES, *CACHES):
        own.pop(name, None)
    try:
        kind = fsspec.get_filesystem_class(protocol)
        # Not through `url_to_fs`: it takes two colons in a key for a chain.
        given = {**kind._get_kwargs_from_urls(uri), **_options(protocol, own)}
        return fsspec.filesystem(protocol, **given), kind._strip_protocol(uri)
    except ValueError as error:
        if "not known" in str(error):
            raise UserError(f"{public_uri(uri)}: {error}", "", "s3://, gs://, https://, or a path") from None
        raise
    except ImportError as error:
        raise UserError(f"{public_uri(uri)}: {one_line(error)}") from None


def _chained(
    uri: str, kind: str, name: str, inner: str, *, options: dict[str, Any] | None, fresh: bool
) -> tuple[fsspec.AbstractFileSystem, str]:
    if kind not in (*ARCHIVES, *CACHES) or not inner or (kind in CACHES and name):
        raise UserError(
            f"{public_uri(uri)}: this chain is not read",
            f"links are {', '.join(f'{a}://MEMBERS::ARCHIVE' for a in ARCHIVES)} and "
            f"{', '.join(f'{c}::URL' for c in CACHES)}",
            "zip://::s3://BUCKET/NAME.zip, or simplecache::s3://BUCKET/PREFIX",
        )
    own = dict((options or {}).get(kind) or {})
    if kind in CACHES:
        fs, path = filesystem(inner, options, fresh)
        return fsspec.get_filesystem_class(kind)(fs=fs, **own), path
    opened = _open.__dict__.setdefault("archives", OrderedDict())
    key = (kind, inner, repr(options), _state(inner))
    if fresh or key not in opened:
        opened.pop(key, None)
        opened[key] = _archive(kind, inner, options, own, fresh)
        while len(opened) > _OPEN_ARCHIVES:
            opened.popitem(last=False)
    opened.move_to_end(key)
    return opened[key], name


def _state(inner: str) -> tuple[int, int, int] | None:
    """What changes when an archive of this machine is replaced."""
    if not is_local(inner):
        return None
    try:
        found = os.stat(local_path(inner))  # noqa: PTH116  once per file that is read
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _archive(
    kind: str, inner: str, options: dict[str, Any] | None, own: dict[str, Any], fresh: bool
) -> fsspec.AbstractFileSystem:
    fs, path = filesystem(inner, options, fresh)
    file = fs.open(path, "rb")
    try:
        head = file.read(6)
        file.seek(0)
        packed = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
        if not is_local(inner) and (packed or not _answers_ranges(fs, path)):
            file = _copied(file)
        if kind == "zip":
            return ZipFileSystem(fo=file, **own)
        try:
            return TarFileSystem(fo=file, **{"compression": packed, **own})
        except KeyError:
            raise UserError(
                f"{public_uri(inner)}: is packed with {packed}, which nothing here reads",
                "",
                "pip install zstandard",
            ) from None
    except BaseException:
        file.close()
        raise


def _answers_ranges(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a file can be read in pieces; of the file systems here only web servers may refuse."""
    return not isinstance(fs, HTTPFileSystem) or bool(fs.info(path).get("partial"))


def _copied(file: BinaryIO) -> BinaryIO:
    """A copy on this machine that goes with the process: what is packed, or served whole only, cannot be jumped in."""
    with file, tempfile.TemporaryFile(prefix="soundmill-") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        found = _Copy(io.FileIO(os.dup(copy.fileno())))
    found.seek(0)
    return found


class _Copy(io.BufferedReader):
    """A file whose name says nothing: fsspec would take from it how the file is packed."""

    original = ""


def lacks_an_end(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether ``fs`` is a tar without the empty block behind its last member: it may have been cut off there."""
    if not isinstance(fs, TarFileSystem):
        return False
    fs.fo.seek(fs.tar.offset)
    return not fs.fo.read(1)


def archive_state(uri: str, options: dict[str, Any] | None) -> dict[str, Any]:
    """What the file system says of the archive that ``uri`` lies in, as `fsspec.AbstractFileSystem.info`."""
    _, _, inner = split_chain(uri)
    fs, path = filesystem(inner, options)
    return fs.info(path)


def _options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in options.items() if value is not None}
    if protocol == "s3":
        if "endpoint" in options:
            options["endpoint_url"] = options.pop("endpoint")
        if "region" in options:
            client = dict(options.get("client_kwargs") or {})
            options["client_kwargs"] = {**client, "region_name": options.pop("region")}
        options["config_kwargs"] = {**S3_CLIENT, **(options.get("config_kwargs") or {})}
        options.setdefault("use_listings_cache", False)
    return options
