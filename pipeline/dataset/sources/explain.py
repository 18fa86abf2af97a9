"""What the errors of file systems mean, in words of the command line."""

from __future__ import annotations

import errno
import ssl
import tarfile
import zipfile
import zlib
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.dataset.sources.addresses import (
    ARCHIVES,
    WEB,
    innermost,
    is_local,
    local_path,
    member,
    public_uri,
    scheme,
    split_chain,
)
from pipeline.errors import UserError

# The key of each place, and that of its storage options.
LOCATIONS = {
    "source.uri": "source.storage_options",
    "source.manifest": "source.storage_options",
    "output.uri": "output.storage_options",
    "cache.uri": "cache.storage_options",
}
S3_ENDPOINT = "endpoint: http://HOST:PORT"
NO_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error)
_AWAY = (
    "EndpointConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionTimeoutError",
    "ServerTimeoutError",
    "ServerDisconnectedError",
    "TimeoutError",
    "FSTimeoutError",
)


def explain(uri: str, error: BaseException) -> UserError:
    """A storage error as one line that says what is wrong with ``uri`` and what to look at.

    Args:
        uri: as the command line has it, ``output.uri=s3://…``, or a place alone.
        error: what the file system raised.
    """
    if isinstance(error, UserError):
        return error
    key = uri.partition("=")[0]
    where = uri.partition("=")[2] if key in LOCATIONS else uri
    shown = f"{key}={public_uri(where)}" if key in LOCATIONS else public_uri(where)
    options = LOCATIONS.get(key, "storage_options")
    if scheme(innermost(where)) in WEB:
        error = _cause(error)
    chained = _chained(shown, where, error)
    if chained:
        return chained
    in_archive, where = scheme(where) in ARCHIVES, innermost(where)
    for explanation in (_full, _of_web if scheme(where) in WEB else _of_store):
        found = explanation(shown, where, options, error)
        if found and in_archive and isinstance(error, FileNotFoundError) and is_local(where):
            return UserError(found.what, found.why, "the path of an archive that is there")
        if found:
            return found
    return UserError(f"{shown}: cannot be read", f"{type(error).__name__}: {one_line(error)}")


def _cause(error: BaseException) -> BaseException:
    """fsspec's web file system says "not found" whatever happened; what did happen is its cause."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, KeyError):
        return cause
    return error


def _chained(shown: str, where: str, error: BaseException) -> UserError | None:
    chain = split_chain(where)
    if not chain:
        return None
    kind, name, inner = chain
    # A file that ends too early, or in something else: gzip says OSError and nothing more.
    not_gzip = type(error).__name__ in ("BadGzipFile", "LZMAError") or "Invalid data stream" in str(error)
    if isinstance(error, NO_ARCHIVE) or not_gzip:
        other = {"zip": "tar", "tar": "zip"}.get(kind, "zip")
        return UserError(
            f"{shown}: {public_uri(inner)} is no {kind} archive, or not a whole one",
            one_line(error),
            f"'source.uri={member(other, name, public_uri(inner))}' if it is one of that kind",
        )
    return None


def _full(shown: str, where: str, options: str, error: BaseException) -> UserError | None:
    text = one_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return UserError(
            f"{shown}: no space left", "the disk is full", "free some, or output.uri=ANOTHER/PLACE"
        )
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return UserError(
            f"{shown}: cannot be written", "the file system is read-only", "output.uri=ANOTHER/PLACE"
        )
    if not is_local(where):
        return None
    if isinstance(error, NotADirectoryError):
        return UserError(f"{shown}: is not a folder", "a file has that name, or part of it", "another path")
    if isinstance(error, PermissionError):
        there = _nearest(where)
        return UserError(
            f"{shown}: access denied", text, f"ls -ld {there}, to see whose it is, or another path"
        )
    if isinstance(error, FileNotFoundError):
        return UserError(
            f"{shown}: does not exist", _nearest_there(where), "the path of a folder that is there"
        )
    return None


def _of_web(shown: str, where: str, options: str, error: BaseException) -> UserError | None:
    text, status = one_line(error), getattr(error, "status", None)
    place = urlsplit(public_uri(where))
    host = place.netloc
    inner = getattr(error, "os_error", None) or error
    if (
        isinstance(inner, ssl.SSLError)
        or "SSL" in type(error).__name__
        or "Certificate" in type(error).__name__
    ):
        plain = f"http://{host}{place.path}"
        if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
            return UserError(
                f"{shown}: {host} does not speak TLS", text, f"{plain}, without the s, if that is meant"
            )
        return UserError(
            f"{shown}: no secure connection to {host}",
            text,
            f"{plain}, or the name that its certificate is for",
        )
    if (
        isinstance(inner, (ConnectionError, TimeoutError))
        or "Connector" in type(error).__name__
        or _is_away(error)
    ):
        return UserError(
            f"{shown}: the server {host} does not answer",
            text,
            f"curl -I {place.scheme}://{host}/ to see when it does",
        )
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return UserError(
            f"{shown}: the server {host} has nothing there",
            f"it answers {status or 404} for {place.path or '/'}",
            "the URL of an audio file, or of a page that lists some, as a browser opens it",
        )
    if status in (401, 403):
        return UserError(
            f"{shown}: access denied",
            text,
            f"'{options}={{headers: {{Authorization: \"Bearer TOKEN\"}}}}'",
        )
    if status is not None:
        return UserError(f"{shown}: the server {host} answers {status}", text, "the same again later")
    return None


def _is_away(error: BaseException) -> bool:
    return isinstance(error, ConnectionError) or type(error).__name__ in _AWAY


def _of_store(shown: str, where: str, options: str, error: BaseException) -> UserError | None:
    text, kind = one_line(error), type(error).__name__
    place = urlsplit(public_uri(where))
    s3 = scheme(where) == "s3"
    if isinstance(error, NotADirectoryError):
        return UserError(f"{shown}: is not a folder", "a file has that name, or part of it", "another path")
    bad_key = "InvalidAccessKeyId" in text or "SignatureDoesNotMatch" in text
    if isinstance(error, PermissionError) or bad_key:
        do = f"'{options}={{key: K, secret: S}}' with a key that may list, read and write there"
        return UserError(
            f"{shown}: access denied", text, do if s3 else f"'{options}={{…}}' with what it asks for"
        )
    if kind in ("NoCredentialsError", "PartialCredentialsError"):
        return UserError(
            f"{shown}: no credentials",
            "none in storage_options, in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, nor in ~/.aws",
            f"export AWS_ACCESS_KEY_ID=K AWS_SECRET_ACCESS_KEY=S, or for a public bucket '{options}={{anon: true}}'",
        )
    if s3 and "Invalid endpoint" in text:
        return UserError(
            f"{shown}: no such endpoint", text, f"'{options}={{{S3_ENDPOINT}}}', with http:// or https://"
        )
    if s3 and ("Invalid bucket name" in text or "InvalidBucketName" in text):
        return UserError(
            f"{shown}: no bucket can be called {place.netloc}",
            "3 to 63 small letters, digits, dots and hyphens, a letter or digit first and last",
            "s3://BUCKET/PREFIX with a bucket as your storage lists it",
        )
    if _is_away(error) or "Connector" in kind:
        do = f"'{options}={{{S3_ENDPOINT}}}'" if s3 else "the same again when it does"
        return UserError(f"{shown}: the server does not answer", text, do)
    if isinstance(error, FileNotFoundError):
        more = f"; it may need an endpoint or a region, too: '{options}={{{S3_ENDPOINT}, region: R}}'"
        container = "bucket" if s3 else "place"
        return UserError(
            f"{shown}: does not exist",
            f"there is no {container} {place.netloc}, or nothing below it is called {place.path.strip('/') or '/'}",
            f"{place.scheme}://BUCKET/PREFIX as your storage lists it{more}"
            if s3
            else f"{place.scheme}://… with a path that is there",
        )
    return None


def _nearest(path: str) -> Path:
    """The deepest folder of ``path`` that is there, itself included."""
    found = Path(local_path(path))
    while not _there(found) and found != found.parent:
        found = found.parent
    return found


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # below a folder that may not be entered
        return False


def _nearest_there(path: str) -> str:
    """The deepest folder of ``path`` that is there: a misspelt part shows at once."""
    there = _nearest(path)
    rest = Path(local_path(path)).relative_to(there).parts
    return f"{there} has nothing called {rest[0]}" if rest else f"{there} was gone for a moment"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of ``error`` on one bounded line; its class name when it has none."""
    text = " ".join(str(error).split())
    return (text[: limit - 1] + "…") if len(text) > limit else (text or type(error).__name__)
