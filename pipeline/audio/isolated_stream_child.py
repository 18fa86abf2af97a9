"""The process in which `pipeline.audio.isolated_stream.StreamDecoder` decodes: it may die, and nothing else does.

It is asked one file at a time over a socket of packets, each a JSON object:

- to it: ``name``, and two descriptors, of the file and of the one that its samples go to;
- from it: ``ready`` once; ``progress`` and ``expected``, sample frames, while it gets on; then ``error`` and
  ``message``, with ``errno`` where the system refused something, or ``sample_rate``, ``channels``, ``samples`` and
  ``mono_channel``.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from pipeline.audio.children import end_with_parent
from pipeline.audio.isolated_child import PACKET, limit_memory
from pipeline.audio.mixing import MixMeter
from pipeline.audio.stream import PcmStream, open_file
from pipeline.audio.validate import Limits, TooManyChannels, printable_line

PROGRESS_EVERY_S = 0.2


def main(settings: str) -> None:
    """Serve until the other side ends. ``settings`` is JSON, see `pipeline.audio.isolated_stream`."""
    told = json.loads(settings)
    end_with_parent(told["lifeline"], told["parent"])
    with suppress(RuntimeError):  # without a stderr
        faulthandler.enable()
    module, _, function = told["opener"].partition(":")
    opener = getattr(importlib.import_module(module), function)
    limit_memory(told["memory_bytes"])
    limits = Limits(**told["limits"])
    # The other side has ended: there is nobody left to tell.
    with suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=told["socket"]) as channel:
        _send(channel, {"ready": True})
        while True:
            packet, descriptors, _, _ = socket.recv_fds(channel, PACKET, 2)
            if not packet:
                return
            source, target = descriptors
            try:
                work = _Work(channel, limits, told["most_channels"], opener)
                _send(channel, work.answer(json.loads(packet)["name"], source, target))
            finally:
                os.close(source)
                os.close(target)


def opened(path: str, limits: Limits, name: str) -> PcmStream:
    """The samples of a file; ``name`` is how others call it."""
    return open_file(path, limits)


class _Work:
    """One file.

    Args:
        channel: progress is told there.
        limits: of the file.
        most_channels: that it may have.
        opener: see `opened`.
    """

    def __init__(
        self,
        channel: socket.socket,
        limits: Limits,
        most_channels: int,
        opener: Callable[[str, Limits, str], PcmStream],
    ) -> None:
        self._channel, self._limits = channel, limits
        self._most_channels, self._opener = most_channels, opener
        self._told = time.monotonic()

    def answer(self, name: str, source: int, target: int) -> dict[str, Any]:
        """What became of it."""
        try:
            return self._decoded(name, source, target)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except MemoryError as error:
            return {"error": "MemoryError", "message": printable_line(str(error))}
        except Exception as error:  # noqa: BLE001  whatever the decoders raise is this file's failure
            if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.errno:
                said = printable_line(error.strerror or "")
                return {"error": "OSError", "message": said, "errno": error.errno}
            return {"error": type(error).__name__, "message": printable_line(str(error))}

    def _decoded(self, name: str, source: int, target: int) -> dict[str, Any]:
        with self._opener(f"/proc/self/fd/{source}", self._limits, name) as stream:
            channels, rate = stream.channels, stream.sample_rate
            if channels > self._most_channels:
                raise TooManyChannels(f"{channels} channels, and {self._most_channels} are taken at most")
            samples, meter = 0, MixMeter(channels)
            for block in stream:
                _append(target, 4 * channels * samples, block)
                meter.add(block)
                samples += block.shape[1]
                # Where no header says how long it is.
                self._limits.check(samples, channels, rate)
                self._tell(block.shape[1], samples, stream.expected_frames)
        return {
            "sample_rate": rate,
            "channels": channels,
            "samples": samples,
            "mono_channel": meter.channel(),
        }

    def _tell(self, new: int, samples: int, expected: int) -> None:
        # Empty blocks without end are no progress.
        if new and time.monotonic() - self._told >= PROGRESS_EVERY_S:
            self._told = time.monotonic()
            _send(self._channel, {"progress": samples, "expected": expected})


def _append(target: int, at: int, block: np.ndarray) -> None:
    """Write float32 ``[channels, n]`` interleaved to ``at``, bytes."""
    left = memoryview(np.ascontiguousarray(block.T, dtype=np.float32)).cast("B")
    while left:
        written = os.pwrite(target, left, at)
        left, at = left[written:], at + written


def _send(channel: socket.socket, message: dict[str, Any]) -> None:
    channel.send(json.dumps(message).encode())
