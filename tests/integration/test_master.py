"""The mastering job: songs from file to file, true to their loudness."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyloudnorm
import pytest
import soundfile

from pipeline.audio import synth
from pipeline.audio.decode import decode
from pipeline.audio.reader import ArrayReader, blocks
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import SongTags, read_song_tags
from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.engine.inline import InlineDriver
from pipeline.errors import UserError
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import listen
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.jobs.master import MASTER
from pipeline.workflows.master_config import MasterConfig
from pipeline.workflows.run import Asked, run_job

pytestmark = pytest.mark.timeout(300)
SECONDS = 5
TAGS = SongTags({"title": "Ünïcödé 🎤", "artist": "Nobody"})


def song(rate: int, gain: float = 0.1, seed: int = 0) -> np.ndarray:
    """Chords, other ones in each channel: float32 ``[2, samples]``."""
    rows = [synth.chord_progression("C", "major", SECONDS, rate, seed=seed + number) for number in range(2)]
    return (gain * np.stack(rows)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    with SongEncoder(path, SongFormat(path.suffix[1:]), rate, len(samples), tags=TAGS) as encoder:
        for block in blocks(ArrayReader(samples)):
            encoder.write(block)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixes")
    write(folder / "cd.flac", song(44100), 44100)
    write(folder / "hot.flac", np.clip(song(48000, 2.0), -1, 1), 48000)
    soundfile.write(folder / "surround.wav", np.repeat(song(44100), 3, axis=0).T, 44100)
    soundfile.write(folder / "silence.wav", np.zeros((44100, 2)), 44100)
    soundfile.write(folder / "one.wav", np.full((1, 2), 0.1), 44100)
    (folder / "broken.mp3").write_bytes(b"no song")
    return folder


def configured(source: Path, output: Path, address: str = "inline", **options) -> MasterConfig:
    config = MasterConfig()
    config.source.uri, config.output.uri, config.ray.address = str(source), str(output), address
    for name, value in options.items():
        setattr(config.master, name, value)
    return config


def run(source: Path, output: Path, address: str = "inline", **options) -> int:
    return run_job(MASTER, configured(source, output, address, **options), Asked(quiet=True)).exit_code


def rows(output: Path, table: str = "tracks") -> dict[str, dict]:
    return {Path(row["uri"]).name: row for row in pq.read_table(output / table).to_pylist()}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Workers run here: only the real command needs a process of its own."""
    made = Drivers._made
    monkeypatch.setattr(
        Drivers,
        "_made",
        lambda self, inline: InlineDriver(1.0, child=False) if inline else made(self, inline),
    )


@pytest.fixture(scope="module")
def masters(songs, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("masters") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drivers, "_made", lambda self, inline: InlineDriver(1.0, child=False))
        assert run(songs, output, preset="warm") == 0
    return output


@pytest.mark.parametrize("name", ["cd.flac", "hot.flac", "surround.wav"])
def test_a_master_has_the_promised_loudness_and_place(songs, masters, name):
    row, source = rows(masters)[name], songs / name
    before, rate = soundfile.read(source, always_2d=True)
    after, rate_after = soundfile.read(masters / row["master_file"], always_2d=True)
    assert (after.shape, rate_after) == (before.shape, rate)
    assert row["master_lufs_after"] == pytest.approx(-13.0, abs=0.05)
    if before.shape[1] == 2:
        meter = pyloudnorm.Meter(rate, filter_class="DeMan")
        assert meter.integrated_loudness(after) == pytest.approx(-13.0, abs=0.1)
    assert row["master_tp_after"] <= -0.95
    assert row["master_limited_by"] is None
    # The lag at which both are most alike is none.
    a, b = before[:, 0], after[:, 0]
    n = 1 << int(np.ceil(np.log2(2 * len(a))))
    assert int(np.argmax(np.fft.irfft(np.conj(np.fft.rfft(a, n)) * np.fft.rfft(b, n), n))) == 0


def test_the_plan_beside_it_is_that_of_the_row(masters):
    row = rows(masters)["cd.flac"]
    text = (masters / row["master_plan_file"]).read_text("utf-8")
    assert Plan.from_json(text) == Plan.from_json(row["master_plan"])
    assert json.loads(text)["target_lufs"] == -13.0


def test_tags_survive_and_say_what_was_done(masters):
    tags = read_song_tags(masters / rows(masters)["cd.flac"]["master_file"])
    assert tags.texts["title"] == TAGS.texts["title"]
    assert "warm" in tags.texts["comment"]


def test_what_has_no_loudness_is_a_row_that_says_so(masters):
    found = rows(masters)
    silence, one = found["silence.wav"], found["one.wav"]
    assert (silence["status"], silence["master_limited_by"]) == ("ok", "silence")
    assert (silence["master_lufs_after"], silence["master_tp_after"]) == (None, None)
    assert (one["status"], one["master_limited_by"]) == ("ok", "no loudness")
    samples, _ = soundfile.read(masters / silence["master_file"])
    assert not samples.any()


def test_a_broken_song_is_a_failure_and_the_others_go_on(masters):
    assert rows(masters)["broken.mp3"]["status"] == "failed"
    assert rows(masters, "failures")["broken.mp3"]["stage"] == "decode"


def test_a_song_has_its_fingerprint_beside(masters):
    row = rows(masters)["cd.flac"]
    numbers = [row[name] for name in row if name.startswith("fingerprint_")]
    assert len(numbers) == 25
    assert row["fingerprint_loudness_lufs"] == pytest.approx(row["master_lufs_before"], abs=1e-3)


def test_the_output_is_whole_and_damage_is_mended(masters, songs, tmp_path):
    assert not verify(Output(str(masters)), deep=True).remaining.total
    output = tmp_path / "out"
    shutil.copytree(masters, output)
    for column in ("master_file", "master_plan_file"):
        (output / rows(masters)["cd.flac"][column]).unlink()
    assert verify(Output(str(output)), repair=True).found
    assert run(songs, output, preset="warm") == 0
    assert not verify(Output(str(output)), deep=True).remaining.total
    for column in ("master_file", "master_plan_file"):
        path = rows(masters)["cd.flac"][column]
        assert (output / path).read_bytes() == (masters / path).read_bytes()


def test_another_preset_needs_no_fingerprint_again(masters, songs, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(masters, output)
    assert run(songs, output, preset="spotify") == 0
    row = rows(output)["cd.flac"]
    assert (row["master_preset"], row["master_target_lufs"]) == ("spotify", -14.0)
    before, after = (_seconds(folder, row["asset_id"]) for folder in (masters, output))
    assert after["features.fingerprint"] == before["features.fingerprint"]
    assert after["master.render"] != before["master.render"]


def _seconds(output: Path, asset_id: str) -> dict[str, float]:
    timings = pq.read_table(output / "timings").to_pylist()
    return {row["stage"]: row["compute_s"] for row in timings if row["asset_id"] == asset_id}


@pytest.mark.chaos
def test_through_ray_the_files_are_the_same(masters, songs, tmp_path):
    assert run(songs, tmp_path / "out", address="local", preset="warm") == 0
    for name in ("cd.flac", "surround.wav"):
        here, there = rows(masters)[name], rows(tmp_path / "out")[name]
        assert here["master_plan"] == there["master_plan"]
        path = here["master_file"]
        assert (masters / path).read_bytes() == (tmp_path / "out" / path).read_bytes()


def test_a_song_too_long_to_travel_gives_the_same_file(masters, songs, tmp_path):
    config = configured(songs, tmp_path / "out", preset="warm")
    config.source.glob, config.hardware.max_track_bytes = "cd.flac", 1_000_000
    assert run_job(MASTER, config, Asked(quiet=True)).exit_code == 0
    row = rows(tmp_path / "out")["cd.flac"]
    path = row["master_file"]
    assert (masters / path).read_bytes() == (tmp_path / "out" / path).read_bytes()


def test_a_master_is_like_its_reference(songs, tmp_path):
    dull = np.stack([np.convolve(row, np.ones(8) / 8, "same") for row in song(44100, 0.4, seed=7)])
    write(tmp_path / "ref.flac", dull.astype(np.float32), 44100)
    config = configured(songs, tmp_path / "out", mode="reference", reference=[str(tmp_path / "ref.flac")])
    config.source.glob = "cd.flac"
    assert run_job(MASTER, config, Asked(quiet=True)).exit_code == 0
    row = rows(tmp_path / "out")["cd.flac"]
    assert row["master_spectral_distance_after"] < 0.6 * row["master_spectral_distance_before"]
    digest = hashlib.sha256((tmp_path / "ref.flac").read_bytes()).hexdigest()
    assert row["master_references"] == [digest]


@pytest.mark.parametrize("text", ["", "no sound at all"])
def test_a_reference_that_cannot_be_read_is_one_line(songs, tmp_path, text):
    (tmp_path / "ref.flac").write_text(text)
    with pytest.raises(UserError, match=r"ref\.flac cannot be read"):
        run(songs, tmp_path / "out", mode="reference", reference=[str(tmp_path / "ref.flac")])


@pytest.mark.parametrize("form", ["mp3", "m4a"])
def test_a_lossy_master_keeps_loudness_and_ceiling_once_decoded(songs, tmp_path, form):
    config = configured(songs, tmp_path / "out", preset="club", format=form, bit_rate=128_000)
    config.source.glob = "hot.flac"
    assert run_job(MASTER, config, Asked(quiet=True)).exit_code == 0
    row = rows(tmp_path / "out")["hot.flac"]
    decoded = decode((tmp_path / "out" / row["master_file"]).read_bytes())
    assert decoded.samples.shape[1] == SECONDS * 48000
    levels = listen(ArrayReader(decoded.samples), decoded.sample_rate).levels
    assert levels.true_peak_dbtp <= -1.0
    assert levels.true_peak_dbtp == pytest.approx(row["master_encoded_tp"], abs=0.01)
    assert levels.lufs == pytest.approx(-9.0, abs=0.1)
    # The row is of the file.
    assert levels.lufs == pytest.approx(row["master_lufs_after"], abs=0.01)
    assert levels.true_peak_dbtp == pytest.approx(row["master_tp_after"], abs=0.01)


def test_trial_encodes_do_not_clip(tmp_path):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).standard_normal((2, 3 * 44100))
    write(tmp_path / "in" / "noise.flac", (0.2 * noise).clip(-1, 1).astype(np.float32), 44100)
    options = {"ceiling_dbtp": -0.1, "encodes": ["mp3", "opus"], "balance": 0.0, "lufs": -7.0}
    assert run(tmp_path / "in", tmp_path / "out", preset="club", **options) == 0
    row = rows(tmp_path / "out")["noise.flac"]
    assert row["master_encoded_tp"] <= 0.0
    assert row["master_encode_rounds"] > 1
    assert row["master_ceiling_dbtp"] < -0.1


def test_a_preview_is_a_stretch_of_the_master(masters, songs, tmp_path):
    config = configured(songs, tmp_path / "out", preset="warm", preview=2.0)
    config.source.glob = "cd.flac"
    assert run_job(MASTER, config, Asked(quiet=True)).exit_code == 0
    row = rows(tmp_path / "out")["cd.flac"]
    part, rate = soundfile.read(tmp_path / "out" / row["master_file"], always_2d=True)
    assert len(part) == 2 * rate
    whole, _ = soundfile.read(masters / rows(masters)["cd.flac"]["master_file"], always_2d=True)
    start = round(row["master_from_s"] * rate)
    # Both are dithered, from where they begin.
    assert np.abs(part - whole[start : start + len(part)]).max() < 2.0**-21
