"""The separation stage on tables, with a backend whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from pipeline.dataset.output import Output
from pipeline.engine.batch import pcm_array
from pipeline.features.base import stable_key
from pipeline.models.separation import base
from pipeline.models.separation.base import Separator
from pipeline.models.separation.choose import forget_backends
from pipeline.models.separation.window import Window
from pipeline.stages.separation.worker import SeparationWorker

RATE = 44100


class Louder(Separator):
    """Vocals are three times the mix, other a tenth of it."""

    name, version, sources, cpu_speed = "louder", "1", ("vocals", "other"), 100.0
    segment, device, batch_items = 0.5, torch.device("cpu"), 3

    @classmethod
    def load(cls, device="cpu", options=None):
        return cls()

    def model_id(self):
        return "louder:0"

    def windows(self, samples):
        for offset in range(0, samples, RATE // 2):
            yield Window(offset, RATE // 2, offset, min(RATE // 2, samples - offset))

    def separate(self, batch):
        return torch.stack([3 * batch, 0.1 * batch], dim=1)


@pytest.fixture(autouse=True)
def louder(monkeypatch):
    monkeypatch.setitem(base.REGISTRY, "louder", Louder)
    forget_backends()
    yield
    forget_backends()


def block(*tracks: np.ndarray | None) -> pa.Table:
    """A table as it comes from the decode stage; None is a file that could not be decoded."""
    views = [json.dumps({"separation": ["separation", RATE, 2]}) if t is not None else None for t in tracks]
    return pa.table(
        {
            "index": list(range(len(tracks))),
            "uri": [f"{i}.wav" for i in range(len(tracks))],
            "asset_id": [f"{i:064x}" for i in range(len(tracks))],
            "channels": [2] * len(tracks),
            "duration_s": [None if t is None else t.shape[1] / RATE for t in tracks],
            "views": pa.array(views, type=pa.string()),
            "pcm@separation": pcm_array(tracks),
        }
    )


def tone(seconds: float, gain: float = 0.5) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    wave = gain * np.sin(2 * np.pi * 441 * time)
    return np.stack([wave, wave]).astype(np.float32)


def test_rows_costs_and_failures():
    bad = tone(1.0)
    bad[:, 5] = np.nan
    stage = SeparationWorker(["louder"], residual="drop")
    table = stage(block(tone(1.0), None, bad, tone(3.0), tone(1.0, 0.0)))
    rows = table.to_pylist()
    assert [row["separation_backend"] for row in rows] == ["louder", None, None, "louder", "louder"]
    assert [row["separation_choice"] for row in rows] == ["listed", None, "listed", "listed", "listed"]
    assert rows[0]["separation_model"] == "louder:0"
    for row in (rows[0], rows[3]):
        assert row["stem_share_vocals"] + row["stem_share_other"] == pytest.approx(1.0, abs=1e-6)
        assert row["stem_share_other"] == pytest.approx(0.01 / 9.01, rel=1e-4)
        assert row["stem_rms_vocals_dbfs"] == pytest.approx(20 * np.log10(1.5) - 3.01, abs=0.01)
    assert rows[4]["stem_share_vocals"] is None
    assert [len(row["failures@separation"]) for row in rows] == [0, 0, 1, 0, 0]
    assert "NaN" in rows[2]["failures@separation"][0]["message"]
    assert rows[2]["key@separation"] is None
    costs = [row["timings@separation"][0]["compute_s"] for row in rows if row["timings@separation"]]
    assert len(costs) == 4
    assert min(costs) > 0
    assert rows[3]["timings@separation"][0]["batch_items"] == 3


def test_neighbours_change_nothing():
    alone = SeparationWorker(["louder"])(block(tone(1.3))).to_pylist()[0]
    among = SeparationWorker(["louder"])(block(tone(0.2), tone(1.3), tone(2.0))).to_pylist()[1]
    for name in ("stem_share_vocals", "stem_rms_vocals_dbfs", "key@separation"):
        assert alone[name] == among[name]


def test_saved_stems_never_clip_and_lie_where_the_row_says(tmp_path):
    output = Output(str(tmp_path))
    stage = SeparationWorker(["louder"], save_stems=True, save_arrays=True, output=output)
    [row] = stage(block(tone(1.0))).to_pylist()
    assert row["stem_gain_vocals_db"] == pytest.approx(20 * np.log10(1 / 1.5), abs=0.01)
    assert row["stem_gain_other_db"] == 0.0
    asset = f"00/{0:064x}"
    flac, rate = soundfile.read(tmp_path / "stems" / asset / "vocals.flac", dtype="float32")
    assert rate == RATE
    assert np.abs(flac).max() == pytest.approx(1.0, abs=1e-5)
    array = np.load(tmp_path / row["stem_vocals_blob"], allow_pickle=False)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, 3 * tone(1.0))
    gain = 10 ** (row["stem_gain_vocals_db"] / 20)
    np.testing.assert_allclose(flac.T, array * gain, atol=2.0**-22)
    assert {blob["path"] for blob in row["blobs@separation"]} == {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("residual", "vocals", "other"),
    [
        ("accompaniment", 3.0, -2.0),
        ("share", 3.0 - 2.1 * 9 / 9.01, 0.1 - 2.1 * 0.01 / 9.01),
        ("drop", 3.0, 0.1),
    ],
)
def test_levels_and_shares_are_those_of_the_stems_with_the_residual(tmp_path, residual, vocals, other):
    """Whether they are written or not: three times the mix and a tenth of it are 2.1 times too much."""
    saving = SeparationWorker(["louder"], save_arrays=True, output=Output(str(tmp_path)), residual=residual)
    [saved] = saving(block(tone(1.0))).to_pylist()
    [counted] = SeparationWorker(["louder"], residual=residual)(block(tone(1.0))).to_pylist()
    stems = {s: np.load(tmp_path / saved[f"stem_{s}_blob"], allow_pickle=False) for s in ("vocals", "other")}
    energy = {s: np.square(array.astype(np.float64)).sum() for s, array in stems.items()}
    for row in (saved, counted):
        for stem, gain in (("vocals", vocals), ("other", other)):
            assert row[f"stem_share_{stem}"] == pytest.approx(energy[stem] / sum(energy.values()), rel=1e-5)
            level = 20 * np.log10(abs(gain) * 0.5) - 3.0103
            assert row[f"stem_rms_{stem}_dbfs"] == pytest.approx(level, abs=0.001)


@pytest.mark.parametrize("residual", ["accompaniment", "share"])
def test_saved_files_add_up_to_the_mix_within_quantisation(tmp_path, residual):
    """Each FLAC with its own gain undone."""
    rng = np.random.default_rng(3)
    mix = (0.3 * rng.standard_normal((2, RATE))).astype(np.float32)
    stage = SeparationWorker(["louder"], save_stems=True, output=Output(str(tmp_path)), residual=residual)
    [row] = stage(block(mix)).to_pylist()
    total = np.zeros(mix.shape)
    for path in tmp_path.rglob("*.flac"):
        stem, _ = soundfile.read(path, dtype="float64")
        total += stem.T / 10 ** (row[f"stem_gain_{path.stem}_db"] / 20)
    error = np.square(total - mix).sum() / np.square(mix.astype(np.float64)).sum()
    assert 10 * np.log10(error) < -115
    assert row["stem_gain_vocals_db"] < 0, "a gain was there to be undone"


def test_a_model_without_a_stem_for_the_rest_gets_the_columns_of_one(monkeypatch):
    monkeypatch.setattr(Louder, "sources", ("vocals", "drums"))
    forget_backends()
    [row] = SeparationWorker(["louder"])(block(tone(1.0))).to_pylist()
    assert row["stem_rms_other_dbfs"] == pytest.approx(20 * np.log10(2.1 * 0.5) - 3.0103, abs=0.001)
    assert row["stem_share_vocals"] + row["stem_share_drums"] + row["stem_share_other"] == pytest.approx(1.0)


def test_another_residual_is_another_key_and_none_is_the_key_of_before():
    keys = {
        r: SeparationWorker(["louder"], residual=r).key("separation")
        for r in ("accompaniment", "share", "drop")
    }
    assert len(set(keys.values())) == 3
    assert keys["drop"] == stable_key(
        {
            "name": "separation",
            "models": [("louder", "1", "louder:0")],
            "bfloat16_allowed": True,
            "auto_cpu_seconds": None,
            "stems": False,
            "arrays": False,
        }
    )


def test_stems_need_a_place():
    with pytest.raises(ValueError, match="no output"):
        SeparationWorker(["louder"], save_stems=True)


def test_what_cannot_be_written_is_a_failure_of_its_track(tmp_path, monkeypatch):
    output = Output(str(tmp_path))

    def refuse(relative, file):
        if f"{1:064x}" in relative:
            raise OSError("disk full")

    monkeypatch.setattr(output, "upload", refuse)
    stage = SeparationWorker(["louder"], save_stems=True, output=output)
    first, second, third = stage(block(tone(1.0), tone(1.0), tone(1.0))).to_pylist()
    assert first["key@separation"]
    assert third["key@separation"]
    assert second["separation_backend"] is None
    assert second["failures@separation"][0]["error_class"] == "OSError"
    assert not second["blobs@separation"]
