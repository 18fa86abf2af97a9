"""True peaks of finished songs: a lossy codec overshoots, so what is measured is what a decoder makes of the file.

The meter is handed in, because meters are of another floor: `PeakMeter(true_peak, PEAK_CONTEXT)` with both names from
`pipeline.dsp.true_peak`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audio.reader import AudioReader, blocks
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import NO_TAGS, SongTags
from pipeline.audio.stream import open_bytes, open_file

CEILING_DBTP = -1.0
"""EBU R 128 and what the streaming services ask for."""

# dB below what should do, in the second round and in those behind it. The peaks of a codec at a low bit rate change by
# a decibel with the gain, because other bands are left out.
_MARGINS = (0.05, 1.0)


@dataclass(frozen=True)
class PeakMeter:
    """A true-peak meter.

    Args:
        measure: float32 ``[channels, samples]`` and a rate in Hz → amplitude, 1 is full scale.
        context: samples before a piece of a track without which it would not see between the two.
    """

    measure: Callable[[np.ndarray, int], float]
    context: int


@dataclass(frozen=True)
class Finished:
    """A song that was encoded.

    Args:
        gain_db: that was applied to the whole song; 0.0 or negative.
        true_peak_dbtp: of what a decoder makes of the file; None for digital silence.
        rounds: how often it was encoded.
        below: whether the true peak is at or below the ceiling; false where the last round did not reach it either.
        left_out: which tags the format cannot hold, a line each.
    """

    gain_db: float
    true_peak_dbtp: float | None
    rounds: int
    below: bool
    left_out: tuple[str, ...] = ()


class _Running:
    """The largest true peak of a track that comes in blocks."""

    def __init__(self, meter: PeakMeter, sample_rate: int) -> None:
        self.meter, self.sample_rate = meter, sample_rate
        self.amplitude = 0.0
        self._tail: np.ndarray | None = None

    def add(self, block: np.ndarray) -> None:
        if not block.shape[1]:
            return
        joined = block if self._tail is None else np.concatenate([self._tail, block], axis=1)
        self.amplitude = max(self.amplitude, self.meter.measure(joined, self.sample_rate))
        self._tail = joined[:, max(0, joined.shape[1] - self.meter.context) :].copy()

    @property
    def dbtp(self) -> float | None:
        return 20.0 * math.log10(self.amplitude) if self.amplitude > 0 else None


def true_peak_after(source: bytes | str | Path, meter: PeakMeter) -> float | None:
    """The true peak of a file once it is decoded, in dBTP; None for digital silence. Memory is bounded.

    Args:
        source: the bytes of a file, or where it lies.
        meter: see `PeakMeter`.

    Raises:
        DecodeError: the file cannot be decoded, as `pipeline.audio.decode.decode` says.
    """
    with open_bytes(source) if isinstance(source, bytes) else open_file(source) as stream:
        return _peak_of(stream, stream.sample_rate, meter)


def _peak_of(pieces: Iterable[np.ndarray], sample_rate: int, meter: PeakMeter) -> float | None:
    running = _Running(meter, sample_rate)
    for block in pieces:
        running.add(block)
    return running.dbtp


def encode_below(
    reader: AudioReader,
    path: str | Path,
    form: SongFormat,
    sample_rate: int,
    *,
    meter: PeakMeter,
    tags: SongTags = NO_TAGS,
    ceiling_dbtp: float = CEILING_DBTP,
    rounds: int = 3,
) -> Finished:
    """Encode a song so that its true peak stays below a ceiling after decoding, too.

    The song is encoded and decoded; where it peaks higher, it is encoded again with one gain for the whole of it. At a
    low bit rate that may not do in three rounds: ``below`` says so, and a higher bit rate is what helps.

    Args:
        reader: the song.
        path: of the file, which is overwritten.
        form, sample_rate, tags: as for `SongEncoder`.
        meter: see `PeakMeter`.
        ceiling_dbtp: the highest true peak.
        rounds: how often it may be encoded, at least once.

    Raises:
        EncodeError: as `SongEncoder`.
        DecodeError: what was encoded does not decode.
    """
    gain_db, peak, number = 0.0, None, 0
    for number in range(1, max(1, rounds) + 1):
        encoder = _encoded(reader, path, form, sample_rate, tags=tags, gain_db=gain_db)
        peak = true_peak_after(path, meter)
        if peak is None or peak <= ceiling_dbtp:
            return Finished(gain_db, peak, number, True, tuple(encoder.left_out))
        if number < rounds:
            high = peak
            if encoder.clipped:
                # What was cut off does not show in the file.
                source = _peak_of(blocks(reader), sample_rate, meter)
                high = max(peak, gain_db + source) if source is not None else peak
            gain_db -= high - ceiling_dbtp + _MARGINS[min(number, len(_MARGINS)) - 1]
    return Finished(gain_db, peak, number, False, tuple(encoder.left_out))


def _encoded(
    reader: AudioReader,
    path: str | Path,
    form: SongFormat,
    sample_rate: int,
    *,
    tags: SongTags,
    gain_db: float,
) -> SongEncoder:
    gain = np.float32(10.0 ** (gain_db / 20.0))
    with SongEncoder(path, form, sample_rate, reader.channels, tags=tags, samples=reader.samples) as encoder:
        for block in blocks(reader):
            encoder.write(block if gain_db == 0.0 else block * gain)
    return encoder
