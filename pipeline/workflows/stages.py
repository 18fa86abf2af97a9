"""What the feature extraction job runs: its blocks of files and its stages, from the config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.audio.views import View
from pipeline.dataset.output import Output
from pipeline.dataset.tables.merge import column_owners
from pipeline.dataset.tables.schemas import separation_columns, tracks_schema
from pipeline.engine.node import Node
from pipeline.engine.packing import PlannedFile, estimated_seconds, pack
from pipeline.features.golden import Golden
from pipeline.models.precision import normalise_amp
from pipeline.workflows.availability import Models
from pipeline.workflows.caching import run_results
from pipeline.workflows.config import ExtractConfig, HardwareConfig

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


def stage_names(config: ExtractConfig, models: Models) -> list[str]:
    """The stages before the sink that this config asks for and the found models allow, in order."""
    names = ["decode"]
    names += ["features"] * bool(config.extractors())
    names += ["clap"] * bool(models.clap_checkpoint)
    names += ["separation"] * config.separation.enabled
    return names


def run_schema(config: ExtractConfig, models: Models, stems: Sequence[str] | None = None) -> pa.Schema:
    """The columns of `tracks` that this config asks for and the found models can fill.

    Args:
        stems: that backends may make; None takes what was found on this machine.
    """
    separation = config.separation
    return tracks_schema(
        config.extractors(),
        models.clap_checkpoint is not None,
        models.separation_key is not None,
        embedding_space=models.clap_model,
        text_queries=config.clap.text_queries if models.clap_queries is not None else (),
        separation_fields=separation_columns(
            models.stems if stems is None else stems,
            gains=separation.save_stems,
            arrays=separation.save_arrays,
        ),
    )


def build_graph(
    config: ExtractConfig,
    models: Models,
    output: Output,
    run_id: str,
    schema: pa.Schema | None = None,
    ledger: Any = None,
    keys: Mapping[str, str] | None = None,
    golden: Golden | None = None,
) -> list[Node]:
    """The stages that this config asks for and the found models allow, in order.

    Args:
        schema: of `tracks`, with the columns that are there already; None takes `run_schema`.
        ledger: decides who computes a content that several files have, see `pipeline.engine.ledger`.
        keys: extractor → key, for the result cache; None works without.
        golden: what every node's extractors must say of a known signal; None lets them say what they will.
    """
    names = stage_names(config, models)
    last = {name: i for i, name in enumerate(names)}
    views = _views(config, last)
    made = {
        "decode": lambda: (
            "pipeline.stages.decode.worker:DecodeStage",
            _decode_arguments(config, tuple(views), ledger),
        ),
        "features": lambda: (
            "pipeline.stages.features.worker:FeaturesStage",
            _features_arguments(config, golden),
        ),
        "clap": lambda: ("pipeline.stages.clap.worker:ClapStage", _clap_arguments(config, models)),
        "separation": lambda: (
            "pipeline.stages.separation.worker:SeparationStage",
            _separation_arguments(config, models, output),
        ),
    }
    results = run_results(config, keys) if keys else None
    nodes = []
    for name in names:
        stage, arguments = made[name]()
        if name != "decode":
            arguments |= _network_arguments(config, name)
            arguments["drop"] = frozenset(f"pcm@{v.name}" for v, at in views.items() if at == last[name])
        nodes.append(Node(name, stage, {**arguments, "results": results}))
    return [
        *nodes,
        Node(
            "write", "pipeline.engine.sink:SinkStage", _sink_arguments(config, models, output, run_id, schema)
        ),
    ]


def _decode_arguments(config: ExtractConfig, views: Sequence[View], ledger: Any) -> dict[str, Any]:
    return {
        "views": views,
        "storage_options": config.source.storage_options,
        "ledger": ledger,
        "max_track_bytes": config.hardware.max_track_bytes,
        "max_track_hours": config.hardware.max_track_hours,
        "decode_timeout_s": config.hardware.decode_timeout_s,
        "decode_memory_bytes": config.hardware.decode_memory_bytes,
        "choice": config.source.choice(),
    }


def _network_arguments(config: ExtractConfig, stage: str) -> dict[str, Any]:
    """What every stage is told that runs torch; where, if it may run on a GPU."""
    share = config.hardware.gpu_shares.get(stage)
    return {
        "threads": config.perf.threads,
        "seed": config.seed,
        "storage_options": config.source.storage_options,
        **({} if share is None else {"device": "cuda" if share else "cpu"}),
    }


def _features_arguments(config: ExtractConfig, golden: Golden | None) -> dict[str, Any]:
    return {
        "extractors": config.extractors(),
        "sample_rate": config.features.sample_rate,
        "blob_names": config.blobs.names,
        "max_inline_elements": config.blobs.max_inline_elements,
        "block_seconds": config.features.block_seconds,
        "golden": golden,
    }


def _clap_arguments(config: ExtractConfig, models: Models) -> dict[str, Any]:
    return {
        "checkpoint": models.clap_checkpoint,
        "window_seconds": config.clap.window_seconds,
        "hop_seconds": config.clap.hop_seconds,
        "aggregate": config.clap.aggregate,
        "max_batch_audio_seconds": config.clap.max_batch_audio_seconds,
        "batch_items": config.hardware.batch_items.get("clap", 0),
        "compile": normalise_amp(config.clap.compile, "clap.compile") == "true",
        "amp": config.clap.amp,
        "queries": models.clap_queries,
    }


def _separation_arguments(config: ExtractConfig, models: Models, output: Output) -> dict[str, Any]:
    return {
        "backends": config.separation.backends,
        "options": config.separation.options(),
        "auto_cpu_seconds": config.separation.auto_cpu_seconds,
        "save_stems": config.separation.save_stems,
        "save_arrays": config.separation.save_arrays,
        "residual": config.separation.residual,
        "batch_items": config.hardware.batch_items.get("separation", 0),
        "key": models.separation_key,
        "output": output,
    }


def _sink_arguments(
    config: ExtractConfig, models: Models, output: Output, run_id: str, schema: pa.Schema | None
) -> dict[str, Any]:
    extractors = config.extractors()
    return {
        "output": output,
        "run_id": run_id,
        "tracks": schema or run_schema(config, models),
        "standing_fallbacks": [vars(f) for f in models.fallbacks],
        "extractors": {e.name: e.version for e in extractors},
        "owners": column_owners(extractors),
        "fenced": True,
    }


def _views(config: ExtractConfig, last: dict[str, int]) -> dict[View, int]:
    """The forms of the audio that the stages read, and the position of the last stage that reads each.

    That which lives longest comes first, and owns the samples that equal forms share.

    Args:
        last: stage → its position.
    """
    wanted = {view for e in config.extractors() for view in e.views}
    rate = config.features.sample_rate
    forms = {"native": (None, None), "mono": (rate, 1), "channels": (rate, None)}
    views = {View(name, *form): last["features"] for name, form in forms.items() if name in wanted}
    if "clap" in last:
        views[View("clap", 48000, 1)] = last["clap"]
    if "separation" in last:
        views[View("separation", 44100, 2)] = last["separation"]
    # Nothing to compute still means decoding: the tables then describe the files.
    views = views or {View("mono", rate, 1): last["decode"]}
    return dict(sorted(views.items(), key=lambda item: -item[1]))
