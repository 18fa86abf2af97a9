"""What the CPU has to keep up with: descriptors, decode, and the tests that need a card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from inputs import RATE, stretches, write_corpus
from kit import STAND_INS, Kit, child_environment

DSP_RATE = 22050


def descriptors(kit: Kit) -> None:
    """All extractors on one core, track by track."""
    import torch

    from pipeline.features import REGISTRY
    from pipeline.features.extraction import TrackAudio, run_extractors

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    try:
        torch.set_num_threads(1)
        count, seconds = (1, 2.0) if kit.small else (6, 60.0)
        native = stretches(count, seconds, RATE, kit.music)
        mono = stretches(count, seconds, DSP_RATE, kit.music, stereo=False)
        every = [extractor() for extractor in REGISTRY.values()]
        tracks = [TrackAudio(m, DSP_RATE, n, RATE) for m, n in zip(mono, native, strict=True)]
        taken: dict[str, float] = {}
        run_extractors(every, tracks[0].track, tracks[0].blocks)
        started = time.perf_counter()
        for track in tracks:
            for outcome in run_extractors(every, track.track, track.blocks):
                if outcome.error is not None:
                    raise outcome.error
                taken[outcome.extractor.name] = taken.get(outcome.extractor.name, 0.0) + outcome.seconds
        wall = time.perf_counter() - started
    finally:
        os.sched_setaffinity(0, cores)
    slowest = sorted(taken.items(), key=lambda item: -item[1])
    kit.emit(
        "all extractors on one core", tracks=count, seconds_each=seconds,
        times_real_time=round(count * seconds / wall, 1),
        ms_per_track={name: round(1e3 * s / count, 1) for name, s in slowest},
    )  # fmt: skip


def decode(kit: Kit) -> None:
    """The decode stage's decoder over FLAC files, three views each."""
    folder, cores = kit.scratch / "decode", len(os.sched_getaffinity(0))
    count, seconds = (2, 2.0) if kit.small else (24, 30.0)
    write_corpus(folder, count, seconds, kit.music)
    rounds = 1 if kit.small else 2
    for processes in sorted({1, cores}):
        found = _decoders(kit, folder, processes, rounds)
        audio = rounds * count * seconds
        wall = max(f["wall_s"] for f in found)
        kit.emit(
            "decoder", processes=processes, views=3, files_each=rounds * count, seconds_each=seconds,
            times_real_time=round(processes * audio / wall, 1),
            times_real_time_per_process=round(audio / wall, 1),
            start_s=round(max(f["start_s"] for f in found), 2),
        )  # fmt: skip


def _decoders(kit: Kit, folder: Path, processes: int, rounds: int) -> list[dict[str, Any]]:
    """So many processes, each with a decoder of its own; they begin together once all are ready."""
    command = [sys.executable, str(Path(__file__)), str(kit.project), str(folder), str(rounds)]
    environment = child_environment(kit.project)
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)  # noqa: S603
        for _ in range(processes)
    ]
    try:
        ready = [json.loads(process.stdout.readline() or "{}") for process in started]
        for process in started:
            print(file=process.stdin, flush=True)
        return [
            {**r, **json.loads(process.stdout.readline() or "{}")}
            for r, process in zip(ready, started, strict=True)
        ]
    finally:
        for process in started:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _decode_child(project: str, folder: str, rounds: str) -> None:
    """A process of `decode`: says when it is ready, waits for a line, and says what its files took."""
    sys.path.insert(0, project)
    started = time.perf_counter()
    from pipeline.audio.isolated import IsolatedDecoder
    from pipeline.audio.stream import AudioFile
    from pipeline.audio.views import View, Wanted

    views = View("native", None, None), View("clap", 48000, 1), View("mono", DSP_RATE, 1)
    decoder = IsolatedDecoder(Wanted(views, 1_500_000_000, 86400.0))
    paths = sorted(Path(folder).glob("*.flac"))
    files = [AudioFile(path.name, path.stat().st_size, None, path) for path in paths]
    decoder.decode(files[0])
    print(json.dumps({"start_s": time.perf_counter() - started}), flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    for _ in range(int(rounds)):
        for file in files:
            decoder.decode(file)
    print(json.dumps({"wall_s": time.perf_counter() - started}), flush=True)
    decoder.close()


def tests(kit: Kit) -> None:
    """The tests of models and engine whose names speak of CUDA or a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--tb=short"]
    command += ["--continue-on-collection-errors", "tests/models", "tests/engine", "-k", "cuda or gpu"]
    log = kit.out / f"tests-{os.getpid()}.log"
    environment = child_environment(kit.project)
    with log.open("w") as out:
        try:
            done = subprocess.run(  # noqa: S603
                command, cwd=kit.project, stdout=out, stderr=out, env=environment, check=False,
                timeout=max(5, kit.left() - 5),
            )  # fmt: skip
            code: int | str = done.returncode
        except subprocess.TimeoutExpired:
            code = "ended for lack of time"
    text = log.read_text()
    last = text.strip().splitlines()[-1] if text.strip() else ""
    counts = {
        name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)
    }
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.M)
    kit.emit("tests", exit_code=code, **counts, failing=failing[:20], log=log.name)


if __name__ == "__main__":
    if str(STAND_INS) in os.environ.get("PYTHONPATH", ""):
        sys.path.append(str(STAND_INS))
    _decode_child(*sys.argv[1:])
