"""Runs of the job in this process and without Ray, for tests of what they leave behind.

Stand-ins, and named as such: blocks go through the stages one after another instead of through Ray Data's pools, and
CLAP's network is a hash of the audio. All else is the real thing: decoding, extractors, mid/side separation, the sink,
the planning of what is left to do, and what is done at a run's end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.dataset.lock import PATH as LOCK
from pipeline.dataset.output import Output
from pipeline.engine.batch import Track, add_stage, tracks_of
from pipeline.engine.keys import clap_key
from pipeline.engine.ledger import Ledger
from pipeline.engine.session import Cluster
from pipeline.engine.timing import Cost, StageClock
from pipeline.stages.clap.worker import FIELDS, NAME
from pipeline.workflows import availability

STAND_IN = "stand-in"


class Killed(BaseException):
    """The process ends here, without a chance to do anything more."""


class StandInClap:
    """CLAP with a hash of each window in the place of its network."""

    def __init__(self, window_seconds: float, hop_seconds: float, aggregate: str, **others: Any) -> None:
        self.window, self.hop = round(48000 * window_seconds), round(48000 * hop_seconds)
        self.aggregate, self.drop = aggregate, others["drop"]
        self.key = clap_key(STAND_IN, window_seconds, hop_seconds, aggregate, others["amp"])

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with CLAP's columns."""
        clock, tracks = StageClock(), tracks_of(table)
        for track in tracks:
            if track.decoded and track.wants(NAME):
                self._store(track)
        return add_stage(table, tracks, NAME, FIELDS, clock, drop=self.drop.__contains__)

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
            f"key@{NAME}": self.key,
            "segments": [
                {"segment_index": i, "start_s": s / 48000, "end_s": s / 48000, "clap_embedding": v}
                for i, (s, v) in enumerate(zip(starts, vectors, strict=True))
            ],
        }


def _vector(window: np.ndarray) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(window.tobytes()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=512)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class InProcess:
    """Puts itself in the place of Ray within ``monkeypatch``'s life.

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
        from pipeline.workflows import attempts as passes
        from pipeline.workflows import execution, features, keys

        real_decoder, real_models = decode.IsolatedDecoder, availability.find_models
        monkeypatch.setattr(decode, "IsolatedDecoder", lambda *a: self._decoder(real_decoder, *a))
        monkeypatch.setattr(decode, "Claims", _Claims)
        monkeypatch.setattr(passes, "start_ledger", Ledger)
        monkeypatch.setattr(passes, "build_dataset", lambda blocks, nodes, *others: (blocks, nodes))
        monkeypatch.setattr(passes, "receipts", self._receipts)
        monkeypatch.setattr(passes, "busy_seconds", lambda dataset, nodes: {})
        monkeypatch.setattr(features, "RayAhead", _NoRay)
        monkeypatch.setattr(features, "LAST_WRITES_S", 0.0)
        monkeypatch.setattr(features, "find_models", lambda config: _models(real_models, config))
        monkeypatch.setattr(execution, "settle_golden", lambda *a: None)
        monkeypatch.setattr(execution, "_report_writer", lambda: lambda folder, numbers, env: "")
        monkeypatch.setattr("pipeline.stages.clap.worker.ClapStage", StandInClap)
        info = SimpleNamespace(info=SimpleNamespace(sha256=STAND_IN))
        monkeypatch.setattr(keys, "read_checkpoint", lambda path: info)
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

    def _receipts(self, dataset: tuple[Sequence[pa.Table], Sequence[Any]]) -> Iterator[dict[str, Any]]:
        blocks, nodes = dataset
        made = [node.make() for node in nodes]
        for table in blocks:
            for stage in made:
                table = stage(table)
            for receipt in table["receipt"].to_pylist():
                yield json.loads(receipt)


class _Claims:
    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

    def owner(self, asset_id: str, uri: str) -> str:
        return uri if self._ledger is None else self._ledger.claim(asset_id, uri)


class _NoRay:
    def __init__(self, arguments: dict[str, Any], ask_cards: bool = False) -> None:
        pass

    def begin(self) -> None:
        pass

    def close(self) -> None:
        pass

    def waits_for(self) -> None:
        pass

    def cards(self) -> None:
        pass

    def cluster(self) -> Cluster:
        return Cluster("in process", 1.0, 0.0, 1, node_cpus=(1.0,))


def _models(real: Any, config: Any) -> availability.Models:
    """The real answer for separation, and the stand-in for CLAP."""
    wanted, config.clap.enabled = config.clap.enabled, False
    try:
        models = real(config)
    finally:
        config.clap.enabled = wanted
    if wanted:
        models.clap_checkpoint = models.clap_model = STAND_IN
    return models
