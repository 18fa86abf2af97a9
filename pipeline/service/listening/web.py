"""The client that songs are fetched from the web by: no server leads it elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


class LedAway(Exception):
    """A server names another place, which is not an allowed one."""


def client(check: Callable[[str], object]) -> Callable[..., Awaitable[Any]]:
    """What makes the sessions of ``fsspec``'s web, as its ``get_client``.

    Args:
        check: is handed the URL of each redirection before anybody asks there; what it raises ends the request. Not
            to follow at all would do no good: the answer that redirects is taken for an empty file.
    """

    async def redirected(session: Any, context: Any, told: Any) -> None:
        from yarl import URL

        place = told.response.headers.get("Location") or told.response.headers.get("URI") or ""
        try:
            check(str(told.url.join(URL(place))))
        except BaseException:
            told.response.close()
            raise

    async def get_client(**options: Any) -> Any:
        from aiohttp import ClientSession, TraceConfig

        trace = TraceConfig()
        trace.on_request_redirect.append(redirected)
        return ClientSession(**{**options, "trace_configs": [*options.get("trace_configs", ()), trace]})

    return get_client
