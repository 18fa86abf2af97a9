"""docs/columns.md is what the schemas say."""

import subprocess
import sys

import pyarrow as pa
import pytest
from helpers.standard_schemas import KNOWN, segments_of, tracks_of

from pipeline.dataset.tables.dictionary import dictionary, table
from pipeline.dataset.tables.schemas import FAILURES, TIMINGS
from pipeline.features import REGISTRY
from pipeline.features.base import column
from pipeline.stages.clap.spec import SIMILARITY
from pipeline.workflows.known_jobs import JOBS


def test_the_committed_dictionary_is_that_of_the_schemas(repo):
    committed = (repo / "docs" / "columns.md").read_text()
    assert committed == dictionary(KNOWN).rstrip() + "\n", "type python jobs/columns.py > docs/columns.md"


def test_every_column_is_a_line():
    lines = dictionary(KNOWN).splitlines()
    tracks = tracks_of([REGISTRY[name].widest() for name in REGISTRY], True, True)
    for schema in (tracks, segments_of(), TIMINGS, FAILURES, [SIMILARITY]):
        for field in schema:
            assert any(line.startswith(f"| `{field.name}` |") for line in lines), field.name
    headings = [line for line in lines if line.startswith("### ")]
    for name in (*REGISTRY, "clap", "separation"):
        assert any(heading.startswith(f"### {name}: ") for heading in headings)


def test_a_column_looks_like_this():
    kind = pa.list_(pa.struct([("stage", pa.string()), ("seconds", pa.float64())]))
    lines = list(table([column("x_times", kind, "s", "time | of <name>", "Nobody, 2020")]))
    assert lines[-1] == (
        "| `x_times` | `list<struct<stage: string, seconds: double>>` | s | time \\| of &lt;name> | Nobody, 2020 |"
    )


@pytest.mark.parametrize(("unit", "words", "missing"), [("", "words", "unit"), ("dB", "", "definition")])
def test_a_column_without_unit_or_definition_is_an_error(unit, words, missing):
    with pytest.raises(ValueError, match=f"column x has no {missing}"):
        list(table([column("x", pa.float32(), unit, words)]))


@pytest.mark.parametrize("words", [["output.uri=x"], ["karaoke", "karaoke.method=auto"]])
def test_it_takes_a_job_and_no_keys(repo, words):
    command = [sys.executable, "jobs/columns.py", *words]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    known = ", ".join(JOBS)
    assert done.stderr == f"error: {words[-1]} is no job: it takes one of {known}\n"
    assert done.stdout == ""


def test_another_job_has_columns_of_its_own(repo):
    command = [sys.executable, "jobs/columns.py", "karaoke"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=60, check=True)
    assert "| `karaoke_predicted_sdr_db` | `float` | dB |" in done.stdout
    assert "chroma" not in done.stdout
