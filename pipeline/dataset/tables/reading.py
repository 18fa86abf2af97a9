"""The tables of an output for whoever reads them: Arrow datasets whose columns say their units, and the arrays.

Needs pyarrow, numpy and fsspec, and nothing that computes: no torch, no Ray.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileSystem, FSSpecHandler, LocalFileSystem, PyFileSystem

from pipeline.dataset.output import EMPTY_PART, EVERY_OUTPUT, Output
from pipeline.dataset.run_folder import run_ids, run_status
from pipeline.dataset.storage import explain, is_local, one_line, public_uri
from pipeline.dataset.tables.schemas import FAILURES, TIMINGS, table_schema, tracks_schema
from pipeline.errors import UserError

STANDARD = {"tracks": tracks_schema(), "timings": TIMINGS, "failures": FAILURES}
"""Table → the columns it has whatever was computed."""

# Footers are small and far away.
_READERS = 16


@dataclass(frozen=True)
class RunState:
    """A run that wrote to the output.

    Args:
        run_id: as in the rows' ``run_id``; sorts by time.
        status: ``running``, ``done``, ``failed`` or ``interrupted``, as the run itself last said; ``unknown``
            where it said nothing. One that was killed still reads ``running``.
    """

    run_id: str
    status: str


def open(output_uri: str, storage_options: Mapping[str, Any] | None = None) -> Tables:
    """The tables below ``output_uri`` as they are now.

    Args:
        output_uri: the ``output.uri`` of a run: a folder, or any fsspec URL such as ``s3://bucket/tables``.
        storage_options: for URLs: what fsspec takes, and ``endpoint`` and ``region`` for S3.

    Raises:
        UserError: there is no output, or it cannot be reached.
    """
    return Tables(output_uri, storage_options)


class Tables:
    """The tables of an output, each a ``pyarrow.dataset.Dataset``, and what belongs to them.

    ``tracks``, ``timings`` and ``failures`` are there whatever the job was; what else it filled (``segments``, for
    example) is an attribute, too, and `names` lists all.

    A dataset has the columns of all its parts, null where a part lacks one. Each field's metadata holds ``unit``,
    ``description`` and, where there is one, ``source``. Which parts there are is looked up once, when the output is
    opened; their footers are read when a table is first asked for. A part that a killed run left without its `tracks`
    is no part.

    Args and errors: see `open`.
    """

    def __init__(self, output_uri: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._output = Output(output_uri, dict(storage_options or {}))
        self.uri = public_uri(self._output.uri)
        try:
            self._parts = _parts(self._output)
            self._runs = run_ids(self._output)
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(self.uri, error) from None
        if not self._parts["tracks"] and not self._runs:
            raise UserError(f"{self.uri} holds no tables: {_where_they_are(self.uri)}")

    def __repr__(self) -> str:
        return f"Tables({self.uri!r})"

    def __getattr__(self, name: str) -> ds.Dataset:
        """A table that a stage of the job declares."""
        if name[:1] == "_" or name not in self._output.contents.tables:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        found = self.__dict__[name] = self._dataset(name)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of its tables."""
        return self._output.tables

    @cached_property
    def tracks(self) -> ds.Dataset:
        """One row per input file, those that failed included."""
        return self._dataset("tracks")

    @cached_property
    def timings(self) -> ds.Dataset:
        """One row per (asset, stage): what it cost."""
        return self._dataset("timings")

    @cached_property
    def failures(self) -> ds.Dataset:
        """One row per failure."""
        return self._dataset("failures")

    @cached_property
    def runs(self) -> list[RunState]:
        """The runs that wrote here, the oldest first."""
        return [RunState(run, run_status(self._output, run) or "unknown") for run in self._runs]

    @cached_property
    def units(self) -> dict[str, str]:
        """Column → unit, of all tables; ``1`` where there is none. A name that several tables have means the same."""
        return {name: unit for table in self.names for name, unit in zip(*self._columns(table), strict=True)}

    def describe(self, table: str = "tracks") -> pa.Table:
        """The columns of a table: ``name``, ``type``, ``unit``, ``definition``, ``source``, all text.

        Raises:
            ValueError: ``table`` is none of `names`.
        """
        if table not in self.names:
            raise ValueError(f"{table!r} is no table; one of {', '.join(self.names)}")
        return pa.Table.from_pylist(
            [described(field) for field in getattr(self, table).schema],
            schema=pa.schema([(name, pa.string()) for name in DESCRIBED]),
        )

    def blob(self, path: str) -> np.ndarray:
        """The array that a ``*_blob`` column refers to, with its own shape and type (mostly float16).

        Args:
            path: relative to the root.

        Raises:
            ValueError: ``path`` leads out of the output, or the file holds pickled objects or is cut off.
            UserError: it is not there, or cannot be read.
        """
        self._output.path(path)
        try:
            data = self._output.read(path)
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(f"{self.uri}/{path}", error) from None
        return np.load(io.BytesIO(data), allow_pickle=False)

    def array(self, row: Mapping[str, Any], name: str) -> np.ndarray | None:
        """The array ``name`` of a row of `tracks`, from its file or, where it was small, from the row itself.

        Args:
            row: a dict or a pandas row, with the columns ``<name>_blob``, ``<name>_inline`` and ``<name>_shape``.
            name: such as ``mel``, ``chroma`` or ``hpss_harmonic``.

        Returns:
            the array, None where it is undefined. Raises as `blob`, and ``KeyError`` without the columns.
        """
        path = row[f"{name}_blob"]
        if isinstance(path, str):
            return self.blob(path)
        inline = row.get(f"{name}_inline")
        if not isinstance(inline, (list, np.ndarray)):  # None, or pandas' NaN
            return None
        return np.asarray(inline, np.float32).reshape([int(n) for n in row[f"{name}_shape"]])

    def _dataset(self, table: str) -> ds.Dataset:
        paths = [self._output.path(part) for part in self._parts[table]]
        system = _arrow_file_system(self._output)
        form = ds.ParquetFileFormat()
        with ThreadPoolExecutor(_READERS) as pool:
            schemas = list(pool.map(lambda part: self._part_schema(part, form, system), self._parts[table]))
        declared = self._output.contents.tables.get(table)
        standard = STANDARD[table] if declared is None else table_schema(declared)
        schema = _of_all([*schemas, standard])
        return ds.FileSystemDataset.from_paths(paths, schema=schema, format=form, filesystem=system)

    def _part_schema(self, part: str, form: ds.ParquetFileFormat, system: FileSystem) -> pa.Schema:
        try:
            return form.inspect(self._output.path(part), system)
        except pa.ArrowInvalid as error:
            raise UserError(
                f"{self.uri}/{part} is not a Parquet file ({one_line(error, 80)}): type "
                f"python jobs/verify.py output.uri={self.uri}"
            ) from None
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(f"{self.uri}/{part}", error) from None

    def _columns(self, table: str) -> tuple[list[str], list[str]]:
        told = self.describe(table)
        return told["name"].to_pylist(), told["unit"].to_pylist()


DESCRIBED = ("name", "type", "unit", "definition", "source")


def described(field: pa.Field) -> dict[str, str]:
    """What `DESCRIBED` names, of a column; empty where the field does not say."""
    said = field.metadata or {}
    values = (said.get(key, b"").decode() for key in (b"unit", b"description", b"source"))
    return dict(zip(DESCRIBED, (field.name, type_name(field.type), *values), strict=True))


def type_name(kind: pa.DataType) -> str:
    """A type as people write it: ``list<float>``, ``map<string, string>``, ``struct<stage: string, …>``."""
    if pa.types.is_list(kind):
        return f"list<{type_name(kind.value_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(f'{f.name}: {type_name(f.type)}' for f in kind)}>"
    return str(kind)


def _parts(output: Output) -> dict[str, list[str]]:
    """Table → its parts. `tracks` is listed first: the rows of a part that is in it are in the other tables already."""
    tracks = output.parts("tracks")
    whole = {part.partition("/")[2] for part in tracks} | {EMPTY_PART}
    others = {
        table: [part for part in output.parts(table) if part.partition("/")[2] in whole]
        for table in output.tables
        if table != "tracks"
    }
    return {"tracks": tracks, **others}


def _of_all(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """Every column, as the first schema that tells its unit has it."""
    fields: dict[str, pa.Field] = {}
    metadata: dict[bytes, bytes] = {}
    for schema in schemas:
        metadata = {**(schema.metadata or {}), **metadata}
        for f in schema:
            known = fields.setdefault(f.name, f)
            if b"unit" not in (known.metadata or {}) and b"unit" in (f.metadata or {}):
                fields[f.name] = known.with_metadata(f.metadata)
    return pa.schema(list(fields.values()), metadata=metadata)


def _arrow_file_system(output: Output) -> FileSystem:
    return LocalFileSystem() if is_local(output.uri) else PyFileSystem(FSSpecHandler(output.fs))


def _where_they_are(uri: str) -> str:
    parent, _, last = uri.rpartition("/")
    if last in EVERY_OUTPUT and parent:
        return f"type the folder above, {parent}"
    return "type the output.uri of a run"
