"""Original and master in the report: what is heard, how loud, what is in the page and what is linked, and a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from report_masters import RATE, build, made_of, part_of, player_of, silence, song, sound, with_files
from test_report_page import browser, check_page, opened  # noqa: F401  two of them are fixtures

from pipeline.dataset.output import Output
from pipeline.report import master_player
from pipeline.report.master_excerpt import loudest
from pipeline.report.master_player import Room, player
from pipeline.report.master_view import louder_by
from pipeline.workflows import report


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


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


def long_song(output: Output, folder: Path, **more) -> dict:
    """30 s, the loudest of which begin at 7 s, too long for the page."""
    loud = [-30.0] * 7 + [-14.0] * 18 + [-30.0] * 3
    skipped = round(more.get("master_from_s", 0.0))
    before = [-30.0] * (skipped + 7) + [-15.5] * 18 + [-12.0] * 3
    row = song(
        "/a/one.flac",
        **{"duration_s": 30.0, "master_loudness_after": loud, "master_loudness_before": before} | more,
    )
    return with_files(output, row, folder, 30.0)


def samples_of(source: str) -> np.ndarray:
    kind, _, data = source.partition(";base64,")
    assert kind == "data:audio/mpeg"
    found, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == RATE
    return found


@pytest.mark.parametrize("from_s", [0.0, 2.0])
def test_of_what_is_too_large_the_loudest_seconds_are_in_the_page(output, tmp_path, monkeypatch, from_s):
    monkeypatch.setattr(master_player, "SOUND_BYTES", 300_000)
    row = long_song(output, tmp_path / "in", master_from_s=from_s)
    heard = player_of(output, row)
    assert heard.said[0] == "The loudest 20 s, from 0:07 on, as MP3 at 96 kbit/s: the files are too large."
    # In those 20 s, not in the whole song.
    assert heard.said[1] == "The master is turned down by 1.5 dB, so that both are equally loud."
    assert heard.volume_master == pytest.approx(10 ** (-1.5 / 20), abs=1e-5)
    assert heard.from_s == 0.0, "both begin at the same place"
    for source, path, start in (
        (heard.original, Path(row["uri"]), 7 + from_s),
        (heard.master, Path(output.path(row["master_file"])), 7),
    ):
        whole, _ = soundfile.read(path)
        expected, found = whole[round(start * RATE) :][: 20 * RATE], samples_of(source)
        shift = np.argmax(np.correlate(found[: 4 * RATE], expected[RATE : 2 * RATE], "valid")) - RATE
        assert 0 <= shift < 2400, "the delay of MP3"
        assert abs(len(found) - len(expected)) < 4000


def test_excerpts_are_bounded_by_the_room_that_is_left(output, tmp_path, monkeypatch):
    monkeypatch.setattr(master_player, "SOUND_BYTES", 300_000)
    row = long_song(output, tmp_path / "in")
    build(output, [row])
    room = Room()
    room.left = 400_000
    assert player(output, row, 4.0, room).original.startswith("file://")
    assert room.left == 400_000


def test_of_an_excerpt_without_a_loudness_nothing_is_matched(output, tmp_path, monkeypatch):
    monkeypatch.setattr(master_player, "SOUND_BYTES", 300_000)
    row = long_song(output, tmp_path / "in", master_loudness_before=[None] * 28)
    heard = player_of(output, row)
    assert heard.said[1] == "Both are played as they are: there is no loudness to match."
    assert (heard.volume_master, heard.volume_original) == (1.0, 1.0)


def test_why_an_excerpt_is_heard(output, tmp_path):
    row = long_song(output, tmp_path / "in")
    odd = Path(row["uri"]).rename(tmp_path / "in" / "one.aiff")
    heard = player_of(output, row | {"uri": str(odd)})
    assert heard.said[0].endswith("kbit/s: not every browser plays the format of the original.")
    room = Room()
    room.left = 2 * odd.stat().st_size - 1
    odd.rename(row["uri"])
    said = player(output, row, None, room).said[0]
    assert said.endswith("kbit/s: the page has no room left for the whole files.")


def test_no_excerpt_is_made_of_what_lies_outside_or_is_no_master(output, tmp_path, monkeypatch):
    monkeypatch.setattr(master_player, "SOUND_BYTES", 300_000)
    row = long_song(output, tmp_path / "in")
    master, secret = Path(output.path(row["master_file"])), tmp_path / "secret.flac"
    assert player_of(output, row).master.startswith("data:")
    master.rename(secret)
    master.symlink_to(secret)
    assert not player_of(output, row).master.startswith("data:"), "a link that leads out"
    master.unlink()
    soundfile.write(master, np.zeros(30 * RATE), RATE, format="WAV")
    assert not player_of(output, row).master.startswith("data:"), "another format"


def test_an_excerpt_is_of_what_was_mastered(output, tmp_path, monkeypatch):
    monkeypatch.setattr(master_player, "SOUND_BYTES", 300_000)
    row = long_song(output, tmp_path / "in")
    Path(row["uri"]).write_bytes(sound(30.0, 9))
    assert player_of(output, row).original.startswith("file://"), "another sound by now"
    Path(row["uri"]).write_bytes(b"fLaC and no more" * 30_000)
    row["asset_id"] = hashlib.sha256(Path(row["uri"]).read_bytes()).hexdigest()
    assert player_of(output, row).original.startswith("file://"), "no sound"


def test_where_the_loudest_seconds_begin():
    assert loudest(np.full(5, -14.0)) == 0
    assert loudest(np.zeros(0)) == 0
    quiet = np.full(100, np.nan)
    quiet[50:68] = -20.0
    assert loudest(quiet) == 50


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
