"""The karaoke job: songs whose vocals and backing are known, from file to file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.audio import synth
from pipeline.audio.decode import decode
from pipeline.audio.metrics import si_sdr
from pipeline.audio.reader import ArrayReader, blocks
from pipeline.audio.song_dialects import Picture
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import SongTags, read_song_tags
from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.engine.inline import InlineDriver
from pipeline.errors import UserError
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.jobs.karaoke import KARAOKE
from pipeline.workflows.karaoke_config import KaraokeConfig
from pipeline.workflows.run import Asked, run_job

pytestmark = pytest.mark.timeout(300)
SECONDS = 9
COVER = Picture(b"\x89PNG\r\n\x1a\n" + bytes(range(200)), "image/png")
TAGS = SongTags({"title": "Ünïcödé – 日本語 🎤", "artist": "Nobody", "track": "3"}, (COVER,))


def stems(rate: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vocals in the centre, and a backing that is wide: float32 ``[2, samples]`` each."""
    voice = synth.voice(SECONDS, rate, None, seed)
    left, right = (synth.chord_progression("C", "major", SECONDS, rate, seed=seed + s) for s in (0, 100))
    backing = 0.3 * np.stack([left, right])
    return 0.3 * np.stack([voice, voice]).astype(np.float32), backing.astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    """FLAC, or mp3, with tags and a cover."""
    form = SongFormat(path.suffix[1:])
    with SongEncoder(path, form, rate, len(samples), tags=TAGS) as encoder:
        for block in blocks(ArrayReader(samples.astype(np.float32))):
            encoder.write(block)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for name, rate, gain in (("cd.flac", 44100, 1.0), ("dat.flac", 48000, 1.0), ("loud.flac", 44100, 3.5)):
        vocals, backing = stems(rate)
        write(folder / name, np.clip(gain * (vocals + backing), -1, 1), rate)
    write(folder / "mono.flac", sum(stems(44100)).mean(0, keepdims=True), 44100)
    soundfile.write(folder / "silence.wav", np.zeros((44100, 2)), 44100)
    (folder / "broken.mp3").write_bytes(b"no song")
    return folder


def configured(source: Path, output: Path, address: str = "inline", **options) -> KaraokeConfig:
    config = KaraokeConfig()
    config.source.uri, config.output.uri, config.ray.address = str(source), str(output), address
    for name, value in options.items():
        setattr(config.karaoke, name, value)
    return config


def run(source: Path, output: Path, **options) -> int:
    return run_job(KARAOKE, configured(source, output, **options), Asked(quiet=True)).exit_code


def rows(output: Path, table: str = "tracks") -> dict[str, dict]:
    found = pq.read_table(output / table).to_pylist()
    return {Path(row["uri"]).name: row for row in found}


@pytest.fixture
def here(monkeypatch) -> None:
    """Runs in this process: that of `made` has one beside it, as every run by hand."""
    monkeypatch.setattr(Drivers, "_made", lambda self, inline: InlineDriver(1.0, child=False))


@pytest.fixture(scope="module")
def made(songs, tmp_path_factory) -> Path:
    """Everything in FLAC with its vocals, without a network."""
    output = tmp_path_factory.mktemp("made")
    assert run(songs, output, method="midside", format="flac", keep=["vocals"]) == 0
    return output


def heard(output: Path, row: dict, column: str = "instrumental_file") -> tuple[np.ndarray, int]:
    found = decode((output / row[column]).read_bytes())
    return found.samples, found.sample_rate


@pytest.mark.parametrize("name", ["cd.flac", "dat.flac"])
def test_the_instrumental_is_nearer_to_the_backing_than_the_song_was(made, songs, name):
    row = rows(made)[name]
    found, rate = heard(made, row)
    vocals, backing = stems(rate)
    mix = vocals + backing
    assert found.shape == mix.shape
    assert si_sdr(found, backing) > si_sdr(mix, backing) + 3
    assert row["karaoke_method"] == "midside"


def test_length_and_rate_are_those_of_the_song_and_both_files_add_up_to_it(made, songs):
    for name in ("cd.flac", "dat.flac", "loud.flac"):
        row = rows(made)[name]
        song = decode((songs / name).read_bytes())
        instrumental, rate = heard(made, row)
        vocals, _ = heard(made, row, "instrumental_vocals_file")
        assert rate == song.sample_rate == row["instrumental_sample_rate"]
        assert instrumental.shape == vocals.shape == song.samples.shape
        gain = 10 ** (row["instrumental_gain_db"] / 20)
        assert (
            np.abs(instrumental + vocals - gain * song.samples).max() < 4 * 2**-23
        )  # two roundings with dither


def test_a_song_that_would_clip_gets_one_gain_which_the_row_says(made):
    quiet, loud = (rows(made)[name] for name in ("cd.flac", "loud.flac"))
    assert quiet["instrumental_gain_db"] == 0
    assert loud["instrumental_gain_db"] < -0.5
    assert loud["instrumental_true_peak_dbtp"] <= -1.0


def test_tags_and_cover_are_those_of_the_song(made, songs):
    row = rows(made)["cd.flac"]
    tags = read_song_tags((made / row["instrumental_file"]).read_bytes())
    assert {name: tags.texts[name] for name in TAGS.texts} == TAGS.texts
    assert [picture.data for picture in tags.pictures] == [COVER.data]
    assert "vocals removed by Soundmill" in tags.texts["soundmill"]
    assert "midside" in tags.texts["soundmill"]


def test_centre_extraction_says_that_mono_has_no_centre(made):
    row = rows(made)["mono.flac"]
    assert row["instrumental_file"] is None
    assert row["status"] == "partial"
    assert row["karaoke_score"] is None
    assert "no view vocals" in " ".join(
        f["message"] for f in pq.read_table(made / "failures").to_pylist() if f["uri"] == row["uri"]
    )


def test_silence_is_a_song_without_a_score(made):
    row = rows(made)["silence.wav"]
    assert row["karaoke_predicted_sdr_db"] is None
    assert row["instrumental_true_peak_dbtp"] is None
    assert not heard(made, row)[0].any()


def test_a_broken_file_costs_itself_only(made):
    assert rows(made)["broken.mp3"]["status"] == "failed"


def test_a_score_is_a_prediction_with_its_interval(made):
    row = rows(made)["cd.flac"]
    low, value, high = (row[f"karaoke_predicted_sdr_db{end}"] for end in ("_low", "", "_high"))
    assert low <= value <= high
    assert 0 < row["karaoke_score"] < 1
    assert row["karaoke_calibration"]


def test_what_is_there_is_not_computed_again(made, songs):
    """Nor is what cannot be had tried again: there is one run that computed something."""
    before = {path: path.stat().st_mtime_ns for path in (made / "instrumentals_flac").rglob("*.flac")}
    assert before
    rows_before = rows(made)
    assert run(songs, made, method="midside", format="flac", keep=["vocals"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert rows(made) == rows_before


def test_an_output_is_whole_and_damage_is_found(here, made, songs, tmp_path):
    assert not verify(Output(str(made)), deep=True).remaining.total
    output = tmp_path / "out"
    shutil.copytree(made, output)
    (output / rows(made)["cd.flac"]["instrumental_file"]).unlink()
    assert verify(Output(str(output)), repair=True).found
    assert run(songs, output, method="midside", format="flac", keep=["vocals"]) == 0
    assert not verify(Output(str(output)), deep=True).remaining.total
    for column in ("instrumental_file", "instrumental_vocals_file"):
        path = rows(made)["cd.flac"][column]
        assert (output / path).read_bytes() == (made / path).read_bytes()


def test_another_format_takes_the_place_of_the_first(here, made, songs, tmp_path):
    """Of the songs that are done anew; the files of the others stay, and are still known."""
    output = tmp_path / "out"
    shutil.copytree(made, output)
    config = configured(songs, output, method="midside", format="wav")
    config.source.glob = "cd.flac"
    config.source.gone = "keep"
    assert run_job(KARAOKE, config, Asked(quiet=True)).exit_code == 0
    found = rows(output)
    assert found["cd.flac"]["instrumental_file"].startswith("instrumentals_wav/")
    assert found["dat.flac"]["instrumental_file"].startswith("instrumentals_flac/")
    assert not (output / rows(made)["cd.flac"]["instrumental_file"]).exists()
    assert heard(output, found["dat.flac"])[0].any()
    assert not verify(Output(str(output)), deep=True).remaining.total


def test_a_separation_from_the_cache_is_done_again_for_its_vocals(here, songs, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cd.flac").symlink_to(songs / "cd.flac")
    for name in ("first", "second"):
        config = configured(folder, tmp_path / name, method="midside", format="wav")
        config.cache.enabled, config.cache.uri = True, str(tmp_path / "cache")
        assert run_job(KARAOKE, config, Asked(quiet=True)).exit_code == 0
    first, second = (rows(tmp_path / name)["cd.flac"] for name in ("first", "second"))
    own = {"run_id"}
    assert {k: v for k, v in first.items() if k not in own} == {
        k: v for k, v in second.items() if k not in own
    }
    path = first["instrumental_file"]
    assert (tmp_path / "first" / path).read_bytes() == (tmp_path / "second" / path).read_bytes()


def test_a_song_that_cannot_be_scored_is_a_song_all_the_same(here, songs, tmp_path, monkeypatch):
    from pipeline.stages.karaoke import worker

    def refuses(*given, **named):
        raise ValueError("the judge is asleep")

    monkeypatch.setattr(worker, "score", refuses)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cd.flac").symlink_to(songs / "cd.flac")
    assert run(folder, tmp_path / "out", method="midside", format="wav") == 0
    row = rows(tmp_path / "out")["cd.flac"]
    assert row["status"] == "partial"
    assert row["karaoke_score"] is None
    assert heard(tmp_path / "out", row)[0].any()


def test_a_lossy_file_keeps_length_and_place(here, songs, tmp_path):
    """A rate that mp3 does not hold becomes one that it does, and the row says so."""
    folder = tmp_path / "in"
    folder.mkdir()
    vocals, backing = stems(44100)
    write(folder / "song.mp3", vocals + backing, 44100)
    soundfile.write(folder / "high.wav", synth.voice(3, 96000, None, 1)[:, None] * [0.3, 0.2], 96000)
    assert run(folder, tmp_path / "out", method="midside") == 0
    song = decode((folder / "song.mp3").read_bytes())
    row = rows(tmp_path / "out")["song.mp3"]
    found, rate = heard(tmp_path / "out", row)
    assert (rate, found.shape) == (44100, song.samples.shape)
    assert row["instrumental_true_peak_dbtp"] <= -1.0
    middle = slice(44100, 6 * 44100)
    lags = np.correlate(song.samples[0, 44100 - 50 : 6 * 44100 + 50], found[0, middle], "valid")
    assert np.argmax(lags) == 50
    high = rows(tmp_path / "out")["high.wav"]
    assert high["instrumental_sample_rate"] == 48000
    assert ("96000 Hz", "48000 Hz") in {(f["wanted"], f["used"]) for f in high["fallbacks"]}
    assert heard(tmp_path / "out", high)[0].shape == (2, 3 * 48000)


def test_tracks_too_long_to_travel_give_the_same_files(here, made, songs, tmp_path):
    config = configured(songs, tmp_path / "out", method="midside", format="flac", keep=["vocals"])
    config.hardware.max_track_bytes = 1_000_000
    assert run_job(KARAOKE, config, Asked(quiet=True)).exit_code == 0
    for name in ("cd.flac", "dat.flac"):
        whole, pieces = (
            heard(made, rows(made)[name])[0],
            heard(tmp_path / "out", rows(tmp_path / "out")[name])[0],
        )
        assert np.abs(whole - pieces).max() < 1e-5


def test_a_network_is_judged_and_compared(here, songs, tmp_path, spleeter):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "cd.flac").symlink_to(songs / "cd.flac")
    (folder / "mono.flac").symlink_to(songs / "mono.flac")
    assert run(folder, tmp_path / "out", method="auto", format="wav") == 0
    found = rows(tmp_path / "out")
    assert found["mono.flac"]["karaoke_method"] == "spleeter"
    assert heard(tmp_path / "out", found["mono.flac"])[0].shape == (1, SECONDS * 44100)
    assert found["cd.flac"]["status"] == "ok"
    assert found["cd.flac"]["karaoke_method"] in ("spleeter", "midside")


@pytest.mark.chaos
def test_ray_gives_the_same(tmp_path):
    (tmp_path / "in").mkdir()
    vocals, backing = stems(44100)
    write(tmp_path / "in" / "song.flac", (vocals + backing)[:, : 4 * 44100], 44100)
    for name in ("inline", "local"):
        assert run(tmp_path / "in", tmp_path / name, address=name, method="midside", keep=["vocals"]) == 0
    left, right = (rows(tmp_path / name)["song.flac"] for name in ("inline", "local"))
    assert {**left, "run_id": ""} == {**right, "run_id": ""}
    for column in ("instrumental_file", "instrumental_vocals_file"):
        assert (tmp_path / "inline" / left[column]).read_bytes() == (
            tmp_path / "local" / right[column]
        ).read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "demux"}, "karaoke.method=demux"),
        ({"format": "mp4"}, "karaoke.format=mp4"),
        ({"format": "flac", "bit_rate": 128000}, "flac has no bit rate"),
        ({"keep": ["vocal"]}, "karaoke.keep"),
        ({"ceiling_dbtp": 3.0}, "karaoke.ceiling_dbtp"),
    ],
)
def test_a_mistake_is_told(songs, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        run(songs, tmp_path / "out", **options)


def test_the_manifest_names_the_job(made):
    assert json.loads((made / "contents.json").read_text())["job"] == "karaoke"
