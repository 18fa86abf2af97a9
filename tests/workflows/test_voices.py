"""One name for the same voice in all recordings of an output, kept when recordings are added."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import table_schema
from pipeline.errors import UserError
from pipeline.stages.diarize.spec import SPEAKERS, diarize_product
from pipeline.workflows import voices

RNG = np.random.default_rng(3)
PEOPLE = {name: RNG.standard_normal(192).astype(np.float32) for name in ("ann", "bob", "cy")}
TRACKS = pa.schema([("asset_id", pa.string()), ("uri", pa.string()), ("diarize_model", pa.string())])


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


def test_what_is_no_output_with_speakers_is_refused(output, tmp_path):
    with pytest.raises(UserError, match="no table of speakers"):
        voices.run(Output(str(tmp_path)))
    with pytest.raises(UserError, match="a cosine"):
        voices.run(output, 1.5)
