"""The output root: where tables, blobs and stems lie below it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.contents import PATH as CONTENTS
from pipeline.dataset.contents import Contents
from pipeline.dataset.storage import explain, is_local
from pipeline.dataset.store import Store
from pipeline.errors import UserError

EVERY_OUTPUT = ("tracks", "timings", "failures")
"""The tables of every output; the others are declared, see `pipeline.dataset.contents`."""
# Of a table without rows, so that it can be read with its schema.
EMPTY_PART = "part-empty.parquet"
_ASSET = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_OWN = re.compile(
    r"[a-z][a-z0-9_]*/\.?part-(\d{9}-[0-9a-f]{12}|empty)\.parquet(\.[0-9a-f]{8}\.tmp)?"
    r"|[a-z][a-z0-9_]*/([0-9a-f]{2})/\3[0-9a-f]{62}/[^/]+|(golden|contents)\.json"
    r"|runs/(\d{8}T\d{6}-[0-9a-f]{4}/.+|(output|plan|verify|probe)[^/]*)"
)
# What an output holds that was written before outputs said it themselves.
_BEFORE = Path(__file__).with_name("contents_before.json")


def read_part(source: Any, columns: list[str] | None = None) -> pa.Table:
    """The table of an open Parquet file, or of its bytes as a ``pa.BufferReader``.

    Not by ``pq.read_table``: after it, on anything but a path, pyarrow 25 may abort the process at its exit
    (apache/arrow issues 34314, 39162).
    """
    return pq.ParquetFile(source).read(columns=columns)


def is_own_name(relative: str) -> bool:
    """Whether a path below an output root is one that a job writes there: no input of the next one."""
    return _OWN.fullmatch(relative) is not None


class Output(Store):
    """The layout of ``output.uri``: tables in parts, and what else a job writes there.

    Args and errors: see `pipeline.dataset.store.Store`.
    """

    _contents: Contents | None = None

    @property
    def contents(self) -> Contents:
        """What it holds: as declared, or as ``contents.json`` says. Raises `UserError` where that cannot be read."""
        if self._contents is None:
            self._contents = self._stored_contents()
        return self._contents

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables, `tracks` first."""
        return ("tracks", *self.contents.tables, *EVERY_OUTPUT[1:])

    def expect(self, contents: Contents) -> None:
        """Take ``contents`` as what is held, beside what is there already; nothing is written."""
        self._contents = contents.with_older(self._stored_contents(Contents()))

    def declare(self, contents: Contents) -> None:
        """As `expect`, and say so in ``contents.json``. Only for whoever holds the lock of the output."""
        self.expect(contents)
        text = json.dumps(self._contents.as_json(), indent=1) + "\n"
        with contextlib.suppress(FileNotFoundError):
            if self.read(CONTENTS) == text.encode():
                return
        self.write(CONTENTS, text.encode())

    def _stored_contents(self, otherwise: Contents | None = None) -> Contents:
        """Of ``contents.json``; without one ``otherwise``, or what outputs held before there was one."""
        try:
            found = self.read(CONTENTS)
        except FileNotFoundError:
            if otherwise is not None and not self.names("tracks"):
                return otherwise
            found = _BEFORE.read_bytes()
        try:
            return Contents.from_json(json.loads(found))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.uri}/{CONTENTS} is not what a run wrote",
                "it says which tables and files the output has",
                f"remove {CONTENTS} and run the job again: it writes it anew",
            ) from None

    def write_table(self, relative: str, table: pa.Table) -> None:
        """Write one Parquet part (zstd)."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write(relative, sink.getvalue())

    def parts(self, table: str) -> list[str]:
        """The parts of a table, relative to the root, sorted."""
        return [
            f"{table}/{name}"
            for name in self.names(table)
            if name.endswith(".parquet") and name[0] not in "._"
        ]

    def batches(self, table: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of a table, part by part in bounded memory."""
        for part in self.parts(table):
            with self.fs.open(self.path(part), "rb") as handle:
                yield from pq.ParquetFile(handle).iter_batches(batch_size=256, columns=columns)

    def fill_empty(self, schemas: dict[str, pa.Schema]) -> None:
        """Give every table that has no part one without rows, so that each can be read with its schema."""
        for table, schema in schemas.items():
            if not self.parts(table):
                self.write_table(f"{table}/{EMPTY_PART}", schema.empty_table())

    def check(self) -> None:
        """Check that the root can be written. Raises `UserError`."""
        try:
            if is_local(self.uri):
                Path(self.path("runs")).mkdir(parents=True, exist_ok=True)
            probe = f"runs/probe-{uuid.uuid4().hex[:8]}"
            self.write(probe, b"")
            self.fs.rm(self.path(probe))
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(f"output.uri={self.uri}", error) from None

    def tidy(self) -> list[str]:
        """Remove what an interrupted run left half done; return what was removed.

        Parts of the other tables that have no part of `tracks` do not count. Only for whoever holds
        the lock of the output.
        """
        names = {part.split("/", 1)[1] for part in self.parts("tracks")}
        removed = []
        for table in self.tables:
            for part in self.parts(table):
                name = part.split("/", 1)[1]
                if name not in names and name.startswith("part-") and name != EMPTY_PART:
                    self.fs.rm(self.path(part))
                    removed.append(part)
            if is_local(self.uri):
                for left in Path(self.path(table)).glob(".part-*.tmp"):
                    left.unlink(missing_ok=True)
                    removed.append(f"{table}/{left.name}")
        return removed

    def clear(self) -> None:
        """Remove the tables, blobs and stems of earlier runs: only files with our names, never a folder whole."""
        for table in self.tables:
            for part in self.parts(table):
                if part.startswith(f"{table}/part-"):
                    self.fs.rm(self.path(part))
        for kind, suffix in self.folders().items():
            root = self.path(kind)
            for path in self.fs.find(root) if self.fs.exists(root) else ():
                folder, _, name = str(path)[len(root) + 1 :].rpartition("/")
                if _ASSET.fullmatch(folder) and name.endswith(suffix):
                    self.fs.rm(path)
        self.discard(CONTENTS)

    def folders(self) -> dict[str, str]:
        """Folder of files of assets → the suffix that they have: arrays, and the artifacts that are declared."""
        return {"blobs": ".npy", **{a.name: a.suffix for a in self.contents.artifacts.values()}}


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` as a ``.npy`` file: C order, no pickle."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()


def blob_path(asset_id: str, extractor: str, key: str, name: str) -> str:
    """Where an array of an asset lies, relative to the root."""
    return f"blobs/{asset_id[:2]}/{asset_id}/{extractor}-{key}-{name}.npy"
