"""Three nodes: all of them work, a block is worked on where it lies, and a stage with a GPU where the GPU is."""

import json
import subprocess
import sys

import pytest
import ray
from helpers.undisturbed import config, write_files
from ray.cluster_utils import Cluster

from pipeline.workflows.jobs import extract

pytestmark = [pytest.mark.timeout(400), pytest.mark.chaos]
FILES, NODES = 60, 3


@pytest.fixture(scope="module")
def measured(repo, tmp_path_factory) -> dict:
    """What the benchmark says of one run, see `Found` there."""
    found = tmp_path_factory.mktemp("locality") / "found.json"
    command = [
        sys.executable, "benchmarks/locality.py", "--files", str(FILES), "--nodes", str(NODES), "--seconds", "5",
        "--json", str(found),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stderr[-3000:]
    [run] = json.loads(found.read_text())
    return run


def test_all_nodes_work_and_no_file_is_done_twice(measured):
    assert measured["exit_code"] == 0
    assert {stage: sum(counts.values()) for stage, counts in measured["files"].items()} == dict.fromkeys(
        ("decode", "features", "write"), FILES
    )
    # Seven actors of which three fit on a node.
    assert len({node for counts in measured["files"].values() for node in counts}) == NODES


def test_more_audio_stays_on_the_node_that_decoded_it_than_by_chance(measured, repo, monkeypatch):
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    from locality import by_chance

    moved = measured["moved"]["features"]
    travelled = moved["elsewhere"] / (moved["here"] + moved["elsewhere"])
    assert travelled < by_chance(measured["files"])


def test_the_head_idles_and_the_stage_with_a_gpu_runs_where_it_is(repo, tmp_path, monkeypatch):
    """The shape of cluster.yaml. Ray is told of a GPU that is not there, so the stage falls back to the CPU there."""
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    from locality import files_by_node

    write_files(tmp_path / "in", 12)
    made = config(tmp_path / "in", tmp_path / "out")
    made.features.enabled = []
    made.separation.enabled, made.separation.backends = True, ["midside"]
    made.hardware.gpu_shares["separation"] = 4
    made.hardware.actors["decode"] = 4
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        cpu, gpu = cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2, num_gpus=1)
        cluster.wait_for_nodes()
        made.ray.address = cluster.address
        result = extract.run(made, quiet=True)
        assert result.exit_code == 0
        found = files_by_node(cluster.address, tmp_path / "out")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert set(found["separation"]) == {gpu.node_id}
    assert set(found["decode"]) <= {cpu.node_id, gpu.node_id}
