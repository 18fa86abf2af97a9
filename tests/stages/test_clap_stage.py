"""The CLAP stage in this process, on files that the decode stage has read."""

import numpy as np
import pytest
import soundfile
from helpers.clap_reference import SAMPLE_RATE, synthetic_clips, tiny_checkpoint

from pipeline.audio.views import View
from pipeline.dataset.sources.listing import list_source
from pipeline.engine.packing import pack, planned
from pipeline.errors import Fallback
from pipeline.models import precision
from pipeline.models.clap.text import TextQueries
from pipeline.stages.clap.worker import ClapWorker
from pipeline.stages.decode.worker import DecodeWorker


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    """A table of three tracks: sound, silence, and a file that is none."""
    folder = tmp_path_factory.mktemp("audio")
    chord = synthetic_clips()[0]
    soundfile.write(folder / "a.wav", chord[: 4 * SAMPLE_RATE], SAMPLE_RATE)
    soundfile.write(folder / "b.wav", np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    (folder / "c.wav").write_bytes(b"not audio")
    [block] = pack(planned(list_source(str(folder))), 1000, 10)
    table = DecodeWorker([View("clap", SAMPLE_RATE, 1)])(block)
    return table


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(tiny_checkpoint(tmp_path_factory.getbasetemp()))


def test_similarity_stands_beside_the_embedding_it_is_of(decoded, checkpoint):
    vectors = np.eye(2, 512, dtype=np.float32)
    stage = ClapWorker(checkpoint, queries=TextQueries(("x", "y"), vectors, "test"))
    rows = stage(decoded).to_pylist()
    heard, silent, broken = rows
    embedding = np.array(heard["clap_embedding"], np.float32)
    np.testing.assert_allclose(heard["clap_similarity"], embedding[:2], atol=1e-6)
    assert heard["clap_model"].startswith("HTSAT-tiny:")
    assert (silent["clap_embedding"], silent["clap_similarity"], silent["clap_windows"]) == (None, None, 0)
    assert [s["clap_embedding"] for s in silent["rows@segments"]] == [None]
    assert [s["rms_dbfs"] for s in silent["rows@segments"]] == [None]
    assert broken["clap_similarity"] is None
    assert broken["key@clap"] is None


def test_the_number_format_is_in_the_timings_and_that_it_may_differ_in_the_key(
    decoded, checkpoint, monkeypatch
):
    whole = ClapWorker(checkpoint, amp="false")
    [timing] = whole(decoded)["timings@clap"][0].as_py()
    assert timing["backend"] == "HTSAT-tiny float32"
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: False)
    asked = ClapWorker(checkpoint, amp="true")
    [fallback] = asked.standing
    assert (fallback.wanted, fallback.used) == ("bfloat16", "float32")
    assert Fallback(**asked(decoded)["fallbacks@clap"][0].as_py()[0]) == fallback
    # The driver makes the key and does not know which devices the actors will have.
    assert asked.key("clap") == ClapWorker(checkpoint, amp="auto").key("clap") != whole.key("clap")
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    monkeypatch.setattr("pipeline.models.clap.embed.ClapEmbedder.warm_up", lambda self: 0.0)
    half = ClapWorker(checkpoint, amp="auto")
    assert half.embedder.backend == "HTSAT-tiny bfloat16"
    assert half.key("clap") == asked.key("clap")


def test_queries_are_in_the_key_and_the_batch_limit_is_not(checkpoint):
    def key(*texts, **parameters):
        queries = TextQueries(texts, np.eye(len(texts), 512), "test") if texts else None
        return ClapWorker(checkpoint, queries=queries, **parameters).key("clap")

    assert len({key(), key("x"), key("y"), key("x", "y")}) == 4
    assert key("x", max_batch_audio_seconds=20) == key("x")
