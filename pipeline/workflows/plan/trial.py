"""The sample on the real stages: what it took, what failed, what it would write, what the cache has of it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.sources.sampling import Range, wilson
from pipeline.dataset.storage import one_line
from pipeline.engine.declare import Pipeline
from pipeline.engine.measure import Measured, measure
from pipeline.engine.packing import PlannedFile, pack
from pipeline.errors import UserError
from pipeline.workflows.caching import run_results
from pipeline.workflows.job import Found
from pipeline.workflows.plan.cost import StageSample
from pipeline.workflows.plan.header_survey import Look, Picked
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.stages import block_limits, build_graph, run_schema


@dataclass
class Tried:
    """What running the sample showed.

    Args:
        stages: in the order of the graph; without a sample none.
        costs: stage → what the estimate is made from.
        files: decoded or tried, those without a readable header among them.
        audio_s: in them, decoded.
        lost: share of the audio that its header promises and decoding does not give.
        failed: share of all files of which nothing will be computed, with its range.
        partial: share of files of which something will be missing.
        problems: of each file with failures: ``uri, stage, error_class, message``.
        fallbacks: (stage, wanted, used) → files.
        largest_block_s: audio in the block of the sample that has most of it.
        parts: rows and bytes of each part of the tables that was written, all tables together.
        blob_bytes: of arrays and stems written for the sample.
        cache: stage → share of its results that the cache has; None where it is off.
        others_cpus: cores that other processes of this machine took meanwhile.
    """

    stages: list[Measured] = field(default_factory=list)
    costs: dict[str, StageSample] = field(default_factory=dict)
    files: int = 0
    audio_s: float = 0.0
    lost: float = 0.0
    failed: Range = field(default_factory=lambda: Range(0.0, 0.0, 1.0))
    partial: Range = field(default_factory=lambda: Range(0.0, 0.0, 1.0))
    problems: list[dict[str, str]] = field(default_factory=list)
    fallbacks: Counter = field(default_factory=Counter)
    largest_block_s: float = 0.0
    parts: list[tuple[int, int]] = field(default_factory=list)
    blob_bytes: int = 0
    cache: dict[str, float] | None = None
    others_cpus: float = 0.0


def try_sample(
    config: RunConfig,
    models: Found,
    keys: Mapping[str, str],
    seen: Look,
    picked: Picked,
    *,
    cpus: float,
    say: Callable[[str], None],
) -> Tried:
    """Run the picked files through the stages of ``config`` into a temporary output.

    Args:
        config: with its hardware worked out.
        keys: extractor → key.
        cpus: of the cluster: blocks are as large as the run's.

    Raises:
        UserError: there is no room for the temporary files.
    """
    chosen = [*picked.files, *picked.broken]
    if not chosen:
        return Tried(failed=Range(seen.unreadable.low, seen.unreadable.expected, 1.0))
    blocks = list(
        pack(
            [_as_new(seen.files[i], number) for number, i in enumerate(chosen)],
            *block_limits(seen.files, config.hardware, cpus),
        )
    )
    try:
        with tempfile.TemporaryDirectory(prefix="soundmill-plan-") as folder:
            output = Output(f"{folder}/out")
            output.check()
            nodes = build_graph(config, models, output, "plan", run_schema(config, models))
            nodes[-1] = nodes[-1].having(fenced=False)  # nobody else writes there, and nobody took a lock
            began, busy = time.monotonic(), _machine_cpu_s()
            found = measure(
                blocks,
                nodes,
                Path(folder),
                threads=config.perf.threads,
                budget_s=config.plan.stage_seconds,
                say=say,
            )
            elapsed, busy = time.monotonic() - began, _machine_cpu_s() - busy
            parts, blobs = _written(output)
    except OSError as error:
        raise UserError(
            f"the sample's audio does not fit into {tempfile.gettempdir()} ({one_line(error)}): lower "
            "plan.max_minutes, or set TMPDIR to a larger disk"
        ) from None
    rows = {row["index"]: row for row in found.rows}
    tried = Tried(found.stages, files=len(chosen), parts=parts, blob_bytes=blobs)
    tried.largest_block_s = found.largest_block_s
    tried.audio_s = sum(row.get("duration_s") or 0.0 for row in rows.values())
    own = sum(s.cpu_s + s.startup_cpu_s for s in found.stages)
    tried.others_cpus = max(0.0, (busy - own) / elapsed)
    _count_failures(tried, rows, seen, picked)
    for row in rows.values():
        tried.fallbacks.update({(f["stage"], f["wanted"], f["used"]) for f in row["fallbacks"]})
    tried.cache = _cached(config, models.pipeline(config), rows.values())
    tried.costs = _costs(config, tried, rows, seen, picked)
    for name, sample in tried.costs.items():
        stage = next(s for s in tried.stages if s.stage == name)
        if sample.on_gpu and "cuda" not in stage.devices:
            tried.costs[name] = models.on_a_card(config, name, sample, stage.backends)
    return tried


def _machine_cpu_s() -> float:
    """CPU seconds that all processes of this machine have spent."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system


def _as_new(file: PlannedFile, number: int) -> PlannedFile:
    """``file`` as one that goes into a part of its own: the output of the sample is empty."""
    return dataclasses.replace(file, index=number, part=None, shared=False)


def _written(output: Output) -> tuple[list[tuple[int, int]], int]:
    """Rows and bytes of each part of the tables, and bytes of arrays and artifacts."""
    root = Path(output.uri)
    sizes: Counter[str] = Counter()
    for table in output.tables:
        for part in output.parts(table):
            sizes[part.split("/", 1)[1]] += (root / part).stat().st_size
    rows = [pq.ParquetFile(root / "tracks" / name).metadata.num_rows for name in sizes]
    others = (p for kind in output.folders() for p in (root / kind).rglob("*") if p.is_file())
    return list(zip(rows, sizes.values(), strict=True)), sum(p.stat().st_size for p in others)


def _count_failures(tried: Tried, rows: Mapping[int, dict[str, Any]], seen: Look, picked: Picked) -> None:
    """Fill in the problems and the two rates."""
    chosen = [*picked.files, *picked.broken]
    failed, partial = set(), set()
    for index, row in rows.items():
        for f in row["failures"]:
            uri = seen.files[chosen[index]].item.uri
            tried.problems.append({"uri": uri, **{k: f[k] for k in ("stage", "error_class", "message")}})
        stages = {f["stage"] for f in row["failures"]}
        (failed if "decode" in stages else partial if stages else set()).add(index)
    for stage in tried.stages:
        for death, indexes in stage.deaths:
            failed.add(indexes[0])  # one at least; which of them, nobody knows
            among = f"one of {plural(len(indexes), 'file')}: {death}" if len(indexes) > 1 else death
            uri = seen.files[chosen[indexes[0]]].item.uri
            tried.problems.append(
                {"uri": uri, "stage": stage.stage, "error_class": "WorkerDied", "message": among}
            )
    good = len(picked.files)
    promised = [seen.seconds(i) or 0.0 for i in picked.files]
    if sum(promised):
        tried.lost = sum(s for number, s in enumerate(promised) if number in failed) / sum(promised)
    # Of those without a readable header some decode all the same: there FFmpeg sees more than its header.
    broken = len(picked.broken)
    confirmed = sum(i >= good for i in failed) / broken if broken else 1.0
    share = seen.unreadable
    whole = seen.complete and good == len(seen.good)
    found = _share(sum(i < good for i in failed), good, whole)
    ends = zip(dataclasses.astuple(share), dataclasses.astuple(found), strict=True)
    tried.failed = Range(*(_either(unread * confirmed, fails) for unread, fails in ends))
    tried.partial = _share(len(partial), tried.files, whole)


def _share(hits: int, n: int, whole: bool) -> Range:
    """Of ``n`` files, which are a sample, or ``whole``: all there are."""
    rate = hits / n if n else 0.0
    return Range(rate, rate, rate) if whole else Range(*sorted((*wilson(hits, n), rate)))


def _either(one: float, other: float) -> float:
    """Probability that one or the other happens, which do not know of each other."""
    return one + (1.0 - one) * other


def _cached(config: RunConfig, pipeline: Pipeline, rows: Iterable[dict[str, Any]]) -> dict[str, float] | None:
    """Stage → share of what is wanted of the sample that the cache has; looked up in its indexes only."""
    results = run_results(config, pipeline)
    if results is None:
        return None
    hits: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    whole = 0
    assets = [row["asset_id"] for row in rows if row.get("duration_s")]
    for asset in assets:
        there = {name: bool(key) and results.cache.has(asset, key) for name, key in results.keys.items()}
        for name, stage in results.stages.items():
            asked[stage] += 1
            hits[stage] += there.get(name, False)
        whole += all(there.values())
    shares = {stage: hits[stage] / n for stage, n in asked.items()}
    return shares | {"decode": whole / len(assets) if assets else 0.0}


def _costs(
    config: RunConfig, tried: Tried, rows: Mapping[int, dict[str, Any]], seen: Look, picked: Picked
) -> dict[str, StageSample]:
    """Per stage, of the files with a readable header, whether they could be decoded or not."""
    found = {}
    for stage in tried.stages:
        files = []
        for number, index in enumerate(picked.files):
            if number in stage.files:
                seconds = seen.seconds(index)
                seconds = rows[number].get("duration_s") if seconds is None and number in rows else seconds
                files.append((float(seconds or 0.0), stage.files[number]))
        sample = StageSample(
            files=tuple(files),
            cpu_ratio=stage.cpu_s / stage.seconds if stage.seconds else 1.0,
            startup_s=stage.startup_s,
            startup_cpu_s=stage.startup_cpu_s,
            on_gpu=bool(config.hardware.gpu_shares.get(stage.stage)),
            skipped=(tried.cache or {}).get(stage.stage, 0.0),
        )
        found[stage.stage] = sample
    return found
