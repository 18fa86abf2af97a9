"""The software of the real servers: jars that Maven fetches once, and our few classes compiled against them.

It lies in ``SOUNDMILL_TEST_SERVERS_CACHE``, else in ``~/.cache/soundmill/test-servers``, in a folder per server whose
name changes with the versions in ``pom.xml`` and with the sources.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
OLDEST_JAVA = 17
FETCH_SECONDS = 200.0
"""How long a download may take: less than a test may, so that it ends in a reason instead of a time limit."""


class ServerMissing(RuntimeError):
    """A server's software is not here and cannot be had; the message says what to install."""


@dataclass(frozen=True)
class Java:
    """A Java on the PATH: its two programs, and what ``java -version`` says."""

    java: str
    javac: str
    version: str


@dataclass(frozen=True)
class Software:
    """What a server runs on.

    Attributes:
        java: the Java that runs it.
        folder: jars in ``lib``, and ``ours.jar`` with our classes.
        sources: where its configuration lies, in the checkout.
    """

    java: Java
    folder: Path
    sources: Path

    @property
    def class_path(self) -> str:
        """All jars, in an order that is always the same: class data archives are bound to it."""
        jars = sorted((self.folder / "lib").glob("*.jar"))
        return os.pathsep.join(map(str, [self.folder / "ours.jar", *jars]))


def installed(name: str) -> Software:
    """The software of server ``name``, a folder beside this file; fetched if it is not in the cache.

    Raises:
        ServerMissing: there is no fitting Java or Maven, the download fails, or the cache cannot be written.
    """
    java = found_java()
    sources = SOURCES / name
    home = cache_folder()
    try:
        home.mkdir(parents=True, exist_ok=True)
        target = home / f"{name}-{_fingerprint(sources)}"
        if not target.is_dir():
            with locked(target):
                if not target.is_dir():
                    _install(sources, java, target)
    except OSError as error:
        said = f"{error.strerror or error}: set SOUNDMILL_TEST_SERVERS_CACHE to another folder"
        raise ServerMissing(f"the test server {name} cannot be kept in {home}: {said}") from error
    return Software(java, target, sources)


@cache
def found_java() -> Java:
    """The Java on the PATH. Raises ``ServerMissing`` if it is not there, has no compiler or is too old."""
    java, javac = shutil.which("java"), shutil.which("javac")
    advice = f"install a JDK of version {OLDEST_JAVA} or newer (Debian: openjdk-17-jdk-headless)"
    if java is None or javac is None:
        raise ServerMissing(f"test servers need Java, and java or javac is not on the PATH: {advice}")
    version = _output([java, "-version"], seconds=60)
    number = re.search(r'version "(\d+)', version)
    if number is None or int(number[1]) < OLDEST_JAVA:
        raise ServerMissing(f"test servers need a newer Java than {' '.join(version.split()[:3])}: {advice}")
    return Java(java, javac, version)


def cache_folder() -> Path:
    """Where software is kept. Raises ``ServerMissing`` if nobody knows where home is."""
    given = os.environ.get("SOUNDMILL_TEST_SERVERS_CACHE")
    try:
        return Path(given).absolute() if given else Path.home() / ".cache" / "soundmill" / "test-servers"
    except RuntimeError as error:
        raise ServerMissing(
            f"{error}: set SOUNDMILL_TEST_SERVERS_CACHE to a folder for test servers"
        ) from error


@contextmanager
def locked(target: Path, seconds: float = FETCH_SECONDS) -> Iterator[None]:
    """Be the only process that makes ``target``. Raises ``ServerMissing`` if another holds it for too long."""
    deadline = time.monotonic() + seconds
    with target.with_name(target.name + ".lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ServerMissing(
                        f"another process has been making {target} for {seconds:.0f} s"
                    ) from None
                time.sleep(0.1)
        yield


def _fingerprint(sources: Path) -> str:
    """Changes with whatever goes into the folder."""
    digest = hashlib.sha256()
    for path in [sources / "pom.xml", *_java_files(sources)]:
        digest.update(f"{path.relative_to(SOURCES)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _java_files(sources: Path) -> list[Path]:
    return sorted([*(SOURCES / "java").glob("*.java"), *(sources / "src").rglob("*.java")])


def _install(sources: Path, java: Java, target: Path) -> None:
    """Fetch and compile beside ``target``, then rename: a folder of that name is always whole."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        made = Path(temporary, "made")
        made.mkdir()
        _fetch(sources / "pom.xml", made / "lib")
        _compile(sources, java, made, Path(temporary, "classes"))
        made.rename(target)


def _fetch(pom: Path, lib: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerMissing("test servers need Maven, and mvn is not on the PATH: install it (Debian: maven)")
    command = [
        maven, "--batch-mode", "--no-transfer-progress", "--quiet", "--strict-checksums", "--file", str(pom),
        "dependency:copy-dependencies", f"-DoutputDirectory={lib}", "-DincludeScope=runtime",
    ]  # fmt: skip
    try:
        _output(command, seconds=FETCH_SECONDS)
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stdout.splitlines() if "ERROR" in line), error.stdout[-500:])
        raise ServerMissing(
            f"Maven could not fetch the jars of the {pom.parent.name} test server: {first}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ServerMissing(
            f"Maven did not fetch the jars of the {pom.parent.name} test server within {FETCH_SECONDS:.0f} s"
        ) from error


def _compile(sources: Path, java: Java, made: Path, classes: Path) -> None:
    """Our classes, as a jar: class data archives take no folders. Raises ``RuntimeError`` on a mistake in them."""
    command = [
        java.javac, "--release", str(OLDEST_JAVA), "-cp", str(made / "lib" / "*"), "-d", str(classes),
        *map(str, _java_files(sources)),
    ]  # fmt: skip
    try:
        _output(command, seconds=120)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"javac refuses the sources of {sources.name}: {error.stdout}") from error
    with zipfile.ZipFile(made / "ours.jar", "w") as jar:
        for path in sorted(classes.rglob("*.class")):
            jar.write(path, path.relative_to(classes))


def _output(command: list[str], *, seconds: float) -> str:
    """What a command prints, errors included."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
        check=True,
    )
    return done.stdout
