"""What people do with files, configs and outputs, in any order: each time the output is one computed at once.

Hypothesis draws the sequences and cuts a failing one down to the steps that matter. `make chaos` draws 2,000.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.standard_schemas import KNOWN
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from in_process import InProcess, Killed

from pipeline.dataset.output import Output
from pipeline.dataset.verify import check, verify
from pipeline.workflows import retry as failures
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract

NAMES = ("a.wav", "b.wav", "sub/c.wav", "d.wav", "sub/e.wav")
CONTENTS = ("low", "high", "stereo", "silent", "broken", "empty")
OF_THE_RUN = {"run_id", "source_version", "first_seen", "uri"}
STAGES = {"clap", "separation"}


def content(name: str) -> bytes:
    """The bytes of a file: four that can be computed, two of equal length, and two that cannot."""
    if name == "empty":
        return b""
    if name == "broken":
        return b"RIFF and nothing else"
    time = np.arange(4000) / 8000
    waves = {
        "low": 0.3 * np.sin(2 * np.pi * 220 * time),
        "high": 0.3 * np.sin(2 * np.pi * 880 * time),
        "stereo": 0.3 * np.stack([np.sin(2 * np.pi * 220 * time), np.sin(2 * np.pi * 330 * time)], axis=1),
        "silent": np.zeros(3000),
    }
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        soundfile.write(file.name, waves[name], 8000)
        return Path(file.name).read_bytes()


@dataclass(frozen=True)
class Settings:
    """What is switched on."""

    features: tuple[str, ...] = ("loudness",)
    clap: bool = True
    hop_seconds: float = 0.2
    separation: bool = False
    stems: bool = False
    gone: str = "mark"

    def config(self, source: Path, output: Path) -> ExtractConfig:
        """The same for the job."""
        made = ExtractConfig()
        made.source.uri, made.output.uri, made.source.gone = str(source), str(output), self.gone
        made.features.enabled = list(self.features)
        made.clap.enabled, made.clap.window_seconds, made.clap.hop_seconds = self.clap, 0.2, self.hop_seconds
        made.separation.enabled, made.separation.backends = self.separation, ["midside"]
        made.separation.save_stems = self.stems
        made.blobs.max_inline_elements = 10
        made.hardware.max_files_per_block = 2
        return made

    def wanted(self) -> set[str]:
        """Names of extractors and networks."""
        return {
            *self.features,
            *(["clap"] if self.clap else []),
            *(["separation"] if self.separation else []),
        }


@dataclass
class Found:
    """What an output holds of one content, without what belongs to a run or to the name of a file."""

    row: dict[str, Any]
    failures: list[dict[str, Any]] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    stages: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)


def read(output: Path, table: str) -> list[dict[str, Any]]:
    """The rows of all parts."""
    return [
        row for part in sorted((output / table).glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]


def held(output: Path) -> dict[str, Found]:
    """Uri → what there is of it."""
    segments, stages = defaultdict(list), defaultdict(set)
    for row in read(output, "segments"):
        segments[row["asset_id"]].append(row)
    for row in read(output, "timings"):
        stages[row["asset_id"]].add(row["stage"])
    found = {}
    for row in read(output, "tracks"):
        assert row["uri"] not in found, "a file has two rows"
        asset = row["asset_id"]
        files = {
            str(path.relative_to(output)): path.read_bytes()
            for kind in ("blobs", "stems")
            for path in (output / kind / asset[:2] / asset).glob("*")
        }
        windows = sorted(segments[asset], key=lambda s: s["segment_index"])
        found[row["uri"]] = Found(_bare(row), [], windows, stages[asset], files)
    for row in read(output, "failures"):
        assert row["uri"] in found, "a failure of no file"
        found[row["uri"]].failures.append(_bare(row))
    return found


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OF_THE_RUN}


class Model(RuleBasedStateMachine):
    """An output, its source, and what people do with them."""

    at_once: dict[tuple[str, Settings], Found] = {}  # noqa: RUF012  of all sequences: what a file alone gives
    jobs: InProcess

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="soundmill-model-"))
        self.source, self.output = self.root / "in", self.root / "out"
        self.source.mkdir()
        self.files: dict[str, str] = {}
        self.settings = Settings()
        self.ever = False

    def teardown(self) -> None:
        shutil.rmtree(self.root)

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

    @precondition(lambda self: self.files)
    @rule(data=st.data(), to=st.sampled_from(NAMES))
    def copy(self, data: st.DataObject, to: str) -> None:
        """A file is copied, over another or not."""
        name = data.draw(st.sampled_from(sorted(self.files)))
        self.put(to, self.files[name])

    @precondition(lambda self: len(self.files) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A file goes."""
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.source / name).unlink()
        del self.files[name]

    @precondition(lambda self: self.files)
    @rule(data=st.data(), to=st.sampled_from(NAMES))
    def rename(self, data: st.DataObject, to: str) -> None:
        """A file gets another name, with the time that it had."""
        name = data.draw(st.sampled_from(sorted(self.files)))
        (self.source / to).parent.mkdir(exist_ok=True)
        (self.source / name).rename(self.source / to)
        self.files[to] = self.files.pop(name)

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        """A file is as it was, and its time is another."""
        os.utime(self.source / data.draw(st.sampled_from(sorted(self.files))))

    # What people do with the config.

    @rule(
        names=st.sampled_from(
            [("loudness",), ("loudness", "quality"), ("mfcc", "quality"), ("loudness", "mel")]
        )
    )
    def choose_features(self, names: tuple[str, ...]) -> None:
        """Other extractors; ``mel`` keeps its arrays in files."""
        self.change(features=names)

    @rule(clap=st.booleans(), hop=st.sampled_from([0.2, 0.1]))
    def choose_clap(self, clap: bool, hop: float) -> None:
        """CLAP on, off, or with another parameter."""
        self.change(clap=clap, hop_seconds=hop)

    @rule(separation=st.booleans(), stems=st.booleans())
    def choose_separation(self, separation: bool, stems: bool) -> None:
        """Separation on or off, with and without stems."""
        self.change(separation=separation, stems=stems)

    @rule(gone=st.sampled_from(["keep", "mark", "drop"]))
    def choose_gone(self, gone: str) -> None:
        """What becomes of rows whose file is gone."""
        self.change(gone=gone)

    def change(self, **values: Any) -> None:
        """Replace some settings."""
        self.settings = Settings(**{**vars(self.settings), **values})

    # What people do with the output.

    @precondition(lambda self: self.files)
    @rule()
    def run(self) -> None:
        """The job, to its end: the output is one computed at once."""
        result = extract.run(self.settings.config(self.source, self.output), quiet=True)
        failed = sum(what in ("broken", "empty") for what in self.files.values())
        assert result.exit_code == (3 if failed > 0.9 * len(self.files) else 0)
        self.compare(self.files, self.settings.gone)

    @precondition(lambda self: self.files)
    @rule()
    def run_twice(self) -> None:
        """The second run has nothing to do."""
        self.run()
        before = {path: path.read_bytes() for path in self.output.rglob("*.parquet")}
        self.run()
        assert {path: path.read_bytes() for path in self.output.rglob("*.parquet")} == before

    @precondition(lambda self: any(name.startswith("sub/") for name in self.files))
    @rule()
    def run_on_a_folder(self) -> None:
        """Of a part of the source."""
        some = {name: what for name, what in self.files.items() if name.startswith("sub/")}
        extract.run(self.settings.config(self.source / "sub", self.output), quiet=True)
        self.compare(some, self.settings.gone, whole=False)

    @precondition(lambda self: self.files)
    @rule(writes=st.integers(0, 25))
    def kill(self, writes: int) -> None:
        """A run that ends in the middle, and one that goes on."""
        self.jobs.kill_after(writes)
        with suppress(Killed):
            extract.run(self.settings.config(self.source, self.output), quiet=True)
        self.jobs.after_the_kill(str(self.output))
        self.run()

    @rule()
    def repair(self) -> None:
        """Nothing is to be mended, and nothing is."""
        before = held(self.output)
        assert verify(Output(str(self.output)), repair=True).found == {}
        assert held(self.output) == before

    @rule()
    def prune(self) -> None:
        """Rows of files that are gone go, and no other."""
        before = held(self.output)
        assert verify(Output(str(self.output)), prune=True).exit_code == 0
        after = held(self.output)
        assert after == {uri: found for uri, found in before.items() if found.row["status"] != "gone"}

    @rule()
    def retry(self) -> None:
        """What failed is tried again, and fails again unless it was mended."""
        failed = {
            uri
            for uri, found in held(self.output).items()
            if found.failures and found.row["status"] != "gone"
        }
        assert failures.retry(Output(str(self.output))) in (0, 3)
        for uri in failed:
            what = self.files.get(str(Path(uri).relative_to(self.source)))
            row = held(self.output)[uri].row
            if what is None:
                assert row["status"] == "failed"
            else:
                assert (row["status"] == "failed") == (what in ("broken", "empty"))

    @invariant()
    def is_clean(self) -> None:
        """Verify has nothing to say, whatever was done."""
        if self.output.exists():
            assert check(Output(str(self.output)), deep=True)[0].counts == {}

    # What it is compared with.

    def compare(self, files: dict[str, str], gone: str, whole: bool = True) -> None:
        """The rows of ``files`` are those of an output computed at once; others only of what is gone."""
        found = held(self.output)
        present = {str(self.source / name): what for name, what in files.items()}
        assert set(present) <= set(found)
        for uri, what in present.items():
            assert_same(found[uri], self.alone(what), self.settings.wanted())
        if whole and gone != "keep":
            assert {found[uri].row["status"] for uri in set(found) - set(present)} <= {"gone"}
        if whole and gone == "drop":
            newly = {uri for uri in found if uri not in present}
            assert all(found[uri].row["status"] == "gone" for uri in newly)

    def alone(self, what: str) -> Found:
        """What a content gives alone, in an output of its own."""
        settings = Settings(**{**vars(self.settings), "gone": "mark"})
        if (what, settings) not in self.at_once:
            with tempfile.TemporaryDirectory(prefix="soundmill-alone-") as folder:
                source, output = Path(folder) / "in", Path(folder) / "out"
                source.mkdir()
                (source / "x.wav").write_bytes(content(what))
                extract.run(settings.config(source, output), quiet=True)
                [self.at_once[what, settings]] = held(output).values()
        return self.at_once[what, settings]


OWNERS = KNOWN


def assert_same(found: Found, expected: Found, wanted: set[str]) -> None:
    """As far as the present settings go: what an earlier config computed besides stays, and is not compared."""
    for name, value in expected.row.items():
        if name in ("extractor_keys", "failed_keys"):
            mine = {k: v for k, v in dict(found.row[name]).items() if k in wanted or k == "decode"}
            assert mine == dict(value), name
        elif name == "artifacts":
            assert {a["path"]: a for a in value}.items() <= {a["path"]: a for a in found.row[name]}.items()
        elif name != "status" and name in OWNERS and OWNERS[name] not in wanted:
            continue
        else:
            assert found.row[name] == value, name
    assert found.failures == expected.failures
    if "clap" in wanted:
        assert found.segments == expected.segments
    assert expected.stages <= found.stages
    kept = {name: data for name, data in found.files.items() if name in expected.files}
    assert kept == expected.files
    others = [name for name in set(found.files) - set(expected.files) if name.startswith("stems/")]
    assert "separation" not in wanted or not others, "stems of an earlier config"


def sequences(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Draw so many."""
    Model.jobs, Model.at_once = InProcess(monkeypatch), {}
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=number,
            stateful_step_count=12 if number > 100 else 8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=number < 100,
            print_blob=True,
        ),
    )


@pytest.mark.timeout(900)
def test_any_sequence_gives_the_output_of_one_run(monkeypatch):
    sequences(monkeypatch, 30)


@pytest.mark.chaos
@pytest.mark.timeout(36_000)
def test_any_of_many_sequences_gives_the_output_of_one_run(monkeypatch):
    sequences(monkeypatch, 2_000)
