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

from pipeline.dataset.storage import is_local
from pipeline.dataset.store import Store
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
        self, output: Store, owner: str, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S
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
                reason = self._why_stale(held, say)
                if reason is None:
                    raise UserError(
                        f"{self.output.uri} is being written by {_owner(held)}",
                        f"pid {held.get('pid')} on {held.get('host')} was seen at {held.get('heartbeat')}",
                        "the same again when it has ended, or another output.uri",
                    )
                say(f"{_owner(held)} left its lock behind ({reason}): taken over")
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
            "pids_of": _pids_of(),
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

    def _why_stale(self, held: dict[str, Any], say: Callable[[str], None] = lambda text: None) -> str | None:
        """Why its owner must be dead; None if it may live. A look that takes long is said before."""
        # Two containers may share a host name and none of their processes.
        same = held.get("host") == socket.gethostname() and held.get("pids_of") == _pids_of() is not None
        if same and held.get("pid"):
            started = _process_started(held["pid"])
            if started is None or started != held.get("process_started"):
                return f"its process {held['pid']} is gone"
            return None
        age = _age_s(held)
        if age is not None and abs(age) < self.stale_s:
            return None
        # The clocks of two machines may differ: watch it stand still before it is believed.
        wait = 2.2 * self.heartbeat_s
        say(f"waiting {wait:.0f} s to see whether {_owner(held)} still renews its lock of {self.output.uri}")
        time.sleep(wait)
        if read_lock(self.output) != held:
            return None
        if age is None:
            return "it says nothing that can be read, and was not renewed"
        return (
            f"not renewed for {age:.0f} s"
            if age > 0
            else "its time lies in the future, and it was not renewed"
        )


def read_lock(output: Store) -> dict[str, Any] | None:
    """What the lock of an output says; None without one."""
    try:
        found = json.loads(output.read(PATH))
    except FileNotFoundError:
        return None
    except ValueError:  # half written by a job that died
        return {}
    return found if isinstance(found, dict) else {}


def _owner(held: dict[str, Any]) -> str:
    return f"run {held['run_id']}" if held.get("run_id") else "a job whose lock cannot be read"


def _pids_of() -> str | None:
    """What this machine's process numbers are those of: one boot of it, and one namespace; None if it does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _create(output: Store, content: bytes) -> bool:
    """Write the lock unless there is one; false if there is."""
    path = output.path(PATH)
    if is_local(output.uri):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return _create_whole(Path(path), content)
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


def _create_whole(path: Path, content: bytes) -> bool:
    """Write a file unless it is there; nobody sees it half written."""
    whole = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    whole.write_bytes(content)
    try:
        path.hardlink_to(whole)
    except FileExistsError:
        return False
    except OSError:  # a file system without links to files
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    finally:
        whole.unlink(missing_ok=True)
    return True


def _age_s(held: dict[str, Any]) -> float | None:
    """Seconds since it was renewed, negative where clocks differ; None where it does not say."""
    try:
        beat = datetime.datetime.fromisoformat(held["heartbeat"])
        return (datetime.datetime.now(datetime.timezone.utc) - beat).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None


def _process_started(pid: int) -> str | None:
    """When a living process of this machine began, in ticks since boot: a pid alone may have been given anew."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        return None if Path("/proc").is_dir() else "unknown"
