"""Files with several sound tracks through real runs: one choice after the other on one output."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.av_files import RATE, av_file, tone
from helpers.undisturbed import config

from pipeline.audio.encode import encode
from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.workflows.jobs import extract

pytestmark = pytest.mark.timeout(600)
FILM, SONG = "film.mkv", "song.wav"


def rows(output) -> pd.DataFrame:
    table = pd.read_parquet(output / "tracks")
    table["name"] = table["uri"].str.rsplit("/", n=1).str[-1]
    assert table["name"].is_unique
    return table.set_index("name").sort_index()


@pytest.fixture(scope="module")
def seen(tmp_path_factory, in_process):
    """The rows after each choice, and what a second run of it had to do."""
    root = tmp_path_factory.mktemp("streams")
    source, output = root / "in", root / "out"
    source.mkdir()
    # Levels tell them apart.
    tracks = [tone(441.0) * gain for gain in (1.0, 0.5, 0.25)]
    film = av_file("matroska", "flac", tracks, languages=["eng", "deu", "ita"], tags={"title": "A film"})
    (source / FILM).write_bytes(film)
    (source / SONG).write_bytes(encode(tone(441.0) * 0.125, RATE, "wav"))
    found = {}
    for choice in ("default", "language:de", "all"):
        wanted = config(source, output)
        wanted.features.enabled = ["loudness"]
        wanted.source.audio_stream = choice
        codes = [extract.run(wanted, quiet=True).exit_code for _ in range(2)]
        log = [p.read_text() for p in sorted((output / "runs").glob("*/log.jsonl"))]
        found[choice] = rows(output), codes, log[-1], verify(Output(str(output))).remaining.total
    # Renamed, its tracks are recognised, each as what it is.
    (source / FILM).rename(source / "renamed.mkv")
    code = extract.run(wanted, quiet=True).exit_code
    log = [p.read_text() for p in sorted((output / "runs").glob("*/log.jsonl"))]
    found["renamed"] = rows(output), [code], log[-1], verify(Output(str(output))).remaining.total
    return found


def test_each_choice_is_computed_once_and_leaves_clean_tables(seen):
    for choice, (_, codes, log, problems) in seen.items():
        assert set(codes) == {0}, choice
        assert '"event": "device"' not in log, f"{choice}: the second run has nothing to do"
        assert problems == 0, choice


def test_the_default_is_the_first(seen):
    table = seen["default"][0]
    assert list(table.index) == [FILM, SONG]
    assert list(table["status"]) == ["ok", "ok"]
    assert list(table["audio_streams"]) == [3, 1]
    assert list(table["audio_stream"]) == [0, 0]
    assert list(table["tag_title"]) == ["A film", None]


def test_a_language_is_another_content_and_its_lack_a_failure(seen):
    before, table = seen["default"][0], seen["language:de"][0]
    assert list(table["status"]) == ["ok", "failed"]
    film = table.loc[FILM]
    assert film["audio_stream"] == 1
    assert film["asset_id"] != before.loc[FILM, "asset_id"]
    lower = before.loc[FILM, "loudness_integrated_lufs"] - film["loudness_integrated_lufs"]
    assert abs(lower - 6.02) < 0.1


def test_all_gives_a_row_each(seen):
    before, table = seen["default"][0], seen["all"][0]
    assert list(table.index) == [FILM, f"{FILM}#audio=1", f"{FILM}#audio=2", SONG]
    assert list(table["status"]) == ["ok"] * 4
    assert list(table["audio_stream"]) == [0, 1, 2, 0]
    levels = table["loudness_integrated_lufs"].diff().dropna()
    assert all(abs(level + 6.02) < 0.1 for level in levels)
    for name in (FILM, SONG):
        assert table.loc[name, "asset_id"] == before.loc[name, "asset_id"]


def test_a_renamed_film_is_recognised_track_by_track(seen):
    before, after = seen["all"][0], seen["renamed"][0]
    columns = ["audio_stream", "asset_id", "loudness_integrated_lufs"]
    renamed = after[after["status"] != "gone"].rename(lambda name: name.replace("renamed.mkv", FILM))
    assert list(renamed.index) == list(before.index)
    assert renamed[columns].equals(before[columns])
