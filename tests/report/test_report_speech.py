"""The report's section on speech: what it shows, what it leaves out, and that hostile words stay words."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from report_tables import HOSTILE, RUN, build_small, digest, write_run
from test_report_page import Scripts, browser, check_page, opened  # noqa: F401  two of them are fixtures

from pipeline.audio.encode import encode
from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import table_schema, tracks_schema
from pipeline.report import speech_rows, speech_view
from pipeline.report.overview import overview
from pipeline.report.speech_figures import BARS, joined, moment
from pipeline.report.speech_rows import CANDIDATES, RECORDINGS
from pipeline.report.speech_view import MEANINGS, TO_HEAR, section
from pipeline.speech.clips import REASONS
from pipeline.stages.clips.spec import CLIP_ROWS, clips_products
from pipeline.stages.diarize.spec import TURNS, diarize_product
from pipeline.stages.transcribe.spec import transcribe_product
from pipeline.stages.vad.spec import vad_product
from pipeline.workflows import report

PRODUCTS = (vad_product(), diarize_product(), transcribe_product(), *clips_products())
RATE = 16_000
EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"


def track(uri: str, **more) -> dict:
    return {
        "asset_id": digest(uri), "uri": uri, "size_bytes": 1, "container": "wav", "codec": "pcm_s16le",
        "sample_rate": RATE, "channels": 1, "duration_s": 60.0, "status": "ok", "run_id": RUN, "extractor_keys": [],
        "fallbacks": [], **more,
    }  # fmt: skip


def turn(uri: str, start: float, end: float, speaker: str | None = "S1", index: int = 0) -> dict:
    return {"asset_id": digest(uri), "turn_index": index, "start_s": start, "end_s": end, "speaker": speaker}


def clip(uri: str, number: int, seconds: float = 6.0, reason: str | None = None, **more) -> dict:
    return {
        "asset_id": digest(uri), "segment_id": f"{digest(uri)[:16]}-{number:06d}", "start_s": number * 10.0,
        "end_s": number * 10.0 + seconds, "speaker": "S1", "text": f"words of {number}", "avg_logprob": -0.2,
        "snr_db": 20.0 + number, "dnsmos_ovrl": 3.05, "keep": reason is None, "drop_reason": reason, **more,
    }  # fmt: skip


def with_file(output: Output, row: dict, samples: int = 8000) -> dict:
    """The clip, with a FLAC below the output."""
    asset = row["asset_id"]
    path = f"clip_files/{asset[:2]}/{asset}/{row['segment_id'][-6:]}.flac"
    noise = np.random.default_rng(int(row["start_s"])).normal(0, 0.1, (1, samples))
    output.write(path, encode(noise, RATE, "flac"))
    return row | {"path": path}


def build(output: Output, tracks: list[dict], turns=(), clips=(), part: int = 0) -> Output:
    """An output of speech with these rows in one part."""
    output.declare(Contents(PRODUCTS, "speech"))
    rows = {"tracks": (tracks, tracks_schema(PRODUCTS))}
    rows |= {t.name: (r, table_schema(t)) for t, r in ((TURNS, list(turns)), (CLIP_ROWS, list(clips)))}
    for name, (these, schema) in rows.items():
        table = pa.Table.from_pylist(these, schema=schema)
        output.write_table(f"{name}/part-{part:09d}-0123456789ab.parquet", table)
    if part == 0:
        write_run(output, len(tracks), 60.0)
    return output


def part_of(output: Output) -> str:
    """The section as it stands in the page."""
    page = Path(report.run(output)).read_text()
    return page[page.index('<section id="speech">') : page.index('<section id="trouble">')]


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(str(tmp_path / "out"))


def conversation(output: Output) -> Output:
    """Two people, of whose clips one is kept and four are not; hostile wherever there is text."""
    uri = HOSTILE
    turns = [turn(uri, 0.0, 8.0), turn(uri, 7.0, 20.0, EVIL), turn(uri, 21.0, 22.0, None)]
    clips = [
        with_file(output, clip(uri, 0, text=EVIL, speaker=EVIL)),
        with_file(output, clip(uri, 1, 2.0, "short")),
        clip(uri, 2, 1.5, "short", dnsmos_ovrl=None, snr_db=None),
        clip(uri, 3, 30.0, EVIL),
        clip(uri, 4, 5.0, "overlap"),
    ]
    tracks = [track(uri, diarize_speakers=2, transcribe_language=EVIL), track("/audio/nobody.wav")]
    return build(output, tracks, turns, clips)


def test_the_section_shows_turns_counts_reasons_and_sounds(output):
    made = section(conversation(output), overview(output))
    assert made.said.startswith("1 of 5 clips kept, 6.00 s of speech; 38 s dropped")
    assert [(name, meaning != "", n, seconds) for name, meaning, n, seconds in made.reasons] == [
        ("short", True, 2, 3.5), (EVIL[:60], False, 1, 30.0), ("overlap", True, 1, 5.0),
    ]  # fmt: skip
    [name] = made.turns
    assert made.charts[name]["caption"] == "2 speakers, 3 turns, 1 min 00 s."
    assert made.speakers[name] == [(EVIL[:40], 1, 13.0), ("S1", 1, 8.0), ("not sure", 1, 1.0)]
    assert [(k["title"], k["total"], len(k["shown"])) for k in made.kinds][:2] == [
        ("kept", 1, 1),
        ("short", 2, 2),
    ]
    assert made.languages == [(EVIL[:60], 1), ("not sure", 1)]
    kept, dropped = (sum(t.y) for t in made.charts["speech-seconds"]["figure"].data)
    assert (kept, dropped) == (1, 4)
    assert "1 clip kept, median about 6.1 s; 4 clips dropped" in made.charts["speech-seconds"]["caption"]
    assert "3 clips dropped, median about 23.5 dB" in made.charts["speech-snr"]["caption"]
    assert "1 clip kept, median about 3.0; 3 clips dropped" in made.charts["speech-dnsmos"]["caption"]


def test_sounds_are_the_files_and_the_rest_is_named(output):
    text = part_of(conversation(output))
    sounds = re.findall(
        r'<audio controls preload="none" src="data:audio/flac;base64,([^"]*)" aria-label="', text
    )
    asset = digest(HOSTILE)
    files = [output.read(f"clip_files/{asset[:2]}/{asset}/{n:06d}.flac") for n in (0, 1)]
    assert sorted(map(base64.b64decode, sounds)) == sorted(files)
    assert "0:30.00 – 1:00.00" in text, "where a clip without a file is in its source"
    assert "shorter than clips.min_seconds" in text


def test_hostile_words_are_text(output):
    page = Path(report.run(conversation(output))).read_text()
    found = Scripts(page)
    assert [tag for tag, _ in found.tags].count("script") == 3
    assert not [t for t, a in found.tags if t == "img" and a.get("src") == "x"]
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    figures = json.dumps(json.loads(found.data)["figures"])
    assert "<img" not in figures
    assert "&lt;img" in figures, "plotly takes markup for markup"


def test_in_a_browser(browser, opened, output):  # noqa: F811
    opened(Path(report.run(conversation(output))), dark=True, width=390)
    marks = check_page(browser)
    named = {name: n for name, n in marks.items() if name.startswith("speech-")}
    assert set(named) == {
        "speech-turns-0", "speech-seconds", "speech-dnsmos", "speech-snr", "speech-languages",
    }  # fmt: skip
    assert named["speech-turns-0"] == 3
    assert all(named.values()), named
    heard = """
      const done = arguments[0], audio = document.querySelector("#speech audio");
      audio.addEventListener("loadedmetadata", () => done(audio.duration));
      audio.addEventListener("error", () => done("error"));
      audio.preload = "auto"; audio.load();
    """
    assert browser.execute_async_script(heard) == pytest.approx(0.5, abs=0.01)


def test_withheld_words_are_neither_read_nor_heard(output):
    uri = "/audio/a.wav"
    told = with_file(output, clip(uri, 0))
    silent = with_file(output, clip(uri, 1, text=None))
    nobody_wrote = with_file(output, clip(uri, 2, text=None, avg_logprob=None))
    text = part_of(build(output, [track(uri)], [turn(uri, 0, 5)], [told, silent, nobody_wrote]))
    assert text.count("<audio") == 2
    assert text.count("the words are withheld</span>") == 1
    assert silent["path"] in text
    assert "None" not in text


def test_an_output_without_rows_says_so(output):
    text = part_of(build(output, [track("/audio/a.wav"), track("/audio/b.wav", status="failed")]))
    for said in (
        "clips has no rows",
        "Nobody speaks in any recording",
        "No clip was cut.",
        "No clip was dropped.",
    ):
        assert said in text, said
    assert 'class="chart"' not in text
    assert "Clips to hear" not in text


def test_one_clip(output):
    uri = "/audio/a.wav"
    text = part_of(build(output, [track(uri, transcribe_language="de")], [turn(uri, 1, 2)], [clip(uri, 0)]))
    assert "1 of 1 clip kept, 6.00 s of speech; 0 s dropped" in text
    assert "Who speaks when in the one recording:" in text
    assert "What is spoken in 1 recording." in text
    assert "No clip was dropped." in text


def test_another_job_has_no_such_section(output):
    page = Path(report.run(build_small(output))).read_text()
    for trace in ('id="speech"', "#speech", "speech-"):
        assert trace not in page


def test_an_output_with_turns_only(output):
    uri = "/audio/a.wav"
    build(output, [track(uri)], [turn(uri, 1, 2)])
    output.declare(Contents((diarize_product(),), "speech"))
    (Path(output.uri) / "contents.json").write_text(json.dumps(Contents((diarize_product(),), "x").as_json()))
    made = section(Output(output.uri), overview(output))
    assert (made.reasons, made.kinds, made.languages, made.counted) == (None, [], [], [])
    assert made.turns == ["speech-turns-0"]


def test_a_table_that_is_only_called_clips_is_none_of_ours(output):
    build(output, [track("/audio/a.wav")])
    contents = Contents(PRODUCTS, "x").as_json()
    del contents["products"]["diarize"]
    contents["products"]["clips"]["tables"]["clips"]["columns"].pop("drop_reason")
    (Path(output.uri) / "contents.json").write_text(json.dumps(contents))
    assert section(Output(output.uri), overview(output)) is None


def test_recordings_with_the_most_speakers_and_the_longest_are_drawn(output):
    uris = [f"/audio/{n:02d}.wav" for n in range(30)]
    tracks = [track(u, diarize_speakers=1 + n % 3, duration_s=10.0 + n) for n, u in enumerate(uris)]
    tracks.append({**tracks[29], "uri": "/audio/copy of 29.wav"})
    turns = [turn(u, 1, 2, f"S{k}", k) for n, u in enumerate(uris) for k in range(1 + n % 3)]
    made = section(build(output, tracks, turns), overview(output))
    wanted = [n for n in range(29, -1, -1) if n % 3 == 2][:RECORDINGS]
    wanted += [n for n in range(29, -1, -1) if n % 3 == 1][: RECORDINGS - len(wanted)]
    assert [made.charts[name]["title"] for name in made.turns] == [f"{n:02d}.wav" for n in wanted]
    assert "12 recordings, the 12 with the most speakers and of equals the longest" in made.turns_said


def test_a_long_meeting_is_a_bounded_number_of_bars(output):
    uri, rng = "/audio/meeting.wav", np.random.default_rng(3)
    starts = np.sort(rng.uniform(0, 36_000, 20_000))
    turns = [turn(uri, s, s + 1.0, f"S{k % 20}", k) for k, s in enumerate(starts)]
    made = section(build(output, [track(uri, duration_s=36_001.0)], turns), overview(output))
    [name] = made.turns
    bars = made.charts[name]["figure"].data
    assert len(bars) == 8
    assert len(made.speakers[name]) == 8
    assert "13 others" in [speaker for speaker, _, _ in made.speakers[name]]
    assert sum(n for _, n, _ in made.speakers[name]) == 20_000
    assert 8 <= sum(len(b.x) for b in bars) <= BARS
    assert all((np.asarray(b.x) > 0).all() for b in bars)


def test_spans_that_cannot_be_told_apart_are_one():
    starts, ends = joined(np.array([0.0, 1.0, 1.5, 9.0]), np.array([0.9, 3.0, 2.0, 9.01]), 0.5)
    assert starts.tolist() == [0.0, 9.0]
    assert ends.tolist() == [3.0, 9.5]
    starts, ends = joined(np.array([0.0, 1.0]), np.array([0.9, 2.0]), 0.05)
    assert list(zip(starts, ends, strict=True)) == [(0.0, 0.9), (1.0, 2.0)]


def test_which_clips_are_heard_depends_on_the_clips_only(tmp_path):
    uris = [f"/audio/{n}.wav" for n in range(4)]
    one, many = Output(str(tmp_path / "one")), Output(str(tmp_path / "many"))
    clips = {u: [clip(u, n, reason="short") for n in range(40)] for u in uris}
    build(one, [track(u) for u in uris], clips=[c for u in uris for c in clips[u]])
    for part, uri in enumerate(reversed(uris)):
        build(many, [track(uri)], clips=clips[uri][::-1], part=part)
    heard = []
    for output in (one, many):
        kinds = section(output, overview(output)).kinds
        heard.append([(c["track"].uris, c["when"]) for c in kinds[0]["shown"]])
    assert heard[0] == heard[1]
    assert len(heard[0]) == TO_HEAR
    assert len({tuple(uris) for uris, _ in heard[0]}) > 1, "not all of the first file"


def test_sounds_have_room_up_to_a_limit_and_every_kind_has_one_first(output, monkeypatch):
    uri = "/audio/a.wav"
    rows = [with_file(output, clip(uri, n, reason=("short", None)[n % 2])) for n in range(12)]
    sizes = [len(output.read(row["path"])) for row in rows]
    monkeypatch.setattr(speech_view, "ALL_SOUND_BYTES", 2 * max(sizes))
    kinds = section(build(output, [track(uri)], clips=rows), overview(output)).kinds
    assert [[bool(c["sound"]) for c in k["shown"]] for k in kinds] == [[True, False, False, False, False]] * 2
    assert all(c["path"] for k in kinds for c in k["shown"])


def test_a_large_file_comes_after_those_that_fit(output, monkeypatch):
    uri = "/audio/a.wav"
    rows = [
        with_file(output, clip(uri, n), samples=8000 if n in (3, 7) else 40_000) for n in range(CANDIDATES)
    ]
    monkeypatch.setattr(speech_view, "SOUND_BYTES", 40_000)
    [kept] = section(build(output, [track(uri)], clips=rows), overview(output)).kinds
    assert [bool(c["sound"]) for c in kept["shown"]] == [True, True, False, False, False]
    assert {c["when"][:6] for c in kept["shown"][:2]} == {"0:30.0", "1:10.0"}


@pytest.mark.parametrize(
    "path", ["../secret.flac", "runs/secret.flac", "/etc/hostname", "clip_files/secret.flac"]
)
def test_only_files_of_clips_are_read(output, path):
    uri = "/audio/a.wav"
    for name in ("runs/secret.flac", "clip_files/secret.flac"):
        output.write(name, b"fLaC secret")
    Path(output.uri).with_name("secret.flac").write_bytes(b"fLaC secret")
    made = section(build(output, [track(uri)], clips=[clip(uri, 0, path=path)]), overview(output))
    assert made.kinds[0]["shown"][0]["sound"] == ""


def test_a_file_that_is_lost_or_no_flac_costs_nothing(output):
    uri = "/audio/a.wav"
    lost, wrong = (with_file(output, clip(uri, n)) for n in (0, 1))
    output.discard(lost["path"])
    output.write(wrong["path"], b"<html>")
    text = part_of(build(output, [track(uri)], clips=[lost, wrong]))
    assert "<audio" not in text
    assert lost["path"] in text
    assert wrong["path"] in text


def test_what_is_gone_or_makes_no_sense_is_left_out(output):
    here, gone = "/audio/here.wav", "/audio/gone.wav"
    turns = [turn(here, 5, 4), turn(here, float("nan"), 9), turn(here, 1, 2), turn(gone, 1, 2)]
    clips = [clip(here, 0), clip(gone, 0), clip(here, 1, -1.0), clip(here, 2, keep=None, drop_reason="")]
    tracks = [track(here, diarize_speakers=1), track(gone, status="gone", diarize_speakers=9)]
    made = section(build(output, tracks, turns, clips), overview(output))
    assert [made.charts[name]["caption"] for name in made.turns] == ["1 speaker, 1 turn, 1 min 00 s."]
    assert [(k["title"], k["total"]) for k in made.kinds] == [("kept", 1), ("not said", 1)]


def test_reasons_beyond_a_few_are_one(output, monkeypatch):
    monkeypatch.setattr(speech_rows, "_MOST_NAMES", 3)
    uri = "/audio/a.wav"
    clips = [clip(uri, n, reason=f"reason {n}") for n in range(9)]
    made = section(build(output, [track(uri)], clips=clips), overview(output))
    assert next((name, n) for name, _, n, _ in made.reasons) == ("others", 6)
    assert len(made.reasons) == 4


def test_every_reason_of_the_job_is_explained():
    assert set(REASONS) == set(MEANINGS)


def test_moments_are_those_of_a_recording():
    assert [moment(s) for s in (0, 6.66, 59.96, 725, 3723.4)] == [
        "0:00.0",
        "0:06.7",
        "1:00.0",
        "12:05.0",
        "1:02:03.4",
    ]
    assert moment(59.6, 0) == "1:00"
