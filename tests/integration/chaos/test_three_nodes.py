"""A cluster of three nodes: all of them work, and a block is worked on where it lies."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.timeout(400), pytest.mark.chaos]
FILES, NODES = 60, 3


@pytest.fixture(scope="module")
def measured(repo, tmp_path_factory) -> list[dict]:
    """The job on the cluster as it is, and with Ray told not to look where a block lies."""
    found = tmp_path_factory.mktemp("locality") / "found.json"
    command = [
        sys.executable, "benchmarks/locality.py", "--files", str(FILES), "--nodes", str(NODES), "--seconds", "5",
        "--json", str(found),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(found.read_text())


@pytest.mark.parametrize("stage", ["decode", "features"])
def test_every_node_does_a_part_of_every_file_and_none_is_done_twice(measured, stage):
    for run in measured:
        assert run["exit_code"] == 0
        assert len(run["files"][stage]) == NODES, run["files"]
        assert sum(run["files"][stage].values()) == FILES


def test_audio_stays_on_the_node_that_decoded_it(measured):
    """Blind, two of three blocks would travel."""

    def travelled(run: dict) -> float:
        moved = run["moved"]["features"]
        return moved["elsewhere"] / (moved["here"] + moved["elsewhere"])

    where_it_lies, blind = measured
    assert travelled(where_it_lies) < travelled(blind)
