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
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import Mastering, Measured, Meter

ROUNDS = 5
"""A song is rendered so often before a file is left above what is allowed."""
TRIAL_BIT_RATE = 128_000
TRIAL_DBTP = 0.0
"""What a decoder may make of a trial encode: full scale."""
LOSSLESS = ("flac", "wav")
# dB below what should do.
_MARGIN_DB = 0.05
# Rounds in which the ceiling alone is lowered.
_KEPT_LOUD = 2
# LU by which a lossy file may be off before it is rendered again.
_LOUDNESS_LU = 0.05


@dataclass(frozen=True)
class Delivered:
    """A master that was written.

    Args:
        plan: that it was rendered by.
        after: what was measured of what was written.
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
        ceiling, target, given_up = plan.limiting.ceiling_dbtp, plan.target_lufs, 0.0
        for number in range(1, ROUNDS + 1):
            with closing(Spool(plan.channels)) as spool:
                rendered = self.mastering.render(plan, spool.write, start, stop)
                left_out = self._encode(spool, file, plan)
                checks = self._checks(spool, file, folder, plan)
            excess = max((check.excess_db for check in checks), default=-math.inf)
            off = self._off(checks, plan, given_up)
            if number == ROUNDS or (excess <= 0.0 and abs(off) <= _LOUDNESS_LU):
                break
            lower = excess + _MARGIN_DB if excess > 0.0 else 0.0
            ceiling -= lower
            given_up += lower if number >= _KEPT_LOUD else 0.0
            target = None if target is None else target - off - (lower if number >= _KEPT_LOUD else 0.0)
            plan = self.mastering.settle(ceiling_dbtp=ceiling, target_lufs=target)
        worst = max(checks, key=lambda check: check.excess_db, default=None)
        lowered = plan.limiting.ceiling_dbtp < self.mastering.wish.ceiling_dbtp
        return Delivered(
            plan=plan,
            after=rendered.measured,
            max_gain_reduction_db=rendered.max_gain_reduction_db,
            gain_reduction_db=rendered.gain_reduction_db,
            max_compression_db=self.mastering.max_compression_db,
            encoded_tp_dbtp=None if worst is None else worst.levels.true_peak_dbtp,
            allowed_dbtp=TRIAL_DBTP if worst is None else worst.allowed_dbtp,
            below=excess <= 0.0,
            rounds=number,
            limited_by="codec" if given_up or (plan.limited_by and lowered) else plan.limited_by,
            left_out=left_out,
            from_s=start / plan.sample_rate,
            samples=stop - start,
        )

    def _encode(self, reader: AudioReader, file: Path, plan: Plan) -> tuple[str, ...]:
        with SongEncoder(
            file, self.form, plan.sample_rate, plan.channels, tags=self.tags, samples=reader.samples
        ) as encoder:
            for block in blocks(reader):
                encoder.write(block)
        return tuple(encoder.left_out)

    def _checks(self, reader: AudioReader, file: Path, folder: Path, plan: Plan) -> list[_Check]:
        """What decoders make of the file, where it is lossy, and of the trial encodes."""
        checks = [_Check(self.mastering.wish.ceiling_dbtp, levels_of(file), True)] if self.lossy else []
        for name in self.encodes:
            trial = folder / f"trial.{name}"
            _trial(reader, trial, name, plan)
            checks.append(_Check(TRIAL_DBTP, levels_of(trial), False))
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
    levels: Levels
    own: bool

    @property
    def excess_db(self) -> float:
        peak = self.levels.true_peak_dbtp
        return -math.inf if peak is None else peak - self.allowed_dbtp


def levels_of(file: Path) -> Levels:
    """Loudness and peaks of a file once it is decoded. Raises `DecodeError`."""
    with open_file(file) as stream:
        meter = Meter(stream.sample_rate, stream.channels, spectrum=False)
        for block in stream:
            meter.add(block)
    return meter.result().levels


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
