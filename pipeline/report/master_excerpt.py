"""The loudest seconds of a song before and after, small enough for the page: for songs that are too large for it.

A page that is passed on has its sounds with it. Both stretches begin at the same place of the song, as MP3.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.audio.encode import EncodeError
from pipeline.audio.reader import PIECE
from pipeline.audio.resample import StreamResampler, to_stereo
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat, held_rate
from pipeline.report.master_figures import louder_within, values_of

SECONDS = 20
FORM = SongFormat("mp3", bit_rate=96_000)
KIND = "audio/mpeg"
MOST_BYTES = 500_000_000
"""Of a file that is opened for it: all of an original is read, to be sure that it is the one that was mastered."""

_WINDOW_S = 3
"""Of short-term loudness: a value each second, of the seconds that begin there."""

_WINDOWS = SECONDS - _WINDOW_S + 1
"""That lie within a stretch."""


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a song.

    Args:
        master, original: as MP3.
        from_s: where it begins in the master, seconds.
        seconds: its length.
        louder_lu: what the master is louder by within it, LU; None where that is not known.
        why: not the whole files are heard.
    """

    master: bytes
    original: bytes
    from_s: int
    seconds: float
    louder_lu: float | None
    why: str

    @property
    def said(self) -> str:
        """What is heard, in a sentence."""
        begins = f"{self.from_s // 60}:{self.from_s % 60:02d}"
        rate = f"MP3 at {FORM.bit_rate // 1000} kbit/s"
        return f"The loudest {self.seconds:.0f} s, from {begins} on, as {rate}: {self.why}."


def excerpt(row: dict[str, Any], master: Path, original: Path, why: str) -> Excerpt | None:
    """The loudest stretch of a song that was mastered; None where libsndfile reads one of the files not.

    Args:
        row: of `tracks`.
        master, original: the files. They were decoded before, to their end, by a process that might have died of them.
        why: see `Excerpt`.
    """
    start = loudest(values_of(row, "master_loudness_after"))
    with tempfile.TemporaryDirectory(prefix="soundmill-report-") as folder, suppress(*_TROUBLES):
        sounds, lengths = [], []
        for path, from_s in ((master, start), (original, start + (row.get("master_from_s") or 0.0))):
            sound, seconds = _encoded(path, from_s, Path(folder) / "excerpt.mp3")
            sounds.append(sound)
            lengths.append(seconds)
        # Otherwise something is missing of one of them.
        if min(lengths) > 1.0 and max(lengths) - min(lengths) < 0.1:
            return Excerpt(*sounds, start, max(lengths), louder_within(row, start, _WINDOWS), why)
    return None


_TROUBLES = (OSError, EncodeError, soundfile.LibsndfileError)


def loudest(short_term_lufs: np.ndarray) -> int:
    """Where the loudest stretch begins, seconds: by the mean power of windows that lie within it."""
    powers = np.nan_to_num(10.0 ** (short_term_lufs / 10.0))
    if len(powers) <= _WINDOWS:
        return 0
    return int(np.argmax(np.convolve(powers, np.ones(_WINDOWS), "valid")))


def _encoded(path: Path, from_s: float, out: Path) -> tuple[bytes, float]:
    """A stretch of a file as MP3, and how long it is."""
    with soundfile.SoundFile(path) as file:
        rate, channels = file.samplerate, min(2, file.channels)
        first = min(file.frames, round(from_s * rate))
        left = total = min(file.frames - first, SECONDS * rate)
        file.seek(first)
        held = held_rate(FORM, rate, channels)
        resampler = StreamResampler(rate, held, channels)
        with SongEncoder(out, FORM, held, channels) as encoder:
            while left:
                block = file.read(min(left, PIECE), dtype="float32", always_2d=True).T
                left -= block.shape[1]
                if not block.shape[1]:
                    raise OSError("it ends before it should")
                encoder.write(
                    resampler.push(block if channels == len(block) else to_stereo(block), last=not left)
                )
    return out.read_bytes(), total / rate
