"""A service that masters are listened to by, with a real server, and songs for it."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import soundfile
import websocket

from pipeline.mastering import song as mastering_song
from pipeline.service.listening.app import application
from pipeline.service.listening.server import Server
from pipeline.service.listening.song import Song
from pipeline.service.listening.songs import Songs
from pipeline.service.logs import StepLog
from pipeline.workflows.master_presets import presets
from pipeline.workflows.master_service import songs_of
from pipeline.workflows.master_service_config import MasterServiceConfig

WAIT_S = 60.0
RATE = 22_050
PIECE = 1 << 15
"""Samples of a stretch here, 1.5 s: songs are short."""


class Service:
    """A running service.

    Args:
        songs, server, log: its parts.
        token: that it asks for.
    """

    def __init__(self, songs: Songs, server: Server, log: io.StringIO, token: str | None) -> None:
        self.songs, self.server, self.log, self.token = songs, server, log, token
        self.url = server.url

    def ask(self, method: str, path: str, said: Any = None, **more: Any) -> requests.Response:
        """One request, with the token where there is one."""
        headers = {
            **({"Authorization": f"Bearer {self.token}"} if self.token else {}),
            **more.pop("headers", {}),
        }
        return requests.request(method, self.url + path, json=said, headers=headers, timeout=WAIT_S, **more)

    def song(self, path: Path | str, **wish: Any) -> dict[str, Any]:
        """What is answered to a wish that is taken."""
        answer = self.ask("POST", "/songs", {"path": str(path), **wish})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def socket(self, song: dict[str, Any], after: int = 0, run: str = "", **more: Any) -> websocket.WebSocket:
        """A listener to the events of a song."""
        token = f"&token={self.token}" if self.token else ""
        url = f"{self.url.replace('http', 'ws', 1)}{song['events']}?after={after}&run={run}{token}"
        return websocket.create_connection(url, timeout=WAIT_S, **more)

    def events(self, song: dict[str, Any], after: int = 0, run: str = "") -> list[dict[str, Any]]:
        """All events behind a number, up to the last one that there will be."""
        listener = self.socket(song, after, run)
        try:
            return list(received(listener))
        finally:
            listener.close()

    def audio(self, song: dict[str, Any]) -> bytes:
        """The whole file."""
        answer = self.ask("GET", song["audio"])
        assert answer.status_code == 200, answer.text
        return answer.content


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def received(listener: websocket.WebSocket) -> Iterator[dict[str, Any]]:
    """Events until the service closes."""
    while text := listener.recv():
        yield json.loads(text)


@contextmanager
def service(root: Path, **listening: Any) -> Iterator[Service]:
    """A service that may read a folder."""
    config = MasterServiceConfig()
    config.listening.roots, config.listening.port = [str(root)], 0
    for key, value in listening.items():
        setattr(config.listening, key, value)
    config.check()
    text = io.StringIO()
    log = StepLog(text, service="listening", instance="test")
    songs, token = songs_of(config, log), config.listening.token
    songs.start()
    app = application(songs, presets(), log, token=token, names=config.listening.hosts())
    try:
        with Server(app, config.listening.host, 0) as server:
            yield Service(songs, server, text, token)
            songs.close()
    finally:
        songs.close()


class Gate:
    """Holds renderings up behind their first stretches: what is being made stays so until `open`."""

    def __init__(self) -> None:
        self.reached, self._free = threading.Event(), threading.Event()

    def open(self) -> None:
        self._free.set()

    def wait(self, song: Song) -> None:
        self.reached.set()
        while not (self._free.wait(0.01) or song._cancelled.is_set()):
            pass


@contextmanager
def closed_gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The machine is as slow as a test needs it: a rendering that has come to 30 % waits at the gate."""
    found, plain = Gate(), Song._progress

    def progress(song: Song, part: str, share: float) -> None:
        if part == "render" and share > 0.3:
            found.wait(song)
        plain(song, part, share)

    monkeypatch.setattr(Song, "_progress", progress)
    try:
        yield found
    finally:
        found.open()


def shorten_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches become as short as the songs of tests."""
    monkeypatch.setattr(mastering_song, "PIECE", PIECE)


def write_song(path: Path, seconds: float = 8.0, channels: int = 2, seed: int = 0) -> Path:
    """Chords with beats, quieter in the beginning."""
    rng, count = np.random.default_rng(seed), round(seconds * RATE)
    times = np.arange(count) / RATE
    tones = sum(
        np.sin(2 * np.pi * hz * times) / (n + 1) for n, hz in enumerate((110.0, 277.2, 329.6, 2000.0 + seed))
    )
    beats = rng.normal(size=count) * np.exp(-12.0 * (times % 0.5))
    mono = (0.1 * tones + 0.2 * beats) * np.minimum(1.0, 0.3 + times / seconds)
    samples = np.stack([mono * (1.0 - 0.2 * channel) for channel in range(channels)])
    soundfile.write(path, np.clip(samples, -1, 1).T, RATE, subtype="PCM_16")
    return path
