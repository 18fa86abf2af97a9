"""What the servers of search indices have in common: one node, HTTP on a loopback port, no password."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import requests
from helpers.s3_server import free_ports

from servers.artifacts import Software
from servers.java_server import JavaServer


class SearchServer(JavaServer):
    """One node, a cluster of its own.

    Attributes:
        url: ``http://127.0.0.1:PORT``.
    """

    heap: ClassVar[int] = 256

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port, self.transport_port = free_ports(2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arguments(self, software: Software) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={software.sources / 'log4j2.properties'}"
        home = str(self.folder / "home")
        return [logging, "TiedToParent", self.main, home, str(self.port), str(self.transport_port)]

    def answers(self) -> bool:
        # Green or yellow: every index that was stored can be read and written. One node has no room for copies.
        health = f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s"
        try:
            return requests.get(health, timeout=5).status_code == 200
        except requests.RequestException:
            return False
