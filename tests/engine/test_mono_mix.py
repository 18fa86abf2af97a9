"""Stereo of opposite sign on its real way: what the mono extractors and CLAP are given, and what the row says."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
import soundfile

from pipeline.audio import synth
from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.batch import collect, tracks_of
from pipeline.engine.packing import pack, planned
from pipeline.engine.worker import Worker
from pipeline.features import REGISTRY
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.features.worker import FeaturesWorker

RATE, DSP_RATE, SECONDS = 44100, 22050, 12
VIEWS = [
    View("native", None, None),
    View("mono", DSP_RATE, 1),
    View("clap", 48000, 1),
    View("separation", RATE, 2),
]
# In bytes: none of the tracks here is long, or all of them are.
WHOLE, STREAMED = 1_500_000_000, 1_000_000


@pytest.fixture(scope="module")
def band() -> np.ndarray:
    song = synth.chord_progression("D", "minor", SECONDS, RATE, bpm=100)
    return (0.5 * song + 0.5 * synth.drum_pattern(100, SECONDS, RATE)).astype(np.float32)


@pytest.fixture(scope="module", params=[WHOLE, STREAMED], ids=["whole", "streamed"])
def stages(request):
    decode = DecodeWorker(VIEWS, max_track_bytes=request.param)
    features = FeaturesWorker([cls() for cls in REGISTRY.values()], DSP_RATE, block_seconds=20.0)
    yield request.param, decode, features
    decode.decoder.close()


@pytest.fixture
def heard(tmp_path, stages):
    """``heard(channels)``: the row of a file after all extractors, and CLAP's and separation's audio."""
    limit, decode, features = stages

    def run(channels: list[np.ndarray]) -> tuple[dict, np.ndarray, np.ndarray]:
        path = tmp_path / "track.wav"
        soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
        [block] = pack(planned([SourceItem(str(path), path.stat().st_size)]), 300.0, 8)
        table = features(decode(block))
        [track] = tracks_of(table)
        assert bool(track.long) == (limit == STREAMED)
        with ExitStack() as stack:
            readers = [
                Worker(stage="test", torch=False).reader(track, view, stack)
                for view in (View("clap", 48000, 1), View("separation", RATE, 2))
            ]
            clap, separation = (np.array(reader.read(0, reader.samples)) for reader in readers)
        [row] = table.drop([n for n in table.column_names if n.startswith("pcm@")]).to_pylist()
        for kind in ("failures", "fallbacks"):
            [row[kind]] = collect(table, kind)
        return row, clap, separation

    return run


def test_a_file_of_opposite_channels_is_that_of_one_of_them(heard, band):
    names = [f.name for cls in REGISTRY.values() if cls().views == ("mono",) for f in cls().columns()]
    names = [n for n in names if not n.endswith(("_blob", "_inline", "_shape"))]
    inverted, clap, separation = heard([0.9 * band, -band])
    alone, clap_alone, _ = heard([-band])
    assert {"key_name", "tempo_bpm", "mel_mean", "chroma_mean"} <= set(names)
    assert (inverted["key_name"], inverted["key_mode"]) == ("D", "minor")
    assert inverted["tempo_bpm"] == pytest.approx(100, rel=0.01)
    for name in names:
        if isinstance(alone[name], (str, type(None))) or name == "key_top":
            assert inverted[name] == alone[name], name
        else:
            np.testing.assert_allclose(inverted[name], alone[name], rtol=1e-4, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(clap, clap_alone, atol=1e-6)
    np.testing.assert_allclose(separation[0], -0.9 * separation[1], atol=1e-6)
    said = [(f["stage"], f["wanted"], f["used"]) for f in inverted["fallbacks"]]
    assert said == [("decode", "mono mix", "channel 2 alone")]
    assert inverted["fallbacks"][0]["reason"].startswith("mono mix cancels")
    assert inverted["failures"] == alone["fallbacks"] == []
    assert inverted["quality_phase_correlation"] == pytest.approx(-1.0, abs=1e-4)


def test_a_mix_that_cancels_in_part_is_left_as_it_is(heard, band):
    row, clap, _ = heard([band, -0.6 * band])
    assert row["fallbacks"] == []
    _, whole, _ = heard([band])
    np.testing.assert_allclose(clap, 0.2 * whole, atol=1e-5)
