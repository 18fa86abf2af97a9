"""Which way the voice is taken out, by what is heard of a song; a stand-in is in the place of the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr

from pipeline.audio import synth
from pipeline.engine.inline import InlineDriver
from pipeline.models.separation import load_backend
from pipeline.models.separation.base import REGISTRY
from pipeline.models.separation.choose import choose, forget_backends, near_mono
from pipeline.models.separation.midside import NEAR_MONO_DB, MidSide
from pipeline.stages.karaoke import worker
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.jobs.karaoke import KARAOKE
from pipeline.workflows.karaoke_config import KaraokeConfig
from pipeline.workflows.run import Asked, run_job

pytestmark = pytest.mark.timeout(300)
RATE, SECONDS = 44100, 6


class StandIn(MidSide):
    """Takes every song, as a network does."""

    name = "spleeter"
    least_side_db = None

    def refuses(self, channels, samples):
        return None


def song(side_db: float) -> np.ndarray:
    """A voice and a backing with so much side over the mid: float32 ``[samples, 2]``."""
    voice = synth.voice(SECONDS, RATE, None, 0)
    left, right = (synth.chord_progression("C", "major", SECONDS, RATE, seed=seed) for seed in (0, 100))
    mid, side = voice + (left + right) / 2, (left - right) / 2
    side = side * np.sqrt(np.sum(mid**2) / np.sum(side**2)) * 10 ** (side_db / 20)
    return (0.2 * np.stack([mid + side, mid - side], axis=1)).astype(np.float32)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Runs the job on songs, by a method, in this process; with or without the stand-in. Returns the rows."""
    monkeypatch.setattr(Drivers, "_made", lambda self, inline: InlineDriver(1.0, child=False))

    def rows(songs: dict[str, np.ndarray], method: str, network: bool = True) -> dict[str, dict]:
        monkeypatch.setitem(REGISTRY, "spleeter", StandIn if network else _Absent)
        forget_backends()
        config = KaraokeConfig()
        config.source.uri, config.output.uri = str(tmp_path / "in"), str(tmp_path / "out")
        config.ray.address, config.karaoke.method, config.karaoke.format = "inline", method, "wav"
        (tmp_path / "in").mkdir()
        for name, samples in songs.items():
            soundfile.write(tmp_path / "in" / name, samples, RATE, subtype="FLOAT")
        assert run_job(KARAOKE, config, Asked(quiet=True)).exit_code in (0, 3)
        return {Path(row["uri"]).name: row for row in pq.read_table(tmp_path / "out" / "tracks").to_pylist()}

    yield rows
    forget_backends()


class _Absent(MidSide):
    """A network without weights."""

    @classmethod
    def load(cls, device="cpu", options=None):
        raise worker_missing()


def worker_missing() -> Exception:
    from pipeline.models.separation.base import BackendUnavailable

    return BackendUnavailable("no weights here")


def test_the_threshold():
    centre = MidSide()
    assert near_mono(centre, NEAR_MONO_DB) is None
    assert "20 dB below the mid" in near_mono(centre, NEAR_MONO_DB - 0.1)
    assert "are the same" in near_mono(centre, -np.inf)
    assert near_mono(centre, None) is None  # silence
    assert near_mono(centre, np.inf) is None
    assert near_mono(StandIn(), -np.inf) is None


def test_the_image_is_looked_at_only_for_what_needs_it():
    def asked():
        raise AssertionError("nobody needs it")

    assert choose(["spleeter"], lambda name: StandIn(), 2, 1, side_db=asked).separator.name == "spleeter"
    assert choose(["midside"], load_backend, 1, 1, side_db=asked).separator is None
    refused = choose(["midside"], load_backend, 2, 1, side_db=lambda: -40.0)
    assert (refused.separator, refused.fallback.used) == (None, "none")
    assert "40 dB below the mid" in refused.fallback.reason
    assert choose(["midside"], load_backend, 2, 1).separator is not None


def test_a_song_that_is_nearly_mono_is_nothing_for_centre_extraction(made):
    found = made({"wide.wav": song(-3), "narrow.wav": song(-40)}, "midside")
    assert found["wide.wav"]["karaoke_method"] == "midside"
    row = found["narrow.wav"]
    assert (row["instrumental_file"], row["karaoke_score"], row["status"]) == (None, None, "partial")
    (step,) = [f for f in row["fallbacks"] if f["stage"] == "separation"]
    assert (step["wanted"], step["used"]) == ("midside", "none")
    assert "40 dB below the mid" in step["reason"]


def test_without_a_network_auto_says_why_there_is_none(made):
    row = made({"wide.wav": song(-3), "narrow.wav": song(-40)}, "auto", network=False)["narrow.wav"]
    assert row["instrumental_file"] is None
    (step,) = [f for f in row["fallbacks"] if f["used"] == "none"]
    assert "no weights here" in step["reason"]
    assert "40 dB below the mid" in step["reason"]


def test_a_network_is_not_compared_with_what_cannot_work(made, monkeypatch):
    monkeypatch.setattr(worker, "is_better", lambda one, other: True)
    found = made({"wide.wav": song(-3), "narrow.wav": song(-40), "mono.wav": song(-3)[:, :1]}, "auto")
    assert found["wide.wav"]["karaoke_method"] == "midside"
    assert "by score" in found["wide.wav"]["karaoke_choice"]
    for name, words in (("narrow.wav", "40 dB below the mid"), ("mono.wav", "the track is mono")):
        assert found[name]["karaoke_method"] == "spleeter"
        assert "auto" in found[name]["karaoke_choice"]
        assert words in found[name]["karaoke_choice"]
        assert found[name]["instrumental_file"]


@pytest.mark.parametrize(("method", "cautious"), [("spleeter", True), ("midside", False)])
def test_a_song_that_ends_early_has_a_score_beyond_its_calibration(made, method, cautious):
    low = soxr.resample(soxr.resample(song(-3), RATE, 8000), 8000, RATE)
    found = made({"whole.wav": song(-3) + 0.001 * noise(), "low.wav": low}, method)
    assert found["low.wav"]["karaoke_score"] is not None
    assert cautions(found["whole.wav"]) == []
    told = cautions(found["low.wav"])
    assert [step["wanted"] for step in told] == ["a score within its calibration"] * cautious
    assert all("ends at 3." in step["reason"] or "ends at 4.0" in step["reason"] for step in told)


@pytest.mark.parametrize(("method", "cautious"), [("spleeter", True), ("midside", False)])
def test_a_song_without_a_stereo_image_has_a_score_beyond_its_calibration(made, method, cautious):
    wide = song(-3) + 0.001 * noise()
    found = made(
        {"wide.wav": wide, "narrow.wav": song(-40) + 0.001 * noise(), "mono.wav": wide[:, :1]}, method
    )
    assert cautions(found["wide.wav"]) == []
    for name, words in (("narrow.wav", "nearly the same"), ("mono.wav", "is mono")):
        told = cautions(found[name])
        assert len(told) == cautious
        assert all(words in step["reason"] for step in told)


def noise() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (SECONDS * RATE, 2)).astype(np.float32)


def cautions(row: dict) -> list[dict]:
    return [step for step in row["fallbacks"] if step["stage"] == "karaoke"]
