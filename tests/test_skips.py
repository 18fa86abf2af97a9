"""A test that is skipped for a reason nobody put on the list fails ``make test``, and every reason is said."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

KNOWN = 'import pytest\n\n@pytest.mark.skipif(True, reason="needs a CUDA device")\ndef test_card(): ...\n'
UNKNOWN = 'import pytest\n\ndef test_peer():\n    pytest.importorskip("no_such_peer")\n'
MODULE = 'import pytest\n\npytest.importorskip("no_such_library")\n\ndef test_never(): ...\n'
EXPECTED = "import pytest\n\n@pytest.mark.xfail(strict=True)\ndef test_wrong():\n    assert False\n"
PASSES = "def test_passes(): ...\n"


@pytest.fixture
def ran(repo, tmp_path):
    """``ran(files, *options)`` runs pytest on files of its own with the hooks of this checkout."""
    (tmp_path / "conftest.py").write_text("from skips import pytest_addoption, pytest_configure\n")

    def run(files: dict[str, str], *options: str) -> subprocess.CompletedProcess:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        environment = {**os.environ, "PYTHONPATH": str(repo / "tests")}
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"):
            environment.pop(name, None)
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_an_unknown_reason_fails_the_run_and_is_said(ran, workers):
    files = {"test_known.py": KNOWN, "test_unknown.py": UNKNOWN, "test_module.py": MODULE}
    done = ran(files, "--known-skips-only", *workers)
    assert done.returncode == 1, done.stdout
    all_of, wrong = done.stdout.split("= skipped, and why =")[1].split("= not to be skipped =")
    assert "1 × needs a CUDA device" in all_of
    assert "1 × could not import 'no_such_peer'" in all_of
    assert "all of test_module.py: could not import 'no_such_library'" in all_of
    assert "no_such_peer" in wrong
    assert "no_such_library" in wrong
    assert "CUDA" not in wrong


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_known_reasons_and_expected_failures_pass(ran, workers):
    files = {"test_known.py": KNOWN, "test_expected.py": EXPECTED, "test_passes.py": PASSES}
    done = ran(files, "--known-skips-only", *workers)
    assert done.returncode == 0, done.stdout
    assert "1 × needs a CUDA device" in done.stdout
    assert "not to be skipped" not in done.stdout


def test_without_the_option_the_reasons_are_only_said(ran):
    done = ran({"test_unknown.py": UNKNOWN, "test_passes.py": PASSES})
    assert done.returncode == 0, done.stdout
    assert "1 × could not import 'no_such_peer'" in done.stdout


def test_make_test_asks_for_it_and_its_extra_has_the_peers(repo):
    makefile = (repo / "Makefile").read_text()
    [recipe] = [line for line in makefile.splitlines() if "-m pytest" in line and "-m chaos" not in line]
    assert "--known-skips-only" in recipe
    for package in ("essentia.standard", "openunmix.model"):
        __import__(package)
