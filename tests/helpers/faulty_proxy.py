"""A small HTTP proxy before a real S3 server, which breaks a part of the requests on purpose."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "truncated", "stall")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>on purpose</Message></Error>"


class FaultyProxy:
    """What is broken, and how often it was.

    Args:
        target: of the real server, such as ``http://127.0.0.1:8333``.
        rate: share of the requests that are broken.
        faults: which of `FAULTS`.
        always: requests (method, path) that fail with 500 each time.

    The server checks signatures, which hold the proxy's own host name: it is passed on as it came.
    """

    def __init__(
        self,
        target: str,
        rate: float = 0.0,
        faults: Sequence[str] = FAULTS,
        always: Callable[[str, str], bool] = lambda method, path: False,
        seed: int = 0,
        stall_s: float = 2.0,
    ) -> None:
        self.target = urlsplit(target).netloc
        self.rate, self.faults, self.always, self.stall_s = rate, list(faults), always, stall_s
        self.done: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def fault(self, method: str, path: str) -> str | None:
        """What is to happen to this request; None lets it through."""
        with self._lock:
            broken = self._random.random() < self.rate
            name = self._random.choice(self.faults) if broken else None
            if self.always(method, path):
                name = "500"
            if name == "truncated" and method != "GET":
                name = "reset"
            self.done[name or "passed"] += 1
        return name


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault(self.command, self.path)
        if fault == "reset":
            self._reset()
            return
        if fault in ("500", "503"):
            self._answer(int(fault), [], SLOW_DOWN if fault == "503" else INTERNAL)
            return
        if fault == "stall":
            time.sleep(self.proxy.stall_s)
        try:
            status, headers, content = self._forward(body)
        except OSError:
            self._reset()  # the real server is away
            return
        self._answer(status, headers, content, cut=fault == "truncated")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD, the length of what a GET would bring
            elif name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.close_connection = True

    def _reset(self) -> None:
        # Linger 0: the peer sees a reset and not an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


@contextmanager
def faulty_proxy(proxy: FaultyProxy) -> Iterator[str]:
    """Serve ``proxy`` on a free port; yields its endpoint."""
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
