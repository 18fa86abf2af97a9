"""The stages as Ray Data operators: one actor pool each, a row per file all the way to the sink."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from pipeline.engine.guard import FATAL, guarded, raise_fatal
from pipeline.engine.node import Node
from pipeline.engine.process import GPU_MEMORY_FRACTION
from pipeline.engine.resources import StageResources
from pipeline.engine.watch import WatchStages, watch

# A task lost with its worker is retried this often before its block is given up; Ray's default is for ever.
MAX_TASK_RETRIES = 3
# Blocks that an actor on a GPU works on at once, each in a thread of its own: their windows fill its batches together.
# More would share one interpreter with the thread that launches the network, which then waits for them.
BLOCKS_PER_GPU_ACTOR = 5


def build_dataset(
    blocks: Sequence[pa.Table],
    nodes: Sequence[Node],
    resources: Mapping[str, StageResources],
    *,
    environment: Mapping[str, str] | None = None,
    gpu_memory_fraction: float = 0.75,
    ledger: Any = None,
    board: Any = None,
    retries: int = MAX_TASK_RETRIES,
) -> Dataset:
    """The lazy dataset that sends ``blocks`` through ``nodes``; `receipts` runs it.

    Blocks whose workers died more than ``retries`` times are missing in the end: `pipeline.engine.reconcile`.

    Args:
        environment: variables for the actors, see `pipeline.engine.session.connect`. Each actor with an
            environment of its own starts a second later, so none is set where there is nothing to set.
        gpu_memory_fraction: of a card that all actors on it may use together; each gets its 1/n of that.
        ledger: is told which files each stage is about to work on, see `pipeline.engine.ledger`.
        board: hears how far stages are within long files, see `pipeline.engine.within_ray`.
        retries: of a task that was lost with its worker.
    """
    # The import of Ray Data sets it, and may come after that of Ray.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.set_config(GPU_MEMORY_FRACTION, gpu_memory_fraction)
    context.enable_progress_bars = False
    # Blocks are cut by audio seconds; Ray must not cut them again by bytes, or batches lose their tracks.
    context.target_max_block_size = None
    # Only dead workers drop blocks, see `pipeline.engine.guard`.
    context.max_errored_blocks = -1
    context.actor_prefetcher_enabled = True
    # Ray ends a run in which no block has moved for half an hour: a recording of ten hours takes longer than that in
    # one stage. What hangs is ended by its own time limit, see `pipeline.engine.time_limit`.
    context.execution_no_progress_timeout_s = -1
    if WatchStages not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(WatchStages)
    watch({node.name: node.class_name for node in nodes})
    dataset = ray.data.from_blocks(list(blocks))
    own = {"runtime_env": {"env_vars": dict(environment)}} if environment else {}
    for node in nodes:
        share = resources[node.name]
        options: dict[str, Any] = {}
        if share.num_gpus:
            options["num_gpus"] = share.num_gpus
        # The public map_batches refuses batch_size=None with a GPU; a fixed size would make Ray bundle blocks
        # up to it, and memory would no longer be bounded by the block. This one takes a block as it comes, and
        # max_restarts and max_task_retries, which leave the public one in Ray 2.64 (our pin excludes it).
        dataset = dataset.map_batches_internal(
            guarded(node, ledger, board),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=_pool(share, hunting=ledger is not None),
            num_cpus=share.num_cpus,
            max_restarts=-1,
            max_task_retries=retries,
            **own,
            **options,
        )
    return dataset


def _pool(share: StageResources, hunting: bool) -> ActorPoolStrategy:
    """All actors from beginning to end: growing on demand, Ray would load a model in the middle of the run, and
    an actor that it ends for want of work is started anew as soon as there is some.

    In a hunt for what kills workers each has one block at a time.
    """
    at_once = BLOCKS_PER_GPU_ACTOR if share.num_gpus and not hunting else 1
    return ActorPoolStrategy(
        min_size=share.actors,
        max_size=share.actors,
        max_tasks_in_flight_per_actor=1 if hunting else at_once + 1,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once > 1,
    )


def receipts(dataset: Dataset) -> Iterator[dict[str, Any]]:
    """Run the graph and yield the sink's receipts as parts are committed. Raises `StageFailed`."""
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        if FATAL in batch.column_names:
            raise_fatal(json.loads(batch[FATAL][0].as_py()))
        for receipt in batch["receipt"].to_pylist():
            yield json.loads(receipt)


def busy_seconds(dataset: Dataset, nodes: Sequence[Node]) -> dict[str, float]:
    """Ray's own measurement of the time spent in each stage's class, once `receipts` has run dry."""
    found: dict[str, float] = {}
    summary = dataset.get_stats_summary()
    pending = [summary]
    while pending:
        current = pending.pop()
        pending.extend(current.parents or [])
        for operator in current.operators_stats:
            for node in nodes:
                time = operator.function_body_time
                if node.class_name in operator.operator_name and time is not None:
                    found[node.name] = found.get(node.name, 0.0) + float(time.sum)
    return found
