"""How far the run is: counts from the sink's receipts, a line now and then, and the totals at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.within import Part

# Kinds of fallback that are told apart. Their reasons carry counts and names, so that a large run over bad files
# would have one per file; what comes after is counted per stage.
FALLBACK_KINDS = 1000
OTHERS = ("other", "other", "other")


@dataclass
class Progress:
    """Adds up receipts. ``copies`` are files that wait for the row of another file with the same content; ``copied``
    of them have got it, with ``copied_s`` of audio, which is not in ``audio_s``. ``written`` counts ``segments``, and
    ``stems`` and ``arrays``, which are files.

    Args:
        files: planned.
        bytes: planned, where every size is known; else 0 and the ETA goes by files.
        report: called with the fields of a progress line at most every ``interval_s``.
        parts: the files in work, each with how far its stage is with it, see `pipeline.engine.within`.
        weights: stage → cost of a second of audio, of all stages in order: what a stage is of the work on a file.
    """

    files: int
    bytes: int = 0
    report: Callable[[dict[str, Any]], None] = lambda fields: None
    interval_s: float = 5.0
    parts: Callable[[], Sequence[Part]] = tuple
    weights: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    committed: set[int] = field(default_factory=set)
    status: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)
    fallbacks: Counter = field(default_factory=Counter)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    written: Counter = field(default_factory=Counter)
    copies: dict[int, dict[str, Any]] = field(default_factory=dict)
    audio_s: float = 0.0
    copied: int = 0
    copied_s: float = 0.0
    bytes_done: int = 0
    write_s: float = 0.0
    _last: float = field(default_factory=time.perf_counter)

    def add(self, receipt: dict[str, Any]) -> None:
        """Count one committed part."""
        doubled = self.committed.intersection(receipt["indexes"])
        if doubled:
            raise RuntimeError(
                f"{len(doubled)} files were committed twice, the first is number {min(doubled)}"
            )
        self.committed.update(receipt["indexes"])
        self.copies.update({copy["index"]: copy for copy in receipt["copies"]})
        self.status.update(receipt["status"])
        self.audio_s += receipt["audio_s"]
        self.bytes_done += receipt["bytes"]
        self.write_s += receipt["write_s"]
        self.written.update(receipt.get("written", {}))
        for stage, error_class, count in receipt["failures"]:
            self.failures[stage, error_class] += count
        for stage, wanted, used, reason, count in receipt["fallbacks"]:
            kind = (stage, wanted, used, reason)
            if kind not in self.fallbacks and len(self.fallbacks) >= FALLBACK_KINDS:
                kind = (stage, *OTHERS)
            self.fallbacks[kind] += count
        for stage, sums in receipt["stages"].items():
            mine = self.stages.setdefault(stage, {**dict.fromkeys(sums, 0.0), "device": sums["device"]})
            for name, value in sums.items():
                if name == "gpu_peak_bytes":
                    mine[name] = max(mine[name], value)
                elif name != "device":
                    mine[name] += value
        for process in receipt["processes"]:
            key = (process["node"], process["pid"])
            if _later(process, self.processes.get(key, process)):
                self.processes[key] = process
        if time.perf_counter() - self._last >= self.interval_s:
            self._last = time.perf_counter()
            self.report(self.fields())

    def settled(self) -> set[int]:
        """Files that have a row, or will have that of a file with the same content."""
        return self.committed | self.copies.keys()

    def add_copy(
        self,
        index: int,
        status: str,
        size_bytes: int,
        failures: Iterable[tuple[str, str]] = (),
        audio_s: float = 0.0,
    ) -> None:
        """Count a file that got the row of another, and with it its ``failures``, by stage and error class. Its
        ``audio_s`` is none that was worked on, and counts apart."""
        self.committed.add(index)
        self.copied += 1
        self.copied_s += audio_s
        self.failures.update(failures)
        self.status[status] += 1
        self.bytes_done += size_bytes

    def add_unseen(self, index: int, status: str) -> None:
        """Count a file whose row is there although no receipt came."""
        self.committed.add(index)
        self.status[status] += 1

    def in_work(self) -> list[Part]:
        """The files of which some stage says how far it is, and that have no row yet."""
        return [part for part in self.parts() if part.index not in self.committed]

    def elapsed(self) -> float:
        """Wall seconds since the start."""
        return time.perf_counter() - self.started

    def failed(self) -> int:
        """Files of which nothing could be computed."""
        return self.status["failed"]

    def gpu_peak_bytes(self, stage: str) -> int:
        """Most GPU memory that a batch of ``stage``, or of one of its extractors, took; 0 on a CPU."""
        sums = [s for name, s in list(self.stages.items()) if name.split(".", 1)[0] == stage]
        return int(max((s.get("gpu_peak_bytes", 0) for s in sums), default=0))

    def fields(self) -> dict[str, Any]:
        """What a progress line says; ``eta_s`` is None until a hundredth is done."""
        elapsed = self.elapsed()
        whole, all_of_it = (self.bytes_done, self.bytes) if self.bytes else (len(self.committed), self.files)
        done = (whole + self._within()) / max(1, all_of_it)
        # Not every row that is there came with its size.
        done = 1.0 if len(self.committed) >= self.files else min(1.0, done)
        return {
            "files_done": len(self.committed),
            "files": self.files,
            "share_done": round(done, 4),
            "audio_hours": round(self.audio_s / 3600, 4),
            "real_time_factor": round(self.audio_s / elapsed, 2) if elapsed else None,
            "copies": self.copied,
            "failed": self.failed(),
            "partial": self.status["partial"],
            "elapsed_s": round(elapsed, 1),
            "eta_s": round(elapsed * (1 - done) / done, 1) if done >= 0.01 else None,
        }

    def _within(self) -> float:
        """What is done of the files in work: bytes where sizes are known, else files."""
        done = 0.0
        for part in self.in_work():
            size = (part.size_bytes or 0) if self.bytes else 1
            done += size * self._share_of_file(part)
        return done

    def _share_of_file(self, part: Part) -> float:
        """Of all stages' work on a file, 0 to 1: those before are through with it."""
        before = 0.0
        for stage, weight in self.weights.items():
            if stage == part.stage:
                done = before + weight * min(1.0, max(0.0, part.share))
                return done / (sum(self.weights.values()) or 1.0)
            before += weight
        return 0.0


def _later(process: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether a note is not older than another of the same process."""
    return _grown(process) >= _grown(known)


def _grown(process: dict[str, Any]) -> tuple[float, ...]:
    """Figures that only grow, of a process's note."""
    samples = (process.get("card") or {}).get("samples", 0)
    return process["peak_rss_bytes"], process.get("device_s", 0.0), samples
