"""The decode stage, and those that read a long track again, over files with several sound tracks."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from helpers.av_files import RATE, av_file, loudest_hz, tone

from pipeline.audio.encode import encode
from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.sound_tracks import expand_streams
from pipeline.dataset.tables.schemas import IDENTITY, TAGS
from pipeline.engine.batch import collect, tracks_of
from pipeline.engine.decode_key import decode_key
from pipeline.engine.packing import pack, planned
from pipeline.engine.results import FACTS
from pipeline.engine.source_file import Fetcher
from pipeline.stages.decode.worker import DecodeWorker

HZ = {"eng": 441.0, "deu": 882.0, "ita": 1323.0}
VIEWS = [View("native", None, None), View("separation", RATE, 2)]


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """A film in three languages, and a file of one track."""
    folder = tmp_path_factory.mktemp("streams")
    tracks = [tone(hz) for hz in HZ.values()]
    (folder / "film.mkv").write_bytes(
        av_file("matroska", "pcm_s16le", tracks, languages=list(HZ), tags={"title": "A film"})
    )
    (folder / "song.wav").write_bytes(encode(tone(660), RATE, "wav"))
    return [SourceItem(str(p), p.stat().st_size) for p in sorted(folder.iterdir())]


def decoded(items, choice=0, **more):
    stage = DecodeWorker(VIEWS, choice=choice, **more)
    [block] = pack(planned(items), 1000.0, 100)
    table = stage(block)
    stage.decoder.close()
    return table


def heard(track) -> float:
    return loudest_hz(track.audio("native"), RATE)


def test_each_choice_has_its_sound_its_content_and_its_key(items):
    seen = {}
    for choice, hz in ((0, 441.0), (1, 882.0), ("de", 882.0), ("it", 1323.0)):
        table = decoded(items[:1], choice)
        [track] = tracks_of(table)
        assert abs(heard(track) - hz) < 3
        assert table["audio_streams"].to_pylist() == [3]
        assert table["audio_stream"].to_pylist() == [list(HZ.values()).index(hz)]
        assert table["tag_title"].to_pylist() == ["A film"]
        assert table["key@decode"].to_pylist() == [None if choice == 0 else decode_key(choice)]
        seen[choice] = track.asset_id
    assert len(set(seen.values())) == 4
    assert all(len(asset) == 64 for asset in seen.values())


def test_what_is_not_there_is_a_failure_that_says_what_is(items):
    table = decoded(items, "de")
    assert [t.decoded for t in tracks_of(table)] == [True, False]
    [[], [failure]] = collect(table, "failures")
    assert failure["error_class"] == "NoSuchAudioStream"
    assert failure["message"] == "no audio stream in language de: the file has 0 (no language)"
    assert failure["extractor_key"] == decode_key("de") != decode_key()
    assert table["key@decode"].to_pylist() == [decode_key("de"), None]


def test_a_row_for_each_track(items):
    expanded = expand_streams(items)
    film, song = (item.uri for item in items)
    assert [i.uri for i in expanded] == [film, f"{film}#audio=1", f"{film}#audio=2", song]
    table = decoded(expanded)
    tracks = tracks_of(table)
    assert collect(table, "failures") == [[], [], [], []]
    for track, hz in zip(tracks, (441.0, 882.0, 1323.0, 660.0), strict=True):
        assert abs(heard(track) - hz) < 3
    assert table["audio_stream"].to_pylist() == [0, 1, 2, 0]
    assert table["audio_streams"].to_pylist() == [3, 3, 3, 1]
    assert table["key@decode"].null_count == 4, "their uris say which track they are of"
    assert len({t.asset_id for t in tracks}) == 4
    [alone] = tracks_of(decoded(items[:1]))
    assert alone.asset_id == tracks[0].asset_id, "the first is what it was without the others"


def test_a_long_track_is_read_again_from_the_same_stream(items):
    """Each stage reads the source itself: without the number it would take the first."""
    expanded = [replace(i, size_bytes=i.size_bytes) for i in expand_streams(items)]
    table = decoded(expanded, max_track_bytes=1000)
    tracks = tracks_of(table)
    assert all(t.long for t in tracks)
    for track, hz in zip(tracks, (441.0, 882.0, 1323.0, 660.0), strict=True):
        with ExitStack() as stack:
            reader = Fetcher().reader(track, "separation", View("separation", RATE, 2), stack)
            assert abs(loudest_hz(reader.read(0, reader.samples), RATE) - hz) < 3
    [german] = tracks_of(decoded(items[:1], "de", max_track_bytes=1000))
    with ExitStack() as stack:
        reader = Fetcher().reader(german, "separation", View("separation", RATE, 2), stack)
        assert abs(loudest_hz(reader.read(0, reader.samples), RATE) - 882.0) < 3


def test_every_fact_has_a_column_of_its_type(items):
    table = decoded(items)
    of_schema = {f.name: f.type for f in (*IDENTITY, *TAGS)}
    assert of_schema.keys() >= FACTS
    assert all(table.schema.field(name).type == of_schema[name] for name in FACTS)
    assert table["bits_per_sample"].to_pylist() == [16, 16]
    assert table["bit_rate"].to_pylist() == [2 * 16 * RATE] * 2
    assert np.isfinite(table["duration_s"].to_numpy()).all()
