"""An output of the version before the house was rebuilt is gone on with: nothing of it is computed again.

``output_v1`` is what `make_output_v1.py` had the real job write on Ray; only its uris and the times of its sources are
put right here, since both are those of the place where they lie.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pin_checkpoint
import pin_outputs
import pin_runs
import pin_seams
import pytest
from make_output_v1 import PLACE, settle_times, with_uris

HERE = Path(__file__).parent
FILES = ("broken.wav", "copy.flac", "mono.flac", "noise.wav", "stereo.wav")
# What is always of the run that touched a row last.
OF_THE_RUN = {"run_id", "extractor_keys", "artifacts"}
NEWER = {"key", "tempo"}
"""Extractors whose version was raised since, see CHANGELOG.md: what they computed then is stale, as it should be."""


@dataclass(frozen=True)
class Old:
    """The old output, put right."""

    source: Path
    output: Path
    checkpoint: Path

    def config(self) -> pin_seams.ExtractConfig:
        config = pin_runs.old_config(self.source, self.output, self.checkpoint)
        config.features.enabled = [name for name in config.features.enabled if name not in NEWER]
        return config

    def files(self) -> dict[str, bytes]:
        """All that is no record of a run."""
        found = (p for p in self.output.rglob("*") if p.is_file())
        names = {p.relative_to(self.output).as_posix(): p for p in found}
        return {name: p.read_bytes() for name, p in names.items() if not name.startswith("runs/")}

    def tracks(self) -> dict[str, dict[str, Any]]:
        """Name of a file → its row."""
        return {Path(row["uri"]).name: row for row in pin_outputs.rows(self.output, "tracks")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return pin_checkpoint.write_checkpoint(tmp_path_factory.mktemp("clap") / "clap.pt")


@pytest.fixture
def old(tmp_path, checkpoint) -> Iterator[Old]:
    shutil.copytree(HERE / "source_v1", tmp_path / "in")
    shutil.copytree(HERE / "output_v1", tmp_path / "out")
    settle_times(tmp_path / "in")
    with_uris(tmp_path / "out", PLACE, str(tmp_path / "in"))
    with pin_seams.in_this_process():
        yield Old(tmp_path / "in", tmp_path / "out", checkpoint)


def test_the_fixture_is_whole(old):
    assert tuple(sorted(old.tracks())) == FILES
    assert {name: row["status"] for name, row in old.tracks().items() if row["status"] != "ok"} == {
        "broken.wav": "failed"
    }
    assert len(old.tracks()["stereo.wav"]["artifacts"]) == 5
    assert pin_seams.problems(old.output) == {}


def test_there_is_nothing_to_do(old):
    before = old.files()
    result = pin_seams.run(old.config())
    assert result.exit_code == 0
    assert {row["run_id"] for row in old.tracks().values()}.isdisjoint({result.run_id})
    assert old.files() == before
    assert pin_seams.problems(old.output) == {}


def test_the_keys_of_its_rows_are_those_of_today(old):
    wanted = pin_seams.wanted(old.config())
    decode = wanted.pop("decode")
    for name, row in old.tracks().items():
        if row["status"] == "ok":
            # Mid and side of one channel cannot be had: that is known by its key, too.
            there = {**dict(row["extractor_keys"]), **dict(row["failed_keys"])}
            assert there.keys() - wanted.keys() == NEWER
            assert {product: key for product, key in there.items() if product not in NEWER} == wanted, name
        else:
            assert dict(row["failed_keys"]) == {"decode": decode}


def test_a_new_parameter_computes_only_its_extractor(old):
    before, files, timings, windows = old.tracks(), old.files(), _spent(old), _windows(old)
    config = old.config()
    config.features.band_energy.n_bands = 6
    owners = pin_seams.owners(config)
    result = pin_seams.run(config)
    assert result.exit_code == 0
    after, wanted = old.tracks(), pin_seams.wanted(config)
    assert after["broken.wav"] == before["broken.wav"]
    for name in set(FILES) - {"broken.wav"}:
        assert after[name]["run_id"] == result.run_id
        assert len(after[name]["band_energy_mean_db"]) == 6
        changed = {c for c in after[name] if after[name][c] != before[name][c]} - OF_THE_RUN
        assert changed
        assert {owners.get(column) for column in changed - {"fallbacks"}} == {"band_energy"}, changed
        # The rows of then say of what stage a step away is, and the product only in what was wanted.
        assert _fallbacks_of_others(after[name]) == _fallbacks_of_others(before[name])
        keys, old_keys = dict(after[name]["extractor_keys"]), dict(before[name]["extractor_keys"])
        assert {product for product in keys if keys[product] != old_keys[product]} == {"band_energy"}
        assert keys["band_energy"] == wanted["band_energy"]
    kept = {n: data for n, data in files.items() if n.startswith(("blobs/", "stems/"))}
    assert kept.items() <= old.files().items()
    assert _windows(old) == windows
    now = _spent(old)
    again = {stage for (asset, stage), spent in now.items() if spent != timings.get((asset, stage))}
    assert again == {"decode", "features.band_energy", "write"}
    assert now.keys() == timings.keys()
    assert pin_seams.problems(old.output) == {}


def test_a_changed_file_is_computed_anew_and_no_other(old):
    before = old.tracks()
    noise = old.source / "noise.wav"
    noise.write_bytes(noise.read_bytes()[:-1] + b"\x90")
    result = pin_seams.run(old.config())
    assert result.exit_code == 0
    after = old.tracks()
    assert {name for name in FILES if after[name] != before[name]} == {"noise.wav"}
    assert after["noise.wav"]["run_id"] == result.run_id
    assert after["noise.wav"]["asset_id"] != before["noise.wav"]["asset_id"]
    keys = dict(before["noise.wav"]["extractor_keys"])
    assert dict(after["noise.wav"]["extractor_keys"]) == {p: keys[p] for p in keys if p not in NEWER}
    assert pin_seams.problems(old.output) == {}


def test_what_has_a_newer_version_is_computed_anew_and_nothing_else(old):
    before = old.tracks()
    config = old.config()
    config.features.enabled = [*config.features.enabled, *sorted(NEWER)]
    assert pin_seams.run(config).exit_code == 0
    owners = pin_seams.owners(config)
    for name, row in old.tracks().items():
        changed = (
            {column for column in row if row[column] != before[name][column]} - OF_THE_RUN - {"fallbacks"}
        )
        assert {owners.get(column) for column in changed} <= NEWER, changed
        if row["status"] == "ok":
            assert {
                p
                for p, key in dict(row["extractor_keys"]).items()
                if key != dict(before[name]["extractor_keys"])[p]
            } == NEWER
    assert pin_seams.problems(old.output) == {}


def _fallbacks_of_others(row: dict[str, Any]) -> list[dict[str, str]]:
    return [f for f in row["fallbacks"] if not f["wanted"].startswith("band_energy.")]


def _windows(old: Old) -> list[dict[str, Any]]:
    return sorted(
        pin_outputs.rows(old.output, "segments"), key=lambda row: (row["asset_id"], row["segment_index"])
    )


def _spent(old: Old) -> dict[tuple[str, str], list[float]]:
    """(asset, stage) → seconds: those of what was not computed again are the old ones."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in pin_outputs.rows(old.output, "timings"):
        found.setdefault((row["asset_id"], row["stage"]), []).append(row["compute_s"])
    return found
