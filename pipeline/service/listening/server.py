"""The server that an application listens by, in a thread of its own."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from pipeline.errors import UserError
from pipeline.optional import extra

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
CONNECTIONS = 256
"""Beyond so many the answer is that there are too many."""


class Server:
    """Answers from `start` to `stop`.

    Args:
        app: ASGI.
        host: address to listen at.
        port: 0 for a free one, which ``port`` says once it has started.
    """

    def __init__(self, app: Any, host: str = "127.0.0.1", port: int = 8090) -> None:
        self._app, self.host, self.port = app, host, port
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin.

        Raises:
            UserError: the port is taken or not allowed, the host is none of this machine, or uvicorn and wsproto are
                not installed.
        """
        server = _uvicorn(self._app)
        listening = _listening(self.host, self.port)
        self.port = listening.getsockname()[1]
        self._server = server
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="listening", daemon=True
        )
        self._thread.start()
        end = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                listening.close()
                raise RuntimeError("the server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """End, also where an answer is still awaited."""
        if self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_TIMEOUT_S)
            self._thread = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def require_packages() -> None:
    """Raise `UserError` where what the server consists of is not installed."""
    for package in ("starlette", "uvicorn", "wsproto"):
        try:
            __import__(package)
        except ImportError:
            raise UserError(f"the service needs {package}", "it answers with it", extra("service")) from None


def _uvicorn(app: Any) -> Any:
    require_packages()
    import uvicorn

    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="wsproto",
        ws_max_size=4096,
        lifespan="off",
        log_config=None,
        # Its lines name whole addresses, and a token may be in one. What goes wrong is told by the application.
        log_level=100,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=1,
    )
    # Only in a process's main thread does it take over signals, and there it never runs.
    return uvicorn.Server(config)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `UserError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"listening.host={host} is no address", why, "listening.host=127.0.0.1") from None
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # Here already, so that of two that bind the port at once one is told.
        found.listen(128)
    except OSError as error:
        found.close()
        raise UserError(
            f"listening.port={port} cannot be had at {host}",
            error.strerror or str(error),
            "listening.port=0, or a free port",
        ) from None
    return found
