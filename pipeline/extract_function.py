"""`pipeline.extract`: the numbers of a file, or of a few, in Python, without an output folder and without Ray.

The workers, the sink and the tables are those of the job; what it writes goes to a temporary folder, is read from
there, and is removed.
"""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.dataset import open as open_tables
from pipeline.dataset.output import Output
from pipeline.dataset.sources.items import SourceItem
from pipeline.dataset.sources.listing import list_source
from pipeline.dataset.storage import absolute, is_local
from pipeline.engine.guard import raise_fatal
from pipeline.engine.node import Node
from pipeline.engine.packing import planned
from pipeline.engine.worker_line import FATAL, MakingFailed, WorkerLine
from pipeline.errors import UserError
from pipeline.features import REGISTRY
from pipeline.workflows.config import NETWORKS, ExtractConfig
from pipeline.workflows.config_checks import nearest, nearest_of
from pipeline.workflows.jobs.extract import ExtractModels, find_models
from pipeline.workflows.stages import build_graph, plan_blocks

if TYPE_CHECKING:
    import os

    import pandas as pd

RUN_ID = "extract"
# What a row says of the run that wrote it.
OF_A_RUN = frozenset(
    {"run_id", "schema_version", "extractor_keys", "failed_keys", "artifacts", "source_version", "part"}
)
_ARRAY = ("_blob", "_inline", "_shape")


class ExtractionFailed(Exception):
    """Nothing could be computed of the one file that was asked for; the message says in which stage, and why."""


def extract(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    features: Sequence[str] | None = None,
    stages: Sequence[str] = (),
    *,
    config: ExtractConfig | None = None,
) -> dict[str, Any] | pd.DataFrame:
    """The columns of `tracks` for a file, or for several, as ``python jobs/extract_features.py`` computes them.

    The work is done in this process, on the CPU, one file after the other; only decoding has a process of its own,
    which a damaged file may take with it. The workers stay for the next call with the same settings, which is then
    quick. For more than some dozen files run the job: it uses every core, and goes on where it stopped.

    Args:
        files: a file, for a dict; a list of files, a folder or a pattern such as ``music/*.flac``, for a DataFrame.
            URLs such as ``s3://bucket/song.flac`` are files, too.
        features: extractors to run; None runs the ten that run by default, ``[]`` none.
        stages: networks to run: ``clap`` (an embedding, and ``segments``), ``separation`` (how much of the track is
            voice, drums …), ``tags`` (of music, and an embedding) and ``beats`` (downbeats, meter and tempo, too).
            Their weights are fetched with ``python jobs/models.py fetch NAME``.
        config: parameters of everything; its source, output, hardware and Ray are not used.

    Returns:
        column → value. Series and other lists of numbers are numpy arrays; what is undefined is None. ``status`` is
        ``ok`` or ``partial``, and ``failures`` says what could not be computed: a list of dicts with ``stage``,
        ``error_class`` and ``message``. Of several files a DataFrame with a row for each, in the order of their paths;
        a file of which nothing could be computed is a row with the status ``failed``.

    Raises:
        UserError: no such extractor, stage, file or weights.
        ExtractionFailed: nothing could be computed of the one file.

    Example::

        >>> import pipeline
        >>> song = pipeline.extract("song.flac", features=["loudness", "key"])  # doctest: +SKIP
        >>> song["loudness_integrated_lufs"], song["key_name"], song["key_mode"]  # doctest: +SKIP
        (-14.2, 'A', 'minor')
        >>> pipeline.extract("music", features=["tempo"])[["uri", "tempo_bpm"]]  # doctest: +SKIP
    """
    config = _settings(features, stages, config)
    items, one = _items(files, config)
    models = find_models(config)
    with _LOCK, _own_torch(config.perf.threads, config.seed):
        rows = list(_rows(items, config, models))
    if not one:
        import pandas as pd

        return pd.DataFrame(rows)
    [row] = rows
    if row["status"] == "failed":
        first = row["failures"][0]
        raise ExtractionFailed(
            f"{row['uri']}: {first['error_class']} in {first['stage']}: {first['message']}"
        )
    return row


def _settings(
    features: Sequence[str] | None, stages: Sequence[str], given: ExtractConfig | None
) -> ExtractConfig:
    """The config of a call. Raises `UserError`."""
    config = copy.deepcopy(given) if given is not None else ExtractConfig()
    if features is not None:
        config.features.enabled = _known("features", features, REGISTRY)
    config.stages = wanted = _known("stages", stages, NETWORKS)
    for name in wanted:
        getattr(config, name).enabled = True
    config.run_only(wanted)
    if not config.features.enabled and not wanted:
        raise UserError("features=[] and no stages: there is nothing to compute", do='features=["loudness"]')
    config.hardware, config.ray = type(config.hardware)(), type(config.ray)()
    config.cache.enabled = False
    config.separation.save_stems = False  # they would be removed with the folder
    return config


def _known(argument: str, names: Sequence[str], known: Sequence[str] | Mapping[str, Any]) -> list[str]:
    if isinstance(names, str):
        raise UserError(f"{argument}={names!r} is no list of names", do=f'{argument}=["{names}"]')
    for name in names:
        if name not in known:
            close = nearest_of(str(name), known)
            raise UserError(
                f"{argument}: {name} is not one of {', '.join(sorted(known))}{nearest(str(name), known)}",
                do=f'{argument}=["{close or sorted(known)[0]}"]',
            )
    return list(dict.fromkeys(names))


def _items(files: Any, config: ExtractConfig) -> tuple[list[SourceItem], bool]:
    """The files, and whether it is one that was asked for by its name."""
    several = not isinstance(files, str) and isinstance(files, Sequence)
    found: dict[str, SourceItem] = {}
    for given in map(str, files if several else [files]):
        if is_local(given) and not Path(given).expanduser().exists() and not set("*?[") & set(given):
            raise UserError(f"{given} is not there", do="the path of a file or a folder, or a URL")
        for item in list_source(str(given), storage_options=config.source.storage_options):
            found.setdefault(item.uri, item)
    items = list(found.values())
    return items, not several and len(items) == 1 and items[0].uri == absolute(str(files))


class _Kept:
    """The workers of the last call, which the next one takes if it wants the same, and the folder they write to."""

    settings: bytes = b""
    line: WorkerLine | None = None
    folder: tempfile.TemporaryDirectory | None = None


_LOCK = threading.Lock()


def _rows(
    items: Sequence[SourceItem], config: ExtractConfig, models: ExtractModels
) -> Iterator[dict[str, Any]]:
    """A row for each of ``items``, in their order."""
    _Kept.folder = _Kept.folder or tempfile.TemporaryDirectory(prefix="soundmill-")
    output = Output(_Kept.folder.name)
    pipeline = models.pipeline(config, output)
    output.declare(pipeline.contents)
    try:
        *nodes, sink = build_graph(config, models, output, RUN_ID)
        write = sink.having(fenced=False).make()  # nobody else knows of the folder
        line = _line(nodes)
        for block in plan_blocks(planned(items), config.hardware, 1.0):
            *_, (kind, found, *_) = line.run(block)
            if kind == FATAL:
                raise_fatal(found)
            write(found)
        computed = (product for stage in pipeline.stages for product in stage.computed)
        yield from _read(output.uri, items, [table.name for product in computed for table in product.tables])
    finally:
        for path in Path(_Kept.folder.name).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _line(nodes: Sequence[Node]) -> WorkerLine:
    settings = pickle.dumps(list(nodes))
    if _Kept.line is None or _Kept.settings != settings:
        _Kept.line = None  # its decoder ends before another one begins
        try:
            _Kept.line, _Kept.settings = WorkerLine(nodes), settings
        except MakingFailed as failed:
            raise_fatal(failed.told)
    return _Kept.line


def _read(uri: str, items: Sequence[SourceItem], others: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each of ``items``, with what ``others``, tables beside `tracks`, have of it."""
    tables = open_tables(uri)
    schema = tables.tracks.schema
    rows = {row["uri"]: row for row in tables.tracks.to_table().to_pylist()}
    failures: dict[str, list[dict[str, Any]]] = {}
    for failure in tables.failures.to_table(["uri", "stage", "error_class", "message"]).to_pylist():
        failures.setdefault(failure.pop("uri"), []).append(failure)
    more = {name: _by_asset(getattr(tables, name).to_table()) for name in others}
    arrays = sorted({f.name.removesuffix("_blob") for f in schema if f.name.endswith("_blob")})
    places = {name + end for name in arrays for end in _ARRAY}
    for item in items:
        row = rows[item.uri]
        found = {
            f.name: _value(row[f.name], f.type)
            for f in schema
            if f.name not in OF_A_RUN and f.name not in places
        }
        found |= {name: tables.array(row, name) for name in arrays}
        found |= {name: table.get(row["asset_id"], []) for name, table in more.items()}
        yield found | {"failures": failures.get(item.uri, [])}


def _by_asset(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    fields = [f for f in table.schema if f.name not in OF_A_RUN and f.name != "asset_id"]
    for row in table.to_pylist():
        values = {f.name: _value(row[f.name], f.type) for f in fields}
        found.setdefault(row["asset_id"], []).append(values)
    return found


def _value(value: Any, kind: pa.DataType) -> Any:
    """A value as Python has it; lists of numbers as arrays."""
    listed = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
    if value is None or not listed:
        return value
    of = kind.value_type
    number = pa.types.is_floating(of) or pa.types.is_integer(of)
    return np.array(value, of.to_pandas_dtype()) if number else value


@contextmanager
def _own_torch(threads: int, seed: int) -> Iterator[None]:
    """Torch as the workers of the job have it, and afterwards as it was: this is somebody else's process."""
    import torch

    before, state, interval = torch.get_num_threads(), torch.get_rng_state(), sys.getswitchinterval()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.set_rng_state(state)
        sys.setswitchinterval(interval)
