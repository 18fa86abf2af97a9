"""Scores a song without its vocals, and takes centre extraction instead where that is better beyond doubt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.audio.reader import ArrayReader, AudioReader, Spool, blocks
from pipeline.engine.batch import Track
from pipeline.engine.made_views import MadeView
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.errors import Fallback
from pipeline.karaoke.evidence import Judge
from pipeline.karaoke.score import Score, score
from pipeline.models.separation import SeparationOptions, SeparationStream, Separator, load_backend
from pipeline.models.separation.choose import near_mono
from pipeline.stages.karaoke.spec import NAME, REMOVED
from pipeline.stages.separation.heard import Heard, hear
from pipeline.stages.separation.spec import VIEW, VOCALS

CENTRE = "midside"
"""The backend that needs no network, and which a network is compared with."""
NARROW_HZ = 9000.0
"""A song that ends below this is unlike the calibration: of mixtures that end at 8, 6 or 4 kHz a network's result
was marked 2 to 3 dB too high; at 11 kHz by 0.8, as of whole ones. Centre extraction's marks hold."""
NARROW_SIDE_DB = -25.0
"""So is one with less side than this over its mid: at -25, -30 and -40 dB a network's result was marked 1.8, 2.3 and
3.2 dB too high."""


class KaraokeWorker(Worker):
    """Fills the ``karaoke_*`` columns, and makes the view that is removed.

    Args:
        judge: backend that looks for voice; where a song was separated by that very one, nobody judges, and the
            interval is wider.
        compare: try centre extraction beside a network, and take it where its interval lies above the network's.
        options: what backends are told.
        common: see `pipeline.engine.worker.Worker`.
    """

    def __init__(
        self,
        *,
        judge: str | None = None,
        compare: bool = True,
        options: SeparationOptions | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**{"stage": NAME, **common})
        self.compare = compare
        self._options = options
        self._judge = Judge(judge, vocals_by(self._load(judge))) if judge else None

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Score each track, and hand on what is removed of it."""
        for track in tracks:
            track.fallbacks.extend(self.standing)
            with ExitStack() as stack:
                heard, mix = self.readers([track], VIEW, stack)
                if heard:
                    self._settle(track, mix[0], stack)
            track.costs.append(Cost(NAME, device=self.device, batch_audio_s=track.duration_s or 0.0))

    def _load(self, name: str) -> Separator:
        return load_backend(name, self.device, self._options)

    def _settle(self, track: Track, mix: AudioReader, stack: ExitStack) -> None:
        """Score, choose, and hand on. Without a score the vocals are handed on all the same."""
        vocals = self.reader(track, VOCALS, stack)
        method = track.found("separation_backend") or "unknown"
        try:
            removed = self._chosen(track, mix, vocals, method, stack)
        except Exception as error:  # noqa: BLE001  one song's trouble must not cost its neighbours
            track.values = {"karaoke_method": method}
            self.fail(track, NAME, error)
            removed = vocals
        if track.makes:
            made = MadeView(track, REMOVED, 2, REMOVED.sample_rate)
            for block in blocks(removed):
                made.write(block)
            made.done()

    def _chosen(
        self, track: Track, mix: AudioReader, vocals: AudioReader, method: str, stack: ExitStack
    ) -> AudioReader:
        """What is removed, by the score; the columns are filled in."""
        found, heard = self._score(mix, vocals, method), hear(mix, VIEW.sample_rate)
        choice = track.found("separation_choice") or ""
        refusal = self._refusal_of_centre(track, heard) if self.compare and method != CENTRE else None
        if refusal is not None:
            choice = f"{choice}; {CENTRE}: {refusal}"
        elif self.compare and method != CENTRE:
            centre = Spool.of(voice_in(mix, self._load(CENTRE)), 2)
            stack.callback(centre.close)
            other = self._score(mix, centre, CENTRE)
            if is_better(other, found):
                words = f"{other.karaoke_predicted_sdr_db:.1f} dB predicted, not {found.karaoke_predicted_sdr_db:.1f}"
                track.fallbacks.append(Fallback(NAME, method, CENTRE, words))
                vocals, found, method, choice = centre, other, CENTRE, f"by score: {words}"
        self._caution(track, found, heard, method)
        track.values.update(asdict(found), karaoke_method=method, karaoke_choice=choice)
        if track.due:
            self.done(track, NAME)
        return vocals

    def _refusal_of_centre(self, track: Track, heard: Heard) -> str | None:
        """Why centre extraction is nothing for a track, or None."""
        centre = self._load(CENTRE)
        return centre.refuses(track.channels or 2, 0) or near_mono(centre, heard.side_db)

    def _caution(self, track: Track, found: Score, heard: Heard, method: str) -> None:
        """Say of a song that is unlike those of the calibration that its score is worth less."""
        if found.karaoke_predicted_sdr_db is None or method == CENTRE:
            return
        unlike = []
        if heard.bandwidth_hz is not None and heard.bandwidth_hz < NARROW_HZ:
            unlike.append(f"the song ends at {heard.bandwidth_hz / 1000:.1f} kHz")
        if track.channels == 1:
            unlike.append("the song is mono")
        elif heard.side_db is not None and heard.side_db < NARROW_SIDE_DB:
            unlike.append("both channels are nearly the same")
        if unlike:
            reason = f"{' and '.join(unlike)}: such a score is too high, as a rule"
            track.fallbacks.append(Fallback(NAME, "a score within its calibration", "one beyond it", reason))

    def _score(self, mix: AudioReader, vocals: AudioReader, method: str) -> Score:
        judge = self._judge if self._judge is not None and self._judge.name != method else None
        return score(mix, _Less(mix, vocals), judge, method=method)


def is_better(one: Score, other: Score) -> bool:
    """Whether ``one`` is better beyond the uncertainty of both."""
    if one.karaoke_predicted_sdr_db is None or other.karaoke_predicted_sdr_db is None:
        return False
    return one.karaoke_predicted_sdr_db_low > other.karaoke_predicted_sdr_db_high


def voice_in(audio: AudioReader, separator: Separator) -> Iterator[np.ndarray]:
    """The voice that a backend finds: float32 ``[2, n]`` blocks of stereo at its rate. Raises what it raises."""
    stream = SeparationStream(separator, [audio])
    place = stream.sources.index("vocals")
    for piece in stream:
        if piece.error is not None:
            raise piece.error
        if piece.block is not None:
            yield piece.block[place].cpu().numpy()


def vocals_by(separator: Separator) -> Callable[[np.ndarray], np.ndarray]:
    """What finds the voice in an excerpt, float32 ``[2, samples]`` to the same."""

    def vocals(audio: np.ndarray) -> np.ndarray:
        found = list(voice_in(ArrayReader(audio), separator))
        return np.concatenate(found, axis=1) if found else np.zeros_like(audio)

    return vocals


class _Less:
    """One reader minus another."""

    def __init__(self, mix: AudioReader, removed: AudioReader) -> None:
        self._mix, self._removed = mix, removed
        self.channels, self.samples = mix.channels, mix.samples

    def read(self, start: int, stop: int) -> np.ndarray:
        """See `AudioReader`."""
        return self._mix.read(start, stop) - self._removed.read(start, stop)
