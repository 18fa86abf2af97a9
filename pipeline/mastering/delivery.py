"""A master as a file: rendered, measured, encoded; and rendered again where what a decoder makes of it is too high.

A lossy codec overshoots. The ceiling of the limiter is lowered by as much, and the gain settled anew, so that the
loudness stays. Where that does not do, because the peaks are of the codec's own making, the loudness is given up, too.
Peaks of a codec fall by leaps: what ends lower than it must is raised again as far as it may be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.audio.reader import AudioReader, Spool, blocks
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import NO_TAGS, SongTags
from pipeline.audio.stream import open_file
from pipeline.mastering.delivery_check import TRIAL_DBTP, Check, measured, on_trial
from pipeline.mastering.meter import Measured
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import Mastering, Rendered

ROUNDS = 6
"""A song is rendered so often before a file is left above what is allowed, or lower than it must be."""
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
# dB below what is allowed that a file is raised to, and how much lower it has to be for that.
_AIM_DB = 0.1
_LOWER_DB = 0.3
# dB of the ceiling that are worth another round.
_STEP_DB = 0.1


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


@dataclass(frozen=True)
class _Mark:
    """What a round goes by: the limiter's ceiling, and LU that are given up and made up for."""

    ceiling_dbtp: float
    given_up: float = 0.0
    made_up: float = 0.0


@dataclass(frozen=True)
class _Attempt:
    """A round: what it went by, and what came of it. ``off`` is how much too loud it is, LU."""

    mark: _Mark
    plan: Plan
    rendered: Rendered
    left_out: tuple[str, ...]
    checks: tuple[Check, ...]
    off: float

    @property
    def excess_db(self) -> float:
        return max((check.excess_db for check in self.checks), default=-math.inf)

    @property
    def below(self) -> bool:
        return self.excess_db <= 0.0

    @property
    def to_make_up(self) -> float:
        """LU to make up for in the next round."""
        return min(_MOST_MADE_UP_LU, max(-_MOST_MADE_UP_LU, self.mark.made_up - self.off))

    @property
    def done(self) -> bool:
        return self.below and (abs(self.off) <= _LOUDNESS_LU or self.to_make_up == self.mark.made_up)

    def lower(self, number: int) -> _Mark:
        """For the round behind this one, the ``number``-th, which was too high or is not settled yet."""
        margin = _MARGINS_DB[min(number, len(_MARGINS_DB)) - 1]
        lower = 0.0 if self.below else self.excess_db + margin
        given_up = self.mark.given_up + (lower if number > _ROUNDS_AS_LOUD else 0.0)
        return _Mark(self.mark.ceiling_dbtp - lower, given_up, self.to_make_up)

    def towards(self, high: _Attempt, *, most: float = 1.0) -> _Mark | None:
        """From one that did towards one that was too high: so far that it should just do, if peaks went with the
        ceiling, and at most that share of the way; None where it need not."""
        share = min(most, (-_AIM_DB - self.excess_db) / (high.excess_db - self.excess_db))
        way = high.mark.ceiling_dbtp - self.mark.ceiling_dbtp
        if self.excess_db >= -_LOWER_DB or share * way < _STEP_DB:
            return None
        ceiling = self.mark.ceiling_dbtp + share * way
        given_up = self.mark.given_up + share * (high.mark.given_up - self.mark.given_up)
        return _Mark(ceiling, given_up, self.to_make_up)


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
        """Write ``file``; ``folder`` is for what is in between.

        Raises:
            EncodeError: the format does not hold the song.
            DecodeError: what was encoded does not decode.
        """
        whole = self.mastering.settle()
        asked, highest = whole.target_lufs, whole.limiting.ceiling_dbtp
        best: _Attempt | None = None
        high: _Attempt | None = None
        mark: _Mark | None = _Mark(highest)
        number, most = 0, 1.0
        while mark is not None and number < ROUNDS:
            number += 1
            target = None if asked is None else asked + mark.made_up - mark.given_up
            plan = (
                whole
                if number == 1
                else self.mastering.settle(ceiling_dbtp=mark.ceiling_dbtp, target_lufs=target)
            )
            attempt = self._attempt(mark, plan, file)
            if not attempt.below:
                # Where the straight way was not the way of the peaks, the rest of it is halved.
                high, most = attempt, 1.0 if best is None else 0.5
            if attempt.done:
                best = attempt
                file.replace(folder / "best")
            if best is None:
                mark = attempt.lower(number)
            else:
                # Below, but not as loud as it was asked to be: what was done stands.
                stuck = high is None or (attempt.below and not attempt.done)
                mark = None if stuck else best.towards(high, most=most)
        if best is not None:
            (folder / "best").replace(file)
        return self._delivered(best or attempt, whole, number)

    def _attempt(self, mark: _Mark, plan: Plan, file: Path) -> _Attempt:
        """Render, write and measure."""
        start, stop = self.mastering.stretch(self.preview_s)
        with closing(Spool(plan.channels)) as spool:
            rendered = self.mastering.render(plan, spool.write, start, stop)
            left_out = self._encode(spool, file, plan)
            checks = self._checks(spool, file, plan)
        off = self._off(checks, plan, mark.given_up)
        return _Attempt(mark, plan, rendered, left_out=left_out, checks=checks, off=off)

    def _delivered(self, attempt: _Attempt, whole: Plan, rounds: int) -> Delivered:
        plan, checks, mark = attempt.plan, attempt.checks, attempt.mark
        start, stop = self.mastering.stretch(self.preview_s)
        worst = max(checks, key=lambda check: check.excess_db, default=None)
        peaks = [check.levels.true_peak_dbtp for check in checks if check.levels.true_peak_dbtp is not None]
        lowered = plan.limiting.ceiling_dbtp < whole.limiting.ceiling_dbtp
        by_codec = (
            mark.given_up > 0.0
            or abs(attempt.off) > _LOUDNESS_LU
            or (plan.limited_by is not None and lowered)
        )
        return Delivered(
            plan=plan,
            after=next((check.found for check in checks if check.own), attempt.rendered.measured),
            max_gain_reduction_db=attempt.rendered.max_gain_reduction_db,
            gain_reduction_db=attempt.rendered.gain_reduction_db,
            max_compression_db=self.mastering.max_compression_db,
            encoded_tp_dbtp=max(peaks, default=None),
            allowed_dbtp=TRIAL_DBTP if worst is None else worst.allowed_dbtp,
            below=attempt.below,
            rounds=rounds,
            limited_by=whole.limited_by or ("codec" if by_codec else plan.limited_by),
            left_out=attempt.left_out,
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

    def _checks(self, reader: AudioReader, file: Path, plan: Plan) -> tuple[Check, ...]:
        """What decoders make of the file, where it is lossy, and of the trial encodes."""
        checks = [Check(self.mastering.wish.ceiling_dbtp, measured(file), True)] if self.lossy else []
        if not self.encodes:
            return tuple(checks)
        told = (reader.samples, plan.sample_rate, plan.channels, self.encodes)
        if self.lossy:
            return (*checks, *on_trial(blocks(reader), *told))
        # What a user would encode: its dither alone moves the peaks of an encode by some tenths of a dB.
        with open_file(file) as stream:
            return tuple(on_trial(stream, *told))

    def _off(self, checks: Sequence[Check], plan: Plan, given_up: float) -> float:
        """How much louder a lossy file of the whole song is than it should be, LU."""
        own = next((check.levels.lufs for check in checks if check.own), None)
        if own is None or self.preview_s or plan.limited_by or plan.lufs is None:
            return 0.0
        return own - self.mastering.target_lufs + given_up
