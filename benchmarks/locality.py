"""Where the work of a cluster runs, and how much audio travels between its nodes.

    python benchmarks/locality.py --files 240 --nodes 3 --blind

Starts a cluster of several nodes on this machine, each with an object store of its own, and runs the main job on it:
once as it is and, with --blind, once more with Ray Data told not to look where a block lies. Prints for each stage
which node did how many files, and how many bytes its tasks found on their own node and how many came from another.
Both are Ray's own words: the node of an actor from its table of actors, the bytes from the metrics of its operators.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.dataset
import ray
import soundfile
from ray.cluster_utils import Cluster
from ray.data import DataContext

from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract

try:
    from ray.data import ExecutionCallback
except ImportError:  # of Ray 2.60
    from ray.data._internal.execution.execution_callback import ExecutionCallback

MIB = 2**20


@dataclass
class Moved:
    """Of the inputs of one stage's tasks, in bytes: what lay on the node of the task, and what did not."""

    here: int = 0
    elsewhere: int = 0

    def share(self) -> float:
        """Of all bytes, those that had to travel; 0 where there were none."""
        return self.elsewhere / max(1, self.here + self.elsewhere)


@dataclass
class Found:
    """What a run on the cluster did.

    Args:
        exit_code: of the job.
        seconds: wall time.
        files: stage → Ray's node id → files.
        moved: stage → `Moved`; the decoders' inputs are addresses of files and not audio.
    """

    exit_code: int
    seconds: float
    files: dict[str, dict[str, int]] = field(default_factory=dict)
    moved: dict[str, Moved] = field(default_factory=dict)


class Watcher(ExecutionCallback):
    """Keeps the last metrics of each operator; Ray makes one of these for each pass, so the class has them."""

    moved: dict[str, Moved] = {}  # noqa: RUF012

    def after_execution_succeeds(self, executor: object) -> None:
        for operator in executor._topology:  # type: ignore[attr-defined]
            stage = _stage(operator.name)
            if stage:
                metrics = operator.metrics
                seen = self.moved.setdefault(stage, Moved())
                seen.here += metrics.bytes_inputs_of_task_locality_hit_tasks
                seen.elsewhere += metrics.bytes_inputs_of_task_locality_miss_tasks


def _stage(operator: str) -> str | None:
    """The stage's name in `timings`, from an operator's, which has that of the class."""
    names = ("decode", "features", "clap", "separation")
    classes = {f"{name.capitalize()}Worker": name for name in names} | {"Sink": "write"}
    return next((name for key, name in classes.items() if f"({key})" in operator), None)


def write_files(folder: Path, count: int, seconds: float) -> None:
    """Stereo noise and a tone each, 44.1 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    times = np.arange(round(44100 * seconds)) / 44100
    for number in range(count):
        tone = 0.4 * np.sin(2 * np.pi * 110 * 2 ** (number % 36 / 12) * times)
        samples = tone[:, None] + 0.05 * rng.standard_normal((len(times), 2))
        soundfile.write(folder / f"{number:04d}.wav", samples, 44100)


def configure(source: Path, output: Path, actors: int) -> ExtractConfig:
    """Two descriptors that are cheap and need the native channels, so that the audio itself travels."""
    config = ExtractConfig()
    config.source.uri, config.output.uri, config.output.overwrite = str(source), str(output), True
    config.features.enabled = ["loudness", "quality"]
    config.clap.enabled = config.separation.enabled = config.tags.enabled = config.beats.enabled = False
    config.hardware.max_files_per_block = 2
    config.hardware.actors.update(decode=actors, features=actors)
    return config


def run_on(cluster: Cluster, config: ExtractConfig, locality: bool = True) -> Found:
    """Run the job on ``cluster``. Without ``locality`` a block goes to the least busy actor, wherever that is."""
    context = DataContext.get_current()
    Watcher.moved = {}
    context.custom_execution_callback_classes = [Watcher]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.execution_options.actor_locality_enabled = locality
    config.ray.address = cluster.address
    started = time.perf_counter()
    try:
        result = extract.run(config, quiet=True)
    finally:
        context.custom_execution_callback_classes = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            context.execution_options.actor_locality_enabled = True
    found = Found(result.exit_code, time.perf_counter() - started, moved=dict(Watcher.moved))
    found.files = files_by_node(cluster.address, Path(config.output.uri))
    return found


def files_by_node(address: str, output: Path) -> dict[str, dict[str, int]]:
    """Stage → Ray's node id → files: from `timings`, which say the process, and Ray, which says where it was."""
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        actors = ray._private.state.state.actor_table(None).values()
        node_of = {actor["Pid"]: actor["Address"]["NodeID"] for actor in actors if actor["Pid"]}
    finally:
        ray.shutdown()
    timings = pyarrow.dataset.dataset(str(output / "timings"), format="parquet").to_table(
        columns=["asset_id", "stage", "pid"]
    )
    seen = {(r["asset_id"], r["stage"].split(".")[0], r["pid"]) for r in timings.to_pylist()}
    found: dict[str, dict[str, int]] = {}
    for _, stage, pid in seen:
        node = node_of[pid]
        counts = found.setdefault(stage, {})
        counts[node] = counts.get(node, 0) + 1
    return found


def simulated(nodes: int, cpus: int) -> Cluster:
    """A cluster of ``nodes`` nodes with ``cpus`` CPUs each, on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    for _ in range(nodes - 1):
        cluster.add_node(num_cpus=cpus)
    cluster.wait_for_nodes()
    return cluster


def show(title: str, found: Found) -> None:
    """Print one run as a table."""
    print(f"\n{title}: exit code {found.exit_code}, {found.seconds:.1f} s")
    print("stage      files on each node      MiB from own node   MiB from others   moved")
    for stage, files in found.files.items():
        counts = " + ".join(str(n) for n in sorted(files.values(), reverse=True))
        moved = found.moved.get(stage, Moved())
        print(
            f"{stage:10} {counts:23} {moved.here / MIB:17.1f} {moved.elsewhere / MIB:17.1f} "
            f"{moved.share():7.0%}"
        )
    print(f"Between decode and features, chance would move {by_chance(found.files):.0%}.")


def by_chance(files: dict[str, dict[str, int]]) -> float:
    """The share of files that change their node between decode and features if neither knows of the other."""
    decoded, described = files["decode"], files["features"]
    stayed = sum(count * described.get(node, 0) for node, count in decoded.items())
    return 1 - stayed / (sum(decoded.values()) * sum(described.values()))


def main() -> None:
    """Measure both and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--cpus", type=int, default=2, help="of each node, as Ray is told")
    parser.add_argument("--blind", action="store_true", help="once more, wherever an actor is free")
    parser.add_argument("--json", type=Path, help="write what is printed here, too")
    arguments = parser.parse_args()
    measured: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_files(root / "in", arguments.files, arguments.seconds)
        cluster = simulated(arguments.nodes, arguments.cpus)
        try:
            for title, locality in (("where the block lies", True), ("wherever an actor is free", False)):
                if not (locality or arguments.blind):
                    continue
                config = configure(root / "in", root / "out", arguments.nodes)
                measured[title] = run_on(cluster, config, locality)
                show(title, measured[title])
        finally:
            ray.shutdown()
            cluster.shutdown()
    if arguments.json:
        arguments.json.write_text(json.dumps(list(map(dataclasses.asdict, measured.values())), indent=2))


if __name__ == "__main__":
    main()
