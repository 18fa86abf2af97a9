"""The search index: what it is told of a song, and how it is reached."""

from __future__ import annotations

import importlib
import logging
import math
from datetime import datetime, timezone
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.optional import extra
from pipeline.service.search_address import taken_apart
from pipeline.service.search_answers import SearchAway, SearchRefused

__all__ = [
    "NoIndex",
    "SearchAway",
    "SearchIndex",
    "SearchRefused",
    "TakesUpdates",
    "connect",
    "failure_document",
    "success_document",
]

KINDS = ("elasticsearch", "opensearch", "off")
_LONGEST_MESSAGE = 1000
# Kind → the module with its client, the class in it, what pip is told, the loggers of the client.
_CLIENTS = {
    "elasticsearch": (
        "pipeline.service.elasticsearch_index",
        "ElasticsearchIndex",
        "service",
        "elastic_transport",
    ),
    "opensearch": (
        "pipeline.service.opensearch_index",
        "OpenSearchIndex",
        "opensearch",
        ("opensearch", "opensearchpy"),
    ),
}


class TakesUpdates(Protocol):
    """Whatever takes partial updates."""

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        """Merge ``document`` over what the index has under ``video_id``, object by object; it is made if need be.

        Raises:
            SearchAway: it did not get through, and may later.
            SearchRefused: it will not be taken, however often it is tried.
        """
        ...


class SearchIndex(TakesUpdates, Protocol):
    """An index, as `connect` makes one."""

    def ping(self) -> bool:
        """Whether the index answers and lets us in; an answer that these credentials may not ask counts."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class NoIndex:
    """No index at all: it takes everything and keeps nothing."""

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        """Nothing."""

    def ping(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Nothing."""


def success_document(
    path: str, quality_score: float | None, processing_time: float, method: str, at: datetime
) -> dict[str, Any]:
    """What the index is told of a song that is done. An earlier error is taken back.

    Args:
        path: of the result.
        quality_score: 0 to 1, None where there is none.
        processing_time: seconds.
        method: what made it.
        at: when, with a time zone.
    """
    audio = {
        "quality_score": _number(quality_score),
        "processing_time": _number(processing_time),
        "method": method,
        "error": None,
    }
    return {
        "file_paths": {"vocals_removed": path},
        "updated_at": _utc(at),
        "processing_metadata": {"audio": audio},
    }


def failure_document(code: str, message: str, at: datetime) -> dict[str, Any]:
    """What the index is told of a song that failed. A result from before stays.

    Args:
        code: of the error.
        message: in words; of a long one the beginning is kept.
        at: when, with a time zone.
    """
    # A name of a file that is no UTF-8 may be quoted in it.
    words = message.encode("utf-8", "replace").decode()[:_LONGEST_MESSAGE]
    error = {"code": code, "message": words, "timestamp": _utc(at)}
    return {"updated_at": error["timestamp"], "processing_metadata": {"audio": {"error": error}}}


def _utc(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("a time without a time zone")
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def connect(
    kind: str,
    url: str,
    *,
    index: str = "songs",
    timeout_s: float = 5.0,
    retry_on_conflict: int = 3,
    api_key: str | None = None,
    username: str | None = None,
    password: str | None = None,
    ca_certs: str | None = None,
) -> SearchIndex:
    """A client of the index. Nothing is sent yet; the client itself tries nothing again.

    Args:
        kind: ``elasticsearch``, ``opensearch`` or ``off``.
        url: of the server, see `pipeline.service.search_address.taken_apart`; of several nodes with commas between.
        index: name or alias.
        timeout_s: seconds for one answer.
        retry_on_conflict: how often the server tries again when another writer was faster.
        api_key, username, password: who is asking.
        ca_certs: file of the certificates to trust in place of the system's.

    Raises:
        UserError: an unknown kind, no address, or a package that is not installed.
    """
    if kind == "off":
        return NoIndex()
    if kind not in _CLIENTS:
        raise UserError(f"service.search={kind}: no such index", "", f"one of {', '.join(KINDS)}")
    addresses, access = taken_apart(
        url, api_key=api_key, username=username, password=password, ca_certs=ca_certs
    )
    module, name, needed, loggers = _CLIENTS[kind]
    try:
        client = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UserError(
            f"service.search={kind}: its client is not installed",
            str(error),
            extra(needed),
        ) from None
    # A line with a traceback for every try that fails: what matters of it is said once, by whoever tries.
    for logger in map(logging.getLogger, loggers):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
    return client(addresses, access, index=index, timeout_s=timeout_s, retry_on_conflict=retry_on_conflict)
