"""What a search index answered, as one of two errors: it is away and will be back, or it does not take this update."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

_AWAY = frozenset({408, 429})
# What may be due to one document: a conflict with another writer, or a shard that stumbles over it.
_ONLY_THIS = frozenset({409, 500})
_LONGEST = 500
_SHORTEST_SECRET = 4


class SearchAway(Exception):
    """An update that did not get through, and may later: nobody listens, a timeout, 429, 5xx, no living shard.

    Args:
        message: without secrets.
        only_this: the index is there, and other updates may get through.
    """

    def __init__(self, message: str, only_this: bool = False) -> None:
        super().__init__(message)
        self.only_this = only_this


class SearchRefused(Exception):
    """An update that the index will not take however often it is asked: a mapping conflict, 400, 401, 403, …"""


def judged(status: int, body: Any, secrets: Iterable[str] = ()) -> SearchAway | SearchRefused:
    """The error that an answer of the index is.

    Args:
        status: of HTTP, not of success.
        body: of the answer: ``{"error": {"type": …, "reason": …}}``, or anything a proxy says.
        secrets: what must not be in the message.
    """
    kind = _kind(body)
    message = without(secrets, f"{status} {kind}: {_reason(body)}" if kind else f"{status}: {_line(body)}")
    # An index that is read-only while it is moved, or whose disk is nearly full, says 403.
    if status in _AWAY or status in _ONLY_THIS or status > 500 or kind.endswith("block_exception"):
        return SearchAway(message, only_this=status in _ONLY_THIS)
    return SearchRefused(message)


def unheard(where: str, error: BaseException, words: Any, secrets: Iterable[str] = ()) -> SearchAway:
    """The error that no answer is, or one that no search index gives.

    Args:
        where: a URL without credentials.
        error: of the client.
        words: what it says of the cause.
        secrets: what must not be in the message.
    """
    return SearchAway(without(secrets, f"{where}: {type(error).__name__}: {words}"))


def require_json(document: dict[str, Any]) -> None:
    """See to it that a document can be sent at all.

    Raises:
        SearchRefused: it is no JSON.
    """
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SearchRefused(f"no JSON: {error}") from None


def _kind(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("type") or "") if isinstance(error, dict) else ""


def _reason(body: dict[str, Any]) -> str:
    error = body["error"]
    cause = error.get("caused_by")
    deeper = f" ({_line(cause.get('reason'))})" if isinstance(cause, dict) and cause.get("reason") else ""
    return _line(error.get("reason")) + deeper


def _line(text: Any) -> str:
    line = " ".join(str(text if text is not None else "").split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def without(secrets: Iterable[str], text: str) -> str:
    """``text`` on one line of bounded length, with ``***`` in the place of every secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _line(text)


def spellings(username: str | None, password: str | None, api_key: str | None) -> tuple[str, ...]:
    """Every way in which credentials may stand in a text: as they are, in a URL, in a header."""
    found = {text for text in (password, api_key) if text and len(text) >= _SHORTEST_SECRET}
    found |= {quote(text, safe="") for text in found}
    if password:
        found.add(base64.b64encode(f"{username or ''}:{password}".encode()).decode())
    return tuple(found)
