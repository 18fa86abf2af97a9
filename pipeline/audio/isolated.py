"""Decoding in a process of its own: a decoder that crashes, hangs or eats memory costs one file.

`IsolatedDecoder` owns one child (`pipeline.audio.isolated_child`), which decodes one file after the other. The bytes
of a file go to it, and its samples come back, in memory that both processes map and that has no name, so nothing is
left behind when either is killed. What the child says is JSON and is checked: it handles hostile bytes.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.audio.children import Child
from pipeline.audio.decode import (
    AudioTooLong,
    CorruptAudio,
    DecodeError,
    EmptyAudio,
    NoAudioStream,
    NoSuchAudioStream,
    TruncatedAudio,
    UnrecognizedFormat,
)
from pipeline.audio.isolated_child import PACKET
from pipeline.audio.shared_memory import KEPT_BYTES, Lender, Segment
from pipeline.audio.stream import AudioFile
from pipeline.audio.tags import facts_from
from pipeline.audio.validate import MAX_CHANNELS, MAX_SAMPLE_RATE, TooManyChannels, printable_line
from pipeline.audio.views import DecodedViews, Wanted

TIMEOUT_S = 120.0
MAX_TRACK_BYTES = 1_500_000_000
MAX_TRACK_HOURS = 24.0
"""Audio of up to so many bytes is kept as a whole, and no longer track is taken, where nothing else is asked for."""

MIN_MEMORY_BYTES = 512 << 20
"""The decoders and their libraries alone take 80 MB, a file in memory up to 256 MiB."""

START_TIMEOUT_S = 60.0
_LONGEST_TIMEOUT_S = 1e6  # what the system's clocks hold
_DECODER = "pipeline.audio.views:decode_views"
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc keeps up to 256 MB for the next file: handing memory back and touching it anew was half of the overhead.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}


class DecoderDied(DecodeError):
    """The decoder crashed, was killed, or answered what it cannot mean."""

    worker_died = True


class DecoderHung(DecodeError):
    """No samples came for as long as is allowed."""


class DecoderOutOfMemory(DecodeError):
    """The file needs more memory than the decoder may have."""


class DecoderRaised(DecodeError):
    """An exception that is none of a decoder's own; the message begins with its class."""


# What a file's own error may be called; anything else is `DecoderRaised`.
_ERRORS: dict[str, type[Exception]] = {
    error.__name__: error
    for error in (
        AudioTooLong, CorruptAudio, EmptyAudio, NoAudioStream, NoSuchAudioStream, TooManyChannels, TruncatedAudio,
        UnrecognizedFormat, OSError, FileNotFoundError, PermissionError, IsADirectoryError,
    )
}  # fmt: skip


def default_memory_bytes(max_track_bytes: int) -> int:
    """What decoding and making the views of one track takes besides the views: its samples twice over, where no
    header says how many there are, and 1 GiB for the libraries, the file and one resampled channel."""
    return 2 * max_track_bytes + (1 << 30)


class IsolatedDecoder:
    """Decodes files in a child process, started with this object and anew after each that it does not survive.

    One file at a time; threads wait for each other.

    Args:
        wanted: of every file.
        timeout_s: longest time without a block of samples, or a view of them; also that of opening a file.
        memory_bytes: of the child, besides the views; 0 for `default_memory_bytes`.
        decoder: for tests only: ``module:function`` in place of `pipeline.audio.views.decode_views`.
    """

    def __init__(
        self,
        wanted: Wanted,
        timeout_s: float = TIMEOUT_S,
        memory_bytes: int = 0,
        *,
        decoder: str = _DECODER,
    ) -> None:
        self.wanted = wanted
        self.timeout_s = timeout_s
        # The samples may be gathered twice over before the views are complete, and each begins on a page of its own.
        self._lender = Lender(2 * wanted.max_bytes + (1 << 20))
        self._settings = {
            "views": wanted.views,
            "made": wanted.made,
            "max_bytes": wanted.max_bytes,
            "max_seconds": wanted.max_seconds,
            "timeout_s": timeout_s,
            "memory_bytes": memory_bytes or default_memory_bytes(wanted.max_bytes),
            "decoder": decoder,
        }
        self._lock = threading.Lock()
        self._child: _Child | None = _Child(self._settings)
        # Seconds in which nothing was decoded because a child was not there yet; that is no file's cost.
        self.starting_s = 0.0

    @property
    def pid(self) -> int | None:
        """Of the child, None between two."""
        return self._child.process.pid if self._child else None

    @property
    def peak_rss_bytes(self) -> int:
        """Peak resident memory of the present child, what it shares included; 0 between two."""
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return 0

    def wait_until_ready(self) -> None:
        """Return when the child can decode. What keeps it from that is for the first file to meet, and to tell."""
        with self._lock, suppress(DecodeError):
            self._start()

    def decode(self, file: AudioFile) -> DecodedViews:
        """`pipeline.audio.views.decode_views` of ``file``; the arrays are read-only.

        Where the child dies or has no memory left, that may be the fault of a file before: the file is then tried
        once more in a new one. The error has ``attempts``, and the result says why.

        Raises:
            DecodeError: the file's own, or `DecoderDied`, `DecoderHung`, `DecoderOutOfMemory`, `DecoderRaised`.
            OSError: a file on disk that cannot be read.
        """
        with self._lock:
            fresh = self._child is None or not self._child.asked
            try:
                return self._attempt(file)
            except (DecoderDied, DecoderOutOfMemory) as error:
                if fresh:
                    raise
                reason = f"{type(error).__name__}: {error}"
            try:
                return replace(self._attempt(file), retried=reason)
            except (DecodeError, OSError) as error:
                error.attempts = 2  # type: ignore[union-attr]
                raise

    def close(self) -> None:
        """End the child. A later `decode` starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.end()
            # In case it could not be ended yet.
            self._lender.replace()

    def _start(self) -> None:
        """See to it that a child waits for a file. Raises as `_Child.wait_until_ready`; there is none then."""
        started = time.perf_counter()
        # After a fork the child is the other process's.
        if self._child is not None and self._child.owner != os.getpid():
            self._child = None
        self._child = self._child or _Child(self._settings)
        try:
            self._child.wait_until_ready(max(self.timeout_s, START_TIMEOUT_S))
        except BaseException:
            self.close()
            raise
        finally:
            self.starting_s += time.perf_counter() - started

    def _attempt(self, file: AudioFile) -> DecodedViews:
        self._start()
        try:
            start = self._lender.start()
            # Not from a variable: a child that has died would live on, with what it holds open, in the traceback.
            answer = self._child.ask(file, self._lender.segment, start, self.timeout_s)
            if "error" not in answer:
                return _understood(answer, self.wanted, self._lender)
            error = error_of(answer)
            # What failed for want of memory may have left its libraries in any state.
            if isinstance(error, DecoderOutOfMemory):
                self.close()
        except BaseException:
            # What the child is doing, nobody knows; its next answer would be taken for that of another file.
            self.close()
            raise
        raise error


class _Child:
    """A running child and the socket to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.asked = False
        self._ready = False
        self._segment: Segment | None = None
        self._content = os.memfd_create("soundmill-file", os.MFD_CLOEXEC)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told = settings | {"socket": theirs.fileno(), "content": self._content}
        try:
            passed = (theirs.fileno(), self._content)
            child = Child("pipeline.audio.isolated_child", told, ENVIRONMENT, passed)
        except BaseException:
            self._channel.close()
            os.close(self._content)
            raise
        finally:
            theirs.close()
        self.owner, self.process, self._cause = (
            child.owner,
            child.process,
            partial(child.cause, "the decoder"),
        )
        self.end = weakref.finalize(self, _end, child, self._channel, self._content)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when it has imported its decoders. Raises `DecoderDied` and `DecoderHung`."""
        if not self._ready:
            self._receive(timeout_s)
            self._ready = True

    def ask(self, file: AudioFile, segment: Segment, start: int, timeout_s: float) -> dict[str, Any]:
        """The child's answer. Raises `DecoderDied` and `DecoderHung`; the child is then of no more use."""
        self.asked = True
        path = None if file.path is None else os.fspath(file.path)
        if file.data is not None:
            self._put(file.data)
        request = {
            "name": file.name[-256:],
            "size": file.size,
            "path": path,
            "start": start,
            "choice": file.choice,
        }
        self._send(json.dumps(request).encode(), [] if segment is self._segment else [segment.fd])
        self._segment = segment
        while (answer := self._receive(timeout_s)).get("progress"):
            pass
        return answer

    def _put(self, data: bytes) -> None:
        if os.fstat(self._content).st_size > max(len(data), KEPT_BYTES):
            os.ftruncate(self._content, 0)
        done = 0
        while done < len(data):
            done += os.pwrite(self._content, memoryview(data)[done:], done)

    def _send(self, request: bytes, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._channel, [request], descriptors)
        except (BrokenPipeError, ConnectionResetError):
            raise DecoderDied(self._cause()) from None

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        self._channel.settimeout(min(timeout_s, _LONGEST_TIMEOUT_S))
        try:
            packet = self._channel.recv(PACKET)
        except TimeoutError:
            raise DecoderHung(f"the decoder produced no samples for {timeout_s:g} s") from None
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise DecoderDied(self._cause())
        try:
            answer = json.loads(packet)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise DecoderDied("the decoder answered what is no answer")
        return answer


def _end(child: Child, channel: socket.socket, content: int) -> None:
    """End the child, unless this is a fork of the process that owns it."""
    if os.getpid() == child.owner:
        channel.close()
        os.close(content)
    child.end()


def error_of(answer: dict[str, Any]) -> Exception:
    """What a child says has happened, as an exception."""
    name, message = str(answer["error"]), printable_line(str(answer.get("message", "")))
    if name == "MemoryError":
        return DecoderOutOfMemory(message or "the decoder has no memory left")
    number = answer.get("errno")
    if name == "OSError" and type(number) is int and number in errno.errorcode:
        return OSError(number, message)
    if name in _ERRORS:
        return _ERRORS[name](message)
    return DecoderRaised(f"{name}: {message}")


def _understood(answer: dict[str, Any], wanted: Wanted, lender: Lender) -> DecodedViews:
    """The child's answer, believed no further than it can be checked. Raises `DecoderDied`."""
    try:
        container, codec = (_word(answer[name]) for name in ("container", "codec"))
        rate = whole(answer["sample_rate"], 1, MAX_SAMPLE_RATE)
        channels = whole(answer["channels"], 1, MAX_CHANNELS)
        samples = whole(answer["samples"], 1)
        replaced, damaged = (whole(answer[n], 0) for n in ("replaced_samples", "damaged_packets"))
        facts = facts_from(answer["facts"])
        mono = answer["mono_channel"]
        decoded = partial(
            DecodedViews,
            container,
            codec,
            rate,
            channels,
            samples,
            replaced_samples=replaced,
            damaged_packets=damaged,
            facts=facts,
            mono_channel=None if mono is None else whole(mono, 0, channels - 1),
        )
        if answer["long"] is True:
            return decoded(stored={}, places={}, long=True)
        places = wanted.places(rate, channels)
        lies = []
        for owner in dict.fromkeys(place.owner for place in places.values()):
            offset, rows, length = (whole(value, 0) for value in answer["stored"][owner])
            if rows != places[owner].channels:
                raise ValueError(f"{owner} has {rows} channels")
            lies.append((owner, offset, (rows, length)))
        arrays = lender.lend([(offset, shape) for _, offset, shape in lies])
    except (KeyError, TypeError, ValueError) as error:
        raise DecoderDied(f"the decoder answered what it cannot mean: {error}") from error
    stored = dict(zip((owner for owner, _, _ in lies), arrays, strict=True))
    return decoded(stored=stored, places=places)


def whole(value: Any, low: int, high: int = 1 << 62) -> int:
    """``value``, which a child has said. Raises `ValueError` where it is no whole number in that range."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r:.40} is no number from {low} to {high}")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64 or not value.isprintable():
        raise ValueError(f"{value!r:.40} is no name")
    return value
