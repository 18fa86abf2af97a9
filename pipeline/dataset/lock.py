"""One job at a time on an output: ``runs/output.lock``, renewed while the job lives."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.storage import is_local
from pipeline.errors import UserError

PATH = "runs/output.lock"
HEARTBEAT_S = 10.0
STALE_S = 60.0
"""A lock that was not renewed for so long belongs to a job that is dead, or whose machine lost its network."""


class OutputLock:
    """Holds the lock from `acquire` to `release`, in a thread of its own.

    Args:
        output: the output root.
        owner: run id, written into the lock for others to read.
        heartbeat_s, stale_s: for tests.

    ``lost`` becomes true when another job has taken the lock over: this one was stopped for too long, and must
    write no more.
    """

    def __init__(
        self, output: Output, owner: str, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S
    ) -> None:
        self.output = output
        self.owner = owner
        self.heartbeat_s, self.stale_s = heartbeat_s, stale_s
        self.lost = False
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, say: Callable[[str], None] = lambda text: None) -> None:
        """Take the lock; ``say`` is told if a dead job's is taken over.

        Raises:
            UserError: a living job holds it.
        """
        if not _create(self.output, self._content()):
            held = read_lock(self.output)
            if held is not None:
                reason = self._why_stale(held)
                if reason is None:
                    raise UserError(
                        f"{self.output.uri} is being written by run {held.get('run_id')}",
                        f"pid {held.get('pid')} on {held.get('host')} was seen at {held.get('heartbeat')}",
                        "the same again when it has ended, or another output.uri",
                    )
                say(f"run {held.get('run_id')} left its lock behind ({reason}): taken over")
            self.output.write(PATH, self._content())
            if not self._mine():
                raise UserError(f"{self.output.uri}: another job took the lock at the same moment: try again")
        self._thread = threading.Thread(target=self._beat, name="output-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go of the lock, if it is still ours."""
        self._ended.set()
        if self._thread is None:
            return
        self._thread.join()
        with contextlib.suppress(Exception):  # a store that is away now: the lock goes stale by itself
            if self._mine():
                self.output.discard(PATH)

    def _content(self) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        fields = {
            "run_id": self.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "heartbeat": now.isoformat(timespec="seconds"),
            "token": self._token,
        }
        return json.dumps(fields).encode()

    def _mine(self) -> bool:
        held = read_lock(self.output)
        return held is not None and held.get("token") == self._token

    def _beat(self) -> None:
        while not self._ended.wait(self.heartbeat_s):
            try:
                if not self._mine():
                    self.lost = True
                    return
                self.output.write(PATH, self._content())
            except Exception:  # noqa: BLE001, S112  the next beat tries again; the others wait for `stale_s`
                continue

    def _why_stale(self, held: dict[str, Any]) -> str | None:
        """Why its owner must be dead; None if it may live."""
        if held.get("host") == socket.gethostname() and held.get("pid"):
            started = _process_started(held["pid"])
            if started is None or started != held.get("process_started"):
                return f"its process {held['pid']} is gone"
            return None
        age = _age_s(held)
        if age < self.stale_s:
            return None
        # The clocks of two machines may differ: watch it stand still before it is believed.
        time.sleep(2.2 * self.heartbeat_s)
        if read_lock(self.output) != held:
            return None
        return f"not renewed for {age:.0f} s"


def read_lock(output: Output) -> dict[str, Any] | None:
    """What the lock of an output says; None without one."""
    try:
        found = json.loads(output.read(PATH))
    except FileNotFoundError:
        return None
    except ValueError:  # half written by a job that died
        return {}
    return found if isinstance(found, dict) else {}


def holder(output: Output) -> str | None:
    """The run that is writing to ``output`` now; None if nobody is."""
    held = read_lock(output)
    if held is None or OutputLock(output, "")._why_stale(held) is not None:
        return None
    return str(held.get("run_id"))


def _create(output: Output, content: bytes) -> bool:
    """Write the lock unless there is one; false if there is."""
    path = output.path(PATH)
    if is_local(output.uri):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            with Path(path).open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
        return True
    if output.fs.exists(path):
        return False
    try:
        # Only where the store knows If-None-Match; elsewhere the last writer wins, and `acquire` looks again.
        output.fs.pipe_file(path, content, mode="create")
    except (TypeError, NotImplementedError):
        output.write(PATH, content)
    except FileExistsError:
        return False
    except OSError as error:
        if "PreconditionFailed" in str(error) or "condition" in str(error).lower():
            return False
        raise
    return True


def _age_s(held: dict[str, Any]) -> float:
    try:
        beat = datetime.datetime.fromisoformat(held["heartbeat"])
    except (KeyError, TypeError, ValueError):
        return float("inf")
    return (datetime.datetime.now(datetime.timezone.utc) - beat).total_seconds()


def _process_started(pid: int) -> str | None:
    """When a living process of this machine began, in ticks since boot: a pid alone may have been given anew."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return None if Path("/proc").is_dir() else "unknown"
