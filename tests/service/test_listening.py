"""Masters that are listened to before they are done: a real server, real WebSockets."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import requests
import soundfile
import torch  # noqa: F401  before the service begins: its threads then compute as that of the tests does
from helpers.decode_poison import OPENER
from helpers.listening import (
    PIECE,
    RATE,
    WAIT_S,
    Gate,
    Service,
    closed_gate,
    eventually,
    received,
    service,
    shorten_stretches,
    write_song,
)

from pipeline.audio.isolated_stream import StreamDecoder
from pipeline.audio.reader import Spool
from pipeline.audio.stream import open_file
from pipeline.audio.validate import Limits
from pipeline.mastering import shaped
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import Mastering
from pipeline.mastering.wish import Wish
from pipeline.service.listening.decoders import Decoders
from pipeline.workflows.master_presets import presets


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    write_song(folder / "song.wav")
    write_song(folder / "other.wav", 6.0, seed=1)
    write_song(folder / "mono.wav", 3.0, channels=1)
    (folder / "broken.wav").write_text("no sound\n" * 100)
    return folder


@pytest.fixture(scope="module")
def running(music) -> Service:
    """A service that sends floats, so that what is heard can be compared to the last bit."""
    with service(music, bits=32) as found:
        yield found


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch) -> None:
    shorten_stretches(monkeypatch)


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    with closed_gate(monkeypatch) as found:
        yield found


def kinds(events: list[dict]) -> list[str]:
    """Kinds of events in the order in which they first come."""
    return list(dict.fromkeys(event["type"] for event in events))


@pytest.mark.parametrize(
    ("name", "preset"), [("song.wav", "warm"), ("song.wav", "spotify"), ("mono.wav", "club")]
)
def test_what_is_heard_is_what_the_plan_says(running, music, name, preset):
    song = running.song(music / name, preset=preset)
    heard, rate = soundfile.read(io.BytesIO(running.audio(song)), dtype="float32", always_2d=True)
    plan = next(event for event in running.events(song) if event["type"] == "plan")
    with open_file(music / name) as stream:
        recording = Spool.of(stream, stream.channels)
    with Mastering(recording, RATE, Wish(presets()[preset], preset)) as mastering:
        expected = mastering.settle()
        samples = np.concatenate(list(mastering.rendered(expected)), axis=1)
    recording.close()
    assert Plan.from_json(json.dumps(plan["plan"])) == expected
    assert (rate, plan["lufs"]) == (RATE, expected.lufs)
    np.testing.assert_array_equal(heard.T, samples)


def test_events_tell_the_way_to_a_master(running, music):
    song = running.song(music / "song.wav", preset="punchy")
    events = running.events(song)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert kinds(events) == ["analysis", "plan", "stretch", "done"]
    plan = next(event for event in events if event["type"] == "plan")
    stretches = [event for event in events if event["type"] == "stretch"]
    assert stretches[0]["from_s"] == 0.0
    assert stretches[-1]["to_s"] == plan["duration_s"] == 8.0
    assert [s["to_s"] for s in stretches[:-1]] == [s["from_s"] for s in stretches[1:]]
    assert len(stretches) == -(-8 * RATE // PIECE)
    done = events[-1]
    assert done["after"]["lufs"] == pytest.approx(plan["lufs"], abs=0.02)
    assert stretches[-1]["lufs"] == pytest.approx(done["after"]["lufs"], abs=1e-3)
    most = max(s["gain_reduction_db"] for s in stretches)
    assert most == pytest.approx(done["max_gain_reduction_db"], abs=1e-6)
    assert most > 0.1
    state = running.ask("GET", f"/songs/{song['id']}").json()
    assert state["state"] == "done"
    assert {"decode", "listen", "plan", "first_sound", "render"} <= set(state["seconds"])
    assert state["rendered_s"] == state["duration_s"] == 8.0


def test_who_leaves_and_comes_back_gets_the_rest(running, music, gate):
    song = running.song(music / "other.wav", preset="bright")
    first = running.socket(song)
    before = []
    for event in received(first):
        before.append(event)
        if event["type"] == "stretch":
            break
    first.close()
    assert gate.reached.wait(WAIT_S)
    again = running.socket(song, after=before[-1]["n"])
    third = running.socket(song)
    gate.open()
    rest, whole = list(received(again)), list(received(third))
    assert [event["n"] for event in before + rest] == list(range(1, len(before) + len(rest) + 1))
    assert rest[-1]["type"] == "done"
    assert whole == before + rest
    # After everything is over: all of it, what is left of it, and nothing.
    assert running.events(song) == whole
    assert running.events(song, after=whole[-2]["n"]) == whole[-1:]
    assert running.events(song, after=10_000) == []


def test_it_plays_while_it_is_rendered(running, music, gate):
    song = running.song(music / "song.wav", preset="live")
    assert gate.reached.wait(WAIT_S)
    state = running.ask("GET", f"/songs/{song['id']}").json()
    assert state["state"] == "render"
    assert 0 < state["rendered_s"] < state["duration_s"]
    answer = running.ask("GET", song["audio"], stream=True)
    assert int(answer.headers["Content-Length"]) == state["bytes"]
    begun = answer.raw.read(1000)
    late = running.ask("GET", song["audio"], stream=True, headers={"Range": f"bytes={state['bytes'] - 100}-"})
    assert (late.status_code, late.headers["Content-Length"]) == (206, "100")
    gate.open()
    whole = begun + answer.raw.read()
    assert len(whole) == state["bytes"]
    assert late.raw.read() == whole[-100:]
    assert whole == running.audio(song)


def test_slow_listeners_hold_nothing_up(running, music):
    song = running.song(music / "song.wav", preset="gentle")
    idle = [running.ask("GET", song["audio"], stream=True) for _ in range(3)]
    asleep = [running.socket(song) for _ in range(3)]
    assert running.events(song)[-1]["type"] == "done"
    for one in (*idle, *asleep):
        one.close()


def test_asked_twice_is_made_once(running, music, tmp_path):
    wish = {"preset": "warm", "amount": 0.5}
    first = running.ask("POST", "/songs", {"path": str(music / "song.wav"), **wish})
    events = running.events(first.json())
    made = running.songs.analysis.recordings.made
    again = running.ask("POST", "/songs", {"path": str(music / "song.wav"), **wish})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    assert running.events(again.json()) == events
    # Of the content, not of the name.
    copy = music / "copy.wav"
    copy.write_bytes((music / "song.wav").read_bytes())
    assert running.song(copy, **wish)["id"] == first.json()["id"]
    assert running.songs.analysis.recordings.made == made


def test_another_preset_needs_no_other_analysis(running, music):
    song = running.song(music / "song.wav", preset="warm", amount=0.7)
    running.events(song)
    analysis = running.songs.analysis
    before = analysis.heard.made, analysis.recordings.made
    answer = running.ask("POST", f"/songs/{song['id']}/preset", {"preset": "bright"})
    other = answer.json()
    assert answer.status_code == 201
    assert other["id"] != song["id"]
    assert other["asked"] == {"preset": "bright", "amount": 0.7}
    events = running.events(other)
    assert kinds(events) == ["analysis", "plan", "stretch", "done"]
    assert {event["part"] for event in events if event["type"] == "analysis"} == {"plan"}
    assert (analysis.heard.made, analysis.recordings.made) == before
    seconds = events[-1]["seconds"]
    assert seconds["decode"] == seconds["listen"] == 0.0
    assert seconds["plan"] > 0
    back = running.ask("POST", f"/songs/{other['id']}/preset", {"preset": "warm"})
    assert (back.status_code, back.json()["id"]) == (200, song["id"])
    plain = running.ask("POST", f"/songs/{song['id']}/preset", {"amount": None})
    assert plain.json()["asked"] == {"preset": "warm"}


def test_a_master_that_sounds_like_another_song(running, music):
    song = running.song(music / "song.wav", mode="reference", reference=str(music / "other.wav"))
    events = running.events(song)
    assert events[-1]["type"] == "done"
    plan = next(event for event in events if event["type"] == "plan")["plan"]
    assert plan["references"] == [hashlib.sha256((music / "other.wav").read_bytes()).hexdigest()]
    assert plan["wish"]["mode"] == "reference"


def test_a_fingerprint_is_taken_where_it_is_asked_for(running, music):
    plain = running.song(music / "other.wav", preset="club")
    whole = running.song(music / "other.wav", preset="club", fingerprint=True)
    assert plain["id"] != whole["id"]
    assert {event.get("part") for event in running.events(whole)} >= {"fingerprint"}
    assert "fingerprint" not in {event.get("part") for event in running.events(plain)}
    made = running.songs.analysis.fingerprints.made
    running.events(running.song(music / "other.wav", preset="live", fingerprint=True))
    assert running.songs.analysis.fingerprints.made == made == 1


def test_a_part_of_the_file(running, music):
    song = running.song(music / "mono.wav", preset="apple")
    whole = running.audio(song)
    size = len(whole)

    def part(wanted: str, **more: str) -> requests.Response:
        return running.ask("GET", song["audio"], headers={"Range": wanted, **more})

    for wanted, start, stop in (
        ("bytes=0-", 0, size),
        ("bytes=10-19", 10, 20),
        (f"bytes={size - 5}-{size + 100}", size - 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{size + 7}", 0, size),
    ):
        answer = part(wanted)
        assert answer.status_code == 206
        assert answer.content == whole[start:stop]
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
    for wanted in ("bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,5-6"):
        answer = part(wanted)
        assert (answer.status_code, answer.content) == (200, whole)
    for wanted in (f"bytes={size}-", "bytes=-0"):
        answer = part(wanted)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, f"bytes */{size}")
    tag = running.ask("HEAD", song["audio"]).headers["ETag"]
    assert part("bytes=0-9", **{"If-Range": tag}).status_code == 206
    assert part("bytes=0-9", **{"If-Range": '"another"'}).status_code == 200
    head = running.ask("HEAD", song["audio"])
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(size), b"")
    assert running.ask("PUT", song["audio"]).status_code == 405


def test_a_song_that_nobody_wants_any_more_ends(running, music, gate):
    song = running.song(music / "song.wav", preset="broadcast")
    listener = running.socket(song)
    assert gate.reached.wait(WAIT_S)
    playing = running.ask("GET", song["audio"], stream=True)
    assert running.ask("DELETE", f"/songs/{song['id']}").status_code == 200
    assert list(received(listener))[-1]["type"] == "cancelled"
    with pytest.raises(requests.exceptions.ChunkedEncodingError) as broken:
        _ = playing.content
    assert isinstance(broken.value.args[0].args[1], IncompleteRead)
    assert running.ask("GET", f"/songs/{song['id']}").status_code == 404
    gate.open()
    again = running.song(music / "song.wav", preset="broadcast")
    assert again["id"] == song["id"]
    assert running.events(again)[-1]["type"] == "done"


def test_who_counts_the_events_of_an_earlier_run_gets_all_of_this_one(running, music):
    first = running.events(running.song(music / "mono.wav", preset="punchy"))
    song = running.song(music / "mono.wav", preset="punchy")
    last, run = first[-1]["n"], first[-1]["run"]
    assert running.events(song, last - 1, run) == first[-1:]
    running.ask("DELETE", f"/songs/{song['id']}")
    again = running.song(music / "mono.wav", preset="punchy")
    assert again["id"] == song["id"]
    events = running.events(again, last, run)
    assert [event["n"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "done"
    assert {event["run"] for event in events} != {run}


def test_a_song_that_fails_says_why(running, music):
    song = running.song(music / "broken.wav")
    last = running.events(song)[-1]
    assert (last["type"], last["what"]) == ("failed", "broken.wav cannot be decoded")
    assert last["code"] == "FORMAT_UNSUPPORTED"
    assert "not an audio file" in last["why"]
    assert running.ask("GET", f"/songs/{song['id']}").json()["failure"] == {
        k: last[k] for k in ("code", "what", "why")
    }
    answer = running.ask("GET", song["audio"])
    assert (answer.status_code, answer.json()["what"]) == (409, last["what"])
    again = running.ask("POST", "/songs", {"path": str(music / "broken.wav")})
    assert (again.status_code, again.json()["id"]) == (201, song["id"])  # it is tried anew
    assert running.events(again.json())[-1]["type"] == "failed"


def test_all_temporary_files_lie_in_the_folder_that_was_named(music, tmp_path, monkeypatch):
    monkeypatch.setattr(shaped, "_IN_MEMORY", 0)  # a song is long
    made, plain = [], tempfile.TemporaryFile

    def temporary(*arguments, **named):
        made.append((named.get("prefix"), named.get("dir")))
        return plain(*arguments, **named)

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    with service(music, folder=str(tmp_path)) as running:
        assert running.events(running.song(music / "mono.wav", preset="warm"))[-1]["type"] == "done"
    assert {prefix for prefix, _ in made} == {"soundmill-listening-", "soundmill-pcm-"}
    assert {folder for _, folder in made} == {str(tmp_path)}


def test_a_service_that_ends_tells_who_listens(music, gate):
    with service(music) as running:
        song = running.song(music / "song.wav", preset="warm")
        listener = running.socket(song)
        assert gate.reached.wait(WAIT_S)
    assert list(received(listener))[-1]["type"] == "cancelled"
    eventually(lambda: not any(thread.is_alive() for thread in running.songs._threads))


def test_a_song_that_kills_its_decoder_is_an_answer_and_the_service_goes_on(music, tmp_path):
    shutil.copy(music / "mono.wav", tmp_path / "kill.wav")
    shutil.copy(music / "other.wav", tmp_path / "song.wav")
    with service(tmp_path) as running:
        running.songs.analysis.decoders = Decoders(lambda: StreamDecoder(Limits(), opener=OPENER))
        last = running.events(running.song(tmp_path / "kill.wav"))[-1]
        assert (last["type"], last["code"]) == ("failed", "FILE_UNREADABLE")
        assert last["what"] == "kill.wav cannot be decoded"
        assert last["why"].startswith("the decoder was ended by SIGKILL")
        assert running.ask("GET", "/healthz").status_code == 200
        assert running.events(running.song(tmp_path / "song.wav"))[-1]["type"] == "done"
