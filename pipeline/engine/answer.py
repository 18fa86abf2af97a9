"""The end of a line of stages for whoever asks for one file: nothing is written, what was found comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.engine.batch import collect

NAME = "answer"
FACTS = ("asset_id", "sample_rate", "channels", "duration_s")


@dataclass(frozen=True)
class Answer:
    """What the stages found of one file.

    Args:
        values: column → value, `FACTS` among them.
        failures: as `pipeline.engine.batch.failure` makes them, in the order of the stages.
        fallbacks: steps away from what was asked for: ``stage``, ``wanted``, ``used``, ``reason``.
        blobs: files that were written: ``path``, ``name``, ``size_bytes``, ``sha256``.
        seconds: stage → seconds.
    """

    values: Mapping[str, Any]
    failures: Sequence[Mapping[str, Any]] = ()
    fallbacks: Sequence[Mapping[str, str]] = ()
    blobs: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


class AnswerWorker:
    """Takes the table of the last stage, returns one row of JSON for each of its files, see `answer_of`.

    Args:
        columns: that are answered, beside `FACTS`.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = [*FACTS, *columns]

    def __call__(self, table: pa.Table) -> pa.Table:
        """A table with the column ``receipt``."""
        present = table.select([name for name in self.columns if name in table.column_names]).to_pylist()
        parts = {kind: collect(table, kind) for kind in ("failures", "fallbacks", "blobs")}
        rows = []
        for number, values in enumerate(present):
            found = {kind: structs[number] for kind, structs in parts.items()}
            for blob in found["blobs"]:
                del blob["data"]
            rows.append(json.dumps({"values": values, **found}, default=str))
        return pa.table({"receipt": pa.array(rows, pa.string())})


def answer_of(receipt: Mapping[str, Any], seconds: Mapping[str, float]) -> Answer:
    """What `AnswerWorker` says of one file, parsed, with what the stages took."""
    return Answer(**receipt, seconds=dict(seconds))
