"""One name for the same voice in all recordings of an output, kept when recordings are added."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.tables.rewrite import Held
from pipeline.dataset.tables.schemas import table_schema
from pipeline.errors import UserError
from pipeline.stages.diarize.spec import SPEAKERS, diarize_product
from pipeline.workflows import voices
from pipeline.workflows.aftercare import look_back
from pipeline.workflows.jobs.speech import SPEECH
from pipeline.workflows.speech_config import SpeechConfig

RNG = np.random.default_rng(3)
PEOPLE = {name: RNG.standard_normal(192).astype(np.float32) for name in ("ann", "bob", "cy")}
TRACKS = pa.schema(
    [
        *((name, pa.string()) for name in ("asset_id", "uri", "diarize_model")),
        ("failed_keys", pa.map_(pa.string(), pa.string())),
    ]
)


def heard(person: str, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(192).astype(np.float32)
    voice = PEOPLE[person] + 0.3 * noise
    return voice / np.linalg.norm(voice)


@pytest.fixture
def output(tmp_path) -> Output:
    made = Output(str(tmp_path / "out"))
    made.declare(Contents((diarize_product(linked=False),), "speech"))
    return made


def add(output: Output, part: str, recordings: dict[str, dict[str, str | None]], model: str = "net") -> None:
    """A part of recordings: asset → speaker → person, None for one without an embedding."""
    rows = [
        {
            "asset_id": asset,
            "speaker": speaker,
            "seconds": 10.0,
            "centroid": None
            if person is None
            else heard(person, zlib.crc32(f"{asset}{speaker}".encode())).tolist(),
        }
        for asset, speakers in recordings.items()
        for speaker, person in speakers.items()
    ]
    tracks = [{"asset_id": a, "uri": f"{a}.wav", "diarize_model": model} for a in recordings]
    output.write_table(f"speakers/{part}", pa.Table.from_pylist(rows, schema=table_schema(SPEAKERS)))
    output.write_table(f"tracks/{part}", pa.Table.from_pylist(tracks, schema=TRACKS))


def test_voices_of_another_backend_need_a_threshold(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}, "b": {"S1": "ann"}})
    with_backend = pq.read_table(Path(output.uri) / "tracks" / "part-1.parquet")
    for backend in ("resemblyzer", "campplus"):
        column = pa.array([None, backend], pa.string())
        output.write_table("tracks/part-1.parquet", with_backend.append_column("diarize_backend", column))
        if backend == "resemblyzer":
            with pytest.raises(UserError, match="voices of resemblyzer, and no threshold is given"):
                voices.run(output)
            assert voices.run(output, 0.8).voices == 1
        else:
            assert voices.run(output).voices == 1


def called(output: Output) -> dict[tuple[str, str], str | None]:
    rows = pq.read_table(Path(output.uri) / "voices").to_pylist()
    return {(row["asset_id"], row["speaker"]): row["voice"] for row in rows}


def test_a_voice_has_one_name_in_all_parts(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann", "S2": "bob"}, "b": {"S1": "bob"}})
    add(output, "part-2.parquet", {"c": {"S1": "cy", "S2": "ann", "S3": None}})
    linked = voices.run(output)
    assert (linked.recordings, linked.speakers, linked.voices, linked.parts) == (3, 6, 3, 2)
    found = called(output)
    assert found["a", "S1"] == found["c", "S2"] == "V1"
    assert found["a", "S2"] == found["b", "S1"] == "V2"
    assert found["c", "S1"] == "V3"
    assert found["c", "S3"] is None, "nobody's voice is like one that was not heard"
    rows = {(r["asset_id"], r["speaker"]): r for r in pq.read_table(Path(output.uri) / "voices").to_pylist()}
    assert rows["a", "S1"]["similarity"] > 0.8
    assert rows["c", "S1"]["similarity"] is None, "there is nobody to compare with"
    assert "voices" in output.contents.tables


def test_names_stay_when_recordings_are_added_and_nothing_is_written_twice(output):
    add(output, "part-2.parquet", {"m": {"S1": "ann", "S2": "bob"}, "n": {"S1": "bob"}})
    voices.run(output)
    before = called(output)
    file = Path(output.uri) / "voices" / "part-2.parquet"
    written = file.stat().st_mtime_ns
    assert voices.run(output).parts == 0
    assert file.stat().st_mtime_ns == written
    # It comes first, and has somebody new before somebody known.
    add(output, "part-1.parquet", {"a": {"S1": "cy", "S2": "bob"}})
    assert voices.run(output).parts == 2, "bob of the second is likened to one more"
    after = called(output)
    assert {key: after[key] for key in before} == before
    assert after["a", "S1"] == "V3"
    assert after["a", "S2"] == before["n", "S1"]


def test_the_order_of_parts_decides_nothing(output, tmp_path):
    other = Output(str(tmp_path / "other"))
    other.declare(output.contents)
    recordings = {"a": {"S1": "ann"}, "b": {"S1": "bob"}, "c": {"S1": "ann"}, "d": {"S1": "cy"}}
    add(output, "part-1.parquet", recordings)
    for place, asset in enumerate(reversed(recordings)):
        add(other, f"part-{place}.parquet", {asset: recordings[asset]})
    voices.run(output)
    voices.run(other)
    assert called(output) == called(other)


def test_what_other_networks_made_of_voices_is_not_compared(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}}, model="one")
    add(output, "part-2.parquet", {"b": {"S1": "ann"}}, model="another")
    voices.run(output)
    assert called(output) == {("a", "S1"): "V1", ("b", "S1"): "V2"}


def test_rows_whose_speakers_are_gone_go_too(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}})
    add(output, "part-2.parquet", {"b": {"S1": "ann"}})
    voices.run(output)
    for table in ("speakers", "tracks"):
        output.discard(f"{table}/part-2.parquet")
    voices.run(output)
    assert called(output) == {("a", "S1"): "V1"}


def test_a_damaged_part_of_voices_is_none_and_made_anew(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}})
    add(output, "part-2.parquet", {"b": {"S1": "bob"}})
    voices.run(output)
    before = called(output)
    file = Path(output.uri) / "voices" / "part-1.parquet"
    for damage in (b"", b"no table", file.read_bytes()[:-20], file.read_bytes()[40:]):
        file.write_bytes(damage)
        assert voices.run(output).parts == 1
        assert {people for people, _ in called(output)} == {"a", "b"}
        assert called(output)["b", "S1"] == before["b", "S1"]


def test_storage_that_does_not_answer_is_no_reason_to_forget_names(output, monkeypatch):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}})
    voices.run(output)

    def away(output, part):
        raise TimeoutError(110, "no answer")

    monkeypatch.setattr(voices, "read_if_there", away)
    with pytest.raises(TimeoutError):
        voices.link_voices(output)


def test_a_voice_that_is_no_number_is_nobody_s(output):
    add(output, "part-1.parquet", {"a": {"S1": "ann"}})
    rows = [{"asset_id": "b", "speaker": "S1", "seconds": 1.0, "centroid": [float("nan")] * 192}]
    output.write_table("speakers/part-2.parquet", pa.Table.from_pylist(rows, schema=table_schema(SPEAKERS)))
    voices.run(output)
    assert called(output) == {("a", "S1"): "V1", ("b", "S1"): None}


def test_a_run_is_finished_though_the_voices_cannot_be_linked(output, monkeypatch):
    said = []

    def fails(output, threshold):
        raise ValueError("centroids\nare odd")

    monkeypatch.setattr(voices, "link_voices", fails)
    config = SpeechConfig()
    config.diarize.link = True
    log = SimpleNamespace(log=lambda event, text, level="info": said.append((event, level, text)))
    look_back(SimpleNamespace(job=SPEECH, config=config, output=output, folder=log))
    [(event, level, text)] = said
    assert (event, level) == ("afterwards", "error")
    assert "centroids are odd" in text
    assert f"voices.py output.uri={output.uri} threshold=0.65" in text


def test_voices_do_not_stay_where_the_speakers_of_a_content_have_left(output):
    """Equal files in two parts, and a run that told their speakers apart anew, in the second, and linked nobody."""
    add(output, "part-1.parquet", {"a": {"S1": "ann"}, "b": {"S1": "bob"}})
    voices.run(output)
    add(output, "part-2.parquet", {"a": {"S1": "cy"}})
    held = Held.by(output, "part-2.parquet", {"a"})
    assert held.assets("speakers") == held.assets("turns") == held.assets("voices") == {"a"}
    left = held.others("voices", pq.read_table(Path(output.uri) / "voices" / "part-1.parquet"))
    assert left["asset_id"].to_pylist() == ["b"]


def test_what_is_no_output_with_speakers_is_refused(output, tmp_path):
    with pytest.raises(UserError, match="no table of speakers"):
        voices.run(Output(str(tmp_path)))
    with pytest.raises(UserError, match="a cosine"):
        voices.run(output, 1.5)
