"""What is answered to somebody who has to ask otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer: what it is is what it says, and only this service's page may have it."""


class Mistake(Exception):
    """An answer of 400 or more.

    Args:
        status: of HTTP.
        what, why, do: as of a `pipeline.errors.UserError`.
        headers: that the answer has besides.
    """

    def __init__(
        self, status: int, what: str, why: str = "", do: str = "", *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.why, self.do = status, what, why, do
        self.headers = dict(headers or {})

    def answer(self) -> Any:
        """As JSON."""
        from starlette.responses import JSONResponse

        said = {"what": self.what, "why": self.why, "type": self.do}
        return JSONResponse(said, self.status, headers={**SAFE, **self.headers})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI; also whoever wanted a WebSocket is told."""
        from starlette.websockets import WebSocket

        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(self.answer())
        else:
            await self.answer()(scope, receive, send)
