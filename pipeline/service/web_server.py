"""A server of HTTP in a thread of its own, for as long as its context lasts."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, ClassVar

from pipeline.errors import UserError
from pipeline.optional import extra

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class WebServer:
    """Answers from `start` to `stop`. Whoever derives from it says what is answered, and which keys say where.

    Args:
        host: address to listen at.
        port: 0 for a free one, which ``port`` says once it has started.

    Class attributes:
        keys: of the config, for the host and for the port: what errors name.
        name: of the thread.
        settings: of uvicorn, besides those that hold for all.
    """

    keys: ClassVar[tuple[str, str]]
    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def application(self) -> Any:
        """What answers, an ASGI application. Raises `UserError` where a package is not installed."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin.

        Raises:
            UserError: the port is taken or not allowed, the host is none of this machine, or a package is missing.
        """
        server = self._made(self.application())
        listening = self._listening()
        self.port = listening.getsockname()[1]
        self._server = server
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name=self.name, daemon=True
        )
        self._thread.start()
        end = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                listening.close()
                raise RuntimeError(f"the {self.name} server did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """End, also where an answer is still awaited."""
        if self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_S)
        self._thread = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _made(self, app: Any) -> Any:
        require_packages("uvicorn")
        import uvicorn

        same = {
            "loop": "asyncio",
            "http": "h11",
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "log_level": "error",
            "access_log": False,
            "server_header": False,
            "timeout_graceful_shutdown": 1,
        }
        # Only in a process's main thread does it take over signals, and there it never runs.
        return uvicorn.Server(uvicorn.Config(app, **{**same, **self.settings}))

    def _listening(self) -> socket.socket:
        """A socket that listens. Raises `UserError`."""
        if not 0 <= self.port <= 65_535:  # more would be taken modulo 65536
            raise self._refused("ports are 0 to 65535")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (socket.gaierror, UnicodeError) as error:
            why, key = getattr(error, "strerror", None) or str(error), self.keys[0]
            raise UserError(f"{key}={self.host} is no address", why, f"{key}=127.0.0.1") from None
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            # Here already, so that of two that bind the port at once one is told.
            found.listen(128)
        except OSError as error:
            found.close()
            raise self._refused(error.strerror or str(error)) from None
        return found

    def _refused(self, why: str) -> UserError:
        key = self.keys[1]
        return UserError(f"{key}={self.port} cannot be had at {self.host}", why, f"{key}=0, or a free port")


def require_packages(*modules: str, why: str = "it answers with it") -> None:
    """Raise `UserError` where one of the packages that a server consists of is not installed."""
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            package = module.partition(".")[0]
            raise UserError(f"the service needs {package}", why, extra("service")) from None
