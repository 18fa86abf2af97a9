"""Who may listen to a master, to which songs, and what is refused: a real server, real WebSockets."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import requests
import websocket
from helpers.listening import (
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

from pipeline.service.listening import app

MISTAKE = {"what", "why", "type"}


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    write_song(folder / "song.wav")
    write_song(folder / "mono.wav", 3.0, channels=1)
    return folder


@pytest.fixture(scope="module")
def running(music) -> Service:
    with service(music) as found:
        yield found


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch) -> None:
    shorten_stretches(monkeypatch)


@pytest.fixture
def gate(monkeypatch) -> Iterator[Gate]:
    with closed_gate(monkeypatch) as found:
        yield found


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{outside}/secret.wav", 403),
        ("{music}/link.wav", 403),
        ("{music}/../outside/secret.wav", 403),
        ("{music}/folder-link/secret.wav", 403),
        ("/etc/passwd", 403),
        ("song.wav", 403),
        ("{music}/song.wav\0", 403),
        ("https://example.org/song.wav", 403),
        ("{music}/missing.wav", 404),
        ("{music}", 422),
        ("{music}/pipe", 422),
    ],
)
def test_only_files_below_the_roots_are_read(tmp_path, path, status):
    music, outside = tmp_path / "music", tmp_path / "outside"
    music.mkdir()
    outside.mkdir()
    write_song(outside / "secret.wav", 1.0)
    (music / "link.wav").symlink_to(outside / "secret.wav")
    (music / "folder-link").symlink_to(outside)
    os.mkfifo(music / "pipe")
    with service(music) as running:
        said = path.format(music=music, outside=outside)
        for wish in ({"path": said}, {"url": said}):
            answer = running.ask("POST", "/songs", wish)
            assert answer.status_code == status, answer.text
            assert set(answer.json()) == MISTAKE
            assert answer.json()["what"]
        assert running.songs.all() == []


@pytest.mark.parametrize(
    ("said", "status", "word"),
    [
        ({}, 422, "neither path nor url"),
        ({"path": "SONG", "url": "SONG"}, 422, "path and url"),
        ({"path": 3}, 422, "path is no text"),
        ({"path": "SONG", "preset": "worm"}, 422, "did you mean warm?"),
        ({"path": "SONG", "persona": "warm"}, 422, "no key of a wish"),
        ({"path": "SONG", "format": "mp3"}, 422, "no key of a wish"),
        ({"path": "SONG", "amount": "1"}, 422, "amount must be a number"),
        ({"path": "SONG", "amount": True}, 422, "amount must be a number"),
        ({"path": "SONG", "amount": 2}, 422, "amount=2 must lie within 0..1"),
        ({"path": "SONG", "lufs": 3}, 422, "lufs=3"),
        ({"path": "SONG", "mode": "reference"}, 422, "needs a reference"),
        ({"path": "SONG", "reference": "SONG"}, 422, "mode=adaptive does not listen"),
        ({"path": "SONG", "mode": "reference", "reference": "/etc/passwd"}, 403, "allowed roots"),
        ({"path": "SONG", "lufs": -(10**400)}, 422, "too large"),
        ({"path": "SONG", "ceiling_dbtp": "x"}, 422, "ceiling_dbtp must be a number"),
        ({"path": "SONG\ud800"}, 400, "no JSON object"),
        ({"path": "SONG", "mode": "reference", "reference": "\ud800"}, 400, "no JSON object"),
        ({"path": "SONG", "\ud800": 1}, 400, "no JSON object"),
        ({"url": "http://[/a?"}, 403, "no plain URL"),
        ({"path": "SONG", "mode": "reference", "reference": [f"/{n}" for n in range(9)]}, 422, "has 9 songs"),
        ([1], 400, "no JSON object"),
    ],
)
def test_what_cannot_be_is_refused_in_words(running, music, said, status, word):
    text = json.dumps(said).replace("SONG", str(music / "song.wav"))
    answer = running.ask("POST", "/songs", json.loads(text))
    assert answer.status_code == status
    assert set(answer.json()) == MISTAKE
    assert word in answer.json()["what"]
    assert "master." not in answer.text


def test_what_is_no_json_is_refused(running):
    for data, content_type, status in (
        (b"{", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b" " * 70_000, "application/json", 413),
        (b'{"path": "x"}', "text/plain", 415),
    ):
        answer = requests.post(
            running.url + "/songs", data, headers={"Content-Type": content_type}, timeout=WAIT_S
        )
        assert (answer.status_code, set(answer.json())) == (status, MISTAKE)


def test_what_is_not_there_is_said(running):
    for method, path in (
        ("GET", "/songs/0"),
        ("DELETE", "/songs/0"),
        ("GET", "/songs/0/audio"),
        ("GET", "/nothing"),
    ):
        answer = running.ask(method, path)
        assert (answer.status_code, set(answer.json())) == (404, MISTAKE)
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        running.socket({"events": "/songs/0/events"})
    assert refused.value.status_code == 404


@pytest.mark.parametrize("after", ["-1", "x", "1.5", ""])
def test_a_number_that_is_none_is_refused(running, music, after):
    song = running.song(music / "mono.wav")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        running.socket(song, after=after)
    assert refused.value.status_code == 422


def test_listeners_leave_room_for_what_else_is_asked(running, music, gate, monkeypatch):
    monkeypatch.setattr(app, "LISTENERS", 2)
    song = running.song(music / "song.wav", preset="tidal")
    two = [running.socket(song) for _ in range(2)]
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        running.socket(song)
    assert refused.value.status_code == 503
    assert running.ask("GET", f"/songs/{song['id']}").status_code == 200
    gate.open()
    assert [list(received(one))[-1]["type"] for one in two] == ["done", "done"]

    def answered() -> bool:
        try:
            return running.events(song)[-1]["type"] == "done"
        except websocket.WebSocketBadStatusException:  # those two have not left yet
            return False

    eventually(answered)


def test_more_than_is_kept_gives_way(music):
    with service(music, songs=2, recordings=1) as running:
        songs = [running.song(music / "mono.wav", preset="warm")]
        kept = running.songs.get(songs[0]["id"])
        for preset in ("bright", "live"):
            running.events(songs[-1])
            songs.append(running.song(music / "mono.wav", preset=preset))
        running.events(songs[-1])
        assert running.ask("GET", f"/songs/{songs[0]['id']}").status_code == 404
        with pytest.raises(ValueError, match="closed"):
            kept.read(0, 1)
        assert [song["id"] for song in running.ask("GET", "/songs").json()] == [
            s["id"] for s in reversed(songs[1:])
        ]


def test_too_much_at_once_is_refused(music, gate):
    with service(music, songs=1, workers=1) as running:
        song = running.song(music / "mono.wav", preset="warm")
        assert gate.reached.wait(WAIT_S)
        answer = running.ask("POST", "/songs", {"path": str(music / "mono.wav"), "preset": "live"})
        assert (answer.status_code, set(answer.json())) == (503, MISTAKE)
        assert running.song(music / "mono.wav", preset="warm")["id"] == song["id"]
        gate.open()
        running.events(song)
        running.song(music / "mono.wav", preset="live")


def test_a_token_is_asked_of_everybody(music):
    token = "a-token-of-this-test"
    with service(music, token=token) as running:
        song = running.song(music / "mono.wav")
        assert running.events(song)[-1]["type"] == "done"
        assert len(running.audio(song)) == running.ask("GET", f"/songs/{song['id']}").json()["bytes"]
        assert requests.get(f"{running.url}{song['audio']}?token={token}", timeout=WAIT_S).status_code == 200
        for path in ("/songs", "/presets", song["audio"], f"/songs/{song['id']}"):
            for headers in (
                {},
                {"Authorization": "Bearer a-token-of-this-tesT"},
                {"Authorization": "Basic x"},
            ):
                answer = requests.get(running.url + path, headers=headers, timeout=WAIT_S)
                assert (answer.status_code, set(answer.json())) == (401, MISTAKE)
                assert token not in answer.text
        wrong = f"{running.url.replace('http', 'ws', 1)}{song['events']}?token=wrong-token-%C3%A4"
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            websocket.create_connection(wrong, timeout=WAIT_S)
        assert refused.value.status_code == 401
        # The page has nothing in it, and says by itself that it needs one.
        assert requests.get(running.url, timeout=WAIT_S).status_code == 200
        assert requests.get(running.url + "/healthz", timeout=WAIT_S).json() == {"status": "ok"}
    assert token not in running.log.getvalue()


def test_it_answers_where_it_listens(music):
    with service(music, host="127.0.0.2") as running:
        assert running.url.startswith("http://127.0.0.2:")
        assert running.ask("GET", "/presets").status_code == 200
        assert running.ask("GET", "/presets", headers={"Host": "127.0.0.3"}).status_code == 403


def test_a_file_whose_name_is_no_text_breaks_nothing(tmp_path):
    write_song(tmp_path / "song.wav", 1.0).rename(tmp_path / "caf\udce9.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "caf\udce9.wav")
    with service(tmp_path) as running:
        song = running.song(tmp_path / "link.wav")
        assert [one["name"] for one in running.ask("GET", "/songs").json()] == ["caf?.wav"]
        assert running.events(song)[-1]["type"] == "done"


def test_pages_of_other_sites_are_kept_out(running, music):
    song = running.song(music / "mono.wav")
    here = running.url.removeprefix("http://")
    evil, own = {"Origin": "http://evil.example"}, {"Origin": running.url}
    for headers in ({"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Host": ""}, evil):
        for method, path in (
            ("GET", "/songs"),
            ("GET", "/"),
            ("POST", "/songs"),
            ("DELETE", f"/songs/{song['id']}"),
        ):
            answer = running.ask(method, path, {} if method == "POST" else None, headers=headers)
            assert (answer.status_code, set(answer.json())) == (403, MISTAKE)
    for origin in ("http://evil.example", "null", f"http://{here}.evil.example"):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            running.socket(song, origin=origin)
        assert refused.value.status_code == 403
    assert running.ask("GET", "/songs", headers=own).status_code == 200
    running.socket(song, origin=running.url).close()
    assert running.ask("GET", "/songs", headers={"Host": "localhost"}).status_code == 200


def test_a_song_from_the_web(music, tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(music))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{web.server_port}/"
        with service(music, roots=[root, str(music)], max_download_mb=1) as running:
            answer = running.ask("POST", "/songs", {"url": f"{root}mono.wav", "preset": "warm"})
            assert answer.status_code == 201, answer.text
            assert running.events(answer.json())[-1]["type"] == "done"
            assert running.song(music / "mono.wav", preset="warm")["id"] == answer.json()["id"]
            for name, status in (("missing.wav", 404), ("../mono.wav", 403), ("mono.wav?x=1", 403)):
                assert running.ask("POST", "/songs", {"url": root + name}).status_code == status
            (music / "large.bin").write_bytes(bytes(1_000_001))
            answer = running.ask("POST", "/songs", {"url": f"{root}large.bin"})
            assert (answer.status_code, answer.json()["what"]) == (
                422,
                "large.bin has more than 1000000 bytes",
            )
        web.shutdown()


@pytest.mark.parametrize("methods", [("HEAD", "GET"), ("GET",)])
def test_no_server_leads_it_elsewhere(music, methods):
    asked: list[str] = []
    data = (music / "mono.wav").read_bytes()

    class Leading(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.path)
            port = self.server.server_port
            places = {
                "/songs/absolute.wav": f"http://127.0.0.1:{port}/secret/mono.wav",
                "/songs/relative.wav": "../secret/mono.wav",
                "/songs/host.wav": f"//localhost:{port}/songs/mono.wav",
                "/songs/moved.wav": "mono.wav",
            }
            place = places.get(self.path) if self.command in methods else None
            self.send_response(302 if place else 200)
            if place:
                self.send_header("Location", place)
            self.send_header("Content-Length", "0" if place else str(len(data)))
            self.end_headers()
            if self.command == "GET" and not place:
                self.wfile.write(data)

        do_GET = do_HEAD = answer

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Leading) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{web.server_port}/songs/"
        with service(music, roots=[root]) as running:
            for name in ("absolute.wav", "relative.wav", "host.wav"):
                answer = running.ask("POST", "/songs", {"url": root + name})
                assert (answer.status_code, set(answer.json())) == (403, MISTAKE), answer.text
                assert "is redirected" in answer.json()["what"]
            assert [
                path for path in asked if not path.startswith("/songs/") or path.endswith("/mono.wav")
            ] == []
            answer = running.ask("POST", "/songs", {"url": root + "moved.wav"})
            assert answer.status_code == 201, answer.text
            assert "/songs/mono.wav" in asked
        web.shutdown()
