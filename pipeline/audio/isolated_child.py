"""The process in which `pipeline.audio.isolated.IsolatedDecoder` decodes: it may die, and nothing else does.

It is asked one file at a time over a socket of packets, each a JSON object:

- to it: ``name``, ``size``, ``path`` (without one, the file's bytes lie in the memory it was started with), ``start``
  in the memory for its views, ``choice`` of the sound track, and the descriptor of that memory when it is another than
  before;
- from it: ``ready`` once; ``progress`` while it gets on; then ``error`` and ``message``, or the header of the file
  and where its views lie.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.audio.children import end_with_parent, leave_no_core_file
from pipeline.audio.shared_memory import Arena
from pipeline.audio.stream import AudioFile
from pipeline.audio.validate import printable_line
from pipeline.audio.views import DecodedViews, View, Wanted

PACKET = 1 << 16
"""Largest packet, bytes."""

HEARTBEAT_S = 1.0
"""Progress is told at most so often, and four times within a timeout."""

_OF_THE_HEADER = (
    "container", "codec", "sample_rate", "channels", "samples", "replaced_samples", "damaged_packets", "long",
    "mono_channel",
)  # fmt: skip


def main(settings: str) -> None:
    """Serve until the other side ends. ``settings`` is JSON, see `pipeline.audio.isolated`."""
    told = json.loads(settings)
    end_with_parent(told["lifeline"], told["parent"])
    with suppress(RuntimeError):  # without a stderr
        faulthandler.enable()
    decode = _function(told["decoder"])
    limit_memory(told["memory_bytes"])
    views, made = (tuple(View(*view) for view in told[name]) for name in ("views", "made"))
    wanted = Wanted(views, told["max_bytes"], told["max_seconds"], made)
    interval = min(HEARTBEAT_S, told["timeout_s"] / 4)
    # The other side has ended: there is nobody left to tell.
    with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=told["socket"]) as channel:
        _send(channel, {"ready": True})
        while True:
            packet, descriptors, _, _ = socket.recv_fds(channel, PACKET, 1)
            if not packet:
                return
            for descriptor in descriptors:
                arena = Arena(descriptor)
                os.close(descriptor)
            request = json.loads(packet)
            arena.begin(request["start"])
            run = partial(decode, wanted=wanted, allocate=arena.allocate, progress=_heart(channel, interval))
            _send(channel, _answer(request, told["content"], run, arena))


def limit_memory(memory_bytes: int) -> None:
    """Bound the memory that is this process's own; maps of files and what it shares do not count."""
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_bytes if allowed == resource.RLIM_INFINITY else min(memory_bytes, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    leave_no_core_file()
    # If the kernel itself has to choose a victim, let it be this one and not the actor.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _function(name: str) -> Callable[..., DecodedViews]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _heart(channel: socket.socket, interval: float) -> Callable[[int], None]:
    last = time.monotonic()

    def beat(frames: int) -> None:
        nonlocal last
        now = time.monotonic()
        # Empty blocks without end are no progress.
        if frames and now - last >= interval:
            last = now
            _send(channel, {"progress": True})

    return beat


def _answer(
    request: dict[str, Any], content: int, decode: Callable[[AudioFile], DecodedViews], arena: Arena
) -> dict[str, Any]:
    name, size, path, choice = (request[key] for key in ("name", "size", "path", "choice"))
    try:
        if path is None:
            file = AudioFile(name, size, os.pread(content, size, 0), choice=choice)
        else:
            file = AudioFile(name, size, path=Path(path), choice=choice)
        found = decode(file)
        answer = {name: getattr(found, name) for name in _OF_THE_HEADER}
        return answer | {"facts": asdict(found.facts), "stored": _stored(found, arena)}
    except (BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError as error:
        return {"error": "MemoryError", "message": printable_line(str(error))}
    except Exception as error:  # noqa: BLE001  whatever the decoders raise is this file's failure
        return {"error": type(error).__name__, "message": printable_line(str(error))}


def _stored(found: DecodedViews, arena: Arena) -> dict[str, list[int]]:
    """Owner → offset in the shared memory, channels, samples."""
    placed = {name: [arena.offset_of(array), *array.shape] for name, array in found.stored.items()}
    arena.give_back_gaps((offset, 4 * channels * samples) for offset, channels, samples in placed.values())
    return placed


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.send(json.dumps(message).encode())
