"""A WAV file that is sent while it is made."""

from __future__ import annotations

import asyncio
from typing import Any

from pipeline.service.listening.mistakes import Mistake
from pipeline.service.listening.song import DONE, ENDED, Song
from pipeline.service.listening.wav import wanted_bytes

_CHUNK = 1 << 16


class Playing:
    """The answer to whoever listens: an ASGI application. It waits for what is not rendered yet, and breaks off where
    the song fails.

    Args:
        song: what is heard.
        method: ``GET`` or ``HEAD``.
        range_header: which bytes are wanted; None for all.
        if_range: the tag under which those bytes are wanted, else all; None for any.
    """

    def __init__(self, song: Song, method: str, range_header: str | None, if_range: str | None) -> None:
        self._song, self._method = song, method
        self._tag = f'"{song.id}"'
        self._range = range_header if if_range in (None, self._tag) else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI."""
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await self._answer(scope, receive, send, gone)
        finally:
            gone.cancel()

    async def _answer(self, scope: Any, receive: Any, send: Any, gone: asyncio.Future) -> None:
        song = self._song
        with song.bell.heard() as rung:
            while song.form is None and song.state not in ENDED:
                if not await _rung(rung, gone):
                    return
            if song.form is None or (song.state in ENDED and song.state != DONE):
                failure = song.failure or {"what": "the song was given up", "why": "somebody did not want it"}
                again = "POST /songs with it, for another try"
                await Mistake(409, failure["what"], failure["why"], again)(scope, receive, send)
                return
            size = song.form.bytes
            try:
                wanted = wanted_bytes(self._range, size)
            except ValueError as error:
                whole = {"content-range": f"bytes */{size}"}
                wrong = Mistake(416, "no such part of the song", f"{error} are not there", headers=whole)
                await wrong(scope, receive, send)
                return
            start, stop = wanted or (0, size)
            await send(
                {
                    "type": "http.response.start",
                    "status": 200 if wanted is None else 206,
                    "headers": self._headers(start, stop, size, part=wanted is not None),
                }
            )
            if self._method == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            await self._send(start, stop, send, rung, gone)

    async def _send(self, at: int, stop: int, send: Any, rung: asyncio.Event, gone: asyncio.Future) -> None:
        song = self._song
        while at < stop and not gone.done():
            rung.clear()
            count = min(_CHUNK, stop - at, song.size() - at)
            if count <= 0:
                # Whoever listens learns by a connection that breaks off that this was not all.
                if song.state in ENDED or not await _rung(rung, gone):
                    return
                continue
            try:
                data = await asyncio.to_thread(song.read, at, count)
            except ValueError:  # closed
                return
            at += len(data)
            await send({"type": "http.response.body", "body": data, "more_body": at < stop})

    def _headers(self, start: int, stop: int, size: int, *, part: bool) -> list[tuple[bytes, bytes]]:
        headers = {
            "content-type": "audio/wav",
            "content-length": str(stop - start),
            "accept-ranges": "bytes",
            "etag": self._tag,
            "cache-control": "private, no-cache",
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "same-origin",
        }
        if part:
            headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
        return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _gone(receive: Any) -> None:
    """Until whoever asked has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _rung(rung: asyncio.Event, gone: asyncio.Future) -> bool:
    """Wait until something happens; whether whoever asked is still there."""
    ring = asyncio.ensure_future(rung.wait())
    try:
        await asyncio.wait({ring, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ring.cancel()
    rung.clear()
    return not gone.done()
