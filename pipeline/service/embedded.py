"""A small Kafka and a small search index on this machine, to try the service out: no place for data that matters."""

from __future__ import annotations

import importlib.util
import socket
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.audio.children import Child
from pipeline.dataset.storage import one_line
from pipeline.errors import UserError
from pipeline.optional import extra
from pipeline.service.kafka import Broker, Topics, make_topics

HOST = "127.0.0.1"
KAFKA_PORT, SEARCH_PORT = 9092, 9200
KAFKA_KEY, SEARCH_KEY = "service.kafka", "service.search_url"
START_S = 20.0
CHILD = "pipeline.service.embedded_child"
OPTIONS = {
    # Its cooperative rebalance may hang; with one service there is nothing to share out.
    "partition.assignment.strategy": "range",
    # It ends before the clients do, which is nothing to report.
    "log_level": 2,
}
"""Of librdkafka, for this broker."""


class Embedded:
    """Both servers, in one process that ends with this one.

    Args:
        folder: for their data, which stay.
        kafka_port, search_port: 0 for one that is free.

    Raises:
        UserError: the package is not installed, a port is taken, or they do not start.
    """

    def __init__(self, folder: Path, kafka_port: int = KAFKA_PORT, search_port: int = SEARCH_PORT) -> None:
        self._binary = _binary()
        self._folder = folder
        self.kafka_port = _free(KAFKA_KEY, kafka_port)
        self.search_port = _free(SEARCH_KEY, search_port)
        self._child: Child | None = None

    @property
    def kafka(self) -> str:
        """``HOST:PORT`` of the broker."""
        return f"{HOST}:{self.kafka_port}"

    @property
    def search_url(self) -> str:
        """Of the index."""
        return f"http://{HOST}:{self.search_port}"

    def start(self, topics: Topics) -> None:
        """Begin, and make the topics."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "embedded.log").open("ab") as log:
            told = {
                "command": [
                    str(self._binary), "start", "--data-dir", str(self._folder), "--host", HOST,
                    "--only", "kafka,elasticsearch", "--kafka-port", str(self.kafka_port),
                    "--elasticsearch-port", str(self.search_port),
                ]
            }  # fmt: skip
            self._child = Child(CHILD, told, {}, stderr=log.fileno())
        try:
            self._wait()
            make_topics(Broker(self.kafka, options=OPTIONS), topics.all)
        except UserError:  # a package is missing
            self.stop()
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, they are of no use
            self.stop()
            raise UserError(
                "the embedded servers do not start",
                one_line(error),
                f"read {self._folder / 'embedded.log'}, or name servers with service.kafka and service.search_url",
            ) from None

    def stop(self) -> None:
        """End both."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _wait(self) -> None:
        end = time.monotonic() + START_S
        for port in (self.kafka_port, self.search_port):
            while not _listens(port):
                if self._child.process.poll() is not None or time.monotonic() > end:
                    late = time.monotonic() > end
                    raise RuntimeError("nobody answers" if late else self._child.cause("the process"))
                time.sleep(0.1)


def _binary() -> Path:
    """The server itself: its Python wrapper would leave it behind when it ends. Raises `UserError`."""
    spec = importlib.util.find_spec("noida_db")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (Path(folder) / "noida-db").is_file():
            return Path(folder) / "noida-db"
    raise UserError("service.embedded=true needs noida-db", "it is both servers in one", extra("embedded"))


def _free(key: str, port: int) -> int:
    with socket.socket() as found:
        # As the servers do: connections of a run that has just ended keep nobody away.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, port))
        except OSError:
            another = _address(key, port + 1)
            raise UserError(
                f"service.embedded=true wants port {port}, which is taken",
                "a server is there already",
                f"{another}, or service.embedded=false {_address(key, port)} to use that server",
            ) from None
        return found.getsockname()[1]


def _address(key: str, port: int) -> str:
    return f"{key}={'http://' if key == SEARCH_KEY else ''}localhost:{port}"


def port_of(address: str) -> int:
    """The port of ``HOST:PORT`` or of a URL, 0 where it names none."""
    return urlsplit(address if "://" in address else f"//{address}").port or 0


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
