"""A real server as a Java process of its own, which can be killed and started again on the same ports and data."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from servers.artifacts import Software, installed, locked

READY_SECONDS = 90.0
"""How long a server may take to come up: two to five seconds on an idle machine, and tests share theirs."""
STOP_SECONDS = 20.0
STOPPED = 128 + signal.SIGTERM
"""What Java exits with after SIGTERM."""


class JavaServer(ABC):
    """A server that lives below a folder; it ends with this process, even if that is killed.

    Attributes:
        name: its folder of sources, see `installed`.
        main: the Java class that runs it.
        heap: of the Java process, in MB.
        folder: data, log and temporary files.
        process: None before the first start.
    """

    name: ClassVar[str]
    main: ClassVar[str]
    heap: ClassVar[int]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen | None = None

    @property
    def log(self) -> Path:
        """What the server says, over all its starts."""
        return self.folder / "server.log"

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def arguments(self, software: Software) -> list[str]:
        """What Java is given besides memory and class path: ``-D`` options, then `main` and its arguments."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers a client; called again and again until it does."""

    def prepare(self, software: Software) -> None:  # noqa: B027  nothing to do for most
        """Make what the server wants to find in its folder."""

    def start(self) -> None:
        """Start it, or start it again on what it had stored, and wait until it answers.

        Raises:
            ServerMissing: its software cannot be had.
            RuntimeError: it runs already, or does not come up.
        """
        self.launch()
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def launch(self) -> None:
        """The first half of `start`: begin the process, fetch its software before if need be."""
        software = installed(self.name)
        self.launch_with(software, _class_data(type(self), software))

    def launch_with(self, software: Software, class_data: list[str]) -> None:
        """Begin the process. ``class_data``: options of Java that read or write an archive of class data."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        (self.folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.prepare(software)
        command = [*self.java(software), *class_data, *self.arguments(software)]
        with self.log.open("ab") as out:
            # The pipe that nobody writes into ends with this process, and TiedToParent with the pipe. In a session of
            # its own it does not get the terminal's Ctrl-C, before the tests could end it.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def java(self, software: Software) -> list[str]:
        """The beginning of a command that runs a class of the server."""
        return [
            software.java.java,
            f"-Xmx{self.heap}m",
            "-XX:+UseSerialGC",
            # Compiled quickly rather than well: these servers live for seconds.
            "-XX:TieredStopAtLevel=1",
            # Leave nothing outside of the folder.
            "-XX:-UsePerfData",
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Djna.tmpdir={self.folder / 'tmp'}",
            "-cp",
            software.class_path,
        ]

    def wait_ready(self) -> None:
        """The second half of `start`. Raises ``RuntimeError`` with the end of its log if it does not come up."""
        deadline = time.monotonic() + READY_SECONDS
        while self.running and time.monotonic() < deadline:
            if self.answers():
                return
            time.sleep(0.05)
        why = (
            f"not within {READY_SECONDS:.0f} s"
            if self.running
            else f"it ended with {self.process.returncode}"
        )
        said = self.log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self.name} did not come up ({why}): {said}")

    def kill(self) -> None:
        """Kill -9; nothing happens if it does not run."""
        if self.process is not None:
            self.process.kill()
            self._reap()

    def stop(self) -> None:
        """End it in good order, by force if that takes too long."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self._reap(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _reap(self, seconds: float | None = None) -> None:
        self.process.wait(seconds)
        self.process.stdin.close()

    def __enter__(self) -> JavaServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody reads its data afterwards.
        self.kill()


def _class_data(kind: type[JavaServer], software: Software) -> list[str]:
    """Options that let Java map the server's classes from an archive instead of reading them from jars anew.

    The archive is written once for each Java, by a server that is started and stopped for it. Java itself leaves one
    aside that does not fit; where none could be written, servers start without.
    """
    archive = (
        software.folder / f"classes-{hashlib.sha256(software.java.version.encode()).hexdigest()[:8]}.jsa"
    )
    if not archive.exists():
        with locked(archive):
            if not archive.exists():
                _write_class_data(kind, software, archive)
    return [f"-XX:SharedArchiveFile={archive}"] if archive.exists() else []


def _write_class_data(kind: type[JavaServer], software: Software, archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=software.folder, prefix=".class-data-") as folder:
        written = Path(folder, "classes.jsa")
        server = kind(Path(folder, "server"))
        server.launch_with(software, [f"-XX:ArchiveClassesAtExit={written}"])
        try:
            server.wait_ready()
            server.stop()
        finally:
            server.kill()
        # Java writes it while it ends: one that was killed may have left a part.
        if server.process.returncode == STOPPED and written.exists():
            written.rename(archive)
