"""The server that masters are listened to by."""

from __future__ import annotations

from typing import Any

from pipeline.service.web_server import WebServer

CONNECTIONS = 256
"""Beyond so many the answer is that there are too many."""
PACKAGES = ("starlette", "uvicorn", "wsproto")
"""What it consists of."""


class Server(WebServer):
    """Answers from `start` to `stop`.

    Args:
        app: ASGI.
        host: address to listen at.
        port: 0 for a free one, which ``port`` says once it has started.
    """

    keys = ("listening.host", "listening.port")
    name = "listening"
    settings = {  # noqa: RUF012  nobody writes to it
        "ws": "wsproto",
        "ws_max_size": 4096,
        # Its lines name whole addresses, and a token may be in one. What goes wrong is told by the application.
        "log_level": 100,
        "limit_concurrency": CONNECTIONS,
    }

    def __init__(self, app: Any, host: str = "127.0.0.1", port: int = 8090) -> None:
        super().__init__(host, port)
        self._app = app

    def application(self) -> Any:
        """The one that was given."""
        return self._app
