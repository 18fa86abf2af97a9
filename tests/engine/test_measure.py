"""Stages measured in processes of their own: the real ones, and one that dies."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from helpers.standard_schemas import tracks_of

from pipeline.audio.views import View
from pipeline.dataset.output import Output
from pipeline.dataset.sources.listing import list_source
from pipeline.engine.cpu_contention import MOST, slowdown
from pipeline.engine.measure import _Stage, measure
from pipeline.engine.measure_child import read_block, write_block
from pipeline.engine.node import Node
from pipeline.engine.packing import pack, planned
from pipeline.engine.sink import SinkWorker
from pipeline.features import REGISTRY
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.features.worker import FeaturesWorker

sys.path.insert(0, str(Path(__file__).resolve().parent))
from deadly_stage import DeadlyStage

pytestmark = pytest.mark.timeout(180)


def test_the_real_stages_say_what_they_took_and_what_failed(tmp_path):
    source, output = tmp_path / "in", Output(str(tmp_path / "out"))
    source.mkdir()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 22050 * 6)
    for seconds in (2, 4, 6):
        soundfile.write(source / f"{seconds}.wav", noise[: 22050 * seconds], 22050)
    (source / "text.wav").write_text("no audio")
    extractors = [REGISTRY["quality"]()]
    views = [View("native", None, None), View("mono", 22050, 1)]
    sink = {"output": output, "run_id": "r", "tracks": tracks_of(extractors, False, False)}
    nodes = [
        Node("decode", DecodeWorker, {"views": views}),
        Node("features", FeaturesWorker, {"extractors": extractors, "sample_rate": 22050}),
        Node("write", SinkWorker, sink),
    ]
    (tmp_path / "tables").mkdir()
    blocks = list(pack(planned(list_source(str(source))), 1e6, 2))
    said: list[str] = []
    found = measure(blocks, nodes, tmp_path / "tables", threads=1, budget_s=60.0, say=said.append)
    assert [s.stage for s in found.stages] == ["decode", "features", "write"]
    for stage in found.stages:
        assert (stage.blocks, stage.left, stage.deaths) == (2, 0, [])
        assert set(stage.files) == {0, 1, 2, 3}
        assert 0 < sum(stage.files.values()) < 1.5 * stage.seconds
        assert stage.startup_s > 0
        assert stage.startup_cpu_s > 0
        assert 20 << 20 < stage.peak_rss_bytes < 8 << 30
        assert stage.vram_bytes == 0
    decode, features, write = found.stages
    assert decode.decoder_rss_bytes > 20 << 20
    assert features.decoder_rss_bytes == write.decoder_rss_bytes == 0
    assert sum(features.files[i] for i in range(3)) > 0
    assert decode.backends == {"pcm_s16le": 3}
    rows = {row["uri"].rsplit("/", 1)[-1]: row for row in found.rows}
    assert [rows[f"{n}.wav"]["duration_s"] for n in (2, 4, 6)] == [2.0, 4.0, 6.0]
    [failure] = rows["text.wav"]["failures"]
    assert (failure["stage"], failure["error_class"]) == ("decode", "UnrecognizedFormat")
    assert sum(t.num_rows for t in (pa.table(b) for b in output.batches("tracks"))) == 4


def test_what_kills_a_stage_costs_its_block_only(tmp_path):
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.arrow")
        write_block(paths[-1], pa.table({"index": [2 * number, 2 * number + 1]}))
    (tmp_path / "deadly").mkdir()
    said: list[str] = []
    node = Node("deadly", DeadlyStage, {"poison": 3})
    found, written = _Stage(node, tmp_path / "deadly", 1, 60.0, said.append).run(paths)
    assert [read_block(target)["index"].to_pylist() for target, _ in written] == [[0, 1], [4, 5]]
    [(death, files)] = found.deaths
    assert death.startswith("its process was ended by SIGKILL")
    assert files == [2, 3]
    assert found.blocks == 2
    assert sum("left out" in text for text in said) == 1


def test_all_cores_at_once_are_never_faster_than_one_alone():
    assert slowdown(1) == 1.0
    assert 1.0 <= slowdown(2) <= MOST
