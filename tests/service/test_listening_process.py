"""The service that masters are listened to by, as it is typed: from its first line to SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from helpers.listening import WAIT_S, write_song

REPO = Path(__file__).resolve().parents[2]


def started(*words: str, **environment: str) -> subprocess.Popen:
    known = {key: value for key, value in os.environ.items() if key != "SOUNDMILL_LISTENING_TOKEN"}
    return subprocess.Popen(
        [sys.executable, str(REPO / "jobs" / "master_service.py"), *words],
        env={**known, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_listens_until_it_is_told_to_stop(tmp_path, number):
    song = write_song(tmp_path / "song.wav", 2.0)
    (tmp_path / "temporary").mkdir()
    token = "a-token-of-this-test"
    words = (f"listening.roots=[{tmp_path}]", "listening.port=0", f"listening.folder={tmp_path}/temporary")
    process = started(*words, SOUNDMILL_LISTENING_TOKEN=token)
    try:
        lines = []
        for line in process.stdout:
            lines.append(json.loads(line))
            if lines[-1]["step"] == "ready":
                break
        url = next(line["url"] for line in lines if line["step"] == "listening")
        header = {"Authorization": f"Bearer {token}"}
        asked = requests.post(f"{url}/songs", json={"path": str(song)}, headers=header, timeout=WAIT_S)
        assert asked.status_code == 201, asked.text
        audio = requests.get(url + asked.json()["audio"], headers=header, timeout=WAIT_S)
        assert audio.content[:4] == b"RIFF"
        process.send_signal(number)
        out, err = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    steps = [json.loads(line)["step"] for line in out.splitlines()]
    assert "stopping" in steps
    assert steps[-1] == "stopped"
    assert process.returncode == 0
    assert "Traceback" not in err
    assert token not in json.dumps(lines) + out + err
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_port_that_is_taken_is_said_in_words(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = started(f"listening.roots=[{tmp_path}]", f"listening.port={port}")
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 2
    assert f"listening.port={port} cannot be had" in err
    assert "Traceback" not in err
