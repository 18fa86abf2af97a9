"""Runs of the job in this process and without Ray, for tests of what they leave behind.

The driver is the one that small jobs get (`pipeline.engine.inline`), but for its child process. One stand-in, and named
as such: CLAP's network is a hash of the audio. All else is the real thing: decoding, extractors, mid/side separation,
the sink, the planning of what is left to do, and what is done at a run's end.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.dataset.lock import PATH as LOCK
from pipeline.dataset.output import Output
from pipeline.engine.batch import Track
from pipeline.engine.inline import InlineDriver
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.worker import Worker
from pipeline.stages.clap.spec import NAME, clap_key
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.drivers import DriverChoice, Drivers
from pipeline.workflows.job import Job
from pipeline.workflows.jobs.extract import EXTRACT, ExtractModels, find_models

STAND_IN = "stand-in"


class Killed(BaseException):
    """The process ends here, without a chance to do anything more."""


class StandInClap(Worker):
    """CLAP with a hash of each window in the place of its network."""

    def __init__(
        self, checkpoint: str, window_seconds: float, hop_seconds: float, aggregate: str, **others: Any
    ) -> None:
        own = ("max_batch_audio_seconds", "batch_items", "compile", "amp", "queries")
        super().__init__(**{name: value for name, value in others.items() if name not in own})
        self.window, self.hop = round(48000 * window_seconds), round(48000 * hop_seconds)
        self.aggregate = aggregate

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Fill in CLAP's columns and windows."""
        for track in tracks:
            self._store(track)

    def _store(self, track: Track) -> None:
        audio = track.audio("clap")[0]
        starts = range(0, max(1, audio.size), self.hop)
        vectors = [_vector(audio[start : start + self.window]) for start in starts]
        track.costs.append(Cost(NAME))
        track.values |= {
            "clap_embedding": vectors[0],
            "clap_windows": len(vectors),
            "clap_aggregate": self.aggregate,
            "clap_model": STAND_IN,
        }
        track.rows["segments"] = [
            {"segment_index": i, "start_s": s / 48000, "end_s": s / 48000, "clap_embedding": v}
            for i, (s, v) in enumerate(zip(starts, vectors, strict=True))
        ]
        self.done(track, NAME)


def _vector(window: np.ndarray) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(window.tobytes()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class InProcess:
    """Has the workers of runs in this process within ``monkeypatch``'s life.

    ``writes_left`` is how many files may still be written before the process is `Killed`; None for ever.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.writes_left: int | None = None
        self.killed = False
        self._decoders: dict[str, Any] = {}
        self._patch(monkeypatch)

    def _patch(self, monkeypatch: Any) -> None:
        import pipeline.stages.decode.worker as decode
        from pipeline.dataset.lock import OutputLock
        from pipeline.dataset.run_folder import RunFolder
        from pipeline.workflows import execution, run
        from pipeline.workflows.jobs import extract

        real_decoder = decode.IsolatedDecoder
        monkeypatch.setattr(decode, "IsolatedDecoder", lambda *a: self._decoder(real_decoder, *a))
        monkeypatch.setattr(run, "Drivers", _InThisProcess)
        monkeypatch.setattr(run, "LAST_WRITES_S", 0.0)
        monkeypatch.setattr(extract, "EXTRACT", dataclasses.replace(EXTRACT, find=_models))
        monkeypatch.setattr(execution, "settle_golden", lambda *a: None)
        monkeypatch.setattr(execution, "_report_writer", lambda: lambda folder, numbers, env: "")
        monkeypatch.setattr("pipeline.stages.clap.worker.ClapWorker", StandInClap)
        for cls, name in ((Output, "write"), (OutputLock, "release"), (RunFolder, "mark")):
            monkeypatch.setattr(cls, name, self._until_killed(getattr(cls, name)))

    def kill_after(self, writes: int) -> None:
        """The next run is killed at its write of this number."""
        self.writes_left = writes

    def after_the_kill(self, output: str) -> None:
        """What time does: the lock of the dead process goes stale, and the next one takes it over."""
        self.writes_left, self.killed = None, False
        Output(output).discard(LOCK)

    def _until_killed(self, real: Any) -> Any:
        def call(owner: Any, *arguments: Any, **keywords: Any) -> Any:
            if self.killed:
                if real.__name__ == "release":  # the thread ends with the process
                    owner._ended.set()
                return None
            if real.__name__ == "write" and self.writes_left is not None:
                self.writes_left -= 1
                if self.writes_left < 0:
                    self.killed = True
                    raise Killed
            return real(owner, *arguments, **keywords)

        return call

    def _decoder(self, real: Any, *arguments: Any) -> Any:
        """One child process for all runs that want the same of it: each takes a second to start."""
        name = repr(arguments)
        if name not in self._decoders:
            self._decoders[name] = real(*arguments)
        return self._decoders[name]


class _InThisProcess(Drivers):
    """The in-process driver without its child, whatever the config says."""

    def __init__(self, config: ExtractConfig, job: Job) -> None:
        super().__init__(config, job)
        self.choice = DriverChoice(True, "this is a test")

    def _made(self, inline: bool) -> InlineDriver:
        return InlineDriver(1.0, child=False)


def _models(config: ExtractConfig) -> ExtractModels:
    """The real answer for separation, and the stand-in for CLAP; tags and beats only where a test asks for them,
    whatever weights are here."""
    sections = config.clap, config.tags, config.beats
    wanted, *others = (section.enabled for section in sections)
    for section, enabled in zip(sections, (False, *map(bool, others)), strict=True):
        section.enabled = enabled
    try:
        models = find_models(config)
    finally:
        for section, enabled in zip(sections, (wanted, *others), strict=True):
            section.enabled = enabled
    if wanted:
        models.clap_checkpoint = models.clap_model = STAND_IN
        clap = config.clap
        models.clap_key = clap_key(
            STAND_IN,
            clap.window_seconds,
            clap.hop_seconds,
            clap.aggregate,
            clap.amp,
            queries=models.clap_queries,
        )
    return models
