"""Three nodes: all of them work, a block is worked on where it lies, and a stage with a GPU where the GPU is."""

import json
import subprocess
import sys

import pytest
import ray
from ray.cluster_utils import Cluster
from undisturbed import config, write_files

from pipeline.workflows import features

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


def test_the_head_idles_and_the_stage_with_a_gpu_runs_where_it_is(repo, tmp_path, monkeypatch):
    """The shape of cluster.yaml. Ray is told of a GPU that is not there, so the stage falls back to the CPU there."""
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    from locality import files_by_node

    write_files(tmp_path / "in", 12)
    made = config(tmp_path / "in", tmp_path / "out")
    made.hardware.gpu_shares["features"] = 4
    made.hardware.actors["decode"] = 4
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cpu, gpu = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2, num_gpus=1)
        cluster.wait_for_nodes()
        made.ray.address = cluster.address
        result = features.run(made, quiet=True)
        assert result.exit_code == 0
        found = files_by_node(cluster.address, tmp_path / "out")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert set(found["features"]) == {gpu.node_id}
    assert set(found["decode"]) <= {cpu.node_id, gpu.node_id}
