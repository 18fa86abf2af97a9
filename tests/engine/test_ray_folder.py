"""Where Ray keeps its session: not under a path that has no room for its sockets."""

import os
import socket
import subprocess
import sys

import pytest

from pipeline.engine.ray_folder import LONGEST, ray_folder, unfit
from pipeline.engine.session import _no_ray
from pipeline.errors import UserError

SHORT = "/tmp"  # noqa: S108


@pytest.fixture
def bare(monkeypatch):
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def long_folder(tmp_path, size: int) -> str:
    """A folder there is, whose path has ``size`` bytes."""
    left = size - len(os.fsencode(str(tmp_path))) - 1
    assert left > 0, "the folder of the tests is longer than that"
    folder = tmp_path / ("x" * left)
    folder.mkdir()
    return str(folder)


def test_what_ray_would_take_is_left_alone_where_it_does(bare, tmp_path):
    assert ray_folder() == (None, "")
    bare.setenv("TMPDIR", SHORT)
    assert ray_folder() == (None, "")


def test_a_long_folder_is_passed_over_and_that_is_said(bare, tmp_path):
    wanted = long_folder(tmp_path, 129)
    bare.setenv("TMPDIR", wanted)
    folder, note = ray_folder((wanted, SHORT))
    assert folder == f"{SHORT}/ray"
    assert f"{SHORT}/ray" in note
    assert "129 bytes" in note
    assert wanted in note


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_so_is_one_that_is_not_there(bare, tmp_path, kind):
    wanted = tmp_path / kind
    if kind == "file":
        wanted.write_text("")
    bare.setenv("TMPDIR", str(wanted))
    folder, note = ray_folder((SHORT,))
    assert folder == f"{SHORT}/ray"
    assert str(wanted) in note


def test_what_was_set_for_ray_alone_is_refused_with_what_to_type(bare, tmp_path):
    wanted = long_folder(tmp_path, 129)
    bare.setenv("RAY_TMPDIR", wanted)
    with pytest.raises(UserError) as caught:
        ray_folder((SHORT,))
    assert f"RAY_TMPDIR={wanted}" in caught.value.what
    assert caught.value.do == f"RAY_TMPDIR={SHORT} before the command"
    bare.setenv("RAY_TMPDIR", caught.value.do.split()[0].partition("=")[2])
    assert ray_folder() == (None, "")


def test_without_any_folder_it_says_what_to_type(bare, tmp_path):
    bare.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="RAY_TMPDIR=/a/short/folder before the command"):
        ray_folder((str(tmp_path / "nor here"),))


def test_the_limit_is_that_of_the_system():
    """Ray's longest socket can be opened below a folder of this size, and not below a longer one."""
    ends = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    for size, says in ((LONGEST, "No such file"), (LONGEST + 1, "too long")):
        folder = "/" + "x" * (size - 1)
        with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match=says):
            one.connect(folder + ends)
        assert ("bytes" in unfit(folder)) == (says == "too long")


def test_ray_starts_with_such_a_folder_and_says_where_it_is(bare, tmp_path, repo):
    """A Ray, in a process of its own: the traceback was Ray's."""
    code = (
        "from pipeline.engine.session import connect, disconnect\n"
        "print(connect(num_cpus=1).note)\n"
        "disconnect()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, capture_output=True, text=True, timeout=120,
        env=os.environ | {"TMPDIR": long_folder(tmp_path, 129)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Ray's session is in /tmp/ray: TMPDIR=")


def test_a_path_that_ray_cannot_be_given_is_not_called_a_ray_that_does_not_start():
    error = UnicodeEncodeError("utf-8", "m\udcc3", 1, 2, "surrogates not allowed")
    said = _no_ray(None, error)
    assert "not ASCII" in said.what
    assert said.do == "PYTHONUTF8=1 before the command"
