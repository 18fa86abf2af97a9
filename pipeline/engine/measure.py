"""The real stages over a few blocks, each in a process of its own as an actor is, without Ray: what do they take?

One after the other, so that nothing else competes for the cores; each gets the tables that the one before wrote.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.children import child_command, how_it_ended
from pipeline.counting import plural
from pipeline.engine.batch import collect
from pipeline.engine.measure_child import read_block, write_block
from pipeline.engine.node import Node
from pipeline.engine.starting import THREAD_VARIABLES

ATTEMPTS = 3
"""A block that kills the process is left out, and the rest goes to a new one, so often."""

START_LIMIT_S = 300.0
Say = Callable[[str], None]


@dataclass
class Measured:
    """What one stage took.

    Args:
        stage: as in `timings`.
        startup_s, startup_cpu_s: until it could take work: imports, models, and one file to warm up; wall and CPU.
        seconds, cpu_s: of all blocks; CPU in all threads and in the decoder's process.
        ready_rss_bytes, peak_rss_bytes: of the process when it could take work and at most, the pages of the tables
            that it reads included.
        decoder_rss_bytes: of the process that decodes for it; 0 where there is none.
        vram_bytes: most that it reserved on a card; 0 without one.
        blocks: done.
        left: blocks that it had no time for.
        block_seconds: name of a block → its seconds.
        files: index → seconds that its files took.
        devices, backends: names → files.
        deaths: how its process died, one line each, with the files it had then.
    """

    stage: str
    startup_s: float = 0.0
    startup_cpu_s: float = 0.0
    seconds: float = 0.0
    cpu_s: float = 0.0
    ready_rss_bytes: int = 0
    peak_rss_bytes: int = 0
    decoder_rss_bytes: int = 0
    vram_bytes: int = 0
    blocks: int = 0
    left: int = 0
    block_seconds: dict[str, float] = field(default_factory=dict)
    files: dict[int, float] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    backends: dict[str, int] = field(default_factory=dict)
    deaths: list[tuple[str, list[int]]] = field(default_factory=list)


@dataclass
class Sample:
    """What the stages found out.

    Args:
        stages: in the order of the graph.
        rows: of each file that came through all stages but the sink: ``index``, ``asset_id``, ``uri``,
            ``duration_s``, ``container``, ``codec``, ``sample_rate``, ``channels``, ``failures`` and ``fallbacks``.
        largest_block_s: audio in the block that has most of it.
    """

    stages: list[Measured]
    rows: list[dict[str, Any]]
    largest_block_s: float = 0.0


_ABOUT = ("index", "asset_id", "uri", "duration_s", "container", "codec", "sample_rate", "channels")


def measure(
    blocks: Sequence[pa.Table],
    nodes: Sequence[Node],
    folder: Path,
    *,
    threads: int,
    budget_s: float,
    say: Say,
) -> Sample:
    """Send ``blocks`` through ``nodes``.

    Args:
        nodes: the last is the sink, and must write to a place of its own.
        folder: for the tables in between; some MB per minute of audio.
        threads: of each process, as ``perf.threads``.
        budget_s: a stage begins no further block after so many seconds of work.
        say: told what goes on, every few seconds.
    """
    paths = []
    for number, block in enumerate(blocks):
        paths.append(folder / f"{number:04d}.arrow")
        write_block(paths[-1], block)
    sample = Sample([], [])
    for place, node in enumerate(nodes):
        last = place == len(nodes) - 1
        if last:
            found_rows = [_rows(read_block(path)) for path in paths]
            sample.rows = [row for rows in found_rows for row in rows]
            audio = [sum(row["duration_s"] or 0.0 for row in rows) for rows in found_rows]
            sample.largest_block_s = max(audio, default=0.0)
            for path in paths:
                write_block(path, _for_an_empty_output(read_block(path)))
        target = folder / f"{place}-{node.name}"
        target.mkdir()
        found, written = _Stage(node, target, threads, budget_s, say).run(paths)
        sample.stages.append(found)
        for path, before in written:
            _attribute(found, path, read_block(before) if last else None)
        for path in paths:
            path.unlink()
        paths = [path for path, _ in written]
    return sample


class _Stage:
    """One stage over all blocks, in one process, or in several where one dies."""

    def __init__(self, node: Node, folder: Path, threads: int, budget_s: float, say: Say) -> None:
        self.node, self.folder, self.threads, self.budget_s = node, folder, threads, budget_s
        self.say = say
        self.found = Measured(node.name)

    def run(self, paths: Sequence[Path]) -> tuple[Measured, list[tuple[Path, Path]]]:
        """What it took, and the blocks that it wrote, each with the one it came from."""
        (self.folder / "stage.pickle").write_bytes(pickle.dumps(self.node))
        waiting = [(path, self.folder / path.name) for path in paths]
        written: list[tuple[Path, Path]] = []
        for _ in range(ATTEMPTS):
            if not waiting:
                break
            done, death = self._process(waiting, len(written), len(paths))
            written += [(target, source) for source, target in waiting[:done]]
            waiting = waiting[done:]
            if death is None:
                break
            if waiting:
                lost = waiting.pop(0)[0]
                indexes = read_block(lost)["index"].to_pylist()
                self.found.deaths.append((death, indexes))
                lacking = f"a block of {plural(len(indexes), 'file')}, which is left out"
                self.say(f"{self.node.name}: {death} on {lacking}")
        self.found.blocks, self.found.left = len(written), len(waiting)
        return self.found, written

    def _process(
        self, waiting: Sequence[tuple[Path, Path]], before: int, total: int
    ) -> tuple[int, str | None]:
        """Run what is waiting in one process: how many blocks it did, and how it died, if it did."""
        job = {
            "started": time.time(),
            "budget_s": self.budget_s - self.found.seconds,
            "warm_up": _shortest(waiting[0][0]),
            "blocks": [(str(source), str(target)) for source, target in waiting],
        }
        (self.folder / "job.json").write_text(json.dumps(job))
        own = {name: str(self.threads) for name in THREAD_VARIABLES}
        with (self.folder / "said.txt").open("wb") as errors, (self.folder / "answers.txt").open("wb") as out:
            child = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
                child_command("pipeline.engine.measure_child", str(self.folder)),
                stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=os.environ | own,
            )  # fmt: skip
            try:
                late = self._wait(child, before, total)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        answers = self._answers()
        for answer in answers:
            self._add(answer)
        done = sum("block" in answer for answer in answers)
        if answers and "end" in answers[-1]:
            return done, None
        return done, late or self._cause(child.returncode)

    def _wait(self, child: subprocess.Popen, before: int, total: int) -> str | None:
        """Until the process ends. Returns why it was ended, if it had to be."""
        limit = START_LIMIT_S + 3 * self.budget_s
        started = said = time.monotonic()
        while child.poll() is None:
            time.sleep(0.05)
            now = time.monotonic()
            if now - started > limit:
                return f"no end after {limit:.0f} s"
            if now - said >= 5.0:
                said = now
                done = before + sum("block" in answer for answer in self._answers())
                so_far = f"{done} of {plural(total, 'block')}, {now - started:.0f} s"
                self.say(f"measuring {self.node.name}: {so_far}")
        return None

    def _answers(self) -> list[dict[str, Any]]:
        lines = (self.folder / "answers.txt").read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _add(self, answer: dict[str, Any]) -> None:
        numbers = answer.get("ready") or (answer if "block" in answer else None)
        if numbers is None:
            return
        if "ready" in answer:
            self.found.ready_rss_bytes = max(self.found.ready_rss_bytes, numbers["rss"])
            self.found.startup_s = max(self.found.startup_s, numbers["seconds"])
            self.found.startup_cpu_s = max(self.found.startup_cpu_s, numbers["cpu_s"])
        else:
            self.found.seconds += numbers["seconds"]
            self.found.block_seconds[Path(answer["block"]).name] = numbers["seconds"]
            self.found.cpu_s += numbers["cpu_s"]
        self.found.peak_rss_bytes = max(self.found.peak_rss_bytes, numbers["rss"])
        self.found.decoder_rss_bytes = max(self.found.decoder_rss_bytes, numbers["decoder_rss"])
        self.found.vram_bytes = max(self.found.vram_bytes, numbers["vram"])

    def _cause(self, code: int) -> str:
        lines = (self.folder / "said.txt").read_text(errors="replace").strip().splitlines()
        own = f" ({lines[-1][:200]})" if lines and code >= 0 else ""  # a signal speaks for itself
        return how_it_ended("its process", code) + own


def _shortest(path: Path) -> tuple[str, int] | None:
    """The block, and its row with the least audio that was decoded; its first row where none was yet."""
    table = read_block(path)
    if not table.num_rows:
        return None
    if "duration_s" not in table.column_names:
        return str(path), 0
    seconds = table["duration_s"].to_pylist()
    heard = [row for row, s in enumerate(seconds) if s]
    return str(path), min(heard, key=lambda row: seconds[row]) if heard else 0


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows = table.select([name for name in _ABOUT if name in table.column_names]).to_pylist()
    kinds = {kind: collect(table, kind) for kind in ("failures", "fallbacks")}
    return [{**row, **{kind: kinds[kind][n] for kind in kinds}} for n, row in enumerate(rows)]


def _for_an_empty_output(table: pa.Table) -> pa.Table:
    """The rows as they would be of files without a row: the output that the sample is written to is empty."""
    if "kept" in table.column_names:
        kept = table["kept"].fill_null(False)
        table = table.filter(pc.invert(kept))
    for name, kind in (("known_asset", pa.string()), ("elsewhere", pa.bool_())):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.nulls(table.num_rows, kind))
    return table


def _attribute(found: Measured, path: Path, before: pa.Table | None) -> None:
    """Add what each file of the block at ``path`` took. Of the sink, which returns a receipt, its time is shared:
    half by files, each of which costs rows, and half by audio."""
    if before is not None:
        seconds = [s or 0.0 for s in before["duration_s"].to_pylist()]
        total, audio = found.block_seconds[path.name], sum(seconds)
        for index, s in zip(before["index"].to_pylist(), seconds, strict=True):
            even = 1 / len(seconds)
            found.files[index] = total * (0.5 * even + 0.5 * s / audio if audio else even)
        return
    after = read_block(path)
    for index, costs in zip(
        after["index"].to_pylist(), after[f"timings@{found.stage}"].to_pylist(), strict=True
    ):
        found.files[index] = sum(cost["compute_s"] for cost in costs or ())
        for cost in costs or ():
            for counts, name in ((found.devices, cost["device"]), (found.backends, cost["backend"])):
                if name:
                    counts[name] = counts.get(name, 0) + 1
