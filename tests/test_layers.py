"""The floors hold: a module imports only from its own floor and lower ones, and the guests stay where they live."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

FLOORS = {
    "commands": -1, "counting": 0, "errors": 0, "late": 1, "optional": 1, "places": 1, "audio": 2, "dsp": 2,
    "features": 3, "models": 3, "karaoke": 3, "mastering": 3, "speech": 3, "dataset": 4, "engine": 5, "stages": 6,
    "report": 7, "service": 7, "workflows": 8, "extract_function": 9,
}  # fmt: skip
PURE = {"audio", "dsp", "features", "models", "karaoke", "mastering", "speech"}
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


MODULES = {
    ".".join(path.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}  # fmt: skip
# Jobs import each other as scripts do, without their folder.
MODULES |= {path.stem: path for path in FILES if path.parent.name == "jobs"}


def modules_imported(name: str) -> set[str]:
    """The modules of the project that the module ``name`` imports: inside functions and for typing, too.

    ``from package import name`` imports the submodule of that name where there is one. A package that loads
    submodules when it is first asked for them counts as importing what it loads: all that its code names, or
    every one where it names none.
    """
    path = MODULES[name]
    tree = ast.parse(path.read_text())
    reached = set()
    loads_later = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            reached |= {alias.name for alias in node.names} & MODULES.keys()
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            reached |= below & MODULES.keys()
            if not below <= MODULES.keys():
                reached |= {node.module} & MODULES.keys()
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            loads_later |= ast.unparse(node.args[0]).startswith("f'{__name__}")
    if loads_later:
        assert path.name == "__init__.py", f"{path} loads modules below it: only a package has some"
        below = {other for other in MODULES if other.rpartition(".")[0] == name}
        said = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        reached |= {other for other in below if other.rpartition(".")[2] in said} or below
    return {other for other in reached if MODULES[other] != path}


def rings(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, largest first: strongly connected components (Kosaraju)."""
    order: list[str] = []
    backwards = {name: {other for other in edges if name in edges[other]} for name in edges}

    def reached_from(start: str, along: dict[str, set[str]], seen: set[str]) -> list[str]:
        """What is reached, each module after all that it leads to."""
        after, open_ = [], [(start, iter(sorted(along[start])))]
        seen.add(start)
        while open_:
            here, others = open_[-1]
            following = next((other for other in others if other not in seen), None)
            if following is None:
                after.append(here)
                open_.pop()
            else:
                seen.add(following)
                open_.append((following, iter(sorted(along[following]))))
        return after

    seen: set[str] = set()
    for name in edges:
        if name not in seen:
            order += reached_from(name, edges, seen)
    seen, groups = set(), []
    for name in reversed(order):
        if name not in seen:
            groups.append(sorted(reached_from(name, backwards, seen)))
    return sorted((group for group in groups if len(group) > 1), key=len, reverse=True)


def test_no_two_modules_import_each_other():
    """Not for typing either, and not by way of others: each can be read, and tested, before those above it."""
    edges = {name: modules_imported(name) for name in MODULES}
    assert rings(edges) == []


def test_a_ring_would_be_seen():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a", "e"}}
    assert rings(edges) == [["a", "b", "c"], ["d", "e"]]
    # Lazily, for typing, and a package that loads what is below it.
    assert "pipeline.report.money" in modules_imported("pipeline.workflows.plan_config")
    assert modules_imported("pipeline.features") >= {"pipeline.features.base", "pipeline.features.key"}
    assert "pipeline.models.separation.choose" in modules_imported("pipeline.models.separation")
    assert "pipeline.models.separation.demucs" not in modules_imported("pipeline.models.separation")
    assert "pipeline.dataset.tables.reading" in modules_imported("pipeline.dataset")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_what_is_imported_is_there(path):
    """Inside functions, too, where a module that was renamed would be missed only when they run."""
    packages = {name for name in MODULES if MODULES[name].name == "__init__.py"}
    packages |= {
        str(p.relative_to(REPO)).replace("/", ".") for p in (REPO / "pipeline").rglob("*") if p.is_dir()
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipeline":
            assert node.module in MODULES or node.module in packages, f"there is no {node.module}"
            text = MODULES[node.module].read_text() if node.module in MODULES else ""
            for alias in node.names:
                named = f"{node.module}.{alias.name}"
                assert named in MODULES or named in packages or re.search(rf"\b{alias.name}\b", text), named


# Triton takes the tensors and sizes of a kernel by their place, and so do those who launch one.
BY_PLACE = {
    "pipeline/models/clap/norm_kernels.py",
    "pipeline/models/separation/fused_kernels.py",
}
MOST_BY_PLACE = 5
CLASSES = {
    node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
}  # fmt: skip


def many_by_place(text: str) -> list[str]:
    """Functions that take more than five positional arguments, and instances made with more of them."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
            if len(names) > MOST_BY_PLACE:
                found.append(f"line {node.lineno}: {getattr(node, 'name', 'lambda')} takes {len(names)}")
        elif isinstance(node, ast.Call):
            ours = ast.unparse(node.func).rpartition(".")[2] in CLASSES
            if ours and len(node.args) > MOST_BY_PLACE:
                found.append(f"line {node.lineno}: {ast.unparse(node.func)} is given {len(node.args)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(REPO)))
def test_nothing_takes_more_than_five_arguments_by_place(path):
    """The sixth and further are named by the caller, who would swap two of them otherwise."""
    if str(path.relative_to(REPO)) in BY_PLACE:
        assert many_by_place(path.read_text()), "no longer an exemption"
        return
    assert many_by_place(path.read_text()) == []


def test_a_sixth_argument_by_place_would_be_seen():
    assert many_by_place("def f(a, b, c, d, e, *, g, h): ...") == []
    assert many_by_place("class A:\n    def f(self, a, b, c, d, e): ...") == []
    assert many_by_place("class A:\n    async def f(self, a, b, c, d, e, /, g=1): ...") == [
        "line 2: f takes 6"
    ]
    assert many_by_place("job.Job(1, 2, 3, 4, 5, known=6)") == []
    assert many_by_place("job.Job(1, 2, 3, 4, 5, 6)") == ["line 1: job.Job is given 6"]


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
    late = "{'ray', 'torch', 'sklearn', 'plotly'}"
    code = f"import sys, pipeline.workflows.jobs.extract as _; print(*{late} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
