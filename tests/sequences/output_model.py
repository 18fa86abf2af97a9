"""What people do with files, configs and outputs, in any order: each time the output is one computed at once.

The model knows no job and no table by name: a subclass says what its job's settings are and how a run is asked for,
and what an output holds is read by the declarations that lie in it. Hypothesis draws the sequences, cuts a failing one
down to the steps that matter and prints those as calls, which can be pasted into a test as they are (see `Replayed`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from in_process import InProcess, Killed

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.verify import check, verify

NAMES = ("a.wav", "b.wav", "sub/c.wav", "d.wav", "sub/e.wav")
CONTENTS = ("low", "high", "stereo", "silent", "full", "broken", "empty")
UNREADABLE = ("broken", "empty")
OF_THE_RUN = {"run_id", "source_version", "first_seen", "uri"}
DAMAGES = ("lost file", "other file", "file of nobody", "lost rows", "rows of nobody")


@lru_cache
def content(name: str) -> bytes:
    """The bytes of a file: five that can be computed, three of them of equal length, and two that cannot."""
    if name == "empty":
        return b""
    if name == "broken":
        return b"RIFF and nothing else"
    time = np.arange(4000) / 8000
    longer = np.arange(9600) / 8000
    waves = {
        "low": 0.3 * np.sin(2 * np.pi * 220 * time),
        "high": 0.9 * np.sin(2 * np.pi * 880 * time),
        "stereo": 0.5
        * np.stack([np.sin(2 * np.pi * 220 * longer), np.sin(2 * np.pi * 330 * longer)], axis=1),
        "silent": np.zeros(3000),
        "full": -np.ones(4000),  # 16 bits have -1 and not 1
    }
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        soundfile.write(file.name, waves[name], 8000)
        return Path(file.name).read_bytes()


@dataclass(frozen=True)
class Settings:
    """What a config says, of any job; a job's own are added by a subclass."""

    gone: str = "mark"

    def config(self, source: Path, output: Path) -> Any:
        """The same for the job, with `common` applied."""
        raise NotImplementedError

    def common(self, config: Any, source: Path, output: Path) -> Any:
        """``config`` with what all jobs have."""
        config.source.uri, config.output.uri, config.source.gone = str(source), str(output), self.gone
        config.hardware.max_files_per_block = 2
        return config

    def plain(self) -> Settings:
        """The same without what does not matter, such as a parameter of what is off."""
        return self

    def wanted(self) -> set[str]:
        """Names of the products that are computed."""
        raise NotImplementedError


@dataclass
class Found:
    """What an output holds of one content, without what belongs to a run or to the name of a file."""

    row: dict[str, Any]
    failures: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stages: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)


def read(output: Path, table: str) -> list[dict[str, Any]]:
    """The rows of all parts."""
    return [row for part in sorted((output / table).glob("*.parquet")) for row in _rows(part.read_bytes())]


@lru_cache(maxsize=64)
def _rows(part: bytes) -> list[dict[str, Any]]:
    return pq.ParquetFile(pa.BufferReader(part)).read(use_threads=False).to_pylist()


def declared(output: Path) -> Contents:
    """What the output says that it holds."""
    return Output(str(output)).contents


def files_of(output: Path, contents: Contents) -> dict[str, bytes]:
    """Path below the output → bytes, of all arrays and artifacts."""
    folders = [output / kind for kind in ("blobs", *contents.artifacts)]
    found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def held(output: Path) -> dict[str, Found]:
    """Uri → what there is of it; nothing lies there that belongs to none."""
    contents = declared(output)
    tracks = read(output, "tracks")
    assets = {row["asset_id"] for row in tracks}
    stages, files = defaultdict(set), defaultdict(dict)
    for row in read(output, "timings"):
        stages[row["asset_id"]].add(row["stage"])
    for path, data in files_of(output, contents).items():
        files[path.split("/")[2]][path] = data
    tables = {name: defaultdict(list) for name in contents.tables}
    for name, table in contents.tables.items():
        for row in sorted(read(output, name), key=lambda row: row[table.key]):
            tables[name][row["asset_id"]].append(row)
        assert tables[name].keys() <= assets, f"rows of {name} of no file"
    assert files.keys() <= assets, "arrays or artifacts of no file"
    found = {}
    for row in tracks:
        assert row["uri"] not in found, "a file has two rows"
        asset = row["asset_id"]
        own = {name: rows[asset] for name, rows in tables.items() if rows[asset]}
        # More may be named than is there: a repair that makes a column null leaves the name of its file.
        named = {a["path"] for a in row["artifacts"] or ()}
        assert set(files[asset]) <= named, f"{set(files[asset]) - named}, which the row does not name"
        found[row["uri"]] = Found(_bare(row), [], own, stages[asset], files[asset])
    for row in read(output, "failures"):
        assert row["uri"] in found, "a failure of no file"
        found[row["uri"]].failures.append(_bare(row))
    for one in found.values():
        one.failures.sort(key=lambda row: row["stage"])
    return found


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OF_THE_RUN}


class Model(RuleBasedStateMachine):
    """An output, its source, and what people do with them. `jobs` and `at_once` are set by whoever runs it."""

    begins_with: Settings
    jobs: InProcess
    at_once: dict[Settings, dict[str, Found]]  # of all sequences: what each content alone gives

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="soundmill-model-"))
        self.source, self.output = self.root / "in", self.root / "out"
        self.source.mkdir()
        self.files: dict[str, str] = {}
        self.settings = self.of_last_run = self.begins_with
        self.unchecked = False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    # What a job says of itself.

    def job(self, config: Any) -> int:
        """Run it; the exit code."""
        raise NotImplementedError

    def job_again(self) -> int:
        """Try what failed again, with the settings of the last run; the exit code."""
        raise NotImplementedError

    def _job(self, source: Path, *, overwrite: bool = False) -> int:
        self.of_last_run, self.unchecked = self.settings, True
        config = self.settings.config(source, self.output)
        config.output.overwrite = overwrite
        return self.job(config)

    # What people do with files.

    @initialize(names=st.lists(st.sampled_from(CONTENTS), min_size=2, max_size=4))
    def begin(self, names: list[str]) -> None:
        """Some files, and a first run."""
        for name, what in zip(NAMES, names, strict=False):
            self.put(name, what)
        self.run()

    @rule(name=st.sampled_from(NAMES), what=st.sampled_from(CONTENTS))
    def put(self, name: str, what: str) -> None:
        """A file is added, changed, mended or broken."""
        path = self.source / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content(what))
        self.files[name] = what

    def _file(self, number: int) -> str:
        return sorted(self.files)[number % len(self.files)]

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 4), to=st.sampled_from(NAMES))
    def copy(self, number: int, to: str) -> None:
        """A file is copied, over another or not."""
        self.put(to, self.files[self._file(number)])

    @precondition(lambda self: len(self.files) > 1)
    @rule(number=st.integers(0, 4))
    def delete(self, number: int) -> None:
        """A file goes."""
        name = self._file(number)
        (self.source / name).unlink()
        del self.files[name]

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 4), to=st.sampled_from(NAMES))
    def rename(self, number: int, to: str) -> None:
        """A file gets another name, with the time that it had."""
        name = self._file(number)
        (self.source / to).parent.mkdir(exist_ok=True)
        (self.source / name).rename(self.source / to)
        self.files[to] = self.files.pop(name)

    @precondition(lambda self: self.files)
    @rule(number=st.integers(0, 4))
    def touch(self, number: int) -> None:
        """A file is as it was, and its time is another."""
        os.utime(self.source / self._file(number))

    # What people do with the config.

    @rule(gone=st.sampled_from(["keep", "mark", "drop"]))
    def choose_gone(self, gone: str) -> None:
        """What becomes of rows whose file is gone."""
        self.change(gone=gone)

    def change(self, **values: Any) -> None:
        """Replace some settings."""
        self.settings = replace(self.settings, **values)

    # What people do with the output.

    @precondition(lambda self: self.files)
    @rule()
    def run(self) -> None:
        """The job, to its end: the output is one computed at once."""
        code = self._job(self.source)
        failed = sum(what in UNREADABLE for what in self.files.values())
        assert code == (3 if failed > 0.9 * len(self.files) else 0)
        self.compare(self.files)

    @precondition(lambda self: self.files)
    @rule()
    def run_twice(self) -> None:
        """The second run has nothing to do."""
        self.run()
        before = {path: path.read_bytes() for path in self.output.rglob("*.parquet")}
        self.run()
        assert {path: path.read_bytes() for path in self.output.rglob("*.parquet")} == before

    @precondition(lambda self: self.files)
    @rule(sure=st.integers(0, 4))
    def overwrite(self, sure: int) -> None:
        """Everything anew, and rarely: of what was there before nothing is left."""
        if sure < 4:
            return
        self._job(self.source, overwrite=True)
        self.compare(self.files)
        assert len(held(self.output)) == len(self.files)

    @precondition(lambda self: any(name.startswith("sub/") for name in self.files))
    @rule()
    def run_on_a_folder(self) -> None:
        """Of a part of the source."""
        self._job(self.source / "sub")
        self.compare({n: what for n, what in self.files.items() if n.startswith("sub/")}, whole=False)

    @precondition(lambda self: self.files)
    @rule(writes=st.integers(0, 25))
    def kill(self, writes: int) -> None:
        """A run that ends in the middle, and one that goes on."""
        self.interrupt(writes)
        self.run()

    def interrupt(self, writes: int) -> None:
        """A run that ends in the middle: what is there then nobody vouches for."""
        self.jobs.kill_after(writes)
        with suppress(Killed):
            self._job(self.source)
        self.jobs.after_the_kill(str(self.output))
        self.unchecked = False

    @rule()
    def repair(self) -> None:
        """Nothing is to be mended, and nothing is."""
        before = held(self.output)
        assert verify(Output(str(self.output)), repair=True).found == {}
        assert held(self.output) == before

    @precondition(lambda self: self.files)
    @rule(damage=st.sampled_from(DAMAGES), number=st.integers(0, 9))
    def damage(self, damage: str, number: int) -> None:
        """Something of the output is lost or spoilt: that is found and mended, and computed again."""
        if not self._spoil(damage, number):
            return
        assert check(Output(str(self.output)), deep=True)[0].counts, damage
        assert verify(Output(str(self.output)), repair=True, deep=True).exit_code == 0
        assert check(Output(str(self.output)), deep=True)[0].counts == {}
        self.run()

    def _spoil(self, damage: str, number: int) -> bool:
        contents = declared(self.output)
        artifacts = sorted(p for p in files_of(self.output, contents) if not p.startswith("blobs/"))
        parts = (p for name in contents.tables for p in sorted((self.output / name).glob("*.parquet")))
        filled = [str(p.relative_to(self.output)) for p in parts if pq.read_metadata(p).num_rows]
        candidates = filled if "rows" in damage else artifacts
        if not candidates:
            return False
        chosen = self.output / candidates[number % len(candidates)]
        if damage == "lost file":
            chosen.unlink()
        elif damage == "other file":
            chosen.write_bytes(b"something else")
        elif damage == "file of nobody":
            other = chosen.parents[2] / "ab" / ("ab" + "0" * 62) / chosen.name
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_bytes(chosen.read_bytes())
        else:
            rows = pq.read_table(chosen)
            one = rows["asset_id"][number % rows.num_rows].as_py()
            kept = [row for row in rows.to_pylist() if row["asset_id"] != one]
            if damage == "rows of nobody":
                kept = [*rows.to_pylist(), {**rows.slice(0, 1).to_pylist()[0], "asset_id": "f" * 64}]
            pq.write_table(pa.Table.from_pylist(kept, rows.schema), chosen)
        return True

    @rule()
    def prune(self) -> None:
        """Rows of files that are gone go, and no other."""
        self.unchecked = True
        before = held(self.output)
        assert verify(Output(str(self.output)), prune=True).exit_code == 0
        after = held(self.output)
        assert after == {uri: found for uri, found in before.items() if found.row["status"] != "gone"}

    @rule()
    def retry(self) -> None:
        """What failed is tried again, and fails again unless it was mended."""
        failed = {
            uri: found.row["status"]
            for uri, found in held(self.output).items()
            if found.failures and found.row["status"] != "gone"
        }
        self.unchecked = True
        assert self.job_again() in (0, 3)
        after = held(self.output)
        for uri, before in failed.items():
            what = self.files.get(str(Path(uri).relative_to(self.source)))
            expected = before if what is None else self.alone(self.of_last_run)[what].row["status"]
            assert after[uri].row["status"] == expected

    @invariant()
    def is_clean(self) -> None:
        """Verify has nothing to say, whatever was done."""
        if self.unchecked:
            found = check(Output(str(self.output)), deep=True)[0]
            assert not found.counts, [(f.kind, f.where, f.message) for f in found.kept]
            self.unchecked = False

    # What it is compared with.

    def compare(self, files: dict[str, str], whole: bool = True) -> None:
        """The rows of ``files`` are those of an output computed at once; others only of what is gone."""
        found, contents = held(self.output), declared(self.output)
        present = {str(self.source / name): what for name, what in files.items()}
        assert set(present) <= set(found)
        schemas = {tuple(pq.read_schema(part)) for part in (self.output / "tracks").glob("*.parquet")}
        assert len(schemas) == 1, "parts of other columns"
        alone = self.alone(self.settings)
        for uri, what in present.items():
            assert_same(found[uri], alone[what], self.settings.wanted(), contents)
        others = {found[uri].row["status"] for uri in set(found) - set(present)}
        assert not whole or self.settings.gone == "keep" or others <= {"gone"}

    def alone(self, settings: Settings) -> dict[str, Found]:
        """What each content gives, in an output that holds all of them and was computed at once."""
        settings = replace(settings.plain(), gone="mark")
        if settings not in self.at_once:
            with tempfile.TemporaryDirectory(prefix="soundmill-alone-") as folder:
                source, output = Path(folder) / "in", Path(folder) / "out"
                source.mkdir()
                for what in CONTENTS:
                    (source / f"{what}.wav").write_bytes(content(what))
                self.job(settings.config(source, output))
                self.at_once[settings] = {Path(uri).stem: found for uri, found in held(output).items()}
        return self.at_once[settings]


class Replayed:
    """A sequence as it was printed, with the invariant after each step: ``state.begin(...); state.run()``."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        step = getattr(self._model, name)
        if not callable(step):
            return step

        def call(**arguments: Any) -> None:
            step(**arguments)
            self._model.is_clean()

        return call


def _concerns(stage: str, wanted: set[str], contents: Contents) -> bool:
    """Whether a stage has a product that is wanted, or none at all."""
    products = contents.products_of(stage)
    return not products or bool(wanted.intersection(products))


def assert_same(found: Found, expected: Found, wanted: set[str], contents: Contents) -> None:
    """As far as the present settings go: what an earlier config computed besides stays, and is not compared."""
    owners = contents.owners
    unread = "decode" in dict(expected.row["failed_keys"] or ())
    for name, value in expected.row.items():
        if name in ("extractor_keys", "failed_keys"):
            mine = {k: v for k, v in dict(found.row[name] or ()).items() if k in wanted or k == "decode"}
            assert mine == dict(value or ()), name
        elif name == "artifacts":
            there = {a["path"]: a for a in found.row[name] or ()}
            assert {a["path"]: a for a in value or ()}.items() <= there.items()
        elif name == "fallbacks":
            assert [f for f in found.row[name] or () if _concerns(f["stage"], wanted, contents)] == (
                value or []
            )
        elif name != "status" and owners.get(name, None) not in (None, *wanted):
            continue
        else:
            # Where no file at all can be read, a run with other products has nothing to do, and adds no empty columns.
            there = found.row.get(name) if unread else found.row[name]
            assert there == value, f"{name}: {there!r} and not {value!r}"
    assert found.failures == expected.failures
    for name in contents.tables:
        if contents.filler(name).name in wanted:
            assert found.tables.get(name, []) == expected.tables.get(name, []), name
    assert expected.stages <= found.stages
    kept = {name: data for name, data in found.files.items() if name in expected.files}
    assert kept == expected.files
    for name in set(found.files) - set(expected.files):
        folder = name.partition("/")[0]
        assert folder == "blobs" or contents.filler(folder).name not in wanted, f"{name} of an earlier config"
