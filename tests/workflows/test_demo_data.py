from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.audio import synth
from pipeline.audio.decode import decode
from pipeline.audio.resample import resample
from pipeline.workflows import demo_data
from pipeline.workflows.demo_data import DemoTrack, render, write_demo

SECONDS = 3.0


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "audio"
    return folder, write_demo(folder, SECONDS)


def test_every_track_is_what_the_truth_says(demo):
    folder, tracks = demo
    for track in tracks:
        decoded = decode((folder / track.name).read_bytes())
        assert decoded.container == track.container
        assert (decoded.sample_rate, decoded.channels) == (track.sample_rate, track.channels)
        assert decoded.duration_s == pytest.approx(SECONDS, abs=0.03)
        assert synth.integrated_lufs(decoded.samples, track.sample_rate) == pytest.approx(track.lufs, abs=0.3)
        peak = np.abs(resample(decoded.samples, track.sample_rate, 4 * track.sample_rate)).max()
        assert 20 * np.log10(peak) < -1.0


def test_the_set_is_worth_having(demo):
    _, tracks = demo
    assert len(tracks) == len({track.name for track in tracks}) == 12
    assert {track.channels for track in tracks} == {1, 2}
    assert {8000, 16000, 22050, 44100, 48000} == {track.sample_rate for track in tracks}
    assert {"wav", "flac", "ogg", "mp3", "m4a"} == {track.container for track in tracks}
    assert min(track.lufs for track in tracks) == -23.0
    assert max(track.lufs for track in tracks) == -9.0
    assert {track.key.split()[1] for track in tracks if track.key} == {"major", "minor"}
    assert any(track.content == "song" and track.channels == 2 for track in tracks)


def test_truth_lies_next_to_the_audio(demo):
    folder, tracks = demo
    truth = json.loads((folder / "truth.json").read_text())
    assert [DemoTrack(**entry) for entry in truth["tracks"]] == tracks
    assert {path.name for path in folder.iterdir()} == {"truth.json", *(track.name for track in tracks)}


def state(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_second_call_writes_nothing(demo, monkeypatch):
    folder, tracks = demo
    before = state(folder)
    monkeypatch.setattr(demo_data, "encode", None)
    assert write_demo(folder, SECONDS) == tracks
    assert state(folder) == before


@pytest.fixture
def short(monkeypatch):
    """Two cheap tracks instead of twelve."""
    monkeypatch.setattr(demo_data, "TRACKS", (demo_data.TRACKS[3], demo_data.TRACKS[11]))


@pytest.mark.parametrize("change", ["seconds", "version", "missing file", "broken truth"])
def test_what_no_longer_fits_is_written_anew(short, change, tmp_path, monkeypatch):
    write_demo(tmp_path, 1)
    (tmp_path / "mine.wav").write_bytes(b"kept")
    before, seconds = state(tmp_path), 1
    if change == "seconds":
        seconds = 2
    elif change == "version":
        monkeypatch.setattr(demo_data, "GENERATOR", "soundmill-demo-test")
    elif change == "missing file":
        (tmp_path / "voice_8k.wav").unlink()
    else:
        (tmp_path / "truth.json").write_text("{")
    write_demo(tmp_path, seconds)
    after = state(tmp_path)
    assert (tmp_path / "mine.wav").read_bytes() == b"kept"
    assert all(after[name] != before[name] for name in before if name != "mine.wav")
    truth = json.loads((tmp_path / "truth.json").read_text())
    assert truth["seconds"] == seconds
    assert truth["generator"] == demo_data.GENERATOR


def test_same_bytes_every_time(short, tmp_path):
    write_demo(tmp_path / "a", 1)
    write_demo(tmp_path / "b", 1)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_interrupted_run_is_not_taken_for_complete(short, tmp_path, monkeypatch):
    def broken(*_args):
        raise OSError("disk full")

    write_demo(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(demo_data, "encode", broken)
        with pytest.raises(OSError, match="disk full"):
            write_demo(tmp_path, 2)
    assert not (tmp_path / "truth.json").exists()
    assert write_demo(tmp_path, 1)[0].seconds == 1.0


def test_levels_that_would_clip_are_refused():
    track = dataclasses.replace(demo_data.TRACKS[3], lufs=-12.0, seconds=1.0)
    with pytest.raises(ValueError, match="dBTP"):
        render(track, 0)


def test_too_short_a_demo_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 s"):
        write_demo(tmp_path, 0.5)
