"""The report's section on masters: what it shows of all songs and of a few, what is heard, and what stays out."""

import base64
import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report_tables import HOSTILE, RUN, digest, write_run
from test_report_page import Scripts, browser, check_page, opened  # noqa: F401  two of them are fixtures

from pipeline.audio.encode import encode
from pipeline.audio.song_formats import SongFormat
from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import tracks_schema
from pipeline.report import master_player, master_rows
from pipeline.report.master_figures import POINTS, thinned
from pipeline.report.master_player import Player, Room, player
from pipeline.report.master_rows import SONGS, gather
from pipeline.report.master_view import MEANINGS, louder_by, section
from pipeline.report.overview import overview
from pipeline.stages.master.spec import COLUMNS, master_product
from pipeline.stages.vad.spec import vad_product
from pipeline.workflows import report

PRODUCTS = (master_product(SongFormat("flac")),)
RATE = 16_000
HZ = [100.0, 1000.0, 4000.0]
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def song(uri: str, **more) -> dict:
    """A song of 8 s that became 4 LU louder, as it was to be."""
    return {
        "asset_id": digest(uri), "uri": uri, "size_bytes": 1, "container": "flac", "codec": "flac",
        "sample_rate": RATE, "channels": 1, "duration_s": 8.0, "status": "ok", "run_id": RUN, "extractor_keys": [],
        "fallbacks": [], "master_preset": "warm", "master_mode": "adaptive", "master_amount": 1.0,
        "master_target_lufs": -14.0, "master_ceiling_dbtp": -1.0, "master_lufs_before": -18.0,
        "master_lufs_after": -14.004, "master_lra_before": 6.0, "master_lra_after": 5.5, "master_tp_before": -3.0,
        "master_tp_after": -1.0, "master_plr_before": 15.0, "master_plr_after": 13.0, "master_gain_db": 4.5,
        "master_max_gain_reduction_db": 2.25, "master_from_s": 0.0, "master_sample_rate": RATE, "master_channels": 1,
        "master_loudness_before": [-20.0, -19.0, None, -18.0, -18.0, -18.0],
        "master_loudness_after": [-16.0, -15.0, None, -14.0, -14.0, -14.0],
        "master_gain_reduction": [0.0, 0.0, 2.25, 0.5, 0.0, 0.0, 0.0, 0.0], "master_reasons": [],
        "master_spectrum_hz": HZ, "master_spectrum_before": [-20.0, -30.0, -40.0],
        "master_spectrum_after": [-14.0, -26.0, -37.0], **more,
    }  # fmt: skip


def silence(uri: str) -> dict:
    """What the job writes of silence."""
    nothing = {name: None for name in song(uri) if re.fullmatch(r"master_(lufs|lra|tp|plr|psr)_.*", name)}
    return song(
        uri, **nothing, master_target_lufs=None, master_limited_by="silence", master_gain_db=0.0,
        master_max_gain_reduction_db=0.0, master_loudness_before=[], master_loudness_after=[],
        master_gain_reduction=[0.0] * 8, master_spectrum_before=[-196.9] * 3, master_spectrum_after=[-196.9] * 3,
    )  # fmt: skip


def sound(seconds: float = 0.5, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 0.1, (1, int(RATE * seconds)))
    return encode(noise, RATE, "flac")


def with_files(output: Output, row: dict, folder: Path, seconds: float = 0.5) -> dict:
    """The song, with an original of its asset_id in ``folder`` and a master below the output."""
    folder.mkdir(exist_ok=True)
    before = sound(seconds, 1)
    original = folder / f"{digest(row['uri'])[:8]} #1.flac"
    original.write_bytes(before)
    asset = hashlib.sha256(before).hexdigest()
    path = f"masters_flac/{asset[:2]}/{asset}/master.flac"
    output.write(path, sound(seconds, 2))
    return row | {"asset_id": asset, "uri": str(original), "master_file": path}


def build(output: Output, rows: list[dict], products=PRODUCTS, part: int = 0) -> Output:
    """An output of the mastering job with these rows in one part."""
    output.declare(Contents(products, "master"))
    table = pa.Table.from_pylist(rows, schema=tracks_schema(products))
    output.write_table(f"tracks/part-{part:09d}-0123456789ab.parquet", table)
    if part == 0:
        write_run(output, len(rows), 60.0)
    return output


def part_of(output: Output) -> str:
    """The section as it stands in the page."""
    page = Path(report.run(output)).read_text()
    return page[page.index('<section id="masters">') : page.index('<section id="trouble">')]


def made_of(output: Output):
    return section(output, overview(output))


def player_of(output: Output, row: dict) -> Player:
    build(output, [row])
    return player(output, row, louder_by(row), Room())


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


def test_both_are_heard_equally_loud(output, tmp_path):
    row = with_files(output, song("/a/one.flac", master_lufs_after=-12.0), tmp_path / "in")
    [one] = made_of(build(output, [row])).songs
    assert one.player.volume_master == pytest.approx(10 ** (-6 / 20), abs=1e-5)
    assert one.player.volume_original == 1.0
    assert one.player.said == ["The master is turned down by 6.0 dB, so that both are equally loud."]
    text = part_of(output)
    found = re.findall(
        r'data-which="(\w+)" data-volume="([\d.]+)" src="data:audio/flac;base64,([^"]+)"', text
    )
    assert [(which, float(volume)) for which, volume, _ in found] == [("master", 0.501187), ("original", 1.0)]
    assert base64.b64decode(found[0][2]) == output.read(row["master_file"])
    assert base64.b64decode(found[1][2]) == Path(row["uri"]).read_bytes()


def test_a_master_that_is_softer_turns_the_original_down(output, tmp_path):
    row = with_files(output, song("/a/one.flac", master_lufs_after=-23.0), tmp_path / "in")
    heard = player_of(output, row)
    assert heard.volume_master == 1.0
    assert 20 * math.log10(heard.volume_original) == pytest.approx(-5.0, abs=1e-3)
    assert "The original is turned down by 5.0 dB" in heard.said[0]


def test_without_a_loudness_nothing_is_matched(output, tmp_path):
    row = with_files(output, silence("/a/one.flac"), tmp_path / "in")
    heard = player_of(output, row)
    assert (heard.volume_master, heard.volume_original) == (1.0, 1.0)
    assert heard.said == ["Both are played as they are: there is no loudness to match."]


def test_a_preview_is_compared_with_its_stretch(output, tmp_path):
    row = song(
        "/a/one.flac", duration_s=60.0, master_from_s=2.0, master_loudness_before=[-40.0, -40.0, -20.0, -20.0, -40.0],
        master_loudness_after=[-14.0, -14.0], master_gain_reduction=[0.0, 1.0, 0.0, 0.0],
    )  # fmt: skip
    assert louder_by(row) == pytest.approx(6.0)
    assert louder_by(row | {"master_from_s": 0.0, "master_loudness_before": [-15.0, -15.0]}) == pytest.approx(
        1.0
    )
    made = made_of(build(output, [with_files(output, row, tmp_path / "in")]))
    assert "1 preview: what was measured of a stretch is not compared with the song." in made.said
    assert made.charts["masters-error"]["figure"] is None
    [one] = made.songs
    assert one.player.from_s == 2.0
    assert any(line.startswith("A preview from 2.0 s on") for line in one.done)
    assert made.charts["master-loudness-0"]["figure"].data[1].x[0] == 3.5
    assert "at 0:03" in made.charts["master-reduction-0"]["caption"]
    assert 'data-from="2.0"' in part_of(output)


def test_what_is_too_large_is_linked(output, tmp_path, monkeypatch):
    row = with_files(output, song("/a/one.flac"), tmp_path / "in")
    monkeypatch.setattr(master_player, "SOUND_BYTES", 1000)
    text = part_of(build(output, [row]))
    sources = re.findall(r'<audio [^>]*src="([^"]+)"', text)
    assert sources[0] == f"../../{row['master_file']}"
    assert (Path(report.run(output)).parent / sources[0]).resolve().read_bytes() == output.read(
        row["master_file"]
    )
    assert sources[1].startswith("file:///")
    assert sources[1].endswith("%20%231.flac")


def test_sounds_have_room_up_to_a_limit(output, tmp_path, monkeypatch):
    rows = [with_files(output, song(f"/a/{n}.flac"), tmp_path / "in", 0.5 + n / 10) for n in range(4)]
    monkeypatch.setattr(master_player, "ALL_SOUND_BYTES", 100_000)
    songs = made_of(build(output, rows)).songs
    inside = [s for p in songs for s in (p.player.master, p.player.original) if s.startswith("data:")]
    sizes = [len(base64.b64decode(s.partition(",")[2])) for s in inside]
    assert 0 < sum(sizes) <= 100_000 < sum(len(output.read(r["master_file"])) * 2 for r in rows)
    assert all(song.player.master and song.player.original for song in songs), "the rest is linked"


@pytest.mark.parametrize(
    ("uri", "original"),
    [
        ("https://example.org/a.flac", "https://example.org/a.flac"),
        ("https://user:secret@example.org/a.flac", ""),
        ("s3://bucket/a.flac", ""),
        ("zip://a.flac::/x.zip", ""),
        ("javascript://%0aalert(1)", ""),
        ("/nowhere/a.flac", ""),
        ("/dev", ""),
        ("", ""),
    ],
)
def test_an_original_that_a_page_cannot_reach_is_said_to_be_missing(output, tmp_path, uri, original):
    row = with_files(output, song("/a/one.flac"), tmp_path / "in") | {"uri": uri}
    heard = player_of(output, row)
    assert heard.original == original
    assert heard.master.startswith("data:audio/flac")
    assert heard.said[0].startswith("The master only: ") == (not original)


def test_a_master_alone_has_nothing_to_switch_to(output, tmp_path):
    secret = "https://user:secret@example.org/a.flac"
    row = with_files(output, song("/a/one.flac"), tmp_path / "in") | {"uri": secret}
    text = part_of(build(output, [row]))
    assert text.count("<audio") == 1
    assert "ab-play" in text
    assert "ab-swap" not in text
    assert "The master only: the original lies where a page cannot link to." in text
    assert "secret" not in text


def test_a_page_holds_no_file_but_what_was_mastered(output, tmp_path):
    row = with_files(output, song("/a/one.flac"), tmp_path / "in")
    Path(row["uri"]).write_bytes(sound(0.5, 9))
    assert player_of(output, row).original.startswith("file://"), "another sound by now"


@pytest.mark.parametrize(
    "path", ["../secret.flac", "runs/secret.flac", "/etc/hostname", "masters_flac/secret.flac", ""]
)
def test_only_files_of_masters_are_read_or_linked(output, path):
    for name in ("runs/secret.flac", "masters_flac/secret.flac"):
        output.write(name, b"fLaC secret")
    Path(output.uri).with_name("secret.flac").write_bytes(b"fLaC secret")
    heard = player_of(output, song("/a/one.flac", master_file=path))
    assert heard.master == ""
    assert heard.said == ["There is no file of the master."]


def test_a_master_that_is_lost_costs_nothing(output, tmp_path):
    row = with_files(output, song("/a/one.flac"), tmp_path / "in")
    output.discard(row["master_file"])
    text = part_of(build(output, [row]))
    assert "<audio" not in text
    assert "The file of the master is not there." in text
    assert row["master_file"] in text


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


LINES = """
return Object.fromEntries([...document.querySelectorAll("#masters .chart")].map((chart) => [
  chart.id.slice(6), chart.querySelectorAll(".scatterlayer .trace, .barlayer .point").length]));
"""
STATE = """
const [master, original] = document.querySelectorAll("#masters audio");
return {muted: [master.muted, original.muted], times: [master.currentTime, original.currentTime],
        paused: [master.paused, original.paused], volumes: [master.volume, original.volume],
        now: document.querySelector(".ab-now").textContent, swap: document.querySelector(".ab-swap").textContent};
"""


def click(browser, name: str) -> None:  # noqa: F811
    """By the pointer: a page may not play of itself."""
    button = browser.find_element("css selector", f"#masters .ab-{name}")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()


def test_original_and_master_in_a_browser(browser, opened, output, tmp_path):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    row = with_files(output, song("/a/one.flac", master_lufs_after=-12.0), tmp_path / "in", 8.0)
    opened(Path(report.run(build(output, [row]))), dark=True, width=390)
    check_page(browser)
    lines = browser.execute_script(LINES)
    assert {name for name in lines if name.startswith("masters-")} == {
        "masters-error", "masters-peak", "masters-reduction",
    }  # fmt: skip
    assert all(lines.values()), lines
    assert (lines["master-spectrum-0"], lines["master-loudness-0"]) == (2, 2)
    state = browser.execute_script(STATE)
    assert (state["muted"], state["now"], state["swap"]) == (
        [False, True],
        "master",
        "Switch to the original",
    )
    assert state["volumes"] == pytest.approx([10 ** (-6 / 20), 1.0], abs=1e-4)
    script = "const place = document.querySelector('.ab-place'); place.max = 8; place.value = 3;"
    browser.execute_script(f"{script} place.dispatchEvent(new Event('input'))")
    click(browser, "play")
    playing = WebDriverWait(browser, 30)
    playing.until(lambda b: min(b.execute_script(STATE)["times"]) > 3.2)
    click(browser, "swap")
    state = browser.execute_script(STATE)
    assert (state["muted"], state["now"], state["swap"]) == (
        [True, False],
        "original",
        "Switch to the master",
    )
    assert state["paused"] == [False, False]
    assert state["times"][0] == pytest.approx(state["times"][1], abs=0.3), "at the same place"
    click(browser, "play")
    playing.until(lambda b: b.execute_script(STATE)["paused"] == [True, True])


def test_an_original_that_does_not_load_in_a_browser(browser, opened, output, tmp_path):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    row = with_files(output, song("/a/one.flac"), tmp_path / "in")
    Path(row["uri"]).write_bytes(b"fLaC and no more")
    opened(Path(report.run(build(output, [row]))))
    click(browser, "swap")
    click(browser, "play")
    WebDriverWait(browser, 30).until(
        lambda b: b.execute_script("return document.querySelector('.ab-swap').disabled")
    )
    assert browser.execute_script(STATE)["muted"][0] is False, "the master is heard"
    note = browser.execute_script("return document.querySelector('.ab-note').textContent")
    assert note == "The original cannot be loaded from here: the master only."
