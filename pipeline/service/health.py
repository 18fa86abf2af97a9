"""Whether the service lives, whether it can take songs, and its numbers, by HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.service.asked import Answer, Asked, NoAnswer
from pipeline.service.logs import without_credentials
from pipeline.service.metrics import Metrics
from pipeline.service.web_server import WebServer, require_packages

STALE_S = 60.0
"""A poll loop that has not come round for so long hangs; it does so ten times a second."""
CHECK_TIMEOUT_S = 2.0
"""A check that has not answered after so long is not ready. Whoever probes has to wait a little longer than that."""

Check = Callable[[], tuple[bool, str]]


class ServiceState:
    """How the service is, as its threads know. Any thread may ask.

    Args:
        stale_s: see `STALE_S`.
        check_timeout_s: see `CHECK_TIMEOUT_S`.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        stale_s: float = STALE_S,
        check_timeout_s: float = CHECK_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stale_s, self.check_timeout_s = stale_s, check_timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        # A loop that never begins hangs, too.
        self._beat = clock()
        self._checks: dict[str, Asked] = {}

    def beat(self) -> None:
        """The poll loop has come round."""
        with self._lock:
            self._beat = self._clock()

    def heartbeat_age_s(self) -> float:
        """Seconds since the poll loop last came round, or since the beginning."""
        with self._lock:
            return max(0.0, self._clock() - self._beat)

    @property
    def alive(self) -> bool:
        """Whether the poll loop comes round."""
        return self.heartbeat_age_s() <= self.stale_s

    def register(self, name: str, check: Check) -> None:
        """Have ``check`` called whenever somebody asks whether the service is ready.

        Args:
            name: such as ``search``; of an old one the check is replaced.
            check: returns whether all is well, and how it is in a few words. It may raise, and it may hang.
        """
        with self._lock:
            self._checks = {**self._checks, name: Asked(check)}

    def readiness(self) -> dict[str, tuple[bool, str]]:
        """What each check says; one that raised is not ready, by the name of the class, nor is one that hangs."""
        with self._lock:
            checks = self._checks
        return {name: _said(answer) for name, answer in Asked.all(checks, self.check_timeout_s).items()}


def _said(answer: Answer) -> tuple[bool, str]:
    if isinstance(answer.error, NoAnswer):
        return False, str(answer.error)
    if answer.error is not None:
        return False, type(answer.error).__name__  # its words may name what is nobody's business
    try:
        ok, text = answer.value
    except (TypeError, ValueError) as error:
        return False, type(error).__name__
    return bool(ok), without_credentials(str(text))


class HealthServer(WebServer):
    """Answers ``/healthz``, ``/readyz`` and ``/metrics`` from `start` to `stop`, in a thread of its own.

    Args:
        state: of the service.
        metrics: of the service.
        host: address to listen at.
        port: 0 for a free one, which ``port`` says once it has started.
    """

    keys = ("service.health_host", "service.health_port")
    name = "health"

    def __init__(
        self, state: ServiceState, metrics: Metrics, *, host: str = "127.0.0.1", port: int = 8080
    ) -> None:
        super().__init__(host, port)
        self._state, self._metrics = state, metrics

    def application(self) -> Any:
        """See `application`."""
        return application(self._state, self._metrics)

    def start(self) -> None:
        """See `WebServer`."""
        # Nobody could ask before: until now the loop has had all the time that it wanted to begin.
        self._state.beat()
        super().start()


def application(state: ServiceState, metrics: Metrics) -> Any:
    """The ASGI application of a `HealthServer`. Raises `UserError` where starlette is not installed."""
    require_packages("starlette.applications", "uvicorn", why="it answers /healthz with it")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    # In the server's own loop: it waits neither for a check nor for a thread.
    async def healthz(request: Request) -> Response:
        alive, age = state.alive, round(state.heartbeat_age_s(), 3)
        said = {"status": "ok" if alive else "stale", "heartbeat_age_s": age}
        return JSONResponse(said, 200 if alive else 503)

    # The other two run in threads of starlette's.
    def readyz(request: Request) -> Response:
        found = state.readiness()
        ready = bool(found) and all(ok for ok, _ in found.values())
        checks = {name: {"ok": ok, "text": text} for name, (ok, text) in found.items()}
        return JSONResponse(
            {"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503
        )

    def numbers(request: Request) -> Response:
        text, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", numbers)]
    )
