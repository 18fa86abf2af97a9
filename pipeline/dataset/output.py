"""The output root: atomic writes below it, and nothing outside it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.storage import absolute, explain, filesystem, is_local, join
from pipeline.errors import UserError

TABLES = ("tracks", "segments", "timings", "failures")
# Of a table without rows, so that it can be read with its schema.
EMPTY_PART = "part-empty.parquet"
PUT_ATTEMPTS = 3
_ASSET = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}")
_OWN = re.compile(
    rf"({'|'.join(TABLES)})/\.?part-[^/]+|(blobs|stems)/([0-9a-f]{{2}})/\3[0-9a-f]{{62}}/[^/]+|golden\.json"
    r"|runs/(\d{8}T\d{6}-[0-9a-f]{4}/.+|(output|plan|verify|probe)[^/]*)"
)
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def read_part(source: Any, columns: list[str] | None = None) -> pa.Table:
    """The table of an open Parquet file, or of its bytes as a ``pa.BufferReader``.

    Not by ``pq.read_table``: after it, on anything but a path, pyarrow 25 may abort the process at its exit
    (apache/arrow issues 34314, 39162).
    """
    return pq.ParquetFile(source).read(columns=columns)


def is_own_name(relative: str) -> bool:
    """Whether a path below an output root is one that a job writes there: no input of the next one."""
    return _OWN.fullmatch(relative) is not None


class Output:
    """Files below ``output.uri``. Cheap to build; picklable, so every process opens its own connection.

    Args:
        uri: local folder or fsspec URL.
        options: storage options, as for `pipeline.dataset.storage.filesystem`.
    """

    def __init__(self, uri: str, options: dict[str, Any] | None = None) -> None:
        self.uri = absolute(uri)
        self.options = dict(options or {})
        self._fs = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fs": None}

    @property
    def fs(self):
        """The file system, opened on first use."""
        if self._fs is None:
            self._fs, self._root = filesystem(self.uri, self.options)
        return self._fs

    def path(self, relative: str) -> str:
        """Path of ``relative`` in the file system. Raises ``ValueError`` for anything that could leave the root."""
        if not _SAFE.fullmatch(relative) or ".." in relative.split("/"):
            raise ValueError(f"unsafe output name {relative!r}")
        _ = self.fs
        return join(self._root, relative)

    def write(self, relative: str, data: bytes) -> None:
        """Write a file whole or not at all: temporary name and rename locally, one object elsewhere."""
        path = self.path(relative)
        if not is_local(self.uri):
            _retried(lambda: self.fs.pipe_file(path, data))
            return
        with _appearing(Path(path)) as temporary:
            temporary.write_bytes(data)

    def upload(self, relative: str, file: Path) -> None:
        """Copy a local file below the root without holding it in memory; whole or not at all, as `write`."""
        path = self.path(relative)
        if is_local(self.uri):
            with _appearing(Path(path)) as temporary:
                shutil.copyfile(file, temporary)
        else:
            _retried(lambda: self.fs.put_file(str(file), path))

    def discard(self, relative: str) -> None:
        """Remove a file if it is there."""
        path = self.path(relative)
        if self.fs.exists(path):
            self.fs.rm(path)

    def read(self, relative: str) -> bytes:
        """The bytes of a file."""
        return self.fs.cat_file(self.path(relative))

    def write_table(self, relative: str, table: pa.Table) -> None:
        """Write one Parquet part (zstd)."""
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self.write(relative, sink.getvalue())

    def parts(self, table: str) -> list[str]:
        """The parts of a table, relative to the root, sorted."""
        folder = self.path(table)
        try:
            found = self.fs.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        names = [str(name).rsplit("/", 1)[-1] for name in found]
        return sorted(
            f"{table}/{name}" for name in names if name.endswith(".parquet") and name[0] not in "._"
        )

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

        Parts of the other tables that have no part of `tracks` do not count, see `TABLES`. Only for whoever holds
        the lock of the output.
        """
        names = {part.split("/", 1)[1] for part in self.parts("tracks")}
        removed = []
        for table in TABLES:
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
        for table in TABLES:
            for part in self.parts(table):
                if part.startswith(f"{table}/part-"):
                    self.fs.rm(self.path(part))
        for kind, suffix in (("blobs", ".npy"), ("stems", ".flac")):
            root = self.path(kind)
            for path in self.fs.find(root) if self.fs.exists(root) else ():
                folder, _, name = str(path)[len(root) + 1 :].rpartition("/")
                if _ASSET.fullmatch(folder) and name.endswith(suffix):
                    self.fs.rm(path)


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``target`` at the end unless something was raised."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # The leading dot keeps a half-written file out of every *.parquet glob.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)  # noqa: PTH105  Path.replace is the same call
    finally:
        temporary.unlink(missing_ok=True)


def _retried(put: Callable[[], object]) -> None:
    for attempt in range(1, PUT_ATTEMPTS + 1):
        try:
            put()
        except PermissionError:
            raise
        except Exception:
            if attempt == PUT_ATTEMPTS:
                raise
            time.sleep(0.2 * 4 ** (attempt - 1))
        else:
            return


def npy_bytes(array: np.ndarray) -> bytes:
    """``array`` as a ``.npy`` file: C order, no pickle."""
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
    return sink.getvalue()


def blob_path(asset_id: str, extractor: str, key: str, name: str) -> str:
    """Where an array of an asset lies, relative to the root."""
    return f"blobs/{asset_id[:2]}/{asset_id}/{extractor}-{key}-{name}.npy"


def stem_path(asset_id: str, stem: str) -> str:
    """Where a stem of an asset lies, relative to the root."""
    return f"stems/{asset_id[:2]}/{asset_id}/{stem}.flac"
