"""What Ray costs: the same stages over the same files in the Ray pipeline and in a plain process pool.

    python benchmarks/overhead.py --audio ../shared/audio --files 200

The pool runs the very same stage objects, block by block, in as many processes as there are cores: decode,
features, separation, and the sink that writes the tables. Both sides start cold, load the same weights and
write the same tables; wall time is from the first import in the worker to the last table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
import soundfile

from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import SUFFIXES, list_source
from pipeline.engine.packing import planned
from pipeline.engine.session import connect, disconnect
from pipeline.engine.starting import THREAD_VARIABLES
from pipeline.workflows import stages
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract
from pipeline.workflows.jobs.extract import find_models

_STAGES: list[Any] = []


def make_files(audio: Path, folder: Path, count: int, seconds: float) -> float:
    """Cut ``count`` excerpts of at most ``seconds``, long and short sources in turn; returns their total length."""
    sources = sorted(p for p in audio.rglob("*") if p.suffix.lower() in SUFFIXES)
    lengths = {p: soundfile.info(p).duration for p in sources}
    long = [p for p in sources if lengths[p] > 60] or sources
    short = [p for p in sources if lengths[p] <= 60] or sources
    total = 0.0
    for number in range(count):
        kind, turn = (long, short)[number % 2], number // 2
        source, cycle = kind[turn % len(kind)], turn // len(kind)
        start = max(0.0, min(cycle * seconds, lengths[source] - seconds))
        rate = soundfile.info(source).samplerate
        samples, rate = soundfile.read(source, int(seconds * rate), int(start * rate))
        soundfile.write(folder / f"{number:04d}.flac", samples, rate)
        total += len(samples) / rate
    return total


def configure(source: Path, output: Path) -> ExtractConfig:
    """DSP features and Spleeter with its real weights; CLAP only where a trained checkpoint is fetched. Tags and beats
    are left out: older figures are without them."""
    config = ExtractConfig()
    config.source.uri, config.output.uri, config.output.overwrite = str(source), str(output), True
    config.separation.backends = ["spleeter", "midside"]
    config.tags.enabled = config.beats.enabled = False
    return config


def with_ray(config: ExtractConfig) -> float:
    """Wall seconds of the job without starting and stopping Ray itself."""
    connect()
    started = time.perf_counter()
    result = extract.run(config, quiet=True)
    elapsed = time.perf_counter() - started
    disconnect()
    if result.exit_code:
        raise SystemExit(f"the Ray run ended with exit code {result.exit_code}")
    return elapsed


def _start_worker(nodes: list) -> None:
    _STAGES[:] = [node.make() for node in nodes]


def _run_block(block: pa.Table) -> list[str]:
    for stage in _STAGES:
        block = stage(block)
    return block["receipt"].to_pylist()


def with_pool(config: ExtractConfig, processes: int) -> float:
    """Wall seconds of the same stages in a process pool."""
    started = time.perf_counter()
    output = Output(config.output.uri)
    output.check()
    output.clear()
    nodes = stages.build_graph(config, find_models(config), output, "pool")
    nodes[-1] = nodes[-1].having(fenced=False)  # nobody else writes here, and nobody took a lock
    blocks = stages.plan_blocks(planned(list_source(config.source.uri)), config.hardware, processes)
    # Before they are there: each loads its libraries before it is told anything, and these look once.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(nodes,)) as pool:
        receipts = [json.loads(r) for found in pool.map(_run_block, blocks) for r in found]
    elapsed = time.perf_counter() - started
    if any(set(r["status"]) - {"ok"} for r in receipts):
        raise SystemExit("the pool run had failures")
    return elapsed


def main() -> None:
    """Run both sides in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio"))
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="longest excerpt")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="overhead-"))
    try:
        (root / "in").mkdir()
        total = make_files(options.audio, root / "in", options.files, options.seconds)
        ray_s, pool_s = [], []
        for _ in range(options.repeats):
            ray_s.append(with_ray(configure(root / "in", root / "ray")))
            pool_s.append(with_pool(configure(root / "in", root / "pool"), options.processes))
            print(f"Ray {ray_s[-1]:.1f} s, pool {pool_s[-1]:.1f} s", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(root)
    ratios = [r / p for r, p in zip(ray_s, pool_s, strict=True)]
    print(
        f"{options.files} files, {total / 60:.1f} min of audio, {options.processes} processes, interleaved\n"
    )
    print("| side | wall s, each run | median | × real time |\n| --- | --- | ---: | ---: |")
    for name, seconds in (("Ray pipeline", ray_s), ("process pool", pool_s)):
        middle = statistics.median(seconds)
        runs = ", ".join(f"{s:.1f}" for s in seconds)
        print(f"| {name} | {runs} | {middle:.1f} | {total / middle:.1f} |")
    print(f"\nRatio Ray / pool: {statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
