"""Who may talk to the service: who has the token, or, without one, who sits at this machine and means this service."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.service.listening.mistakes import Mistake

LEAST_TOKEN = 16
"""Characters."""
OPEN = ("/", "/healthz")
"""What is said to anybody: a page without any content, and that the service lives."""
_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether nobody from elsewhere reaches what listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """An ASGI application around another one, which only those reach who may.

    Without a token a page of another site is kept out, which the browser of whoever sits here has open: by the ``Host``
    that it has to send (its own name may lead here), and by its ``Origin``.

    Args:
        app: what is guarded.
        token: that is asked for; None for none.
        names: under which hosts the service may be asked for besides those of this machine.
    """

    def __init__(self, app: Any, token: str | None, names: Collection[str]) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._names = _NAMES | {name.lower().strip("[]") for name in names}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI."""
        if scope["type"] not in ("http", "websocket"):
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._unknown(scope, headers) if self._token is not None else self._foreign(headers)
        await (problem or self._app)(scope, receive, send)

    def _unknown(self, scope: Any, headers: dict[str, str]) -> Mistake | None:
        if scope["type"] == "http" and scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            query = parse_qs(scope["query_string"].decode("latin-1"))
            given = query.get("token", [""])[0]
        if hmac.compare_digest(given.strip().encode(), self._token):
            return None
        what = "the token is not right" if given else "a token is needed"
        how = "Authorization: Bearer TOKEN, or ?token=TOKEN"
        return Mistake(401, what, "the service was started with one", how)

    def _foreign(self, headers: dict[str, str]) -> Mistake | None:
        host = headers.get("host", "")
        if _name(f"//{host}") not in self._names:
            what, why = (
                "the service is not asked for by that name",
                "a page of another site may have led here",
            )
            return Mistake(403, what, why, "http://localhost:PORT, or listening.names=[NAME]")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            what, why = "a page of another site asks", "only the service's own page may"
            return Mistake(403, what, why, "GET / for that page")
        return None


def _name(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
