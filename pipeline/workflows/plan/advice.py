"""What follows from the measurement: overrides to paste, and remarks on what would change the result."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields

from pipeline.commands import as_typed
from pipeline.engine.resources import StageResources
from pipeline.engine.vram import batch_bytes
from pipeline.workflows.plan.cost import PER_BLOCK_S, Estimate, Load, Machine, better_actors
from pipeline.workflows.plan.machine import Resources
from pipeline.workflows.plan.trial import Tried
from pipeline.workflows.plan_config import PlanConfig
from pipeline.workflows.run_config import PUBLIC_OPTIONS, RunConfig

# Of the machine's memory, for all actors: the object store, the driver and the system need the rest.
MEMORY_SHARE = 0.6
MIB = 1 << 20
# An allocator's peak on other tracks than the sample's.
VRAM_MARGIN = 1.3
# Of the wall time, before a cost that only a setting causes is worth a word.
WORTH_SAYING = 0.05
_OF_THE_PLAN = tuple(f"plan.{f.name}" for f in fields(PlanConfig) if not f.name.startswith("price_"))
_SECRET = re.compile(r"^[+~]*(source|output|cache)\.storage_options")


def advise(
    config: RunConfig,
    resources: Resources,
    machine: Machine,
    tried: Tried,
    load: Load,
    *,
    estimated: Estimate | None,
    memory: Mapping[str, int],
) -> tuple[list[str], list[str]]:
    """Overrides that make the run fit or faster without changing a value, and hints on the rest.

    Args:
        config: with its hardware worked out.
        machine: what the run has.
        memory: stage → bytes of one actor.
    """
    overrides: dict[str, str] = {}
    hints: list[str] = []
    if resources.gpu is not None and config.hardware.name == "cpu":
        overrides["hardware"] = "auto"
    if estimated is not None:
        actors = better_actors(tried.costs, load, machine, config.perf.threads)
        overrides |= {f"hardware.actors.{stage}": str(n) for stage, n in actors.items()}
        _about_blocks(config, estimated, load.blocks, overrides)
    overrides |= _fitting(resources, machine.pools, tried, memory, hints)
    for stage in tried.stages:
        items = config.hardware.batch_items.get(stage.stage)
        networks = resources.networks.get(stage.stage)
        if not (items and networks and config.hardware.name == "auto"):
            continue
        if stage.vram_bytes > batch_bytes(networks, items):
            need = int(stage.vram_bytes * VRAM_MARGIN) // MIB * MIB
            overrides[f"hardware.vram_bytes.{stage.stage}"] = str(need)
            overrides[f"hardware.batch_items.{stage.stage}"] = str(items)
    if tried.files and tried.failed.expected > config.max_failure_rate:
        hints.append(
            f"{tried.failed.expected:.0%} of the files are expected to fail, more than max_failure_rate="
            f"{config.max_failure_rate:g}: the run would stop with exit code 3"
        )
    return [f"{key}={value}" for key, value in overrides.items()], hints


def _about_blocks(config: RunConfig, estimated: Estimate, blocks: int, overrides: dict[str, str]) -> None:
    """Where the blocks are as many as they are for their limit of files alone, and cost more than a little."""
    if blocks * PER_BLOCK_S > WORTH_SAYING * estimated.wall_s.expected and blocks > 1000:
        overrides["hardware.max_files_per_block"] = str(4 * config.hardware.max_files_per_block)


def _fitting(
    resources: Resources,
    pools: Mapping[str, StageResources],
    tried: Tried,
    memory: Mapping[str, int],
    hints: list[str],
) -> dict[str, str]:
    """Fewer actors where those of the plan would not fit into this machine's memory."""
    if resources.memory_bytes is None or not tried.stages:
        return {}
    needs = {s.stage: memory[s.stage] + s.decoder_rss_bytes for s in tried.stages}
    actors = {stage: pools[stage].actors for stage in needs}
    budget = MEMORY_SHARE * resources.memory_bytes

    def total() -> float:
        return sum(needs[s] * n for s, n in actors.items())

    before = total()
    while total() > budget:
        more = [s for s in actors if actors[s] > 1 and s != "write"]
        if not more:
            hints.append(
                f"one actor of each stage takes {total() / 2**30:.1f} GiB, and this machine has "
                f"{resources.memory_bytes / 2**30:.1f} GiB: smaller hardware.block_audio_seconds, or fewer stages"
            )
            break
        actors[max(more, key=lambda s: needs[s] * actors[s])] -= 1
    if before <= budget:
        return {}
    return {f"hardware.actors.{s}": str(n) for s, n in actors.items() if n != pools[s].actors}


def command(
    config: RunConfig, given: Sequence[str], overrides: Sequence[str], script: str = "extract_features.py"
) -> tuple[str, bool]:
    """The command line of the run, and whether secrets were left out of it.

    Args:
        given: overrides as they were typed.
        overrides: recommended; they replace what was given for the same keys.
        script: of the job, in ``jobs/``.
    """
    ours = {_key(o) for o in overrides}
    typed = list(given) or _places(config)
    # The prices are the run's, too: it says what it did cost.
    kept = [o for o in typed if _key(o) not in (*ours, "dry_run") and not _key(o).startswith(_OF_THE_PLAN)]
    public = [o for o in kept if not _is_secret(o)]
    job = as_typed(f"python jobs/{script}")
    return shlex.join([*job.split(), *public, *overrides]), len(public) < len(kept)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _is_secret(override: str) -> bool:
    if not _SECRET.match(override):
        return False
    leaf = _key(override).partition("storage_options")[2].lstrip(".")
    return leaf.rpartition(".")[2] not in PUBLIC_OPTIONS


def _places(config: RunConfig) -> list[str]:
    source = config.source
    found = [
        ("source.uri", source.uri),
        ("source.manifest", source.manifest),
        ("output.uri", config.output.uri),
    ]
    return [f"{key}={value}" for key, value in found if value]
