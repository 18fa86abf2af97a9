"""What is said to type is what is typed: ``python jobs/verify.py`` in a checkout, ``soundmill verify`` elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipeline.commands import BY_NAME, SCRIPTS, as_typed, program
from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.plan.advice import command

REPO = Path(__file__).resolve().parents[1]
# Calls that pass what they are given through `as_typed`.
OUTLETS = {"as_typed", "UserError", "log"}
# (file, function or name) of hints that reach one of them later.
LATER = {
    ("report/estimate.py", "NO_ESTIMATE"),
    ("workflows/ending.py", "next_text"),
    ("workflows/run.py", "_nothing_to_do"),
    ("models/clap/checkpoint.py", "OTHER_CHECKPOINT"),
    ("models/weights.py", "entry"),
    ("dataset/tables/dictionary.py", "HEAD"),  # docs/columns.md, of the checkout
}


@pytest.fixture
def by_name(monkeypatch):
    monkeypatch.setenv(BY_NAME, "extract")


def test_every_subcommand_has_its_file():
    assert all((REPO / "jobs" / f"{script}.py").is_file() for script in SCRIPTS.values())
    jobs = {path.stem for path in (REPO / "jobs").glob("*.py") if "def main(" in path.read_text()}
    assert jobs <= set(SCRIPTS.values())


def test_in_a_checkout_nothing_changes():
    text = "python jobs/verify.py output.uri=x   says more"
    assert as_typed(text) == text
    assert program("models") == "models.py"


@pytest.mark.parametrize(
    ("written", "typed"),
    [
        ("type python jobs/verify.py output.uri=/out", "type soundmill verify output.uri=/out"),
        (".venv/bin/python jobs/extract_features.py a=b", "soundmill extract a=b"),
        ("the keys of jobs/extract_features.py.", "the keys of soundmill extract."),
        ("`python jobs/models.py list`; python jobs/plan.py", "`soundmill models list`; soundmill plan"),
        ("source.uri=/data/jobs/plan.py: is a file", "source.uri=/data/jobs/plan.py: is a file"),
        ("s3://bucket/jobs/verify.py", "s3://bucket/jobs/verify.py"),
        ("python jobs/sweep.py", "python jobs/sweep.py"),
    ],
)
def test_a_job_is_named_as_it_is_typed(by_name, written, typed):
    assert as_typed(written) == typed
    assert as_typed(typed) == typed


def test_columns_of_a_help_text_stay_where_they_are(by_name):
    text = "  python jobs/plan.py      the same keys\n  --cfg job                the config\n  a  b   c"
    first, second, third = as_typed(text).splitlines()
    assert first.startswith("  soundmill plan ")
    assert first.index("the same") == second.index("the config")
    assert third == "  a  b   c"


def test_mistakes_usage_lines_and_plans_say_it(by_name):
    error = UserError("no weights", "python jobs/models.py list has none", "python jobs/models.py fetch x")
    assert error.explained().splitlines()[1:] == [
        "why:   soundmill models list has none",
        "type:  soundmill models fetch x",
    ]
    assert str(error) == "no weights (soundmill models list has none): soundmill models fetch x"
    assert program("extract_features") == "soundmill extract"
    assert (
        command(ExtractConfig(), ["source.uri=a b"], ["seed=1"])[0]
        == "soundmill extract 'source.uri=a b' seed=1"
    )


def hints(path: Path):
    """(line, name) of every text of a file that names a job and goes through none of `OUTLETS`."""

    def walk(node: ast.AST, name: str, covered: bool):
        if isinstance(node, ast.FunctionDef):
            name = node.name
        elif isinstance(node, ast.Assign) and not name and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif isinstance(node, ast.Call):
            called = node.func
            word = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            covered = covered or word in OUTLETS
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return  # a docstring
        elif isinstance(node, ast.Constant) and "python jobs/" in str(node.value) and not covered:
            yield node.lineno, name
        for child in ast.iter_child_nodes(node):
            yield from walk(child, name, covered)

    yield from walk(ast.parse(path.read_text()), "", False)


def test_no_hint_goes_past_it():
    library = REPO / "pipeline"
    found = {
        (str(path.relative_to(library)), name): f"{path}:{line}"
        for path in sorted(library.rglob("*.py"))
        for line, name in hints(path)
        if path.name != "commands.py"
    }
    assert found.keys() - LATER == set(), found
    assert LATER - found.keys() == set(), "hints that are no more"
