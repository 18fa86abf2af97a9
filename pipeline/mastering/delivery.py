"""A master as a file: rendered, measured, encoded; and rendered again where what a decoder makes of it is too high.

A lossy codec overshoots. The ceiling of the limiter is lowered by as much, and the gain settled anew, so that the
loudness stays. Where that does not do, because the peaks are of the codec's own making, the loudness is given up, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.audio.reader import AudioReader, Spool, blocks
from pipeline.audio.resample import StreamResampler, to_stereo
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat, held_channels, held_rate
from pipeline.audio.song_tags import NO_TAGS, SongTags
from pipeline.audio.stream import open_file
from pipeline.mastering.levels import Levels
from pipeline.mastering.meter import Measured, Meter
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import Mastering

ROUNDS = 5
"""A song is rendered so often before a file is left above what is allowed."""
TRIAL_BIT_RATE = 128_000
TRIAL_DBTP = 0.0
"""What a decoder may make of a trial encode: full scale."""
LOSSLESS = ("flac", "wav")
# dB below what should do, in the second round and in those behind it: the peaks of a codec change by some tenths with
# every gain.
_MARGINS_DB = (0.05, 0.5)
# After so many rounds the loudness is given up as well as the ceiling.
_ROUNDS_AS_LOUD = 1
# LU that a codec takes away and that are made up for: what it leaves out, such as all above 16 kHz, is not to be paid
# for with limiting.
_MOST_MADE_UP_LU = 0.5
# LU by which a lossy file may be off before it is rendered again.
_LOUDNESS_LU = 0.05


@dataclass(frozen=True)
class Delivered:
    """A master that was written.

    Args:
        plan: that it was rendered by.
        after: what was measured of what was written: of a lossy file, once it was decoded.
        max_gain_reduction_db: of the limiter.
        gain_reduction_db: of the limiter, the most in each second.
        max_compression_db: of the compressor; None without one.
        encoded_tp_dbtp: the highest true peak of what was encoded, once decoded; None where nothing lossy was.
        allowed_dbtp: what that may be.
        below: whether it is.
        rounds: how often the song was rendered.
        limited_by: what keeps the loudness from the target.
        left_out: which tags the format cannot hold, a line each.
        from_s: where the file begins in the song.
        samples: of the file, per channel.
    """

    plan: Plan
    after: Measured
    max_gain_reduction_db: float
    gain_reduction_db: tuple[float, ...]
    max_compression_db: float | None
    encoded_tp_dbtp: float | None
    allowed_dbtp: float
    below: bool
    rounds: int
    limited_by: str | None
    left_out: tuple[str, ...]
    from_s: float
    samples: int


class Delivery:
    """Brings a master into its file.

    Args:
        mastering: of the song, listened to.
        form: the format of the file.
        tags: that it gets.
        encodes: formats that the master is encoded in on trial.
        preview_s: length of the loudest stretch, which alone is written; 0 for all.
    """

    def __init__(
        self,
        mastering: Mastering,
        form: SongFormat,
        tags: SongTags = NO_TAGS,
        encodes: Sequence[str] = (),
        preview_s: float = 0.0,
    ) -> None:
        self.mastering, self.form, self.tags = mastering, form, tags
        self.encodes, self.preview_s = tuple(encodes), preview_s
        self.lossy = form.name not in LOSSLESS

    def to(self, file: Path, folder: Path) -> Delivered:
        """Write ``file``, and the trial encodes below ``folder``.

        Raises:
            EncodeError: the format does not hold the song.
            DecodeError: what was encoded does not decode.
        """
        plan = self.mastering.settle()
        start, stop = self.mastering.stretch(self.preview_s)
        asked, first = plan.target_lufs, plan.limited_by
        ceiling = highest = plan.limiting.ceiling_dbtp
        given_up, made_up = 0.0, 0.0
        for number in range(1, ROUNDS + 1):
            with closing(Spool(plan.channels)) as spool:
                rendered = self.mastering.render(plan, spool.write, start, stop)
                left_out = self._encode(spool, file, plan)
                checks = self._checks(spool, file, folder, plan)
            excess = max((check.excess_db for check in checks), default=-math.inf)
            off = self._off(checks, plan, given_up)
            more = min(_MOST_MADE_UP_LU, max(-_MOST_MADE_UP_LU, made_up - off))
            settled = abs(off) <= _LOUDNESS_LU or more == made_up
            if number == ROUNDS or (excess <= 0.0 and settled):
                break
            margin = _MARGINS_DB[min(number, len(_MARGINS_DB)) - 1]
            lower, made_up = (excess + margin if excess > 0.0 else 0.0), more
            ceiling -= lower
            given_up += lower if number > _ROUNDS_AS_LOUD else 0.0
            target = None if asked is None else asked + made_up - given_up
            plan = self.mastering.settle(ceiling_dbtp=ceiling, target_lufs=target)
        worst = max(checks, key=lambda check: check.excess_db, default=None)
        peaks = [check.levels.true_peak_dbtp for check in checks if check.levels.true_peak_dbtp is not None]
        own = next((check.found for check in checks if check.own), rendered.measured)
        lowered = plan.limiting.ceiling_dbtp < highest
        by_codec = given_up > 0.0 or abs(off) > _LOUDNESS_LU or (plan.limited_by is not None and lowered)
        return Delivered(
            plan=plan,
            after=own,
            max_gain_reduction_db=rendered.max_gain_reduction_db,
            gain_reduction_db=rendered.gain_reduction_db,
            max_compression_db=self.mastering.max_compression_db,
            encoded_tp_dbtp=max(peaks, default=None),
            allowed_dbtp=TRIAL_DBTP if worst is None else worst.allowed_dbtp,
            below=excess <= 0.0,
            rounds=number,
            limited_by=first or ("codec" if by_codec else plan.limited_by),
            left_out=left_out,
            from_s=start / plan.sample_rate,
            samples=stop - start,
        )

    def _encode(self, reader: AudioReader, file: Path, plan: Plan) -> tuple[str, ...]:
        with SongEncoder(
            file, self.form, plan.sample_rate, plan.channels, tags=self.tags, samples=reader.samples
        ) as encoder:
            done = 0
            for block in blocks(reader):
                encoder.write(block)
                done += block.shape[1]
                self.mastering.progress("encode", done / max(1, reader.samples))
        return tuple(encoder.left_out)

    def _checks(self, reader: AudioReader, file: Path, folder: Path, plan: Plan) -> list[_Check]:
        """What decoders make of the file, where it is lossy, and of the trial encodes."""
        checks = [_Check(self.mastering.wish.ceiling_dbtp, measured(file), True)] if self.lossy else []
        for name in self.encodes:
            trial = folder / f"trial.{name}"
            _trial(reader, trial, name, plan)
            checks.append(_Check(TRIAL_DBTP, measured(trial, spectrum=False), False))
            trial.unlink()
        return checks

    def _off(self, checks: Sequence[_Check], plan: Plan, given_up: float) -> float:
        """How much louder a lossy file of the whole song is than it should be, LU."""
        own = next((check.levels.lufs for check in checks if check.own), None)
        if own is None or self.preview_s or plan.limited_by or plan.lufs is None:
            return 0.0
        return own - self.mastering.target_lufs + given_up


@dataclass(frozen=True)
class _Check:
    """What a decoder made of an encode; ``own`` of the file itself."""

    allowed_dbtp: float
    found: Measured
    own: bool

    @property
    def levels(self) -> Levels:
        return self.found.levels

    @property
    def excess_db(self) -> float:
        peak = self.levels.true_peak_dbtp
        return -math.inf if peak is None else peak - self.allowed_dbtp


def measured(file: Path, *, spectrum: bool = True) -> Measured:
    """What a decoder makes of a file. Raises `DecodeError`."""
    with open_file(file) as stream:
        meter = Meter(stream.sample_rate, stream.channels, spectrum=spectrum)
        for block in stream:
            meter.add(block)
    return meter.result()


def _trial(reader: AudioReader, file: Path, name: str, plan: Plan) -> None:
    """The master in a lossy format at 128 kbit/s, at a rate that it holds, in stereo at most."""
    form = SongFormat(name, bit_rate=TRIAL_BIT_RATE)
    channels = min(2, held_channels(form, plan.channels))
    rate = held_rate(form, plan.sample_rate, channels)
    resampler = StreamResampler(plan.sample_rate, rate, channels)
    left = reader.samples
    with SongEncoder(file, form, rate, channels) as encoder:
        for block in blocks(reader):
            left -= block.shape[1]
            mixed = block if channels == plan.channels else to_stereo(block)
            encoder.write(resampler.push(mixed, last=not left))
