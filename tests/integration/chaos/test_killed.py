"""Workers, drivers and nodes are killed; the tables are those of a run that nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from helpers.undisturbed import (
    EXTRACTORS,
    assert_same,
    config,
    contents,
    job,
    parts,
    run_to_the_end,
    undisturbed,
    wait_for,
    workers_of,
    write_files,
)

from pipeline.features import base
from pipeline.features.base import Extraction, Extractor, column
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(900)
FILES = 24


@pytest.fixture(scope="module")
def quiet_run(tmp_path_factory) -> tuple[Path, dict[str, object]]:
    """The files, and what a run over them gives that nobody disturbs."""
    root = tmp_path_factory.mktemp("quiet")
    write_files(root / "in", FILES)
    return root / "in", undisturbed(root / "in", root / "out")


def run_killing_the_driver(source: Path, output: Path, log: Path, after_parts: int) -> bool:
    """Start the job and kill -9 its driver once so many more parts are committed; whether it was killed."""
    before = parts(output)
    with job(str(source), str(output), log) as process:
        if not wait_for(lambda: parts(output) >= before + after_parts, process):
            return False
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return True


@pytest.mark.chaos
def test_a_driver_that_was_killed_is_continued_by_the_next_run(quiet_run, tmp_path):
    source, expected = quiet_run
    output = tmp_path / "out"
    assert run_killing_the_driver(source, output, tmp_path / "log", after_parts=2)
    [interrupted] = [p.name for p in (output / "runs").iterdir() if p.is_dir()]
    table = pq.read_table(output / "tracks")
    assert 0 < table.num_rows < FILES
    assert len(set(table["uri"].to_pylist())) == table.num_rows, "a reader sees whole rows, each once"
    assert run_to_the_end(str(source), str(output), tmp_path / "log2") == 0
    said = (tmp_path / "log2").read_text()
    assert f"run {interrupted} left its lock behind" in said
    assert f"run {interrupted} was interrupted" in said
    assert "files done already" in said
    assert '"interrupted"' in (output / "runs" / interrupted / "status.json").read_text()
    assert_same(output, expected, source)


@pytest.mark.chaos
def test_a_driver_killed_at_five_moments(quiet_run, tmp_path):
    source, expected = quiet_run
    output = tmp_path / "out"
    moments = random.Random(7).choices(range(4), k=5)
    for number, after_parts in enumerate(moments):
        run_killing_the_driver(source, output, tmp_path / f"log{number}", after_parts)
    assert run_to_the_end(str(source), str(output), tmp_path / "last") == 0
    assert_same(output, expected, source)


@pytest.mark.chaos
def test_random_workers_killed_every_few_seconds(tmp_path):
    write_files(tmp_path / "in", 300, seconds=6.0)
    expected = undisturbed(tmp_path / "in", tmp_path / "quiet")
    output, killed = tmp_path / "out", []
    rng = random.Random(3)
    with job(str(tmp_path / "in"), str(output), tmp_path / "log") as process:
        while process.poll() is None:
            time.sleep(4)
            alive = workers_of(process.pid)
            if alive and parts(output) and len(killed) < 6:
                killed.append(rng.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)
        assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    assert len(killed) >= 2, "it was too fast to be disturbed"
    assert_same(output, expected, tmp_path / "in")


@pytest.mark.chaos
def test_a_node_that_is_removed_hard(quiet_run, tmp_path):
    from ray.cluster_utils import Cluster

    source, expected = quiet_run
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        cluster.wait_for_nodes()
        made = config(source, tmp_path / "out")
        made.ray.address = cluster.address
        removed = []

        def remove() -> None:
            while not parts(tmp_path / "out"):
                time.sleep(0.05)
            cluster.remove_node(nodes[0], allow_graceful=False)
            removed.append(time.monotonic())

        thread = threading.Thread(target=remove)
        thread.start()
        result = extract.run(made, quiet=True)
        thread.join()
        assert removed
        assert result.exit_code == 0
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert_same(tmp_path / "out", expected, source)


class Poison(Extractor):
    """An extractor that kills its process on the loudest of the files."""

    name, version, description = "poison", "1", "for tests"

    def columns(self):
        return (column("poison_peak", base.pa.float32(), "1", "peak"),)

    def extract(self, spectra) -> Extraction:
        peak = float(np.abs(spectra.mono).max())
        if peak > 0.99:
            os.kill(os.getpid(), signal.SIGKILL)
        return Extraction({"poison_peak": peak})


@pytest.fixture
def poison(monkeypatch):
    """The extractor above, as if a plug-in had brought it. Workers cannot import a test: it travels by value."""
    import sys

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setitem(base.REGISTRY, "poison", Poison)
    yield Poison
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.chaos  # without Ray: test_inline_run.py
def test_a_file_that_kills_its_worker_costs_itself_only(quiet_run, tmp_path, poison):
    import soundfile

    source, expected = quiet_run
    victim = source / "poison.wav"
    soundfile.write(victim, np.full((22050, 2), 0.999), 22050, subtype="FLOAT")
    try:
        made = config(source, tmp_path / "out")
        made.features.enabled = [*EXTRACTORS, "poison"]
        made.features.poison = poison()
        made.max_strikes = 2
        result = extract.run(made, quiet=True)
        assert result.exit_code == 0
        found = contents(tmp_path / "out")
        [failure] = [r for r in found["failures"] if r["uri"] == str(victim)]
        assert (failure["stage"], failure["error_class"]) == ("features", "WorkerDied")
        assert (failure["worker_died"], failure["attempts"]) == (True, 2)
        [row] = [r for r in found["tracks"] if r["uri"] == str(victim)]
        assert row["status"] == "failed"
        assert "poison" in dict(row["failed_keys"]), "the next run leaves it alone"
        neighbours = [r for r in found["tracks"] if r["uri"] != str(victim)]
        assert len(neighbours) == len(expected["tracks"])
        for neighbour, alone in zip(neighbours, expected["tracks"], strict=True):
            own = {
                **alone,
                "extractor_keys": neighbour["extractor_keys"],
                "poison_peak": neighbour["poison_peak"],
            }
            assert neighbour == own
        again = extract.run(made, quiet=True)
        assert again.exit_code == 0
        log = (tmp_path / "out" / "runs" / again.run_id / "log.jsonl").read_text()
        assert "nothing to do" in log
    finally:
        victim.unlink()
