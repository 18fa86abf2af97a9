"""File systems by URL: one place that knows fsspec, its options and what its errors mean."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UserError

LOCATIONS = ("source.uri", "source.manifest", "output.uri", "cache.uri")
# s3fs waits for minutes by default when an endpoint does not answer.
S3_CLIENT = {"connect_timeout": 5, "read_timeout": 60, "retries": {"max_attempts": 4, "mode": "standard"}}


def filesystem(uri: str, options: dict[str, Any] | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of ``uri`` and the path in it.

    Args:
        uri: a local path or any fsspec URL.
        options: for remote file systems; besides what fsspec takes, ``endpoint`` and ``region`` are
            understood for S3. Ignored for local paths, so that one set of options can serve a remote
            source with a local output.

    Raises:
        UserError: unknown protocol, or a protocol whose package is not installed.
    """
    if is_local(uri):
        return LocalFileSystem(auto_mkdir=False), local_path(uri)
    protocol = uri.split("://", 1)[0]
    try:
        fs, path = fsspec.core.url_to_fs(uri, **_options(protocol, dict(options or {})))
    except ValueError as error:
        raise UserError(f"{uri}: {error}") from None
    except ImportError as error:
        raise UserError(f"{uri}: {one_line(error)}") from None
    return fs, path


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> str:
    """Absolute path of a local ``uri``; ``~`` is expanded."""
    return str(Path(os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))))  # noqa: PTH100, PTH111


def absolute(uri: str) -> str:
    """``uri`` made independent of the working directory, without a trailing slash."""
    return local_path(uri) if is_local(uri) else uri.rstrip("/")


def public_uri(uri: str) -> str:
    """``uri`` as it may be written down: without the user, password and signature that a URL may carry."""
    if is_local(uri):
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("http", "https"):
        return urlunsplit((parts.scheme, host, parts.path, "", ""))
    # In other schemes "?" and "#" belong to the name.
    return uri.replace(f"//{parts.netloc}", f"//{host}", 1)


def join(root: str, relative: str) -> str:
    """``relative`` below ``root``, for local paths and URLs alike."""
    return f"{root.rstrip('/')}/{relative.lstrip('/')}"


def _options(protocol: str, options: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in options.items() if value is not None}
    if protocol in ("s3", "s3a"):
        if "endpoint" in options:
            options["endpoint_url"] = options.pop("endpoint")
        if "region" in options:
            client = dict(options.get("client_kwargs") or {})
            options["client_kwargs"] = {**client, "region_name": options.pop("region")}
        options["config_kwargs"] = {**S3_CLIENT, **(options.get("config_kwargs") or {})}
        options.setdefault("use_listings_cache", False)
    return options


def explain(uri: str, error: BaseException) -> UserError:
    """A storage error as one line that says what is wrong with ``uri`` and what to look at."""
    text = one_line(error)
    kind = type(error).__name__
    where = uri.partition("=")[2] if uri.partition("=")[0] in LOCATIONS else uri
    remote = not is_local(where)
    bad_key = "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(
            f"{uri}: no space left", "the disk is full", "free some, or output.uri=ANOTHER/PLACE"
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return UserError(
            f"{uri}: cannot be written", "the file system is read-only", "output.uri=ANOTHER/PLACE"
        )
    if isinstance(error, NotADirectoryError):
        return UserError(f"{uri}: is not a folder", "a file has that name, or part of it", "another path")
    if isinstance(error, PermissionError) or bad_key:
        do = "'source.storage_options={key: K, secret: S}' with a key that may list, read and write there"
        if not remote:
            do = f"ls -ld {where}, to see whose it is, or another path"
        return UserError(f"{uri}: access denied", text, do)
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return UserError(
            f"{uri}: no credentials",
            "none in storage_options, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, nor in ~/.aws",
            "export AWS_ACCESS_KEY_ID=K AWS_SECRET_ACCESS_KEY=S, or for a public bucket "
            "'source.storage_options={anon: true}'",
        )
    if kind in ("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectionError"):
        return UserError(
            f"{uri}: the server does not answer",
            text,
            "'source.storage_options={endpoint: http://HOST:PORT}'",
        )
    if isinstance(error, FileNotFoundError) and remote:
        place = urlsplit(where)
        return UserError(
            f"{uri}: does not exist",
            f"there is no bucket {place.netloc}, or nothing below it is called {place.path.strip('/') or '/'}",
            f"{place.scheme}://BUCKET/PREFIX as your storage lists it; it may need an endpoint or a region, too: "
            "'source.storage_options={endpoint: http://HOST:PORT, region: R}'",
        )
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{uri}: does not exist", _nearest_there(where), "the path of a folder that is there"
        )
    return UserError(f"{uri}: cannot be read", f"{kind}: {text}")


def _nearest_there(path: str) -> str:
    """The deepest folder of ``path`` that is there: a misspelt part shows at once."""
    missing = Path(local_path(path))
    while not missing.parent.exists():
        missing = missing.parent
    return f"{missing.parent} has nothing called {missing.name}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of ``error`` on one bounded line; its class name when it has none."""
    text = " ".join(str(error).split())
    return (text[: limit - 1] + "…") if len(text) > limit else (text or type(error).__name__)
