"""The wheel: what is in it, and that its one command does what the files of ``jobs/`` do, from another folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.documents import all_commands
from helpers.ray_head import REPO, clean_environment, ray_head

from pipeline.commands import SCRIPTS
from soundmill.cli import ABOUT

pytestmark = pytest.mark.timeout(600)
BUILT_FROM = ("pipeline", "jobs", "conf", "soundmill")
BESIDE = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "CHANGELOG.md", "constraints.txt")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
DOCUMENTED = sorted(
    {c.line for c in all_commands() if c.line.startswith("soundmill ") and re.search(r"=|--", c.line)}
)
QUICK = "features.enabled=[loudness] stages=[]"


def sources() -> list[Path]:
    """The files that a wheel is made of, of this checkout; what an editor or Python leaves is none of them."""
    kinds = {".py", ".yaml", ".j2", ".json", ".typed"}
    found = [path for folder in BUILT_FROM for path in (REPO / folder).rglob("*") if path.suffix in kinds]
    return sorted(path.relative_to(REPO) for path in found)


def copy_sources(folder: Path) -> Path:
    """A tree to build in: setuptools writes beside what it builds, and takes up what it wrote there before."""
    for path in [*sources(), *map(Path, BESIDE)]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((REPO / path).read_bytes())
    return folder


def built(what: str, tree: Path, folder: Path) -> Path:
    """``build_wheel`` or ``build_sdist`` of ``tree`` as pip asks for it, with the setuptools that is installed."""
    folder.mkdir()
    command = [sys.executable, "-c", BUILD, what, str(folder)]
    done = subprocess.run(
        command, cwd=tree, env=clean_environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [made] = folder.iterdir()
    return made


@dataclass
class Installed:
    """A wheel in a folder of its own, with the packages of this environment behind it.

    Args:
        wheel: the file.
        site: where it is installed; comes before the checkout on the path.
        folder: where commands are typed: not the checkout.
    """

    wheel: Path
    site: Path
    folder: Path

    def environment(self) -> dict[str, str]:
        own = clean_environment()
        return own | {"PYTHONPATH": str(self.site), "PATH": f"{self.site / 'bin'}{os.pathsep}{own['PATH']}"}

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | more,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return copy_sources(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def installed(tree, tmp_path_factory) -> Installed:
    """Built, installed by pip, with two files to work on in ``music``."""
    base = tmp_path_factory.mktemp("installed")
    wheel = built("build_wheel", tree, base / "wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--no-index",
        "--no-deps",
    ]
    subprocess.run([*pip, "--target", str(base / "site"), str(wheel)], check=True, timeout=200)
    music = base / "elsewhere" / "music"
    music.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(2):
        soundfile.write(music / f"{number}.wav", rng.uniform(-0.3, 0.3, 22050), 22050)
    return Installed(wheel, base / "site", music.parent)


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def test_the_wheel_holds_the_library_the_jobs_and_their_configs(installed):
    inside = {name for name in names(installed.wheel) if ".dist-info/" not in name}
    packed = {
        str(path) if path.parts[0] in ("pipeline", "soundmill") else f"soundmill/{path}" for path in sources()
    }
    assert inside == packed
    assert {
        "pipeline/py.typed",
        "soundmill/jobs/extract_features.py",
        "soundmill/conf/extract.yaml",
    } <= inside


def test_the_sdist_builds_the_same_wheel(installed, tree, tmp_path):
    sdist = built("build_sdist", tree, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        # Python before 3.10.12 and 3.11.4 has no filters.
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "unpacked", **safe)  # noqa: S202  it was built a moment ago
    [unpacked] = (tmp_path / "unpacked").iterdir()
    again = built("build_wheel", unpacked, tmp_path / "wheel")
    assert again.name == installed.wheel.name
    with zipfile.ZipFile(again) as one, zipfile.ZipFile(installed.wheel) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        different = [name for name in one.namelist() if one.read(name) != other.read(name)]
    assert [name for name in different if not name.endswith("/RECORD")] == []


def test_it_is_the_wheel_that_is_tested(installed):
    code = (
        "import pipeline, soundmill.cli as cli; print(pipeline.__file__, cli.__file__, cli.folder_of_jobs())"
    )
    done = installed.run(sys.executable, "-c", code)
    assert all(word.startswith(str(installed.site)) for word in done.stdout.split()), (
        done.stdout + done.stderr
    )
    assert len(done.stdout.split()) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_a_subcommand_says_soundmill(installed, name):
    done = installed.run("soundmill", name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"soundmill {name}" in done.stdout
    assert not re.search(r"jobs/\w+\.py|\b[a-z_]+\.py\b", done.stdout)


def test_the_config_is_inside(installed):
    done = installed.run("soundmill", "extract", "--cfg", "job", "source.uri=music", "hardware=gpu_small")
    assert (done.returncode, done.stderr) == (0, "")
    assert "uri: music" in done.stdout
    assert not (installed.folder / "outputs").exists()


def test_a_folder_of_configs_is_found_where_the_command_is_typed(installed):
    (installed.folder / "configs").mkdir()
    (installed.folder / "configs" / "mine.yaml").write_text("defaults: [extract, _self_]\nseed: 7\n")
    options = ["--config-dir", "configs", "--config-name", "mine"]
    done = installed.run("soundmill", "extract", *options, "--cfg", "job")
    assert "seed: 7" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("extract sourc.uri=music", "type:  soundmill extract --cfg job, for all keys and their values"),
        ("extract --nonsense", "soundmill extract: error: unrecognized arguments: --nonsense"),
        (
            "models path clap-htsat-tiny",
            "clap-htsat-tiny is not installed: soundmill models fetch clap-htsat-tiny",
        ),
        ("models", "usage: soundmill models"),
        ("extrat", "error: extrat is not a subcommand; did you mean extract?"),
        ("extract_features", "error: extract_features is not a subcommand; did you mean extract?"),
        ("source.uri=music", "type:  soundmill extract key=value ..., or soundmill --help"),
    ],
)
def test_a_mistake_is_answered_with_what_is_typed_here(installed, tmp_path, typed, said):
    done = installed.run("soundmill", *typed.split(), SOUNDMILL_WEIGHTS=str(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert "jobs/" not in done.stderr


def test_where_the_locale_is_not_utf8_it_begins_again(installed):
    latin = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = installed.run("soundmill", "extract", "--cfg", "job", "source.uri=müsli", **latin)
    assert (done.returncode, done.stderr) == (0, "")
    assert "uri: müsli" in done.stdout


def test_without_its_packages_it_says_what_to_type(installed):
    done = installed.run(sys.executable, "-S", "-m", "soundmill", "verify", "output.uri=out")
    assert done.returncode == 2
    assert "installed without what it needs" in done.stderr
    assert "-m pip install -c constraints.txt ." in done.stderr


def test_the_list_of_subcommands_is_whole(installed):
    assert list(ABOUT) == list(SCRIPTS)
    done = installed.run(sys.executable, "-m", "soundmill", "--help")
    assert [
        line.split()[0] for line in done.stdout.split("subcommands:\n")[1].split("\n\n")[0].splitlines()
    ] == list(SCRIPTS)
    assert done.stdout.count("\n  soundmill extract ") == 1
    assert installed.run("soundmill", "--version").stdout.startswith("soundmill 0.")


def test_the_commands_of_the_documents_run_from_another_folder(installed):
    """In the order of the documents: the run, then what looks at it."""
    assert {line.split()[1] for line in DOCUMENTED} >= {"extract", "verify"}
    said = {}
    for line in DOCUMENTED:
        done = installed.run(*shlex.split(line))
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said[line.split()[1]] = done.stdout + done.stderr
    assert "2 files (2 ok, 0 partial, 0 failed)" in said["extract"]
    assert "2 tracks: clean" in said["verify"]
    assert "jobs/" not in said["extract"]
    assert (installed.folder / "out" / "levels" / "tracks").is_dir()


@pytest.mark.chaos
def test_on_a_cluster_that_has_it_nothing_is_sent(installed):
    [line] = {c.line for c in all_commands() if c.line.startswith("ray job submit -- soundmill")}
    given = f"source.uri={installed.folder}/music output.uri={installed.folder}/out/submitted {QUICK}"
    own = installed.environment()
    with ray_head(more={name: own[name] for name in ("PATH", "PYTHONPATH")}) as head:
        settings = head.environment(RAY_API_SERVER_ADDRESS=head.dashboard)
        done = installed.run(*shlex.split(line.replace("…", given)), **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 files (2 ok, 0 partial, 0 failed)" in done.stdout
