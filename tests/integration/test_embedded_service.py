"""The karaoke service with servers of its own, as somebody tries it out: what it prints is typed."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from helpers.karaoke_service import REPO, Service, free_port, until

from pipeline.service import embedded

pytestmark = pytest.mark.timeout(200)
RATE = 44_100


@pytest.fixture
def songs(tmp_path, monkeypatch) -> Path:
    """The folder somebody stands in, with one song: a voice in the middle, a chord at the sides."""
    folder = tmp_path / "my songs"
    folder.mkdir()
    t = np.arange(2 * RATE) / RATE
    voice, chord = 0.3 * np.sin(2 * np.pi * 440 * t), 0.1 * np.sin(2 * np.pi * 220 * t)
    soundfile.write(folder / "a song.flac", np.stack([voice + chord, voice - chord], axis=1), RATE)
    monkeypatch.chdir(folder)
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "ELASTICSEARCH_URL", "SERVICE_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return folder


def keys(kafka: int, search: int) -> list[str]:
    return [
        "service.embedded=true",
        f"service.kafka=localhost:{kafka}",
        f"service.search_url=http://localhost:{search}",
        "service.parallel=1",
        "karaoke.method=midside",
    ]


def typed(line: str, *more: str) -> str:
    """What a command that was printed says when it is typed in the folder."""
    done = subprocess.run([*shlex.split(line), *more], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_it_prints_is_typed_and_nothing_is_left_when_it_is_killed(songs, tmp_path):
    kafka, search = free_port(), free_port()
    with Service(tmp_path / "service", keys(kafka, search)) as service:
        service.ready()
        lines = service.log.read_text().splitlines()
        start = next(n for n, line in enumerate(lines) if line.startswith("In another terminal"))
        assert lines[start] == f"In another terminal, in the folder {songs}:"
        send, answers = lines[start + 1 : start + 3]
        assert json.loads(typed(send))["original_path"] == str(songs / "a song.flac")
        answer = json.loads(typed(answers, "--count", "1"))
        assert (answer["video_id"], answer["status"]) == ("a-song", "vocals_processed")
        assert answer["vocals_removed_path"] == str(songs / "vocals_removed.mp3")
        made, _ = soundfile.read(songs / "vocals_removed.mp3")
        assert abs(len(made) - 2 * RATE) < 100
        words = send[: send.index(" send ")]
        typed(f"{words} send /elsewhere/x.mp3")
        refused = [json.loads(line) for line in typed(answers, "--count", "2").splitlines()][1]
        assert refused["error"]["code"] == "PATH_NOT_ALLOWED"
        [letter] = typed(f"{words} dead --again --code PATH_NOT_ALLOWED").splitlines()
        assert json.loads(letter) == {
            "video_id": "x", "error_code": "PATH_NOT_ALLOWED", "reason": refused["error"]["message"]
        }  # fmt: skip
        assert len(typed(answers, "--count", "3").splitlines()) == 3, "it was asked for again"
        assert typed(f"{words} dead --code DISK_FULL") == typed(f"{words} dead --video-id nobody") == ""
        assert all(line["step"] != "broker" for line in service.steps())
        started = psutil.Process(service.process.pid).children(recursive=True)
        assert "noida-db" in {process.name() for process in started}
        service.kill()
        until(
            lambda: not any(running(process) for process in started),
            "everything that it started has ended",
            20,
        )
    for port in (kafka, search):
        with socket.socket() as found:
            assert found.connect_ex(("127.0.0.1", port)) != 0


def running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("taken", "advice"), [(0, "service.kafka=localhost:"), (1, "service.search_url=http://localhost:")]
)
def test_a_port_that_is_taken_is_said_before_anything_is_loaded(songs, tmp_path, taken, advice):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        ports = (port, free_port()) if taken == 0 else (free_port(), port)
        done = subprocess.run(
            [
                sys.executable, str(REPO / "jobs" / "karaoke_service.py"), *keys(*ports), "service.workers=inline",
                f"service.state_dir={tmp_path / 'state'}",
            ],
            capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    assert done.returncode == 2
    assert "looking for the models" not in done.stdout
    said = done.stderr[done.stderr.index("error: ") :].splitlines()
    assert said[0] == f"error: service.embedded=true wants port {port}, which is taken"
    assert said[2].startswith(f"type:  {advice}{port + 1}, or service.embedded=false ")
    assert len(said) == 3


def test_without_its_package_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        embedded.UserError, match=r"noida-db .*pip install -c constraints.txt -e '\.\[embedded\]'"
    ):
        embedded.Embedded(tmp_path, 0, 0)


def test_a_port_is_free_again_as_soon_as_its_server_has_ended():
    """What is left of its connections, in the state TIME_WAIT, is no server."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # who closes first keeps the port
    left = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
    assert [c.status for c in left] == ["TIME_WAIT"]
    assert embedded._free("service.kafka", port) == port
