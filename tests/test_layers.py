"""The floors hold: a module imports only from its own floor and lower ones, and the guests stay where they live."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = {
    "commands": -1, "counting": 0, "errors": 0, "late": 1, "optional": 1, "places": 1, "audio": 2, "dsp": 2,
    "features": 3, "models": 3, "mastering": 3, "speech": 3, "dataset": 4, "engine": 5, "stages": 6, "report": 7,
    "service": 7, "workflows": 8,
}  # fmt: skip
PURE = {"audio", "dsp", "features", "models", "mastering", "speech"}
REPO = Path(__file__).resolve().parents[1]
FILES = [p for folder in ("pipeline", "jobs", "soundmill") for p in sorted((REPO / folder).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Absolute names of everything ``path`` imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def floor(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return parts[1] if parts[0] == "pipeline" else parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_imports_point_down(path):
    here = floor(path)
    names = imports(path)
    tops = {name.split(".")[0] for name in names}
    if here in PURE:
        assert not tops & {"ray", "hydra", "omegaconf", "fsspec"}, "numpy and torch in, numpy and torch out"
    if here != "engine":
        assert "ray" not in tops, "only engine imports Ray"
    if here != "jobs":
        assert not tops & {"hydra", "omegaconf"}, "only jobs import Hydra"
        assert "jobs" not in tops
    if here in FLOORS:
        for name in names:
            parts = name.split(".")
            if parts[0] == "pipeline" and len(parts) > 1 and parts[1] in FLOORS:
                same = parts[1] == here
                assert same or FLOORS[parts[1]] < FLOORS[here], f"{here} must not import {name}"


def test_the_check_sees_every_floor():
    assert {floor(path) for path in FILES} >= {
        "audio",
        "dsp",
        "features",
        "models",
        "dataset",
        "engine",
        "stages",
        "workflows",
        "jobs",
    }


@pytest.mark.parametrize("module", ["pipeline.stages.decode.worker", "pipeline.engine.sink"])
def test_processes_that_run_no_network_do_not_load_torch(module):
    """It would cost each of their actors three seconds and 400 MB."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_only_looks_does_not_wait_for_ray_and_the_reports_libraries():
    """``--help``, ``--cfg job``, a wrong key, a run with nothing to do: seconds that nobody should wait."""
    code = "import sys, pipeline.workflows.features as _; print(*{'ray', 'sklearn', 'plotly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
