"""What a job runs: its blocks of files, its stages with what their workers are told, and their pools."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import tracks_schema
from pipeline.engine.answer import NAME as ANSWER
from pipeline.engine.declare import DECODE, WRITE, Pipeline, Stage
from pipeline.engine.driver import Cluster
from pipeline.engine.earlier import Earlier
from pipeline.engine.groups import by_group, group_stages, largest_of_group, name_of
from pipeline.engine.hung import HungFiles
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile, estimated_seconds, pack
from pipeline.engine.resources import DECODE_WEIGHT, WRITE_WEIGHT, StageResources, Workload, plan_resources
from pipeline.engine.results import Results
from pipeline.features.golden import Golden
from pipeline.workflows.caching import run_results
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.job import Found
from pipeline.workflows.run_config import RunConfig

DECODE_WORKER = "pipeline.stages.decode.worker:DecodeWorker"
SINK = "pipeline.engine.sink:SinkWorker"
ANSWERER = "pipeline.engine.answer:AnswerWorker"
ANY_VIEW = View("mono", 22050, 1)
BLOCKS_PER_CPU = 16
# With a card the networks, not the cores, are what the end waits for, and a block costs Ray some 25 ms in every stage.
BLOCKS_PER_CPU_BESIDE_A_CARD = 3


def block_limits(files: Sequence[PlannedFile], hardware: HardwareConfig, cpus: float) -> tuple[float, int]:
    """Most seconds of audio and most files in a block: the profile's, less where there would be too few blocks.

    The last block runs while other cores have nothing left to do: with sixteen per core that costs a few
    percent. Both limits count, because durations are guesses from sizes until a file is decoded.
    """
    per_cpu = BLOCKS_PER_CPU_BESIDE_A_CARD if any(hardware.gpu_shares.values()) else BLOCKS_PER_CPU
    wanted = max(1.0, per_cpu * cpus)
    seconds = sum(estimated_seconds(file.item) for file in files) / wanted
    count = math.ceil(len(files) / wanted)
    return (
        max(20.0, min(hardware.block_audio_seconds, seconds)),
        max(1, min(hardware.max_files_per_block, count)),
    )


def plan_blocks(files: Sequence[PlannedFile], hardware: HardwareConfig, cpus: float) -> list[pa.Table]:
    """Pack the inputs into blocks of the size that `block_limits` says."""
    return list(pack(files, *block_limits(files, hardware, cpus)))


def run_schema(config: RunConfig, models: Found, everywhere: bool = False) -> pa.Schema:
    """The columns of `tracks` that this config asks for and the found models can fill.

    Args:
        everywhere: on any machine, and not only on this one.
    """
    return tracks_schema(p for s in models.pipeline(config, everywhere=everywhere).stages for p in s.computed)


def stage_weights(config: RunConfig, models: Found, idle: Collection[str] = ()) -> dict[str, float]:
    """Stage → relative cost of a second of audio on a CPU; none of those that nothing is planned for."""
    stages = models.pipeline(config).stages
    weights = {s.name: 0.0 if s.name in idle else s.weight for s in stages}
    return {DECODE: DECODE_WEIGHT, WRITE: WRITE_WEIGHT, **weights}


def build_graph(
    config: RunConfig,
    models: Found,
    output: Output,
    run_id: str,
    schema: pa.Schema | None = None,
    *,
    ledger: Any = None,
    cached: bool = False,
    golden: Golden | None = None,
    idle: Collection[str] = (),
) -> list[Node]:
    """The stages that this config asks for and the found models allow, in order.

    Args:
        schema: of `tracks`, with the columns that are there already; None takes `run_schema`.
        ledger: decides who computes a content that several files have, see `pipeline.engine.ledger`.
        cached: work with the result cache, where the config has one.
        golden: what every node's extractors must say of a known signal; None lets them say what they will.
        idle: stages that nothing is planned for: they load their networks only where something turns up.
    """
    # What any machine may fill: the schema says what is written.
    pipeline = models.pipeline(config, output, everywhere=True, golden=golden)
    results = run_results(config, pipeline) if cached else None
    hung = HungFiles(output, run_id)
    nodes = _stages(config, pipeline, ledger, results, earlier=Earlier(output), hung=hung, idle=idle)
    sink = {
        "output": output,
        "run_id": run_id,
        "tracks": schema or run_schema(config, models),
        "contents": pipeline.contents,
        "standing_fallbacks": [vars(f) for f in models.fallbacks],
        "fenced": True,
    }
    return [*nodes, Node(WRITE, SINK, sink)]


def idle_stages(pipeline: Pipeline, files: Sequence[PlannedFile]) -> frozenset[str]:
    """The stages that compute nothing of ``files``, as far as is known before they are read."""
    todo = set().union(*(file.todo or () for file in files))
    if any(file.todo is None for file in files):
        return frozenset()
    works = {s.name for s in pipeline.stages if todo & {*(p.name for p in s.computed), *pipeline.feeds(s)}}
    return frozenset(s.name for s in pipeline.stages) - works


def build_line(config: RunConfig, models: Found, output: Output, columns: Sequence[str]) -> list[Node]:
    """The stages for one file at a time: nothing is written but artifacts, ``columns`` come back as an answer."""
    pipeline = models.pipeline(config, output)
    return [*_stages(config, pipeline, None, None), Node(ANSWER, ANSWERER, {"columns": list(columns)})]


def _stages(
    config: RunConfig,
    pipeline: Pipeline,
    ledger: Any,
    results: Results | None,
    *,
    earlier: Earlier | None = None,
    hung: HungFiles | None = None,
    idle: Collection[str] = (),
) -> list[Node]:
    """Decoding and the job's stages."""
    decode = {**_decode_arguments(config, pipeline, ledger), "results": results}
    common = {
        "results": results,
        "storage_options": config.source.storage_options,
        "time_limit": config.hardware.time_limit,
        "hung": hung,
    }
    stages = [
        _node(config, pipeline, stage, earlier, {**common, "idle": stage.name in idle})
        for stage in pipeline.stages
    ]
    return [Node(DECODE, DECODE_WORKER, decode), *stages]


def _node(
    config: RunConfig,
    pipeline: Pipeline,
    stage: Stage,
    earlier: Earlier | None,
    more: Mapping[str, Any],
) -> Node:
    """A stage with what all workers are told."""
    share = config.hardware.gpu_shares.get(stage.name) if stage.gpu is not None else None
    common = {
        "stage": stage.name,
        "products": stage.products,
        "reads": stage.reads,
        "makes": stage.makes,
        "needs": pipeline.needed_by(stage),
        "spares": stage.spares,
        "earlier": earlier if stage.needs else None,
        "feeds": pipeline.feeds(stage),
        "drop": pipeline.dropped_after(stage),
        "torch": stage.torch,
        "device": "cuda" if share else "cpu",
        "threads": config.perf.threads,
        "seed": config.seed,
        **more,
    }
    return Node(stage.name, stage.worker, {**common, **stage.arguments})


def _decode_arguments(config: RunConfig, pipeline: Pipeline, ledger: Any) -> dict[str, Any]:
    # Nothing to compute still means decoding: the tables then describe the files.
    views = pipeline.decoded_views() or (ANY_VIEW,)
    return {
        "views": views,
        "made": pipeline.made_views(),
        "storage_options": config.source.storage_options,
        "ledger": ledger,
        "max_track_bytes": config.hardware.max_track_bytes,
        "max_track_hours": config.hardware.max_track_hours,
        "decode_timeout_s": config.hardware.decode_timeout_s,
        "decode_memory_bytes": config.hardware.decode_memory_bytes,
        "choice": config.source.choice(),
    }


@dataclass(frozen=True)
class Pools:
    """Which stages share a process, and how many processes there are.

    Args:
        groups: names of stages; empty where each has its own.
        why: stages share one, in one line; empty where none do.
        resources: group → its pool, in the order of the graph; a stage alone is a group.
    """

    groups: list[list[str]]
    why: str
    resources: dict[str, StageResources]

    @property
    def by_stage(self) -> dict[str, StageResources]:
        """Stage → the pool that it is in."""
        return {name: self.resources[name_of(group)] for group in self.groups for name in group}


def plan_pools(config: RunConfig, models: Found, cluster: Cluster, blocks: int, work: Workload) -> Pools:
    """The pools of a run under Ray.

    Args:
        config: with its hardware resolved.
        cluster: what there is to run on.
        work: to be done, roughly.

    Raises:
        UserError: see `group_stages` and `plan_resources`.
    """
    pipeline = models.pipeline(config)
    names = [DECODE, *(stage.name for stage in pipeline.stages), WRITE]
    hardware, threads = config.hardware, config.perf.threads
    bound = [[stage.name for stage in run] for run in pipeline.groups()]
    on_gpu = [name for name, n in hardware.gpu_shares.items() if n]
    groups, why = group_stages(names, bound, on_gpu, cluster.cpus / threads, config.ray.groups)
    resources = plan_resources(
        [name_of(group) for group in groups],
        cluster.cpus,
        cluster.gpus,
        hardware.gpu_shares,
        largest_of_group(hardware.actors, groups),
        blocks=blocks,
        threads=threads,
        node_cpus=cluster.node_cpus,
        work=work,
        weights=by_group(stage_weights(config, models), groups),
    )
    return Pools(groups, why, resources)
