"""What can be told of places and their storage options before anybody is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pipeline.dataset.sources.addresses import (
    WEB,
    carries_credentials,
    innermost,
    is_relative,
    public_uri,
    scheme,
    split_chain,
)
from pipeline.errors import UserError

# What other clients call it → what it is here. fsspec takes any name, and leaves what it does not know unused.
S3_OPTIONS = {
    **dict.fromkeys(("access_key", "access_key_id", "aws_access_key_id", "accessKey", "username_key"), "key"),
    **dict.fromkeys(("secret_key", "secret_access_key", "aws_secret_access_key", "secretKey"), "secret"),
    **dict.fromkeys(("session_token", "aws_session_token"), "token"),
    **dict.fromkeys(("endpoint_override", "host", "url"), "endpoint"),
    **dict.fromkeys(("region_name", "aws_region"), "region"),
}
# Names that S3 clients send at all; what a server takes of them is its own.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,253}[A-Za-z0-9]|arn:.*")


def check_place(key: str, uri: str, options: str) -> None:
    """Refuse a place that cannot be, or one that tells a secret. Raises `UserError`.

    Args:
        key: of the place, such as ``source.uri``.
        uri: the place.
        options: the key of its storage options.
    """
    if carries_credentials(uri):
        web = scheme(innermost(uri)) in WEB
        given = "{headers: {Authorization: Basic TOKEN}}" if web else "{key: K, secret: S}"
        raise UserError(
            f"{key} carries credentials",
            "they would be written down with it",
            f"{key}={public_uri(uri)} and '{options}={given}'",
        )
    place = innermost(uri)
    if scheme(place) == "memory":
        raise UserError(
            f"{key}=memory:// cannot be",
            "it is seen by one process only",
            f"{key}=FOLDER or {key}=s3://BUCKET/PREFIX",
        )
    bucket = urlsplit(place).netloc
    if scheme(place) == "s3" and not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"{key}={public_uri(uri)}: no bucket can be called {bucket or 'nothing'}",
            "3 to 63 small letters, digits, dots and hyphens, a letter or digit first and last",
            f"{key}=s3://BUCKET/PREFIX with a bucket as your storage lists it",
        )


def check_writable(key: str, uri: str) -> None:
    """Refuse a place that is for reading only. Raises `UserError`."""
    if split_chain(uri) or scheme(uri) in WEB:
        raise UserError(
            f"{key}={public_uri(uri)}: nothing can be written there",
            "archives, caches and web servers are for reading",
            f"{key}=FOLDER or {key}=s3://BUCKET/PREFIX",
        )


def check_path_on_a_cluster(key: str, uri: str) -> None:
    """Refuse a relative path: a submitted job runs in a copy of the working directory. Raises `UserError`."""
    if is_relative(uri):
        raise UserError(
            f"{key}={uri} is relative",
            "on a cluster the job runs in a copy of this folder, which is thrown away",
            f"{key}=/an/absolute/path on a disk that all nodes share, or a URL such as s3://BUCKET/PREFIX",
        )


def check_options(key: str, options: Mapping[str, Any], uris: tuple[str | None, ...]) -> None:
    """Refuse storage options that would not be used at any of the places. Raises `UserError`."""
    if not any(uri and scheme(innermost(uri)) == "s3" for uri in uris):
        return
    wrong = {name: S3_OPTIONS[name] for name in options if name in S3_OPTIONS}
    if wrong:
        names = {
            "key": "K",
            "secret": "S",
            "token": "T",
            "endpoint": "http://HOST:PORT",
            "region": "R",
            "anon": "true",
        }
        kept = [wrong.get(name, name) for name in options]
        do = ", ".join(f"{name}: {names.get(name, 'VALUE')}" for name in dict.fromkeys(kept))
        raise UserError(
            f"{key}: {', '.join(wrong)} would not be used",
            "S3's options are key, secret, token, endpoint, region and anon",
            f"'{key}={{{do}}}'",
        )
    for name in ("endpoint", "endpoint_url"):
        value = options.get(name)
        if value and not re.match(r"https?://", str(value)):
            raise UserError(
                f"{key}.{name}={value} does not say http or https",
                "a port alone does not tell",
                f"{key}.{name}=http://{value}, or https://{value} where it speaks TLS",
            )
