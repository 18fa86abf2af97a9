"""What can be wrong with a file, the limits a header is held to, and the buffer samples are gathered in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1, 768_000
"""Sample rates a header may declare, Hz. 768 kHz is the highest that converters and FLAC players offer."""

MAX_CHANNELS = 64

MAX_SAMPLES = 1 << 30
"""Default bound on channels x samples of one file: 4 GiB of float32, three hours of stereo at 48 kHz."""

MAX_MAGNITUDE = 2.0**31
"""Float files sometimes hold unscaled integers, up to 32 bits. Beyond that a number is not a sample: it is
a damaged exponent, and its square would overflow float32 in every spectrum."""

MESSAGE_LENGTH = 300

Allocator = Callable[[tuple[int, ...]], np.ndarray]
"""A shape to a C-contiguous float32 array of any content: where samples are put."""


def private_memory(shape: tuple[int, ...]) -> np.ndarray:
    """The usual `Allocator`."""
    return np.empty(shape, np.float32)


class DecodeError(Exception):
    """A file that could not be decoded. ``str()`` is one line of at most 300 characters.

    The class names of its subclasses are stable: they are what ``failures.error_class`` holds.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable_line(message))


class UnrecognizedFormat(DecodeError):
    """The bytes are no audio format this build reads, whatever the name says."""


class EmptyAudio(DecodeError):
    """No bytes, or a well-formed header without samples."""


class TruncatedAudio(DecodeError):
    """The file holds fewer samples than its header declares, or ends inside a packet."""


class NoAudioStream(DecodeError):
    """A well-formed container without a sound track."""


class NoSuchAudioStream(DecodeError):
    """Sound tracks, but not the one that ``source.audio_stream`` asks for."""


class CorruptAudio(DecodeError):
    """The header is impossible or the decoder gave up; the message keeps the decoder's own words."""


class AudioTooLong(DecodeError):
    """More audio than the caller allows, declared or decoded."""


class TooManyChannels(DecodeError):
    """More channels than the caller takes."""


def printable_line(message: str) -> str:
    """``message`` without line breaks or control characters, cut to 300 characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def check_header(channels: int, sample_rate: int) -> None:
    """Refuse a channel count outside 1..64 or a rate outside 1..768000 Hz. Raises `CorruptAudio`."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise CorruptAudio(f"the header declares {channels} channels (1 to {MAX_CHANNELS} are possible)")
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise CorruptAudio(
            f"the header declares a sample rate of {sample_rate} Hz"
            f" ({MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} are possible)"
        )


def truncated(declared_s: float, decoded_s: float) -> TruncatedAudio:
    """The error for a header that promises more than there is."""
    return TruncatedAudio(f"the header declares {declared_s:.6f} s, only {decoded_s:.6f} s could be decoded")


@dataclass(frozen=True)
class Limits:
    """How much audio one file may hold.

    Args:
        max_seconds: longest duration, or None.
        max_samples: largest channels x samples, or None.
    """

    max_seconds: float | None = None
    max_samples: int | None = MAX_SAMPLES

    def check(self, frames: float, channels: int, sample_rate: int) -> None:
        """Raise `AudioTooLong` if ``frames`` sample frames are too many."""
        if self.max_seconds is not None and frames > self.max_seconds * sample_rate:
            raise AudioTooLong(f"{frames / sample_rate:.1f} s or more; the limit is {self.max_seconds:g} s")
        if self.max_samples is not None and frames * channels > self.max_samples:
            raise AudioTooLong(
                f"{int(frames * channels)} samples or more over {channels} channels;"
                f" the limit is {self.max_samples}"
            )


def cleaned(block: np.ndarray) -> tuple[np.ndarray, int]:
    """``block`` with 0 for what is not a number in range, and how many samples that were."""
    # False for NaN too.
    valid = np.abs(block) <= MAX_MAGNITUDE
    if valid.all():
        return block, 0
    return np.where(valid, block, np.float32(0)), int(valid.size - np.count_nonzero(valid))


class SampleBuffer:
    """Gathers blocks of samples into one float32 ``[channels, samples]`` array.

    What is expected is allocated once and filled in place, so a file whose header tells the truth costs its
    own size; only audio beyond that is kept in a list and joined at the end.

    Args:
        channels: number of channels.
        sample_rate: Hz, for the limits.
        expected: sample frames the header declares; 0 where it does not.
        input_bytes: size of the file. A header that claims more than 16 samples per byte is not believed in
            advance: the array then grows with what is really decoded.
        limits: checked before anything is allocated, and again with every block.
        allocate: where the array lies.
    """

    def __init__(
        self,
        channels: int,
        sample_rate: int,
        expected: int,
        input_bytes: int,
        limits: Limits,
        *,
        allocate: Allocator = private_memory,
    ) -> None:
        check_header(channels, sample_rate)
        limits.check(expected, channels, sample_rate)
        self.channels = channels
        self.sample_rate = sample_rate
        self.limits = limits
        self.frames = 0
        self._allocate = allocate
        self._head = allocate((channels, min(expected, 16 * input_bytes // channels)))
        self._tail: list[np.ndarray] = []

    def append(self, block: np.ndarray) -> None:
        """Add ``[channels, n]`` samples."""
        count = block.shape[1]
        self.limits.check(self.frames + count, self.channels, self.sample_rate)
        room = max(0, min(count, self._head.shape[1] - self.frames))
        self._head[:, self.frames : self.frames + room] = block[:, :room]
        if room < count:
            self._tail.append(np.array(block[:, room:], dtype=np.float32, order="C"))
        self.frames += count

    def finish(self) -> np.ndarray:
        """Everything appended, C-contiguous."""
        head = self._head[:, : self.frames]
        if not self._tail and head.flags.c_contiguous:
            return head
        whole = self._allocate((self.channels, self.frames))
        return np.concatenate([head, *self._tail], axis=1, out=whole)
