"""A real S3 server for tests: SeaweedFS from its PyPI wheel, on free loopback ports."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "mill-test", "mill-test-secret"


@dataclass
class S3Server:
    """A running server: ``options`` are storage options with the right credentials."""

    endpoint: str
    command: list[str]
    folder: Path
    process: subprocess.Popen | None = None

    @property
    def options(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "key": KEY, "secret": SECRET}

    def start(self) -> None:
        """Start it, or start it again on what it had stored. Raises ``RuntimeError`` if it does not come up."""
        log = self.folder / "server.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, cwd=self.folder)
        _wait(self.process, int(self.endpoint.rsplit(":", 1)[1]), log)

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()


def weed_binary() -> str | None:
    """The server's executable: beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count: int) -> list[int]:
    """Distinct free loopback ports below 32768, so that gRPC ports chosen by offset stay valid too."""
    found: list[int] = []
    with ExitStack() as held:
        port = 20000 + (time.time_ns() // 1000) % 10000
        while len(found) < count:
            port += 1
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server on ``folder`` until the block ends. Raises ``RuntimeError`` if it does not come up."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir(exist_ok=True)
    names = (
        "master.port", "master.port.grpc", "volume.port", "filer.port", "filer.port.grpc", "s3.port",
        "s3.port.grpc", "admin.port", "admin.port.grpc",
    )  # fmt: skip
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        weed_binary(), "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", command, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _wait(process: subprocess.Popen, port: int, log: Path, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the S3 server did not come up: {log.read_text(errors='replace')[-2000:]}")
