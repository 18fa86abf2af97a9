"""Decoding a whole file into another one, in a process of its own: what crashes, hangs or eats memory costs one file.

`pipeline.audio.isolated` keeps the views of a track in memory. Here the samples go to a file as they come, of any
length, and who waits hears how far it is, and may end it.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.audio.children import Child
from pipeline.audio.isolated import (
    ENVIRONMENT,
    START_TIMEOUT_S,
    TIMEOUT_S,
    DecoderDied,
    DecoderHung,
    DecoderOutOfMemory,
    error_of,
    whole,
)
from pipeline.audio.isolated_child import PACKET
from pipeline.audio.validate import MAX_CHANNELS, MAX_SAMPLE_RATE, Limits

CHILD = "pipeline.audio.isolated_stream_child"
MEMORY_BYTES = 1 << 30
"""Of the child: its libraries, a block, and what a decoder needs."""

_OPENER = f"{CHILD}:opened"
_TICK_S = 0.25

Told = Callable[[float | None], object]
"""Is told which share is decoded, 0 to 1, None where that is unknown; four times a second, and may raise to end it."""


class DecoderUnavailable(RuntimeError):
    """No decoder could be started, or none lived until it took the file: a fault of the machine, not of the file."""


class _Untaken(DecoderUnavailable):
    """It ended before it took a file: another one may live longer."""


@dataclass(frozen=True)
class Written:
    """Samples in a file: float32, channels interleaved.

    Args:
        sample_rate: Hz.
        channels: number of channels.
        samples: per channel.
        mono_channel: the channel that stands for the mix where that cancels, see `pipeline.audio.mixing`.
    """

    sample_rate: int
    channels: int
    samples: int
    mono_channel: int | None


class StreamDecoder:
    """Decodes files in a child process, started with this object and anew after each that it does not survive.

    One file at a time; threads wait for each other.

    Args:
        limits: of a file.
        most_channels: a file with more is refused.
        timeout_s: longest time without samples; also that of opening a file.
        memory_bytes: of the child.
        opener: for tests only: ``module:function`` in place of `pipeline.audio.isolated_stream_child.opened`.

    Raises:
        DecoderUnavailable: the system starts no process.
    """

    def __init__(
        self,
        limits: Limits,
        most_channels: int = MAX_CHANNELS,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = MEMORY_BYTES,
        opener: str = _OPENER,
    ) -> None:
        self._timeout_s = timeout_s
        self._settings = {
            "limits": asdict(limits),
            "most_channels": most_channels,
            "memory_bytes": memory_bytes,
            "opener": opener,
        }
        self._lock = threading.Lock()
        self._child: _Child | None = _begun(self._settings)

    @property
    def pid(self) -> int | None:
        """Of the child, None between two."""
        return self._child.process.pid if self._child else None

    def wait_until_ready(self) -> None:
        """Return when the child can decode. Raises `DecoderUnavailable`."""
        with self._lock:
            self._start(lambda share: None)

    def decode(self, source: int, name: str, target: int, told: Told = lambda share: None) -> Written:
        """Write the samples of a file behind the beginning of another one.

        Where the child dies or has no memory left, that may be the fault of a file before, and where it dies before
        it takes this one, it is: the file is then tried once more in a new one.

        Args:
            source: descriptor of a regular file, open for reading.
            name: of the file; for error messages.
            target: descriptor of an empty file, open for writing.
            told: see `Told`.

        Raises:
            DecodeError: the file's own, or `DecoderDied`, `DecoderHung`, `DecoderOutOfMemory`, `DecoderRaised`.
            DecoderUnavailable: there is no child that takes it.
            OSError: what keeps the child from writing, such as a full disk.
            Exception: what ``told`` raises.
        """
        with self._lock:
            # The kernel takes an idle child first where memory runs out.
            if self._child is not None and self._child.process.poll() is not None:
                self.close()
            fresh = self._child is None or not self._child.asked
            try:
                return self._attempt(source, name, target, told)
            except _Untaken:
                pass
            except (DecoderDied, DecoderOutOfMemory):
                if fresh:
                    raise
            os.ftruncate(target, 0)
            return self._attempt(source, name, target, told)

    def close(self) -> None:
        """End the child. A later `decode` starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _start(self, told: Told) -> _Child:
        """The child, which waits for a file. Raises `DecoderUnavailable` and what ``told`` does; there is none then."""
        self._child = self._child or _begun(self._settings)
        try:
            self._child.wait_until_ready(_Patience(told, max(self._timeout_s, START_TIMEOUT_S)))
        except BaseException:
            self.close()
            raise
        return self._child

    def _attempt(self, source: int, name: str, target: int, told: Told) -> Written:
        child = self._start(told)
        try:
            answer = child.ask(source, name, target, _Patience(told, self._timeout_s))
            if "error" not in answer:
                return _understood(answer, target)
            error = error_of(answer)
            # What failed for want of memory may have left its libraries in any state.
            if isinstance(error, DecoderOutOfMemory):
                self.close()
        except BaseException:
            # It goes on with this file, or is gone.
            self.close()
            raise
        finally:
            # Whoever keeps the error would keep the child, and what it holds open.
            del child
        raise error


class _Patience:
    """Says how far the child is, and how long it may still be silent."""

    def __init__(self, told: Told, timeout_s: float) -> None:
        self._told, self._timeout_s = told, timeout_s
        self._share: float | None = None
        self._end = time.monotonic() + timeout_s

    def heard(self, answer: dict[str, Any]) -> None:
        """News of it."""
        done, expected = answer.get("progress"), answer.get("expected")
        known = isinstance(done, int) and isinstance(expected, int) and expected > 0
        self._share = min(1.0, max(0.0, done / expected)) if known else None
        self._end = time.monotonic() + self._timeout_s
        self._told(self._share)

    def waited(self) -> None:
        """It said nothing for a moment. Raises `DecoderHung`."""
        if time.monotonic() > self._end:
            raise DecoderHung(f"the decoder produced no samples for {self._timeout_s:g} s")
        self._told(self._share)


class _Child:
    """A running child and the socket to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.asked = False
        self._ready = False
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = Child(CHILD, settings | {"socket": theirs.fileno()}, ENVIRONMENT, (theirs.fileno(),))
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self.process, self._cause = child.process, child.cause
        self.end = weakref.finalize(self, _end, child, self._channel)

    def wait_until_ready(self, patience: _Patience) -> None:
        """Return when it has imported its decoders. Raises `DecoderUnavailable`; the child is then of no more use."""
        if self._ready:
            return
        try:
            self._receive(patience)
        except DecoderDied as error:
            raise _Untaken(f"{error}, before it was ready") from error
        except DecoderHung as error:
            raise DecoderUnavailable("the decoder was not ready in time") from error
        self._ready = True

    def ask(self, source: int, name: str, target: int, patience: _Patience) -> dict[str, Any]:
        """Its answer. Raises `DecoderDied`, `DecoderHung`, `DecoderUnavailable`; the child is then of no more use."""
        self.asked = True
        try:
            socket.send_fds(self._channel, [json.dumps({"name": name[-256:]}).encode()], [source, target])
        except (BrokenPipeError, ConnectionResetError):
            raise self._left() from None
        while "progress" in (answer := self._receive(patience)):
            patience.heard(answer)
        return answer

    def _receive(self, patience: _Patience) -> dict[str, Any]:
        self._channel.settimeout(_TICK_S)
        while True:
            try:
                packet = self._channel.recv(PACKET)
                break
            except TimeoutError:
                patience.waited()
            except ConnectionResetError:  # what was sent to it has not been read
                raise self._left() from None
        if not packet:
            raise DecoderDied(self._cause("the decoder"))
        try:
            answer = json.loads(packet)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise DecoderDied("the decoder answered what is no answer")
        return answer

    def _left(self) -> _Untaken:
        return _Untaken(f"{self._cause('the decoder')}, before it took the file")


def _begun(settings: dict[str, Any]) -> _Child:
    """A child. Raises `DecoderUnavailable`."""
    try:
        return _Child(settings)
    except OSError as error:
        raise DecoderUnavailable(f"the decoder cannot be started: {error.strerror or error}") from error


def _end(child: Child, channel: socket.socket) -> None:
    channel.close()
    child.end()


def _understood(answer: dict[str, Any], target: int) -> Written:
    """The child's answer, believed no further than it can be checked. Raises `DecodeError`."""
    try:
        rate, channels = (
            whole(answer["sample_rate"], 1, MAX_SAMPLE_RATE),
            whole(answer["channels"], 1, MAX_CHANNELS),
        )
        samples, mono = whole(answer["samples"], 1), answer["mono_channel"]
        if os.fstat(target).st_size != 4 * channels * samples:
            raise ValueError("other samples than are there")
        mono = None if mono is None else whole(mono, 0, channels - 1)
    except (KeyError, TypeError, ValueError) as error:
        raise DecoderDied(f"the decoder answered what it cannot mean: {error}") from error
    return Written(rate, channels, samples, mono)
