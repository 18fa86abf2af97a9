"""What can be asked of the service by HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from importlib import resources
from typing import Any

from pipeline.errors import UserError
from pipeline.mastering.presets import Preset
from pipeline.service.listening.guard import Guard
from pipeline.service.listening.mistakes import SAFE, Mistake
from pipeline.service.listening.playing import Playing
from pipeline.service.listening.song import Song
from pipeline.service.listening.songs import Songs, TooMany
from pipeline.service.logs import StepLog
from pipeline.service.messages import FILE_NOT_FOUND, PATH_NOT_ALLOWED, STORAGE_FAILED, Refused

MOST_BYTES = 64 << 10
"""Of what is asked."""
LISTENERS = 128
"""To events; half of `pipeline.service.listening.server.CONNECTIONS` is left for whatever else is asked."""
_ASKERS = 4
_STATUS = {PATH_NOT_ALLOWED: 403, FILE_NOT_FOUND: 404, STORAGE_FAILED: 502}
_ROOTS = "listening.roots of the service says where songs may lie"


def application(
    songs: Songs,
    presets: Mapping[str, Preset],
    log: StepLog,
    *,
    token: str | None,
    names: Collection[str] = (),
) -> Any:
    """The ASGI application.

    Args:
        songs: what is asked.
        presets: that there are.
        log: where mistakes of ours are told.
        token: that whoever asks needs; None for none.
        names: see `pipeline.service.listening.guard.Guard`.
    """
    from starlette.applications import Starlette

    app = Starlette(routes=_Routes(songs, presets).routes(), exception_handlers=_handlers(log))
    return Guard(app, token, names)


def _handlers(log: StepLog) -> dict[Any, Callable]:
    from starlette.exceptions import HTTPException

    async def mistake(request: Any, error: Mistake) -> Any:
        return error.answer()

    async def wrong(request: Any, error: UserError) -> Any:
        status = 503 if isinstance(error, TooMany) else 422
        return Mistake(status, error.what, error.why, error.do).answer()

    async def refused(request: Any, error: Refused) -> Any:
        why = _ROOTS if error.code == PATH_NOT_ALLOWED else ""
        return Mistake(
            _STATUS.get(error.code, 422), str(error), why, "the path or url of another song"
        ).answer()

    async def http(request: Any, error: HTTPException) -> Any:
        what = f"{request.method} {request.url.path}: {error.detail}"
        return Mistake(error.status_code, what, do="GET /", headers=error.headers).answer()

    async def bug(request: Any, error: Exception) -> Any:
        log.step("bug", level="error", path=request.url.path, error=f"{type(error).__name__}: {error}")
        return Mistake(500, "the service made a mistake", "its log says which").answer()

    return {Mistake: mistake, UserError: wrong, Refused: refused, HTTPException: http, Exception: bug}


class _Routes:
    def __init__(self, songs: Songs, presets: Mapping[str, Preset]) -> None:
        self._songs, self._presets = songs, presets
        self._page, self._policy = _page()
        self._listeners = 0
        # Their own: a server that a song is fetched from may take its time, and who listens already needs threads, too.
        self._askers = ThreadPoolExecutor(_ASKERS, "asked")

    def routes(self) -> list[Any]:
        from starlette.routing import Route, WebSocketRoute

        return [
            Route("/", self.page),
            Route("/healthz", self.health),
            Route("/presets", self.presets),
            Route("/songs", self.ask, methods=["POST"]),
            Route("/songs", self.all),
            Route("/songs/{id}", self.state),
            Route("/songs/{id}", self.remove, methods=["DELETE"]),
            Route("/songs/{id}/preset", self.again, methods=["POST"]),
            Route("/songs/{id}/audio", _Audio(self._songs)),
            WebSocketRoute("/songs/{id}/events", self.events),
        ]

    async def page(self, request: Any) -> Any:
        from starlette.responses import HTMLResponse

        return HTMLResponse(self._page, headers={**SAFE, "content-security-policy": self._policy})

    async def health(self, request: Any) -> Any:
        return _json({"status": "ok"})

    async def presets(self, request: Any) -> Any:
        return _json({name: asdict(preset) for name, preset in self._presets.items()})

    async def ask(self, request: Any) -> Any:
        said = await _body(request)
        return _asked(*await self._in_a_thread(self._songs.ask, said))

    async def again(self, request: Any) -> Any:
        song = self._song(request)
        said = await _body(request)
        return _asked(*await self._in_a_thread(self._songs.again, song, said))

    async def all(self, request: Any) -> Any:
        return _json([song.summary() for song in self._songs.all()])

    async def state(self, request: Any) -> Any:
        return _json(self._song(request).summary())

    async def remove(self, request: Any) -> Any:
        song = self._song(request)
        await asyncio.to_thread(self._songs.remove, song)
        return _json(song.summary())

    async def events(self, socket: Any) -> None:
        song = self._songs.get(socket.path_params["id"])
        after = socket.query_params.get("after", "0")
        if song is None:
            await _unknown(socket.path_params["id"])(socket.scope, socket.receive, socket.send)
            return
        if not re.fullmatch(r"\d{1,9}", after):
            what, why = f"after={after} is no number of an event", "they count from 1; 0 is before the first"
            await Mistake(422, what, why, "after=0")(socket.scope, socket.receive, socket.send)
            return
        if self._listeners >= LISTENERS:
            what, do = (
                f"{LISTENERS} listen to events already",
                f"GET /songs/{song.id}, or the same again later",
            )
            await Mistake(503, what, "others have to be answered, too", do)(
                socket.scope, socket.receive, socket.send
            )
            return
        # Who counts the events of another run has seen none of this one.
        another = socket.query_params.get("run", "") not in ("", song.events.run)
        self._listeners += 1
        try:
            await socket.accept()
            await _until_either(_tell(socket, song, 0 if another else int(after)), _gone(socket))
        finally:
            self._listeners -= 1

    async def _in_a_thread(self, ask: Callable, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._askers, ask, *arguments)

    def _song(self, request: Any) -> Song:
        name = request.path_params["id"]
        song = self._songs.get(name)
        if song is None:
            raise _unknown(name)
        return song


class _Audio:
    """Not a function: what it answers with is an ASGI application of its own."""

    def __init__(self, songs: Songs) -> None:
        self._songs = songs

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        request = Request(scope)
        if request.method not in ("GET", "HEAD"):
            what, allowed = "only GET and HEAD are for audio", {"allow": "GET, HEAD"}
            await Mistake(405, what, do=f"GET {request.url.path}", headers=allowed)(scope, receive, send)
            return
        name, headers = request.path_params["id"], request.headers
        song = self._songs.get(name)
        if song is None:
            await _unknown(name)(scope, receive, send)
            return
        playing = Playing(song, request.method, headers.get("range"), headers.get("if-range"))
        await playing(scope, receive, send)


async def _until_either(*waits: Coroutine[Any, Any, None]) -> None:
    """Until the first of them ends, which ends the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(socket: Any, song: Song, after: int) -> None:
    async for event in song.events.follow(after):
        await socket.send_text(json.dumps(event, allow_nan=False))
    with suppress(RuntimeError):  # it has gone by itself
        await socket.close()


async def _gone(socket: Any) -> None:
    """Until whoever listens has left; what it says is passed over."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


async def _body(request: Any) -> dict[str, Any]:
    """The JSON object that was sent. Raises `Mistake`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Mistake(415, "that is no JSON", "its Content-Type says so", "Content-Type: application/json")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise Mistake(
                413, f"more than {MOST_BYTES} bytes were sent", "a wish needs less", '{"path": "…"}'
            )
    try:
        said = json.loads(bytes(data))
        # Half of a surrogate pair is no text, and could not be answered with either.
        json.dumps(said, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Mistake(400, "that is no JSON object", "", '{"path": "/A/FOLDER/SONG.flac", "preset": "warm"}')
    return said


def _asked(song: Song, new: bool) -> Any:
    return _json(song.summary(), 201 if new else 200, {"location": f"/songs/{song.id}"})


def _json(value: Any, status: int = 200, more: Mapping[str, str] | None = None) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(value, status, headers={**SAFE, "cache-control": "no-store", **(more or {})})


def _unknown(name: str) -> Mistake:
    why = "it was never asked for, or has given way to newer ones"
    return Mistake(404, f"there is no song {name[:40]}", why, "POST /songs")


def _page() -> tuple[str, str]:
    """The page, and the policy under which nothing runs in it but what is in it."""
    page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    policy = [
        "default-src 'none'",
        f"script-src {_hashes('script', page)}",
        f"style-src {_hashes('style', page)}",
        "connect-src 'self'",
        "media-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return page, "; ".join(policy)


def _hashes(tag: str, page: str) -> str:
    found: Sequence[str] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
