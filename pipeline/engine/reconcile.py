"""What was planned against what was committed: Ray reports success even after dropping blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import pyarrow as pa

from pipeline.dataset.contents import Contents
from pipeline.engine.batch import FAILURE, failure
from pipeline.engine.decode_key import chosen_stream
from pipeline.engine.packing import PlannedFile, block_of

DECODE = "decode"


class WorkerDied(Exception):
    """The process that worked on the file was lost, every time."""


def missing_files(files: Iterable[PlannedFile], settled: Collection[int]) -> list[PlannedFile]:
    """The planned files that have neither been committed nor found to be copies."""
    return [file for file in files if file.index not in settled]


def one_by_one(files: Sequence[PlannedFile]) -> list[pa.Table]:
    """A block for each file, so that what kills a worker costs itself only."""
    return [block_of([file]) for file in files]


def lost_rows(
    files: Sequence[PlannedFile],
    seen: Mapping[int, tuple[str, str | None]],
    keys: Mapping[str, str],
    contents: Contents,
    *,
    attempts: int,
) -> list[pa.Table]:
    """Files that were given up, each as a failed row that the sink can write.

    Args:
        files: what is left in the end.
        seen: index → (stage, asset id) that was last heard of a file.
        keys: product → key, of this run, and that of ``decode``: the next run does not try again what was
            being computed.
        contents: which products a stage has.
        attempts: passes in which the worker died.
    """
    found = []
    for file in files:
        stage, asset = seen.get(file.index, (DECODE, None))
        products = [DECODE] if stage == DECODE else [n for n in contents.products_of(stage) if n in keys]
        found.append(_lost(file, stage, asset, {n: keys[n] for n in products if n in keys}, attempts))
        if stage != DECODE and chosen_stream(keys.get(DECODE)):
            found[-1] = found[-1].append_column(f"key@{DECODE}", pa.array([keys[DECODE]]))
    return found


def _lost(
    file: PlannedFile, stage: str, asset: str | None, keys: Mapping[str, str], attempts: int
) -> pa.Table:
    """The row of a file that was given up in ``stage``; ``keys`` are those of the stage's products."""
    table = block_of([file])
    asset = asset or file.known_asset or hashlib.sha256(file.item.uri.encode()).hexdigest()
    error = WorkerDied(f"the worker died in {stage} each time this file was there: {attempts} times")
    lost = failure(
        stage, error, attempts, worker_died=True, key=next(iter(keys.values())) if len(keys) == 1 else None
    )
    columns = {
        "asset_id": pa.array([asset]),
        "duration_s": pa.nulls(1, pa.float64()),
        "done_at": pa.nulls(1, pa.float64()),
        f"failures@{stage}": pa.array([[lost]], type=pa.list_(FAILURE)),
    }
    if len(keys) > 1:
        columns |= {
            f"failkey@{n}": pa.array([key]) for n, key in keys.items() if file.todo is None or n in file.todo
        }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table
