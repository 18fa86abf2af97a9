"""The main job as a user starts it, over lists of files of 30 s, and what the card did meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from card_sampler import CardSampler
from inputs import architectures, random_checkpoint, random_repository, write_corpus
from kit import Kit, child_environment

FILE_S = 30.0
# What a longer list takes is what the shorter one took per file, and this: starting Ray, and the actors.
START_S, ACTORS_S = 15.0, 8.0


def job(kit: Kit) -> None:
    """Lists of 120 and 1200 files, each without and with htdemucs."""
    folder = kit.scratch / "corpus"
    counts, seconds = ((2,), 2.0) if kit.small else ((120, 1200), FILE_S)
    rates: dict[bool, float] = {}
    for count in counts:
        started = time.perf_counter()
        audio = write_corpus(folder / str(count), count, seconds, kit.music)
        kit.emit("corpus", files=count, audio_s=audio, written_in_s=round(time.perf_counter() - started, 1))
        for separates in (False, True):
            what = {"files": count, "audio_s": audio, "separation": "htdemucs" if separates else "none"}
            needed = START_S + audio / rates[separates] if separates in rates else 0.0
            if kit.left() < needed + 5:
                kit.emit("job", **what, skipped=f"some {needed:.0f} s needed, {kit.left():.0f} s left")
                continue
            row = run_job(kit, folder / str(count), separates)
            kit.emit("job", **what, **row)
            if row.get("wall_s"):
                rates[separates] = audio / max(1.0, row["wall_s"] - ACTORS_S)
        shutil.rmtree(folder / str(count), ignore_errors=True)


def overrides(kit: Kit, corpus: Path, output: Path, separates: bool) -> list[str]:
    """The job's arguments."""
    given = [f"source.uri={corpus}", f"output.uri={output}"]
    given.append(f"hardware={kit.hardware if kit.cuda else 'cpu'}")
    if kit.small:
        # The smallest tower that the job knows would take a rehearsal's whole time.
        given += ["clap.enabled=false", "features.enabled=[loudness]"]
    else:
        given.append(f"clap.checkpoint={random_checkpoint(kit.scratch, architectures(kit.small)[0])}")
    if not separates:
        return [*given, "separation.enabled=false"]
    repository = random_repository(kit.scratch, kit.small)
    model = ["separation.demucs_model=random", f"separation.demucs_repo={repository}"]
    return [*given, "separation.backends=[demucs]", *model]


def run_job(kit: Kit, corpus: Path, separates: bool) -> dict[str, Any]:
    """One run: what the shell waited for, what the job says of itself, and what the card's driver says."""
    name = f"job-{corpus.name}-{'htdemucs' if separates else 'none'}"
    output = kit.scratch / name
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "jobs/extract_features.py", *overrides(kit, corpus, output, separates)]
    log = kit.out / f"{name}.log"
    started = time.perf_counter()
    with log.open("w") as out, CardSampler() as sampler:
        process = subprocess.Popen(  # noqa: S603
            command, cwd=kit.project, stdout=out, stderr=out, env=child_environment(kit.project)
        )
        try:
            code: int | str = process.wait(max(5.0, kit.left() - 10))
        except subprocess.TimeoutExpired:
            code = "ended for lack of time"
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
    row: dict[str, Any] = {"exit_code": code, "shell_s": round(time.perf_counter() - started, 1)}
    row["began_at"] = round(time.time() - row["shell_s"], 1)
    reports = sorted((output / "runs").glob("*/performance.json"))
    if reports:
        row |= figures(json.loads(reports[-1].read_text()))
    if isinstance(code, str):
        row["skipped"] = f"{code} after {row['shell_s']:.0f} s"
    elif code != 0:
        tail = log.read_text(errors="replace").strip().splitlines()[-3:]
        row["error"] = " | ".join(tail)[-500:] or f"exit code {code}"
    shutil.rmtree(output, ignore_errors=True)
    return row | sampler.summary()


def figures(numbers: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's ``performance.json``."""
    stages = {
        name: {"compute_s": round(s["compute_s"], 2), "device": s["device"]}
        | ({"gpu_peak_bytes": s["gpu_peak_bytes"]} if s.get("gpu_peak_bytes") else {})
        for name, s in numbers["stages"].items()
    }
    row = {
        "wall_s": round(numbers["wall_s"], 1),
        "startup_s": round(numbers["startup_s"], 1),
        "times_real_time": round(numbers["real_time_factor"], 1) if numbers["real_time_factor"] else None,
        "status": numbers["status"],
        "stages": stages,
        "fallbacks": numbers["fallbacks"][:4],
    }
    for name in ("gpu", "actors", "moments"):
        if numbers.get(name):
            row[name] = numbers[name]
    return row
