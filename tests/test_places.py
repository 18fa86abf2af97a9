"""A home that cannot be entered, is a file, or is not known: what would lie there is not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import places
from pipeline.models import weights

# Without these two rights root is stopped by a folder's mode like everybody else.
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def _as_others() -> tuple[str, ...] | None:
    """What to put before a command so that modes of folders hold for it; None where that is not possible."""
    if os.getuid() != 0:
        return ()
    able = shutil.which("setpriv") and subprocess.run([*WITHOUT_RIGHTS, "true"], capture_output=True)
    return WITHOUT_RIGHTS if able and able.returncode == 0 else None


@pytest.fixture(scope="session")
def as_others() -> tuple[str, ...]:
    """See `_as_others`."""
    found = _as_others()
    if found is None:
        pytest.skip("root enters every folder here, and may not give that right away")
    return found


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody may enter."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0)
    yield folder
    folder.chmod(0o700)


def models(repo: Path, before: tuple[str, ...], *words: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    if "SOUNDMILL_WEIGHTS" not in variables:
        environment.pop("SOUNDMILL_WEIGHTS", None)
    command = [*before, sys.executable, "jobs/models.py", *words]
    return subprocess.run(command, cwd=repo, env=environment, capture_output=True, text=True, timeout=60)


def test_a_home_that_cannot_be_entered_is_one_without_weights(repo, as_others, locked, tmp_path):
    done = models(repo, as_others, "list", HOME=str(locked))
    assert done.returncode == 0, done.stderr
    assert "spleeter-2stems" in done.stdout
    assert done.stderr == (
        f"looked for in {locked}/.cache/soundmill/weights, which cannot be read (Permission denied): "
        "set SOUNDMILL_WEIGHTS to another folder\n"
    )
    done = models(repo, as_others, "fetch", "spleeter-2stems", HOME=str(locked))
    assert (done.returncode, done.stdout) == (2, "")
    assert "set SOUNDMILL_WEIGHTS to another folder" in done.stderr
    assert "Traceback" not in done.stderr
    # What the line says to type works.
    store = tmp_path / "store"
    (store / "clap-htsat-tiny").mkdir(parents=True)
    file = store / "clap-htsat-tiny" / weights.entry("clap-htsat-tiny").filename
    file.write_bytes(b"weights")
    done = models(repo, as_others, "path", "clap-htsat-tiny", HOME=str(locked), SOUNDMILL_WEIGHTS=str(store))
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr


def test_a_weights_folder_and_a_file_that_cannot_be_read(repo, as_others, locked, tmp_path):
    done = models(repo, as_others, "list", SOUNDMILL_WEIGHTS=str(locked))
    assert (done.returncode, "Permission denied" in done.stderr) == (0, True)
    file = tmp_path / "store" / "spleeter-2stems" / weights.entry("spleeter-2stems").filename
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    file.chmod(0)
    done = models(repo, as_others, "path", "spleeter-2stems", SOUNDMILL_WEIGHTS=str(tmp_path / "store"))
    assert done.returncode == 2
    assert "spleeter-2stems is not installed" in done.stderr


SEARCH = """
import sys
sys.path.insert(0, sys.argv[1])
from pipeline.models.clap.fast_paths import cache_folder
from pipeline.models.separation import AUTO, BackendUnavailable, load_backend
from pipeline.models.separation.choose import choose
for name in ("demucs", "openunmix", "spleeter"):
    try:
        load_backend(name)
    except BackendUnavailable as error:
        print(error)
print(choose([AUTO], channels=2, samples=44100).separator.name, cache_folder())
"""


def test_every_backend_takes_it_for_an_empty_cache(repo, as_others, locked):
    environment = {k: v for k, v in os.environ.items() if k not in ("SOUNDMILL_WEIGHTS", "TORCH_HOME")}
    command = [*as_others, sys.executable, "-c", SEARCH, str(repo)]
    done = subprocess.run(command, env={**environment, "HOME": str(locked)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    demucs, openunmix, spleeter, last = done.stdout.splitlines()
    assert "htdemucs is in no cache of this machine" in demucs
    assert "umxhq is not in torch's cache on this machine" in openunmix
    assert "set SOUNDMILL_WEIGHTS" in spleeter
    assert last == "midside None"


def test_a_home_that_is_a_file(repo, tmp_path):
    home = tmp_path / "home"
    home.touch()
    done = models(repo, (), "list", HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert "which cannot be read (Not a directory)" in done.stderr
    assert not places.may_write(home / ".ray")


def test_a_home_that_nobody_knows(repo, monkeypatch):
    """As in a container that runs under a number which its password file lacks."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("SOUNDMILL_WEIGHTS", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)  # what the home is looked up by
    assert places.home() == places.NOWHERE
    assert weights.root() == places.NOWHERE / ".cache" / "soundmill" / "weights"
    assert weights.find("spleeter-2stems") is None
    assert weights.where() == f"in {weights.root()}"
    assert places.expanded("~/x") == places.NOWHERE / "x"
    assert places.expanded("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x")


def test_where_something_can_be_written(tmp_path):
    assert places.may_write(tmp_path)
    assert places.may_write(tmp_path / "not" / "yet")
    (tmp_path / "file").touch()
    assert not places.may_write(tmp_path / "file")
    assert not places.may_write(tmp_path / "file" / "below")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert not places.may_write(tmp_path / "dangling")


RAY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pipeline.engine.session import connect, disconnect
connect(num_cpus=1)
import ray
print(ray.get(ray.remote(lambda: "it runs").remote()), "RAY_AUTH_TOKEN" in os.environ)
disconnect()
"""


@pytest.mark.parametrize(
    "mode", [0, pytest.param(0o555, marks=pytest.mark.chaos)], ids=["locked", "read-only"]
)
def test_ray_starts_without_a_home_to_keep_its_password_in(repo, as_others, tmp_path, mode):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(mode)
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    command = [*as_others, sys.executable, "-c", RAY, str(repo)]
    done = subprocess.run(command, env={**environment, "HOME": str(home)}, capture_output=True, text=True)
    home.chmod(0o700)
    assert (done.returncode, done.stdout) == (0, "it runs True\n"), done.stderr
