"""A process that runs one stage over blocks on disk, as an actor would, and says what that took.

Started by `pipeline.engine.measure`; speaks JSON lines on its standard output.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from pipeline.engine.node import Node
from pipeline.engine.process import peak_rss_bytes


def write_block(path: Path, table: pa.Table) -> None:
    """Write an Arrow file, whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    temporary.replace(path)


def read_block(path: Path) -> pa.Table:
    """An Arrow file as mapped memory: as an actor maps the blocks of Ray's object store."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def cpu_seconds() -> float:
    """Of this process and its children so far, in every thread."""
    own = psutil.Process()
    spent = sum(own.cpu_times()[:4])  # user and system, and those of children that have ended
    for child in own.children(recursive=True):
        try:
            spent += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return spent


def main(folder: str) -> None:
    """Run the stage of ``folder``/stage.pickle over the blocks that its job.json names."""
    # The stages' own chatter must not get into the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = json.loads((Path(folder) / "job.json").read_text())
    node: Node = pickle.loads((Path(folder) / "stage.pickle").read_bytes())  # noqa: S301  our own
    stage = node.make()
    _warm_up(stage, job)
    started, cpu = time.perf_counter(), cpu_seconds()
    ready = {"seconds": time.time() - job["started"], "cpu_s": cpu, **_memory(stage)}
    answers.write(json.dumps({"ready": ready}) + "\n")
    for source, target in job["blocks"]:
        if time.perf_counter() - started > job["budget_s"]:
            break
        table = read_block(Path(source))
        began, cpu = time.perf_counter(), cpu_seconds()
        found = stage(table)
        spent = {"seconds": time.perf_counter() - began, "cpu_s": cpu_seconds() - cpu, **_memory(stage)}
        write_block(Path(target), found)
        answers.write(json.dumps({"block": source, **spent}) + "\n")
    answers.write(json.dumps({"end": True}) + "\n")


def _warm_up(stage: Any, job: dict[str, Any]) -> None:
    """One file through the stage, so that what the first call alone costs counts as start-up."""
    if job["warm_up"] is not None:
        source, row = job["warm_up"]
        stage(read_block(Path(source)).slice(row, 1))


def _memory(stage: Any) -> dict[str, int]:
    found = {"rss": peak_rss_bytes(), "decoder_rss": 0, "vram": 0}
    decoder = getattr(stage, "decoder", None)
    if decoder is not None:
        found["decoder_rss"] = decoder.peak_rss_bytes
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        # What the allocator holds, and not only what tensors use: that is what the card is short of.
        found["vram"] = torch.cuda.max_memory_reserved()
    return found
