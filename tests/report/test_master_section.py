"""The report's section on masters: what it shows of all songs and of a few, what is heard, and what stays out."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report_masters import HZ, PRODUCTS, build, made_of, part_of, silence, song
from report_tables import HOSTILE, digest
from test_report_page import Scripts

from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import tracks_schema
from pipeline.report import master_rows
from pipeline.report.master_figures import POINTS, thinned
from pipeline.report.master_rows import SONGS, gather
from pipeline.report.master_view import MEANINGS
from pipeline.report.overview import overview
from pipeline.stages.master.spec import COLUMNS
from pipeline.stages.vad.spec import vad_product
from pipeline.workflows import report

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


def test_a_song_before_and_after(output):
    reasons = ["gentler compression: a loudness range of 15.2 LU is wide"]
    made = made_of(build(output, [song("/a/one.flac", master_reasons=reasons)]))
    assert made.said == "1 song with a master, 1 of them as loud as was asked for. Preset: warm (1)."
    [one] = made.songs
    assert one.track.name == "one.flac"
    assert one.numbers[0] == ("Loudness, LUFS", "−18.00", "−14.00", "−14.0 LUFS")
    assert one.numbers[2] == ("True peak, dBTP", "−3.00", "−1.00", "at most −1.0 dBTP")
    assert one.numbers[3] == ("Peak over loudness (PLR), LU", "15.0", "13.0", "")
    assert len(one.numbers) == 5, "no distance without a reference"
    assert "Gain +4.5 dB before the limiter" in one.done
    assert "The limiter took at most 2.2 dB away" in one.done
    assert (one.reasons, one.limited) == (reasons, None)
    spectrum, loudness, reduction = (made.charts[name] for name in one.charts)
    before, after = spectrum["figure"].data
    assert spectrum["figure"].layout.xaxis.type == "log"
    assert list(before.x) == list(after.x) == HZ
    assert list(before.y) == [-20.0, -30.0, -40.0]
    assert list(after.y) == pytest.approx([-18.0, -30.0, -41.0], abs=0.01), "as loud as the original"
    assert "drawn 4.0 dB lower" in spectrum["caption"]
    assert "differs by +2.0 dB at 100 Hz and by −1.0 dB at 4 kHz" in spectrum["caption"]
    assert [t.name for t in loudness["figure"].data] == ["original", "master"]
    assert list(loudness["figure"].data[1].y) == [-16.0, -15.0, None, -14.0, -14.0, -14.0]
    assert list(loudness["figure"].data[1].x)[:2] == [1.5, 2.5]
    assert loudness["figure"].layout.shapes[0].y0 == -14.0, "what was asked for"
    assert list(reduction["figure"].data[0].y) == [0.0, 0.0, 2.25, 0.5, 0.0, 0.0, 0.0, 0.0]
    assert "2.25 dB, at 0:02; it worked in 2 of 8 seconds" in reduction["caption"]


def test_all_songs_are_counted(output):
    rows = [song(f"/a/{n}.flac", master_lufs_after=-14.0 - n) for n in range(3)]
    rows[2] |= {"master_limited_by": "ceiling", "master_tp_after": -0.9, "master_max_gain_reduction_db": 6.5}
    rows.append(silence("/a/silence.flac"))
    rows.append(
        {**song("/a/lost.flac"), **dict.fromkeys((c.name for c in COLUMNS), None), "status": "failed"}
    )
    rows.append(song("/a/gone.flac", status="gone"))
    made = made_of(build(output, rows))
    assert made.said.startswith(
        "4 songs with a master, 2 of them as loud as was asked for. 1 without a loudness."
    )
    assert [(f[0], *f[3:]) for f in made.fates] == [
        ("ceiling", 1, 8.0, "2.00", "2.00", "6.5"),
        ("silence", 1, 8.0, "–", "–", "0.0"),
        ("nothing", 2, 16.0, "0.50", "1.00", "2.2"),
    ]
    counted = {name: sum(made.charts[name]["figure"].data[0].y) for name in made.counted}
    assert counted == {"masters-error": 3, "masters-peak": 3, "masters-reduction": 4}
    assert made.charts["masters-peak"]["caption"].startswith(
        "1 above their ceiling of −1.0 dBTP (dashed); 3 songs"
    )
    assert made.charts["masters-peak"]["figure"].layout.shapes[0].x0 == -1.0
    error = made.charts["masters-error"]["figure"].data[0]
    assert [(round(x), y) for x, y in zip(error.x, error.y, strict=True) if y] == [(0, 1), (1, 1), (2, 1)]
    assert made.means[0] == ("Loudness, LUFS", "−18.0", "−15.0", 3)


def test_a_peak_at_the_ceiling_is_not_above_it(output):
    drawn = made_of(build(output, [song("/a/one.flac")])).charts["masters-peak"]
    assert drawn["caption"].startswith("0 above their ceiling")
    [bar] = drawn["figure"].data
    assert bar.x[0] + bar.width[0] / 2 < -1.0


def test_what_limits_is_said_with_the_keys(output):
    row = song("/a/one.flac", master_limited_by="max_gr_db", master_lufs_after=-15.5)
    text = part_of(build(output, [row]))
    assert (
        "<b>Limited by max_gr_db</b>: the limiter would have to take more from a peak than it may; " in text
    )
    assert "it is 1.50 LU below what was asked for. To change: " in text
    assert "master.max_gr_db, or a lower master.lufs" in text


def test_every_limit_of_the_job_is_explained():
    [described] = [c.metadata[b"description"].decode() for c in COLUMNS if c.name == "master_limited_by"]
    said = described.partition(": ")[2].partition(";")[0].split(", ")
    assert set(said) == set(MEANINGS)


def test_distances_are_there_with_a_reference(output):
    row = song(
        "/a/one.flac", master_mode="reference", master_references=[digest("r")], master_spectral_distance_before=5.5,
        master_spectral_distance_after=1.25, master_side_distance_before=4.0, master_side_distance_after=None,
    )  # fmt: skip
    [one] = made_of(build(output, [row])).songs
    assert one.numbers[5:] == [
        ("Distance to the references, mid, dB", "5.5", "1.2", ""),
        ("Distance to the references, side, dB", "4.0", "–", ""),
    ]
    assert "Like 1 reference" in one.done


def test_silence_is_shown_as_such(output):
    made = made_of(build(output, [silence("/a/silence.flac")]))
    [one] = made.songs
    assert {(b, a, asked) for _, b, a, asked in one.numbers} == {
        ("–", "–", ""),
        ("–", "–", "at most −1.0 dBTP"),
    }
    assert [made.charts[name]["figure"] for name in one.charts] == [None] * 3
    assert [made.charts[name]["empty"] for name in one.charts] == [
        "Silence has no spectrum.",
        "No loudness: it is silent, or shorter than 3 s.",
        "The limiter took nothing away: no peak came up to the ceiling.",
    ]
    assert one.limited == ("silence", MEANINGS["silence"][0], "")
    text = part_of(output)
    assert "nan" not in text.lower()
    assert "None" not in text
    assert 'id="chart-master-' not in text


def test_columns_that_an_older_version_did_not_have(output):
    kept = {
        "master_preset",
        "master_lufs_after",
        "master_lufs_before",
        "asset_id",
        "uri",
        "status",
        "duration_s",
    }
    build(output, [song("/a/one.flac")])
    [part] = output.parts("tracks")
    table = pa.Table.from_pylist([song("/a/one.flac")], schema=tracks_schema(PRODUCTS))
    more = [c for c in table.schema.names if not c.startswith("master_")]
    output.write_table(part, table.select([*more, *(k for k in kept if k.startswith("master_"))]))
    made = made_of(output)
    [one] = made.songs
    assert one.numbers[0] == ("Loudness, LUFS", "−18.00", "−14.00", "")
    assert one.numbers[1][1:3] == ("–", "–")
    assert one.player.master == ""
    assert one.player.said == ["There is no file of the master."]
    assert made.charts["masters-error"]["figure"] is None
    assert "None" not in part_of(output)


def test_another_job_has_no_such_section(output):
    row = {name: value for name, value in song("/a/one.flac").items() if not name.startswith("master_")}
    page = Path(report.run(build(output, [row], (vad_product(),)))).read_text()
    for trace in ('id="masters"', "#masters", "masters-", 'querySelectorAll(".ab")'):
        assert trace not in page


def test_an_output_without_masters_says_so(output):
    row = {**song("/a/lost.flac"), **dict.fromkeys((c.name for c in COLUMNS), None), "status": "failed"}
    text = part_of(build(output, [row]))
    assert "No song has a master" in text
    assert "<table>" not in text
    assert 'class="chart"' not in text


def names(output: Output) -> list[str]:
    """The songs that are shown, in their order; a copy under the name of what it is a copy of."""
    chosen = gather(output, overview(output)).chosen
    return [row["uri"].rpartition("/")[2].removeprefix("copy of ") for _, row in chosen]


def test_songs_are_few_limited_ones_first_and_independent_of_parts(tmp_path, monkeypatch):
    rows = [song(f"/a/{n:02d}.flac", master_max_gain_reduction_db=float(n % 17)) for n in range(40)]
    for n in (3, 8, 20, 21, 22):
        rows[n] |= {"master_limited_by": "ceiling", "master_lufs_after": -14.0 - n}
    rows += [silence("/a/silence.flac"), {**rows[16], "uri": "/a/copy of 16.flac"}]
    one, many = Output(str(tmp_path / "one")), Output(str(tmp_path / "many"))
    build(one, rows)
    for part in range(5):
        build(many, rows[::-1][part::5], part=part)
    chosen = names(one)
    assert chosen == names(many)
    assert chosen[:3] == ["22.flac", "21.flac", "20.flac"], "the least loud first"
    assert set(chosen[3:5]) == {"16.flac", "33.flac"}, "those changed most, equal contents once"
    assert len(chosen) == SONGS
    assert made_of(one).shown.startswith("6 of 42 songs: ")
    monkeypatch.setattr(master_rows, "SONGS", 60)
    assert names(one)[-1] == "silence.flac"
    assert len(names(one)) == 41


def test_the_page_does_not_grow_with_the_songs(tmp_path):
    sizes = []
    for songs in (100, 2000):
        output = Output(str(tmp_path / str(songs)))
        rows = [song(f"/a/{n:05d}.flac", master_lufs_after=-14.0 - n % 50 / 10) for n in range(songs)]
        for row in rows[::3]:
            row |= {"master_limited_by": f"{row['uri']}", "master_preset": row["uri"]}
        text = part_of(build(output, rows))
        assert text.count('class="grid song"') == SONGS
        sizes.append(len(text))
    assert sizes[1] < sizes[0] + 500
    made = gather(output, overview(output))
    assert len(made.fates) == len(made.presets) == 21
    assert sum(fate.songs for fate in made.fates.values()) == made.songs == 2000


def test_a_long_song_is_a_bounded_number_of_points(output):
    seconds = 36_000
    loudness = [-18.0] * (seconds - 2)
    reduced = [0.0] * seconds
    reduced[20_000] = 3.5
    row = song(
        "/a/long.flac", duration_s=float(seconds), master_loudness_before=loudness, master_loudness_after=loudness,
        master_gain_reduction=reduced,
    )  # fmt: skip
    made = made_of(build(output, [row]))
    _, over_time, reduction = (made.charts[name]["figure"].data for name in made.songs[0].charts)
    assert 300 < len(over_time[0].y) <= POINTS
    assert set(over_time[0].y) == {-18.0}
    assert over_time[0].x[-1] < seconds
    assert 300 < len(reduction[0].y) <= POINTS
    assert max(reduction[0].y) == 3.5


def test_thinning_keeps_gaps_and_what_is_not_thinned():
    values = np.array([1.0, np.nan])
    assert thinned(values, None)[1] is values
    many = np.full(2 * POINTS, np.nan)
    many[3] = 7.0
    every, kept = thinned(many, lambda groups: np.nan_to_num(groups).max(axis=1))
    assert (every, len(kept), kept[1], kept.sum()) == (2, POINTS, 7.0, 7.0)


def test_hostile_words_are_text(output):
    row = song(
        HOSTILE, master_preset=EVIL, master_mode=EVIL, master_limited_by=EVIL, master_reasons=[EVIL, None],
        master_file=EVIL, master_references=[EVIL],
    )  # fmt: skip
    page = Path(report.run(build(output, [row]))).read_text()
    found = Scripts(page)
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert not [t for t, a in found.tags if t == "img" and a.get("src") == "x"]
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "<img" not in json.dumps(json.loads(found.data)["figures"])
