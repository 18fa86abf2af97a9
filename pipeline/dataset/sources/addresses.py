"""Addresses as text: local paths, URLs and chains of URLs; one spelling for each, and none with a password in it.

A chain is ``zip://MEMBER::INNER`` or ``tar://MEMBER::INNER``, a member of the archive at INNER, or ``simplecache::URL``
and ``filecache::URL``, the same file read through a copy on this machine; INNER may be a chain again.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

ARCHIVES = ("zip", "tar")
CACHES = ("simplecache", "filecache")
# What fsspec can put in front of "::" besides; here they are refused.
OTHER_LINKS = ("blockcache", "cached", "dir", "libarchive", "reference", "generic", "asyncwrapper")
WEB = ("http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_LINK = re.compile(rf"(?i:({'|'.join((*ARCHIVES, *CACHES, *OTHER_LINKS))}))(?:://(.*?))?::(.*)", re.DOTALL)
# Two names for one file system.
_SAME = {"s3a": "s3", "gcs": "gs", "local": "file"}
# In their URLs the part before "@" is a repository, or a container: no user.
_NO_USER = frozenset({"github", "git", "gitlab", "abfs", "abfss", "wasb", "wasbs", "az", "adl"})
# Parameters of a URL that say which file it is. Whatever else stands there may be a signature.
_WHICH_FILE = frozenset({"id", "file", "filename", "name", "path", "track", "track_id", "versionId"})
_UNRESERVED = "-._~!$&'()*+,;=:@/%"


def scheme(uri: str) -> str:
    """``s3``, ``https``, ``zip``, ``simplecache``, …; ``file`` for a local path."""
    if "://" not in uri and "::" not in uri:  # a hundred thousand paths of a manifest
        return "file"
    chain = split_chain(uri)
    if chain:
        return chain[0]
    found = _SCHEME.match(uri)
    name = found[1].lower() if found else "file"
    return _SAME.get(name, name)


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path on this machine."""
    return scheme(uri) == "file"


def split_chain(uri: str) -> tuple[str, str, str] | None:
    """``zip://a/b.wav::s3://x/y.zip`` as ``("zip", "a/b.wav", "s3://x/y.zip")``; None where nothing is chained."""
    found = _LINK.fullmatch(uri) if "::" in uri else None
    return (found[1].lower(), (found[2] or "").lstrip("/"), found[3]) if found else None


def member(archive: str, name: str, inner: str) -> str:
    """The address of a member of the archive at ``inner``."""
    return f"{archive}://{name}::{inner}"


def innermost(uri: str) -> str:
    """Where a chain ends: the place that the bytes come from."""
    while chain := split_chain(uri):
        uri = chain[2]
    return uri


def local_path(uri: str) -> str:
    """Absolute path of a local ``uri``, without ``.``, ``..`` and doubled slashes.

    ``~`` and ``~user`` before a slash are expanded where there is no folder of that name. After a link to a folder,
    ``..`` is the folder around what it leads to, as the system has it. Of a ``file://`` URL the percent signs are
    decoded where that names a file and the text as it stands does not.
    """
    found = _SCHEME.match(uri)
    if found is None:
        return _tidy(_home(uri))
    path = uri[found.end() :]
    if path.startswith("localhost/"):
        path = path.removeprefix("localhost")
    decoded = unquote(path)
    if decoded != path and not os.path.lexists(_home(path)) and os.path.lexists(_home(decoded)):
        path = decoded
    return _tidy(_home(path))


def _home(path: str) -> str:
    if path.startswith("~") and not os.path.lexists(path.split("/", 1)[0]):
        return os.path.expanduser(path)  # noqa: PTH111  Path would lose a doubled slash that a link depends on
    return path


def _tidy(path: str) -> str:
    path = path if path.startswith("/") else f"{os.getcwd()}/{path}"  # noqa: PTH109
    if "/.." not in path:
        return "/" + posixpath.normpath(path).lstrip("/")
    done = ""
    for part in path.split("/"):
        if part == "..":
            here = os.path.realpath(done) if os.path.islink(done) else done  # noqa: PTH114
            done = here.rpartition("/")[0]
        elif part not in ("", "."):
            done = f"{done}/{part}"
    return done or "/"


def absolute(uri: str) -> str:
    """``uri`` in its one spelling, independent of the working directory and without a trailing slash.

    Schemes are in small letters, and so are the hosts of web addresses, whose percent signs stand only where they are
    needed. Keys of object stores stay to the letter: ``a//b`` and ``a/./b`` are other objects there than ``a/b``.
    """
    chain = split_chain(uri)
    if chain:
        kind, name, inner = chain
        link = f"{kind}://{name.rstrip('/')}" if kind in ARCHIVES or name else kind
        return f"{link}::{absolute(inner)}"
    kind = scheme(uri)
    if kind == "file":
        return local_path(uri)
    rest = uri[_SCHEME.match(uri).end() :]
    if kind in WEB:
        return _web(f"{kind}://{rest}")
    return f"{kind}://{rest.rstrip('/')}"


def _web(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    host = host.lower().removesuffix({"http": ":80", "https": ":443"}[parts.scheme])
    path = without_dots(_percent(parts.path)).rstrip("/")
    return urlunsplit((parts.scheme, f"{user}{at}{host}", path, parts.query, ""))


def _percent(text: str) -> str:
    """Percent signs where they are needed, with capital digits (RFC 3986, 6.2.2)."""

    def settle(found: re.Match) -> str:
        char = chr(int(found[1], 16))
        return char if char.isascii() and (char.isalnum() or char in "-._~") else found[0].upper()

    return quote(re.sub(r"%([0-9A-Fa-f]{2})", settle, text), safe=_UNRESERVED)


def without_dots(path: str) -> str:
    """``path`` without ``.`` and ``..``; other than in a local path, doubled slashes stay."""
    if "./" not in path and not path.endswith((".", "/.")):
        return path
    done: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if len(done) > 1 or (done and done[0]):
                done.pop()
        elif part != ".":
            done.append(part)
    return "/".join(done)


def public_uri(uri: str) -> str:
    """``uri`` as it may be written down: without the user, password and signature that a URL may carry.

    A file that is read through a copy (``simplecache::``) is written down as itself. Of the query of a web address
    only what says which file it is stays.
    """
    chain = split_chain(uri)
    if chain:
        kind, name, inner = chain
        if kind in ARCHIVES:
            return member(kind, name, public_uri(inner))
        return (
            public_uri(inner) if kind in CACHES and not name else f"{uri[: -len(inner)]}{public_uri(inner)}"
        )
    if is_local(uri):
        return uri
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in WEB:
        kept = [(k, v) for k, v in parse_qsl(parts.query) if k in _WHICH_FILE]
        return urlunsplit((parts.scheme, host, parts.path, urlencode(kept), ""))
    if parts.scheme in _NO_USER:
        return uri
    # In other schemes "?" and "#" belong to the name.
    return uri.replace(f"//{parts.netloc}", f"//{host}", 1)


def carries_credentials(uri: str) -> bool:
    """Whether a user or a password stands in ``uri``."""
    chain = split_chain(uri)
    if chain:
        return carries_credentials(chain[2])
    kind = scheme(uri)
    return kind != "file" and kind not in _NO_USER and "@" in uri.partition("://")[2].split("/", 1)[0]


def is_relative(uri: str) -> bool:
    """Whether what ``uri`` names depends on the working directory."""
    uri = innermost(uri)
    # A file may be called ~x.wav; somebody's folder has a slash behind it.
    home = uri == "~" or (uri.startswith("~") and "/" in uri)
    return is_local(uri) and not (_SCHEME.match(uri) or uri.startswith("/") or home)


def parent(uri: str) -> str:
    """The folder that ``uri`` is in: in an archive, or behind a cache, where it is one there."""
    chain = split_chain(uri)
    if chain and chain[0] in ARCHIVES:
        return member(chain[0], chain[1].rpartition("/")[0], chain[2])
    if chain:
        return f"{chain[0]}::{parent(chain[2])}"
    full = absolute(uri)
    return (full.partition("?")[0] if scheme(uri) in WEB else full).rpartition("/")[0] or "/"


def file_name(uri: str) -> str:
    """The last part of the path in ``uri``."""
    chain = split_chain(uri)
    if chain:
        return chain[1].rpartition("/")[2] if chain[0] in ARCHIVES else file_name(chain[2])
    return (urlsplit(uri).path if scheme(uri) in WEB else uri.rstrip("/")).rpartition("/")[2]


def join(root: str, relative: str) -> str:
    """``relative`` below ``root``, for local paths, URLs and chains alike."""
    chain = split_chain(root)
    if chain and chain[0] in ARCHIVES:
        return member(chain[0], f"{chain[1]}/{relative}".lstrip("/"), chain[2])
    if chain and chain[0] in CACHES:
        return root[: -len(chain[2])] + join(chain[2], relative)
    if root.endswith("://"):
        return root + relative.lstrip("/")
    return f"{root.rstrip('/')}/{relative.lstrip('/')}"
