"""The software of the test servers is fetched once, whole, and its want is told in words."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest
from servers import artifacts
from servers.artifacts import ServerMissing, installed
from servers.fixtures import skip_without
from skips import is_known


@pytest.fixture
def java() -> artifacts.Java:
    """The Java on the PATH."""
    with skip_without():
        return artifacts.found_java()


@pytest.fixture
def toy(monkeypatch, tmp_path) -> Path:
    """A server "toy" that is one Java class, an empty cache, and a stub for Maven, which notes that it was called."""
    (tmp_path / "toy" / "src").mkdir(parents=True)
    (tmp_path / "toy" / "src" / "Toy.java").write_text("class Toy {}")
    (tmp_path / "toy" / "pom.xml").write_text("<project/>")
    monkeypatch.setattr(artifacts, "SOURCES", tmp_path)
    monkeypatch.setenv("SOUNDMILL_TEST_SERVERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    stub_maven(tmp_path, "exit 0")
    return tmp_path


def stub_maven(toy: Path, then: str) -> None:
    """A program mvn that leaves a line in ``calls`` and goes on with ``then``."""
    program = toy / "bin" / "mvn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\necho called >> {toy / 'calls'}\n{then}\n")
    program.chmod(0o755)


@pytest.fixture
def no_java_remembered():
    """The Java that was found is looked for anew, before the test and after it."""
    artifacts.found_java.cache_clear()
    yield
    artifacts.found_java.cache_clear()


@pytest.mark.usefixtures("java")
def test_software_is_fetched_once_by_whoever_comes_first(toy):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(installed, ["toy"] * 4))
    assert (toy / "calls").read_text().splitlines() == ["called"]
    assert len({software.folder for software in found}) == 1
    assert found[0].class_path == str(found[0].folder / "ours.jar")
    assert ZipFile(found[0].class_path).namelist() == ["Toy.class"]


@pytest.mark.usefixtures("java")
def test_software_is_fetched_anew_for_another_version(toy):
    before = installed("toy")
    (toy / "toy" / "pom.xml").write_text("<project><!-- newer --></project>")
    assert installed("toy").folder != before.folder


@pytest.mark.usefixtures("java")
def test_a_download_that_fails_says_so_and_leaves_nothing_half(toy):
    stub_maven(toy, "echo '[ERROR] Could not transfer artifact' && exit 1")
    with pytest.raises(
        ServerMissing, match="could not fetch the jars of the toy test server: .*Could not transfer"
    ):
        installed("toy")
    assert [path.suffix for path in (toy / "cache").iterdir()] == [".lock"]


@pytest.mark.usefixtures("java")
def test_a_download_that_hangs_says_so(toy, monkeypatch):
    monkeypatch.setattr(artifacts, "FETCH_SECONDS", 0.5)
    stub_maven(toy, "exec sleep 60")
    with pytest.raises(ServerMissing, match="did not fetch the jars of the toy test server"):
        installed("toy")


def test_a_skip_for_want_of_java_is_none_that_may_pass(toy, monkeypatch, no_java_remembered):
    monkeypatch.setenv("PATH", str(toy / "bin"))
    with pytest.raises(ServerMissing, match="install a JDK of version 17 or newer") as missing:
        installed("toy")
    assert not is_known(str(missing.value))


def test_an_old_java_is_as_good_as_none(toy, no_java_remembered):
    for name in ("java", "javac"):
        program = toy / "bin" / name
        program.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
        program.chmod(0o755)
    with pytest.raises(ServerMissing, match="newer Java than openjdk version"):
        installed("toy")


@pytest.mark.usefixtures("java")
def test_a_skip_for_want_of_maven_is_none_that_may_pass(toy, monkeypatch):
    java = artifacts.found_java().java
    (toy / "bin" / "mvn").unlink()
    for program in ("java", "javac"):
        (toy / "bin" / program).symlink_to(Path(java).with_name(program))
    monkeypatch.setenv("PATH", str(toy / "bin"))
    with pytest.raises(ServerMissing, match="need Maven, and mvn is not on the PATH") as missing:
        installed("toy")
    assert not is_known(str(missing.value))
