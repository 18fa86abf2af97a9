"""The decode stage over files that kill, hang, starve and confuse their decoder: a row each, the others intact."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from helpers import decode_poison

from pipeline.audio.isolated import IsolatedDecoder
from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.batch import collect, tracks_of
from pipeline.engine.packing import pack, planned
from pipeline.stages.decode.worker import DecodeWorker

VIEWS = [View("native", None, None), View("mono", 22050, 1)]
# File → class of its failure.
FILES = {
    "good1.wav": None,
    "abort.wav": "DecoderDied",
    "hang.wav": "DecoderHung",
    "eat.wav": "DecoderOutOfMemory",
    "raise.wav": "DecoderRaised",
    "good2.wav": None,
    "kill.wav": "DecoderDied",
    "good3.wav": None,
}


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """The table behind the stage."""
    folder = tmp_path_factory.mktemp("poison")
    items = []
    for number, name in enumerate(FILES):
        path = folder / name
        soundfile.write(path, np.full((4000, 2), number / 10), 8000, subtype="FLOAT")
        items.append(SourceItem(str(path), path.stat().st_size))
    stage = DecodeWorker(VIEWS)
    stage.decoder.close()
    stage.decoder = IsolatedDecoder(
        stage.decoder.wanted, timeout_s=3.0, memory_bytes=512 << 20, decoder=decode_poison.DECODER
    )
    [block] = pack(planned(items), 1000.0, 100)
    table = stage(block)
    stage.decoder.close()
    return table


def test_each_file_is_one_row_with_its_failure(decoded):
    names = [uri.rsplit("/", 1)[1] for uri in decoded["uri"].to_pylist()]
    assert names == list(FILES)
    for name, failures in zip(names, collect(decoded, "failures"), strict=True):
        expected = FILES[name]
        assert [f["error_class"] for f in failures] == ([expected] if expected else [])
        for failure in failures:
            assert failure["stage"] == "decode"
            assert failure["worker_died"] is (expected == "DecoderDied")
            assert failure["message"]


def test_the_others_have_their_own_samples_and_no_fallback(decoded):
    for number, (track, fallbacks) in enumerate(
        zip(tracks_of(decoded), collect(decoded, "fallbacks"), strict=True)
    ):
        good = FILES[track.uri.rsplit("/", 1)[1]] is None
        assert track.decoded is good
        assert fallbacks == []
        if good:
            expected = np.full((2, 4000), number / 10, np.float32)
            np.testing.assert_array_equal(track.audio("native"), expected)
            assert track.audio("mono").shape == (1, 11025)


def test_a_failed_row_keeps_what_is_known_of_its_file_and_what_it_cost(decoded):
    for row in decoded.select(["asset_id", "size_bytes", "timings@decode"]).to_pylist():
        assert len(row["asset_id"]) == 64
        assert row["size_bytes"] > 32000
        assert row["timings@decode"][0]["compute_s"] > 0
    assert len(set(decoded["asset_id"].to_pylist())) == len(FILES)
