"""What somebody waits for who typed a command: a word at once, and no library that the command does not need."""

from __future__ import annotations

import copy
import pickle

import pytest
from helpers.import_trap import NETWORKS, trapped

from pipeline.late import Late


@pytest.mark.parametrize(
    "line",
    [
        "extract_features.py --help",
        "extract_features.py --cfg job",
        "extract_features.py --cfg job source.uri=a output.uri=b separation.backends=[demucs]",
        "plan.py --help",
        "plan.py --cfg job",
        "demo.py --help",
        "columns.py",
        "models.py list",
        "models.py path spleeter-2stems",
        "verify.py --help",
        "failures.py --help",
        "report.py --help",
        "karaoke_service.py --help",
        "karaoke_service.py --cfg job service.embedded=true karaoke.method=midside",
        "master.py --help",
        "master.py --cfg job master.preset=warm",
        "master_service.py --help",
        "karaoke_request.py --help",
        "karaoke_request.py send --help",
    ],
)
def test_what_only_looks_imports_no_torch_and_no_ray(repo, line):
    done = trapped(repo, NETWORKS, *f"jobs/{line}".split())
    assert "imported" not in done.stderr
    assert done.returncode == (2 if " path " in line and not done.stdout else 0), done.stderr


@pytest.mark.parametrize("job", ["extract_features", "plan", "demo", "karaoke_service", "master"])
def test_the_first_line_comes_before_anything_heavy(repo, job):
    """Of order, not of seconds: whoever imports something ends the process, and the line has been said."""
    done = trapped(repo, "numpy,pyarrow,hydra,torch,ray", f"jobs/{job}.py", "source.uri=a", "output.uri=b")
    assert done.returncode == 99
    said, imported = done.stderr.splitlines()
    assert said.endswith(" loading packages")
    assert imported.startswith("imported ")


@pytest.mark.parametrize("job", ["extract", "plan", "demo", "karaoke-service"])
def test_the_command_says_its_first_line_as_early(repo, job):
    line = ["soundmill/__main__.py", job, "source.uri=a", "output.uri=b"]
    done = trapped(repo, "numpy,pyarrow,hydra,torch,ray", *line)
    assert done.returncode == 99
    said, imported = done.stderr.splitlines()
    assert said.endswith(" loading packages")
    assert imported.startswith("imported ")


@pytest.mark.parametrize("word", ["--help", "--version", "extrat"])
def test_the_command_by_itself_needs_nothing(repo, word):
    done = trapped(repo, "numpy,pyarrow,hydra,omegaconf,torch,ray", "soundmill/__main__.py", word)
    assert "imported" not in done.stderr
    assert done.returncode == (2 if word == "extrat" else 0)


def test_the_trap_works(repo, tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import json\nfrom pipeline.late import torch\nprint('kept')\ntorch.zeros(1)\n")
    command = f"import sys; sys.path.insert(0, {str(repo)!r})\n" + script.read_text()
    script.write_text(command)
    done = trapped(repo, NETWORKS, str(script))
    assert (done.returncode, done.stderr) == (99, "imported torch\n")


def test_a_late_module_is_the_module():
    import math

    late = Late("math")
    assert late.pi is math.pi
    assert pickle.loads(pickle.dumps(late)).pi is math.pi  # noqa: S301
    assert copy.deepcopy(late).floor(1.5) == 1
    with pytest.raises(AttributeError):
        _ = late.no_such_name
    late.soundmill_was_here = 1
    try:
        assert math.soundmill_was_here == 1
    finally:
        del late.soundmill_was_here
    assert not hasattr(math, "soundmill_was_here")
