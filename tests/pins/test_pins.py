"""What an output was on the day that the house was rebuilt: keys, schemas, names, rows and arrays stay what they are.

When a pin fails, the output of users changes: `renew.py` says when that may be.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pin_checkpoint
import pin_outputs
import pin_runs
import pin_seams
import pytest
from pin_compare import differences, fingerprint, load

# They differ with the bytes of a source, which an encoder on another machine may round otherwise.
OF_THE_BYTES = ("size_bytes", "bit_rate")


@pytest.fixture(scope="module")
def in_this_process():
    with pin_seams.in_this_process():
        yield


@pytest.fixture(scope="module")
def default(in_this_process, tmp_path_factory) -> pin_runs.Pinned:
    return pin_runs.run_default(tmp_path_factory.mktemp("default"))


@pytest.fixture(scope="module")
def everything(in_this_process, tmp_path_factory, request) -> pin_runs.Pinned:
    checkpoint = pin_checkpoint.write_checkpoint(tmp_path_factory.mktemp("clap") / "clap.pt")
    try:
        shared: Path | None = request.getfixturevalue("shared_audio")
    except pytest.skip.Exception:
        shared = None
    return pin_runs.run_everything(tmp_path_factory.mktemp("everything"), checkpoint, shared)


@pytest.fixture(params=["default", "everything"])
def run(request) -> pin_runs.Pinned:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("what", ["keys", "owners", "schemas", "manifest"])
def test_what_is_declared(run, what):
    assert differences(load("declared")[run.name][what], run.declared[what]) == []


def test_names_of_parts():
    assert differences(load("declared")["parts"], pin_runs.parts()) == []


def test_parts_of_a_run_are_named_by_their_files(everything):
    """Those of the run are where its temporary folder is, so that they cannot be written down."""
    for table in pin_outputs.TABLES:
        names = {path.name for path in (everything.output / table).glob("*")}
        tracks = {path.name for path in (everything.output / "tracks").glob("*")}
        assert names <= tracks | {"part-empty.parquet"}
    for path in (everything.output / "tracks").glob("*"):
        [uri] = [row["uri"] for row in pin_outputs.pq.ParquetFile(path).read().to_pylist()]
        [name] = pin_seams.part_names([uri], 1)
        assert path.name.split("-")[2] == name.split("-")[2]


def test_rows_and_arrays_of_synthetic_files(run):
    assert compared(run, "synthetic/") == []


def test_rows_and_arrays_of_real_files(shared_audio, everything):
    assert compared(everything, "real/") == []


def test_every_bit_where_the_machine_is_the_same(run):
    here = fingerprint()
    pinned = [pins["hashes"][run.name] for pins in load("hashes") if pins["machine"] == here]
    found = pin_outputs.hashes(run.output, run.source)
    if not pinned:
        number = sum(len(of) for of in found.values())
        told = f"{number} hashes of {run.name} were not compared: none are pinned for {here['cpu']} and its packages"
        warnings.warn(f"{told}; python tests/pins/renew.py --hashes adds them", stacklevel=1)
        return
    others = changed_sources(run)
    expected = {name: of for name, of in pinned[0].items() if name in found and name not in others}
    assert differences(expected, {name: of for name, of in found.items() if name in expected}) == []


def test_nothing_is_wrong_with_the_output(run):
    assert pin_seams.problems(run.output) == {}


def compared(run: pin_runs.Pinned, prefix: str) -> list[str]:
    """The differences of the files whose names begin so; of floats only where the bytes of a file are the same."""
    pinned, found = load("values")[run.name], pin_outputs.values(run.output, run.source)
    names = [name for name in {*pinned, *found} if name.startswith(prefix)]
    others = [name for name in changed_sources(run) if name in names]
    lines = []
    for name in sorted(names):
        old, new = pinned.get(name, {}), found.get(name, {})
        if name not in others:
            lines += differences(old, new, name)
        else:
            told = f"{name}: its encoder wrote other bytes here than where it was pinned; floats were not compared"
            warnings.warn(told, stacklevel=1)
            for content in (old, new):
                content["track"] = {k: v for k, v in content["track"].items() if k not in OF_THE_BYTES}
            lines += differences(old, new, name, None)
    return lines


def changed_sources(run: pin_runs.Pinned) -> list[str]:
    """Files that are not, byte for byte, those that were pinned."""
    pinned = load("sources")
    return [name for name, digest in run.sources().items() if pinned.get(name) != digest]
