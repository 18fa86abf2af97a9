"""The mix minus its vocals at the song's own rate and length, encoded with its tags, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audio.reader import AudioReader, Spool, blocks
from pipeline.audio.resample import StreamResampler, to_mono, to_stereo
from pipeline.audio.song_formats import SongFormat, held_rate
from pipeline.audio.song_peak import Finished, PeakMeter, encode_below
from pipeline.audio.song_tags import SongTags, made_by
from pipeline.audio.views import View
from pipeline.dataset.output import Output
from pipeline.dsp.true_peak import PEAK_CONTEXT, true_peak
from pipeline.engine.batch import Track
from pipeline.engine.scratch import scratch_folder
from pipeline.engine.source_tags import tags_of
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.uploading import uploaded
from pipeline.engine.worker import Worker
from pipeline.errors import Fallback
from pipeline.stages.instrumental.spec import NAME, NATIVE, instrumental_files

METER = PeakMeter(true_peak, PEAK_CONTEXT)
ROUNDS = 3
"""A file is encoded so often before it is left above the ceiling."""


class InstrumentalWorker(Worker):
    """Fills the ``instrumental_*`` columns and writes the files.

    Args:
        removed: the view that is taken out.
        form: the format of the files.
        output: where they go.
        keep: ``vocals`` also writes what was taken out, with the same gain.
        ceiling_dbtp: the highest true peak of a file once it is decoded.
        sample_rate: of the files, Hz; None is each song's own.
        channels: of the files, 1 or 2; None is each song's own, at most 2.
        method: what the files say that made them, before the model.
        common: see `pipeline.engine.worker.Worker`.

    Raises:
        ValueError: there is no ``output``.
    """

    def __init__(
        self,
        removed: View,
        form: SongFormat,
        *,
        output: Output | None = None,
        keep: Sequence[str] = (),
        ceiling_dbtp: float = -1.0,
        sample_rate: int | None = None,
        channels: int | None = None,
        method: str = "soundmill",
        **common: Any,
    ) -> None:
        if output is None:
            raise ValueError("instrumentals are to be written and there is no output")
        super().__init__(**{"stage": NAME, **common})
        self.removed, self.form, self.output = removed, form, output
        self.keep, self.ceiling_dbtp, self.method = tuple(keep), ceiling_dbtp, method
        self.sample_rate, self.channels = sample_rate, channels
        self._files = instrumental_files(form)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Write the files of each track."""
        self.one_by_one(tracks, NAME, self._song, _take_back)

    def _song(self, track: Track) -> None:
        with ExitStack() as stack:
            self._write(track, stack)

    def _write(self, track: Track, stack: ExitStack) -> None:
        song = _Song(self, track, stack)
        tags = self._tags(track)
        folder = stack.enter_context(scratch_folder())
        parts: dict[str, AudioReader] = {"instrumental": song.spool(taken_out=True)}
        if "vocals" in self.keep:
            parts["vocals"] = song.spool(taken_out=False)
        done = self._encoded(parts, folder, song, tags)
        finished = done["instrumental"]
        for name in parts:
            file = folder / f"{name}{self.form.suffix}"
            target = self._files.path(track.asset_id, file.name)
            track.blobs.append(uploaded(self.output, target, name, [song.channels, song.samples], file))
        paths = {blob.name: blob.path for blob in track.blobs}
        track.values.update(
            instrumental_file=paths["instrumental"],
            instrumental_gain_db=finished.gain_db,
            instrumental_true_peak_dbtp=finished.true_peak_dbtp,
            instrumental_sample_rate=song.rate,
            instrumental_channels=song.channels,
        )
        if "vocals" in paths:
            track.values["instrumental_vocals_file"] = paths["vocals"]
        if not finished.below:
            peak = f"{finished.true_peak_dbtp:.2f} dBTP after {finished.rounds} rounds"
            reason = f"{peak}: the codec overshoots at this bit rate"
            track.fallbacks.append(
                Fallback(NAME, f"true peak of {self.ceiling_dbtp:g} dBTP", "a higher one", reason)
            )
        if finished.left_out:
            track.fallbacks.append(
                Fallback(NAME, "all tags", "some left out", "; ".join(finished.left_out)[:500])
            )
        track.costs.append(Cost(NAME, backend=self.form.name, batch_audio_s=track.duration_s or 0.0))
        self.done(track, NAME)

    def _encoded(
        self, parts: dict[str, AudioReader], folder: Path, song: _Song, tags: SongTags
    ) -> dict[str, Finished]:
        """All parts with one gain, the largest cut that one of them needs: they add up to the song."""
        gain_db, done = 0.0, {}
        for rounds in (*[ROUNDS] * len(parts), 1):  # in the last one the gain is settled
            for name, reader in parts.items():
                if name in done and done[name].gain_db == gain_db:
                    continue
                found = encode_below(
                    _Turned(reader, gain_db),
                    folder / f"{name}{self.form.suffix}",
                    self.form,
                    song.rate,
                    meter=METER,
                    tags=tags,
                    ceiling_dbtp=self.ceiling_dbtp,
                    rounds=rounds,
                )
                done[name] = replace(found, gain_db=gain_db + found.gain_db)
            gain_db = min(finished.gain_db for finished in done.values())
        return done

    def _tags(self, track: Track) -> SongTags:
        """Those of the original, with what made this file."""
        tags = tags_of(track, self.fetcher, NAME)
        backend, method = track.found("separation_backend"), track.found("karaoke_method")
        model = track.found("separation_model") if method in (None, backend) else method
        return made_by(tags, f"{self.method}; {model or 'unknown'}")


def _take_back(track: Track) -> None:
    track.values, track.blobs = {}, []


class _Song:
    """One track on its way to its files: the form that the format holds, and the samples of it.

    Says in the track's fallbacks what the format does not hold.
    """

    def __init__(self, stage: InstrumentalWorker, track: Track, stack: ExitStack) -> None:
        self._stack = stack
        self._mix = stage.reader(track, NATIVE, stack)
        self._removed = stage.reader(track, stage.removed, stack)
        self._rates = track.sample_rate, stage.removed.sample_rate
        self.channels = stage.channels or min(2, self._mix.channels)
        wanted = stage.sample_rate or track.sample_rate
        self.rate = held_rate(stage.form, wanted, self.channels)
        self.samples = -(-self._mix.samples * self.rate // track.sample_rate)
        if self._mix.channels > 2:
            given, reason = f"{self._mix.channels} channels", "vocals are separated in stereo"
            track.fallbacks.append(Fallback(NAME, given, "stereo", reason))
        if self.rate != wanted:
            reason = f"{stage.form.name} does not hold the source's rate"
            track.fallbacks.append(Fallback(NAME, f"{wanted} Hz", f"{self.rate} Hz", reason))

    def spool(self, taken_out: bool) -> Spool:
        """The mix without what is removed, or, without ``taken_out``, what is removed: in a temporary file."""
        spool = Spool(self.channels)
        self._stack.callback(spool.close)
        native, removed_rate = self._rates
        removed = _Pieces(self._resampled(self._removed, removed_rate), self.channels)
        for block in self._resampled(self._mix, native):
            # Of resampled lengths the one may be a sample shorter than the other.
            other = removed.take(block.shape[1])
            spool.write(block - other if taken_out else other)
        return spool

    def _resampled(self, reader: AudioReader, rate: int) -> Iterator[np.ndarray]:
        mixed = to_mono if self.channels == 1 else to_stereo
        stream = StreamResampler(rate, self.rate, self.channels)
        left = reader.samples
        for block in blocks(reader):
            left -= block.shape[1]
            yield stream.push(mixed(block), last=not left)


class _Pieces:
    """Blocks that come in any length, handed out in the lengths that are asked for; zeros behind their end."""

    def __init__(self, pieces: Iterator[np.ndarray], channels: int) -> None:
        self._pieces, self._rest = pieces, np.empty((channels, 0), np.float32)

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` samples."""
        held = [self._rest]
        have = self._rest.shape[1]
        while have < count and (piece := next(self._pieces, None)) is not None:
            held.append(piece)
            have += piece.shape[1]
        joined = np.concatenate(held, axis=1)
        self._rest = joined[:, count:]
        return np.pad(joined[:, :count], ((0, 0), (0, max(0, count - have))))


class _Turned:
    """A reader with a gain."""

    def __init__(self, reader: AudioReader, gain_db: float) -> None:
        self._reader, self._gain = reader, np.float32(10.0 ** (gain_db / 20.0))
        self.channels, self.samples = reader.channels, reader.samples

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `AudioReader`."""
        block = self._reader.read(start, stop)
        return block if self._gain == 1.0 else block * self._gain
