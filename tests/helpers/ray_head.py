"""A real Ray head in a child process, with token authentication, and the real command line against it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

REPO = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Head:
    """A running head.

    Args:
        address: of the cluster, ``host:port``.
        dashboard: where jobs are submitted, a URL.
        folder: Ray's temporary files.
        token: who has it may do everything.
    """

    address: str
    dashboard: str
    folder: Path
    token: str

    def environment(self, token: str | None = None, **more: str) -> dict[str, str]:
        """Of a client; ``token`` is another than the right one."""
        return clean_environment() | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token or self.token,
            **more,
        }

    def job_command(self, *arguments: str) -> list[str]:
        """``ray job …`` against this head."""
        return [RAY, "job", arguments[0], "--address", self.dashboard, *arguments[1:]]


def clean_environment() -> dict[str, str]:
    """Without what would lead to another Ray or to another checkout, and with this interpreter first."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own.pop("PYTHONPATH", None)
    own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    return own


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@contextmanager
def ray_head(cpus: int = 2, more: dict[str, str] | None = None) -> Iterator[Head]:
    """Start a head, with ``more`` in its environment, as docs/cluster.md says, on ports that are free.

    It is ended by its process id, for `ray stop` would end every Ray on this machine.
    """
    port, dashboard, agent, client = free_ports(4)
    # A short path: Ray's sockets lie below it, and a socket's path has 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="head-"))
    token = secrets.token_hex(32)
    (folder / "token").write_text(token)
    command = [
        RAY, "start", "--head", "--block", "--dashboard-host=127.0.0.1", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}", f"--num-cpus={cpus}",
        f"--temp-dir={folder / 'ray'}",
    ]  # fmt: skip
    environment = clean_environment() | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        **(more or {}),
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", folder / "ray", token)
    try:
        _wait_until_it_answers(head, process, folder / "log")
        yield head
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(head: Head, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(requests.RequestException):
            told = {"Authorization": f"Bearer {head.token}"}
            if requests.get(f"{head.dashboard}/api/jobs/", headers=told, timeout=5).ok:
                return
        time.sleep(0.2)
    raise TimeoutError(log.read_text()[-3000:])


def _end(process: subprocess.Popen) -> None:
    """All of its processes at once: left to itself it takes more than ten seconds, and nothing of it is needed."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=10)


def run(command: Sequence[str], environment: dict[str, str], cwd: Path = REPO) -> subprocess.CompletedProcess:
    """Run to the end, both outputs as one text."""
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
    )
