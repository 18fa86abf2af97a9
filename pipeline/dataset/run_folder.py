"""``runs/<run_id>/``: the log, the config, the environment and the reports of one run."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.commands import as_typed
from pipeline.dataset.storage import is_local, one_line
from pipeline.dataset.store import Store
from pipeline.optional import installed_versions

PACKAGES = (
    "soundmill", "ray", "pyarrow", "numpy", "torch", "torchaudio", "laion-clap", "demucs", "librosa", "pyloudnorm",
    "soundfile", "soxr", "av", "scipy", "fsspec", "s3fs", "hydra-core",
)  # fmt: skip


_RUN_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{4}")


def to_terminal(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr, flush=True)


def say(text: str, quiet: bool = False) -> None:
    """A line on standard error with the time, as the log's are, before a run has a log. Nothing where ``quiet``."""
    if not quiet:
        to_terminal(f"{datetime.datetime.now():%H:%M:%S} {text}")


def new_run_id() -> str:
    """UTC time, and the fraction of its second as four hex digits: sorts by time, in steps of 15 µs."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return f"{now:%Y%m%dT%H%M%S}-{now.microsecond * 0x10000 // 1_000_000:04x}"


class RunFolder:
    """The files of one run.

    The log of a local output is written in place; for another it is spooled locally and copied on `sync` and
    `close`, because object stores cannot append.

    Args:
        output: the output root.
        run_id: name of the folder.
        quiet: nothing on the terminal.

    ``say`` shows a line to the user; whoever draws on the terminal puts itself in its place.
    """

    def __init__(self, output: Store, run_id: str, quiet: bool = False) -> None:
        self.output = output
        self.run_id = run_id
        self.quiet = quiet
        self.say: Callable[[str], None] = (lambda text: None) if quiet else to_terminal
        self._writing = threading.Lock()
        self._in_place = is_local(output.uri)
        self._synced = time.monotonic()
        if self._in_place:
            self._spool = Path(output.path(self.relative("log.jsonl")))
            self._spool.parent.mkdir(parents=True, exist_ok=True)
        else:
            handle, name = tempfile.mkstemp(prefix="soundmill-", suffix=".jsonl")
            os.close(handle)
            self._spool = Path(name)
        self._log = self._spool.open("w", encoding="utf-8")
        self.mark("running")

    def relative(self, name: str) -> str:
        """``name`` relative to the output root."""
        return f"runs/{self.run_id}/{name}"

    def write(self, name: str, text: str) -> str:
        """Write a text file; returns its location."""
        self.output.write(self.relative(name), text.encode())
        return f"{self.output.uri}/{self.relative(name)}"

    def write_json(self, name: str, value: Any) -> str:
        """Write a JSON file. Raises ``ValueError`` for NaN."""
        return self.write(name, json.dumps(value, indent=2, allow_nan=False, default=str) + "\n")

    def mark(self, status: str, **fields: Any) -> None:
        """Write ``status.json``: ``running``, ``done``, ``failed``, ``stopped`` or ``interrupted``."""
        self.write_json("status.json", {"run_id": self.run_id, "status": status, **fields})

    def log(self, event: str, text: str, level: str = "info", show: bool = True, **fields: Any) -> None:
        """One JSON line in ``log.jsonl`` and, with ``show``, one readable line on the terminal."""
        now, text = datetime.datetime.now(datetime.timezone.utc), as_typed(text)
        record = {
            "time": now.isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            "text": text,
        }
        # A full disk must not keep the terminal from saying so.
        with contextlib.suppress(OSError), self._writing:
            self._log.write(json.dumps({**record, **fields}, default=str) + "\n")
            self._log.flush()
        if show:
            mark = {"warning": "warning: ", "error": "error: "}.get(level, "")
            self.say(f"{now.astimezone():%H:%M:%S} {mark}{text}")

    def sync(self, at_most_every_s: float = 0.0) -> None:
        """Copy the log as it stands to the output."""
        if not self._in_place and time.monotonic() - self._synced >= at_most_every_s:
            self.output.write(self.relative("log.jsonl"), self._spool.read_bytes())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Copy the log for the last time and remove the spool."""
        if self._log.closed:
            return
        with contextlib.suppress(OSError):
            self._log.close()
        try:
            self.sync()
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            # The run is over, well or badly; the terminal has had every line of it.
            print(f"warning: the log could not be copied: {one_line(error)}", file=sys.stderr)
        if not self._in_place:
            self._spool.unlink()


def run_ids(output: Store) -> list[str]:
    """The runs that have a folder, the oldest first."""
    return [name for name in output.names("runs") if _RUN_ID.fullmatch(name)]


def unfinished_runs(output: Store, newest: int = 20) -> dict[str, str | None]:
    """Those of the ``newest`` runs that did not do all they meant to, the oldest first, and what they last said.

    Only for whoever holds the lock: a run that says ``running`` never came to an end.
    """
    said = {run_id: run_status(output, run_id) for run_id in run_ids(output)[-newest:]}
    return {run_id: status for run_id, status in said.items() if status != "done"}


def run_status(output: Store, run_id: str) -> str | None:
    """What a run last said of itself, see `RunFolder.mark`; None where it said nothing that can be read."""
    try:
        return json.loads(output.read(f"runs/{run_id}/status.json")).get("status")
    except (FileNotFoundError, ValueError, AttributeError):
        return None


def mark_interrupted(output: Store, run_id: str, continued_by: str) -> None:
    """Say in the folder of a run that it was interrupted, and by which run it was continued."""
    status = {"run_id": run_id, "status": "interrupted", "continued_by": continued_by}
    output.write(f"runs/{run_id}/status.json", (json.dumps(status, indent=2) + "\n").encode())


@cache
def _versions() -> dict[str, str | None]:
    """Package → its version, None where it is not installed; read once, which takes some 50 ms."""
    return installed_versions(PACKAGES)


def environment(devices: dict[str, Any]) -> dict[str, Any]:
    """Versions and machine, for ``environment.json``: no variables, so no secrets."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "packages": dict(_versions()),
        **devices,
    }
