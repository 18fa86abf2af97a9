"""What went wrong, by stage and class, and which files to run again. ``failures`` is read part by part."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipeline.dataset.output import Output, read_part
from pipeline.dataset.run_folder import run_ids
from pipeline.dataset.storage import explain, one_line
from pipeline.dataset.tables.schemas import FAILURES, GONE
from pipeline.errors import UserError

WHERE_SECONDS = 30.0
"""Longest time a condition may take on one part."""
MOST_CLASSES = 1000
OTHER = "(other classes)"
_EXAMPLE = 200


@dataclass
class FailureClass:
    """One error class in one stage.

    Args:
        rows: failures.
        worker_died: of those, how many took their process with them.
        examples: the first (uri, message).
    """

    rows: int = 0
    worker_died: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Summary:
    """Failures of an output.

    Args:
        tracks: rows in `tracks`, which is files; without those of files that are gone, which are not counted.
        files_failed: files of status failed; ``files_partial``: of status partial.
        classes: (stage, error class) → what is known, at most 1,000 and the rest as one.
    """

    tracks: int = 0
    files_failed: int = 0
    files_partial: int = 0
    rows: int = 0
    worker_died: int = 0
    classes: dict[tuple[str, str], FailureClass] = field(default_factory=dict)


@dataclass(frozen=True)
class RetryRequest:
    """What to run again.

    Args:
        uris: of the files, sorted, each once.
        stages: uri → the stages that failed on it and meet the condition.
        run_id: the newest run that wrote its config.
        config: that ``config.yaml``; the values of secret storage options read ``***``.
        redacted: keys of the config whose values have to be typed again.
    """

    uris: tuple[str, ...]
    stages: dict[str, tuple[str, ...]]
    run_id: str
    config: dict[str, Any]
    redacted: tuple[str, ...] = ()


def summarise(output: Output, where: str | None = None, limit: int = 3) -> Summary:
    """Count the failures that meet ``where``.

    Args:
        output: root of the tables.
        where: SQL condition over the columns of ``failures``; all rows where it is None.
        limit: examples per class.

    Raises:
        UserError: no tables, or a mistake in the condition.
    """
    found = Summary()
    if not output.parts("tracks"):
        raise UserError(f"output.uri={output.uri} holds no tables: type the output.uri of a run")
    for status in _column(output, "tracks", "status"):
        found.tracks += status != GONE
        found.files_failed += status == "failed"
        found.files_partial += status == "partial"
    return _classes(found, output, where, limit)


def classes(output: Output, limit: int = 3) -> Summary:
    """As `summarise`, of all failures and without a look at `tracks`, whose counts stay 0."""
    return _classes(Summary(), output, None, limit)


def _classes(found: Summary, output: Output, where: str | None, limit: int) -> Summary:
    for table in _matching(output, where):
        for row in table.select(["uri", "stage", "error_class", "message", "worker_died"]).to_pylist():
            _count(found, row, limit)
    return found


def _count(found: Summary, row: dict[str, Any], limit: int) -> None:
    found.rows += 1
    found.worker_died += bool(row["worker_died"])
    key = (row["stage"], row["error_class"])
    if key not in found.classes and len(found.classes) >= MOST_CLASSES:
        key = (row["stage"], OTHER)
    of_class = found.classes.setdefault(key, FailureClass())
    of_class.rows += 1
    of_class.worker_died += bool(row["worker_died"])
    if len(of_class.examples) < limit:
        of_class.examples.append((row["uri"], (row["message"] or "")[:_EXAMPLE]))


def select_failures(output: Output, where: str | None = None) -> dict[str, tuple[str, ...]]:
    """Uri → its failed stages that meet ``where``, both sorted. Memory: the uris. Raises as `summarise`."""
    found: dict[str, set[str]] = {}
    for table in _matching(output, where):
        for uri, stage in zip(table["uri"].to_pylist(), table["stage"].to_pylist(), strict=True):
            found.setdefault(uri, set()).add(stage)
    return {uri: tuple(sorted(found[uri])) for uri in sorted(found)}


def retry_request(output: Output, where: str | None = None) -> RetryRequest:
    """What to run again, with the config of the newest run that has one.

    Raises:
        UserError: as `summarise`, or no run here has a ``config.yaml``.
    """
    stages = select_failures(output, where)
    for run in reversed(run_ids(output)):
        name = f"runs/{run}/config.yaml"
        if not output.fs.exists(output.path(name)):
            continue
        try:
            config = yaml.safe_load(output.read(name))
        except yaml.YAMLError:
            raise UserError(f"{output.uri}/{name} is not YAML: mend it, or run the main job itself") from None
        return RetryRequest(tuple(stages), stages, run, config, tuple(_redacted(config)))
    raise UserError(f"no run below {output.uri}/runs has a config.yaml: run the main job itself")


def status_of(failures: Iterable[Mapping[str, Any]]) -> str:
    """The status that a file with these failures has: ``ok``, ``partial`` or ``failed``."""
    rows = list(failures)
    # Of a file that took its worker with it nothing is left, whichever stage it was in.
    if any(f["stage"] == "decode" or f["worker_died"] for f in rows):
        return "failed"
    return "partial" if rows else "ok"


def _redacted(config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(config, dict):
        for name, value in config.items():
            yield from _redacted(value, f"{prefix}.{name}" if prefix else str(name))
    elif config == "***":
        yield prefix


def _column(output: Output, table: str, name: str) -> Iterator[Any]:
    for part in _tables(output, table, [name]):
        yield from part[name].to_pylist()


def _tables(output: Output, table: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    for part in output.parts(table):
        try:
            data = output.read(part)
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(f"{output.uri}/{part}", error) from None
        try:
            yield read_part(pa.BufferReader(data), columns)
        except (pa.ArrowException, OSError) as error:
            said = one_line(error, 80)
            raise UserError(
                f"{output.uri}/{part} cannot be read ({said}): type python jobs/verify.py output.uri={output.uri}"
            ) from None


def _matching(output: Output, where: str | None) -> Iterator[pa.Table]:
    """The failures that meet the condition, part by part.

    Those of parts without `tracks` do not count, nor do those of files that are gone.
    """
    tracks = {part.partition("/")[2] for part in output.parts("tracks")}
    if where is None:
        condition = None
    else:
        condition = Condition(where)
        condition.matching(FAILURES.empty_table())  # a mistake is told even where there is no failure
    gone = pa.array(_gone(output), pa.string())
    for part, table in zip(output.parts("failures"), _tables(output, "failures"), strict=True):
        if part.partition("/")[2] in tracks:
            table = table.filter(pc.invert(pc.is_in(table["uri"], value_set=gone))) if len(gone) else table
            yield table if condition is None else condition.matching(table)


def _gone(output: Output) -> list[str]:
    """The files that are there no longer."""
    tables = _tables(output, "tracks", ["uri", "status"])
    return [
        uri for table in tables for uri in table.filter(pc.equal(table["status"], GONE))["uri"].to_pylist()
    ]


class Condition:
    """A SQL condition over the columns of ``failures``, which can read nothing but the rows it is given.

    Raises:
        UserError: DuckDB is not installed, or the text is not one condition.
    """

    def __init__(self, where: str) -> None:
        try:
            import duckdb
        except ImportError:
            raise UserError("where=… needs DuckDB: type `pip install 'duckdb>=1.1'`") from None
        self._duckdb, self.where = duckdb, where

    def matching(self, table: pa.Table) -> pa.Table:
        """The rows that meet the condition, in their order. Raises `UserError`."""
        with self._connection() as connection:
            try:
                rows = connection.from_arrow(table).filter(self._duckdb.SQLExpression(self.where))
                found = rows.to_arrow_table() if hasattr(rows, "to_arrow_table") else rows.arrow()
            except self._duckdb.InterruptException:
                raise UserError(
                    f"where: took longer than {WHERE_SECONDS:g} s on one part: simplify it"
                ) from None
            except Exception as error:  # noqa: BLE001  DuckDB has a class for every mistake
                raise self._mistake(error) from None
        return found.read_all() if hasattr(found, "read_all") else found

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """In memory, without files, extensions, other settings or our Python variables; it ends after a while."""
        connection = self._duckdb.connect(
            ":memory:",
            config={
                "enable_external_access": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
                "memory_limit": "512MB",
                "threads": "1",
                "preserve_insertion_order": "true",
                "lock_configuration": "true",
            },
        )
        alarm = threading.Timer(WHERE_SECONDS, connection.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            yield connection
        finally:
            alarm.cancel()
            connection.close()

    def _mistake(self, error: BaseException | str) -> UserError:
        said = error if isinstance(error, str) else str(error).strip().splitlines()[0][:150]
        return UserError(f"where: {said}; the columns are {', '.join(FAILURES.names)}")
