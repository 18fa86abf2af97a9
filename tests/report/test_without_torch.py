"""What reads the tables of a run needs no network, and so neither torch nor Ray."""

from __future__ import annotations

import pytest
from helpers.import_trap import NETWORKS, trapped
from report_tables import build_small

from pipeline.dataset.output import Output


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> str:
    """An output with rows, failures and a run that was measured."""
    return build_small(Output(str(tmp_path_factory.mktemp("tables")))).uri


@pytest.mark.parametrize(
    ("job", "says", "code"),
    [
        ("failures", "UnrecognizedFormat", 0),
        # The rows of `build_small` have no timings, which is what it finds.
        ("verify", "tracks", 1),
        ("report", "report.html", 0),
    ],
)
def test_it_imports_neither(repo, tables, job, says, code):
    done = trapped(repo, NETWORKS, f"jobs/{job}.py", f"output.uri={tables}")
    assert "imported" not in done.stderr
    assert done.returncode == code, done.stderr
    assert says in done.stdout
