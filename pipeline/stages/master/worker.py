"""Songs mastered one after another, in bounded memory: listened to, planned, rendered, encoded, and measured again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline.audio.reader import AudioReader, Spool, blocks
from pipeline.audio.resample import StreamResampler, to_mono, to_stereo
from pipeline.audio.song_formats import SongFormat, held_channels, held_rate
from pipeline.audio.song_tags import SongTags, made_by
from pipeline.dataset.output import Output
from pipeline.engine.batch import Track
from pipeline.engine.made_views import MadeView
from pipeline.engine.scratch import scratch_folder
from pipeline.engine.source_tags import tags_of
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.uploading import uploaded
from pipeline.engine.worker import Worker
from pipeline.errors import Fallback
from pipeline.mastering.delivery import Delivered, Delivery
from pipeline.mastering.drafting import Heard, Reference
from pipeline.mastering.plan import Plan
from pipeline.mastering.song import Mastering
from pipeline.mastering.wish import Wish
from pipeline.stages.master.row import row_of
from pipeline.stages.master.spec import MASTERED, NAME, NATIVE, master_files, plan_files
from pipeline.stages.master.telling import Telling

FINGERPRINT = "fingerprint_"


class MasterWorker(Worker):
    """Fills the ``master_*`` columns, writes masters and plans, and makes the view.

    Args:
        wish: what masters shall be.
        form: the format of the files.
        references: that they shall be like.
        encodes: formats that masters are encoded in on trial.
        preview_s: length of the loudest stretch, which alone is written; 0 for all.
        sample_rate: of the files, Hz; None is each song's own.
        output: where they go.
        method: what the files say that made them.
        common: see `pipeline.engine.worker.Worker`.

    Raises:
        ValueError: there is no ``output``.
    """

    says_how_far = True

    def __init__(
        self,
        wish: Wish,
        form: SongFormat,
        *,
        references: Sequence[Reference] = (),
        encodes: Sequence[str] = (),
        preview_s: float = 0.0,
        sample_rate: int | None = None,
        output: Output | None = None,
        method: str = "soundmill",
        **common: Any,
    ) -> None:
        if output is None:
            raise ValueError("masters are to be written and there is no output")
        super().__init__(**{"stage": NAME, **common})
        self.wish, self.form, self.references = wish, form, tuple(references)
        self.encodes, self.preview_s, self.sample_rate = tuple(encodes), preview_s, sample_rate
        self.output, self.method = output, method
        self._files = {"master": master_files(form), "plan": plan_files()}

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Master each track."""
        self.one_by_one(tracks, NAME, self._song, self._take_back)

    def _take_back(self, track: Track) -> None:
        for blob in track.blobs:
            self.output.discard(blob.path)
        track.values, track.blobs = {}, []

    def _song(self, track: Track) -> None:
        with ExitStack() as stack:
            song = self._as_it_is_written(track, stack)
            rate = song.rate
            started = time.perf_counter()
            telling = Telling(lambda share, words: self.progress(track, share, words))
            mastering = telling.mastering = stack.enter_context(
                Mastering(
                    song.reader,
                    rate,
                    self.wish,
                    self._fingerprint(track),
                    self.references,
                    progress=telling,
                )
            )
            heard = mastering.heard
            listened = time.perf_counter()
            plan = mastering.settle()
            planned = time.perf_counter()
            if NAME in track.due:
                plan = self._write(track, song, mastering, heard, stack)
            if track.makes:
                self._make(track, mastering, plan)
            ended = time.perf_counter()
        for part, seconds in (
            ("analysis", listened - started),
            ("plan", planned - listened),
            ("render", ended - planned),
        ):
            track.costs.append(
                Cost(f"{NAME}.{part}", seconds, batch_audio_s=track.duration_s or 0.0, backend=self.form.name)
            )

    def _as_it_is_written(self, track: Track, stack: ExitStack) -> _Song:
        """The song at the rate and with the channels of its file, so that nothing is changed behind the limiter."""
        reader = self.reader(track, NATIVE, stack)
        native = track.sample_rate
        channels = held_channels(self.form, reader.channels)
        if channels != reader.channels:
            channels = min(channels, 2)
            reason = f"{self.form.name} does not hold {reader.channels} channels"
            used = "mono" if channels == 1 else "stereo"
            track.fallbacks.append(Fallback(NAME, f"{reader.channels} channels", used, reason))
        wanted = self.sample_rate or native
        rate = held_rate(self.form, wanted, channels)
        if rate != wanted:
            reason = f"{self.form.name} does not hold that rate, or not with that bit rate"
            track.fallbacks.append(Fallback(NAME, f"{wanted} Hz", f"{rate} Hz", reason))
        if (rate, channels) == (native, reader.channels):
            return _Song(reader, rate)
        spool = Spool(channels)
        stack.callback(spool.close)
        stream = StreamResampler(native, rate, channels)
        mixed = {1: to_mono, 2: to_stereo}.get(channels) if channels != reader.channels else None
        left = reader.samples
        for block in blocks(reader):
            left -= block.shape[1]
            spool.write(stream.push(mixed(block) if mixed else block, last=not left))
        return _Song(spool, rate)

    def _write(self, track: Track, song: _Song, mastering: Mastering, heard: Heard, stack: ExitStack) -> Plan:
        folder = stack.enter_context(scratch_folder())
        tags = self._tags(track)
        file = folder / f"master{self.form.suffix}"
        delivered = Delivery(mastering, self.form, tags, self.encodes, self.preview_s).to(file, folder)
        for name, path in (("master", file), ("plan", _written(delivered.plan, folder))):
            target = self._files[name].path(track.asset_id, path.name)
            shape = [song.reader.channels, delivered.samples] if name == "master" else []
            track.blobs.append(uploaded(self.output, target, name, shape, path))
        track.values.update(row_of(delivered, heard, self.references, self.wish))
        track.values.update(master_file=track.blobs[-2].path, master_plan_file=track.blobs[-1].path)
        track.values.update(master_sample_rate=song.rate, master_channels=song.reader.channels)
        self._tell(track, delivered)
        self.done(track, NAME)
        return delivered.plan

    def _fingerprint(self, track: Track) -> dict[str, float | None]:
        """The numbers of the stage before, without their prefix."""
        names = (name for products in self.needs.values() for product in products for name in product.names)
        return {
            name.removeprefix(FINGERPRINT): track.found(name)
            for name in names
            if name.startswith(FINGERPRINT)
        }

    def _tell(self, track: Track, delivered: Delivered) -> None:
        if not delivered.below:
            peak = f"{delivered.encoded_tp_dbtp:.2f} dBTP after {delivered.rounds} rounds"
            wanted = f"true peak of {delivered.allowed_dbtp:g} dBTP after decoding"
            track.fallbacks.append(Fallback(NAME, wanted, "a higher one", f"{peak}: the codec overshoots"))
        if delivered.left_out:
            left_out = "; ".join(delivered.left_out)[:500]
            track.fallbacks.append(Fallback(NAME, "all tags", "some left out", left_out))

    def _make(self, track: Track, mastering: Mastering, plan: Plan) -> None:
        made = MadeView(track, MASTERED, plan.channels, plan.sample_rate)
        for block in mastering.rendered(plan):
            made.write(block)
        made.done()

    def _tags(self, track: Track) -> SongTags:
        """Those of the original, with what made this file."""
        tags = tags_of(track, self.fetcher, NAME)
        return made_by(tags, f"{self.method}; mastered by preset {self.wish.name}, {self.wish.mode}")


class _Song:
    """A song as it will be written.

    Args:
        reader: its samples.
        rate: Hz.
    """

    def __init__(self, reader: AudioReader, rate: int) -> None:
        self.reader, self.rate = reader, rate


def _written(plan: Plan, folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text(plan.to_json() + "\n", "utf-8")
    return path
