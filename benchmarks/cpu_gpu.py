"""The main job on the CPU and on the GPU over the same lists, as a Markdown report.

    python benchmarks/cpu_gpu.py --audio ../shared/audio --output PERFORMANCE_METRICS.md
    python benchmarks/cpu_gpu.py --quick                    # a smoke test: seconds of audio, two scenarios

Each scenario runs as `jobs/extract_features.py` in a process of its own, with `hardware=cpu` and with the GPU
profile in turn; the figures are those that the job itself writes. Two lists, short clips (15 s) and long tracks
(150 s), each with and without micro-batching (`clap.max_batch_audio_seconds` of 160 against one window) and
with and without segmentation into overlapping windows (hop 5 s against 10 s windows back to back, so every
second is embedded twice or once). Where no CUDA device runs, the GPU half says so and stays empty.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks"), str(REPO / "tests")]

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import soundfile
from overhead import make_files

from pipeline.dataset.sources.listing import SUFFIXES

BATCHED, SINGLE, OVERLAPPING, BACK_TO_BACK = 160, 10, 5, 10
# The usual way, and one step away from it in each direction.
SETTINGS = ((BATCHED, OVERLAPPING), (SINGLE, OVERLAPPING), (BATCHED, BACK_TO_BACK))
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Scenario:
    """One list under one setting of the CLAP stage."""

    files: str
    batch_s: int
    hop_s: int

    @property
    def name(self) -> str:
        batching = "micro-batches" if self.batch_s == BATCHED else "one window at a time"
        windows = "overlapping windows" if self.hop_s == OVERLAPPING else "windows back to back"
        return f"{self.files}, {batching}, {windows}"

    def overrides(self) -> list[str]:
        return [
            f"clap.max_batch_audio_seconds={self.batch_s}",
            f"clap.hop_seconds={self.hop_s}",
            "clap.window_seconds=10",
        ]


@dataclass
class Measurement:
    """What one or more runs of a scenario on one device reported.

    Args:
        walls: seconds from the first block to the last receipt, of each run.
        audio_s: audio in the list.
        stages: stage → compute seconds summed over files and actors, of each run.
        devices: stage → where it ran.
        vram: stage → peak bytes allocated on the card by one actor.
        fallbacks: as `performance.json` has them, of the last run.
        problem: why there is no figure.
    """

    walls: list[float] = field(default_factory=list)
    audio_s: float = 0.0
    stages: dict[str, list[float]] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    vram: dict[str, int] = field(default_factory=dict)
    fallbacks: list[dict] = field(default_factory=list)
    problem: str = ""

    @property
    def wall(self) -> float | None:
        return statistics.median(self.walls) if self.walls else None

    def stage(self, name: str) -> float | None:
        return statistics.median(self.stages[name]) if name in self.stages else None


def make_long_files(audio: Path, folder: Path, count: int, seconds: float) -> None:
    """Tracks of ``seconds`` at 44.1 kHz from whole recordings joined end to end, each starting at another one."""
    sources = sorted(p for p in audio.rglob("*") if p.suffix.lower() in SUFFIXES)
    sources = [p for p in sources if soundfile.info(p).samplerate == 44100]
    if not sources:
        raise SystemExit(f"{audio} has no recording at 44.1 kHz to build long tracks from")
    for number in range(count):
        parts, length, turn = [], 0, number
        while length < seconds * 44100:
            samples, _ = soundfile.read(sources[turn % len(sources)], always_2d=True, dtype="float32")
            parts.append(np.repeat(samples, 2, axis=1) if samples.shape[1] == 1 else samples[:, :2])
            length, turn = length + len(samples), turn + 1
        soundfile.write(folder / f"{number:03d}.flac", np.concatenate(parts)[: int(seconds * 44100)], 44100)


def cuda_problem() -> tuple[str, str]:
    """The card's name, and why it cannot be measured; asked in another process, which keeps none of its memory."""
    code = "from pipeline.models.device import pick_device; c = pick_device('cuda'); print(c.device); print(c.reason)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)  # noqa: S603
    device, reason = done.stdout.splitlines()[-2:]
    return (reason, "") if device == "cuda" else ("", f"no CUDA device ({reason})")


def run_job(overrides: Sequence[str], output: Path, into: Measurement) -> None:
    """One run of the main job, added to ``into``."""
    command = [sys.executable, str(REPO / "jobs" / "extract_features.py"), f"output.uri={output}"]
    command += ["ray.address=local", *overrides]  # both halves by the same driver, however little the work
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        # Behind what is wrong there may be why, and what to type.
        what = next((line for line in lines if line.startswith("error:")), lines[-1])
        into.problem = f"the job ended with exit code {done.returncode}: {what}"
        return
    [report] = (output / "runs").glob("*/performance.json")
    numbers = json.loads(report.read_text())
    if numbers["status"].get("ok", 0) != numbers["files"]:
        into.problem = f"not every file is ok: {numbers['status']}, {numbers['failures']}"
        return
    into.walls.append(numbers["wall_s"])
    into.audio_s, into.fallbacks = numbers["audio_s"], numbers["fallbacks"]
    sums: dict[str, float] = {}
    for name, stage in numbers["stages"].items():
        group = name.partition(".")[0]
        sums[group] = sums.get(group, 0.0) + stage["compute_s"]
        into.devices[group] = stage["device"]
    for name, seconds in sums.items():
        into.stages.setdefault(name, []).append(seconds)
    timings = pq.read_table(output / "timings", columns=["stage", "gpu_peak_bytes"])
    for name in set(timings["stage"].to_pylist()):
        peak = pc.max(timings.filter(pc.equal(timings["stage"], name))["gpu_peak_bytes"]).as_py()
        group = name.partition(".")[0]
        if peak:
            into.vram[group] = max(peak, into.vram.get(group, 0))


def number(value: float | None, form: str = ".1f") -> str:
    return "–" if value is None else format(value, form)


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a and b else None


def saved(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


Results = dict[Scenario, dict[str, Measurement]]


def totals(results: Results) -> list[str]:
    lines = [
        "## Totals",
        "",
        "Wall time from the first block to the last receipt: actors start and load their models in it.",
        "",
        "| scenario | audio, s | CPU, s | × real time | GPU, s | × real time | speed-up | saved, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scenario, by_device in results.items():
        cpu, gpu = (by_device[device] for device in DEVICES)
        audio = cpu.audio_s or gpu.audio_s or None
        cells = [audio, cpu.wall, ratio(audio, cpu.wall), gpu.wall, ratio(audio, gpu.wall)]
        cells += [ratio(cpu.wall, gpu.wall), saved(cpu.wall, gpu.wall)]
        lines.append(f"| {scenario.name} | " + " | ".join(map(number, cells)) + " |")
    return lines


def stages(results: Results) -> list[str]:
    lines = [
        "## Stages",
        "",
        "Seconds inside the stage, summed over files and actors. Stages that the GPU profile leaves on the CPU are "
        "marked. VRAM is the peak that tensors of one actor took; the CUDA context comes on top.",
    ]
    for scenario, by_device in results.items():
        cpu, gpu = (by_device[device] for device in DEVICES)
        lines += ["", f"### {scenario.name}", ""]
        lines += ["| stage | CPU, s | GPU, s | speed-up | saved, s | VRAM peak, MiB |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        names = sorted({*cpu.stages, *gpu.stages}, key=lambda s: -(cpu.stage(s) or gpu.stage(s) or 0))
        for name in names:
            a, b = cpu.stage(name), gpu.stage(name)
            mark = " (on the CPU)" if name in gpu.devices and gpu.devices[name] != "cuda" else ""
            vram = number(gpu.vram[name] / 2**20, ".0f") if name in gpu.vram else "–"
            cells = [
                number(a, ".2f"),
                number(b, ".2f") + mark,
                number(ratio(a, b)),
                number(saved(a, b), ".2f"),
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {vram} |")
    return lines


def effects(results: Results) -> list[str]:
    """What micro-batching and segmentation change in the CLAP stage, on each device."""
    lines = [
        "## What micro-batching and segmentation cost or save in the CLAP stage",
        "",
        "| list | device | micro-batches, s | one at a time, s | ratio | overlapping, s | back to back, s | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for files in dict.fromkeys(s.files for s in results):
        for device in DEVICES:
            found = (results.get(Scenario(files, *setting), {}).get(device) for setting in SETTINGS)
            base, single, apart = (m.stage("clap") if m else None for m in found)
            cells = [base, single, ratio(single, base), base, apart, ratio(base, apart)]
            lines.append(f"| {files} | {device} | " + " | ".join(number(c, ".2f") for c in cells) + " |")
    return lines


def fallbacks(results: Results) -> list[str]:
    rows = [
        f"| {scenario.name} | {device} | {f['stage']} | {f['wanted']} | {f['used']} | {f['count']} | "
        f"{f['reason'].replace('|', '/')} |"
        for scenario, by_device in results.items()
        for device, found in by_device.items()
        for f in found.fallbacks
    ]
    if not rows:
        return ["## Fallbacks", "", "None, in what was measured."]
    head = [
        "| scenario | device | stage | wanted | used | rows | reason |",
        "| --- |" + " --- |" * 4 + " ---: | --- |",
    ]
    return ["## Fallbacks", "", *head, *rows]


def processor() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def report(results: Results, options: argparse.Namespace, card: str, model: str) -> str:
    """The whole report as Markdown."""
    problems = {
        device: next((m[device].problem for m in results.values() if m[device].problem), "")
        for device in DEVICES
    }
    repeats = "one run each" if options.repeats == 1 else f"medians of {options.repeats} runs"
    lines = ["# CPU against GPU", "", f"{datetime.date.today()}, {repeats}, printed by", "", "```"]
    lines += ["python benchmarks/cpu_gpu.py " + " ".join(options.typed), "```", ""]
    lines += [f"- CPU: {os.cpu_count()} cores, {processor()}" + _says(problems["cpu"])]
    gpu = f"{card} with hardware={options.gpu_profile}" if card else ""
    lines += [f"- GPU: {gpu}" + _says(problems["cuda"], gpu), f"- CLAP: {model}"]
    lines += [f"- short: {options.short_files} of at most {options.short_seconds:g} s"]
    lines += [f"- long: {options.long_files} of {options.long_seconds:g} s"]
    for part in (totals, stages, effects, fallbacks):
        lines += ["", *part(results)]
    return "\n".join(lines) + "\n"


def _says(problem: str, before: str = "cores") -> str:
    return f"{'; ' if before else ''}not measured: {problem}" if problem else ""


def measure(options: argparse.Namespace, root: Path, checkpoint: Path, problem: str) -> Results:
    """Every scenario on both devices in turn."""
    for files, count, seconds, make in (
        ("short", options.short_files, options.short_seconds, make_files),
        ("long", options.long_files, options.long_seconds, make_long_files),
    ):
        (root / files).mkdir()
        make(options.audio, root / files, count, seconds)
    settings = SETTINGS[:1] if options.quick else SETTINGS
    results: Results = {}
    for scenario in (Scenario(files, *s) for files in ("short", "long") for s in settings):
        results[scenario] = {device: Measurement() for device in DEVICES}
        for device, found in results[scenario].items():
            if device not in options.devices:
                found.problem = f"left out by --devices {' '.join(options.devices)}"
            elif device == "cuda":
                found.problem = problem
        for turn in range(options.repeats):
            for device, profile in zip(DEVICES, ("cpu", options.gpu_profile), strict=True):
                found = results[scenario][device]
                if found.problem:
                    continue
                arguments = [f"source.uri={root / scenario.files}", f"clap.checkpoint={checkpoint}"]
                arguments += [f"hardware={profile}", *scenario.overrides(), *options.override]
                output = root / f"{device}-{turn}"
                run_job(arguments, output, found)
                shutil.rmtree(output, ignore_errors=True)
                said = f"{found.walls[-1]:.1f} s" if found.walls else found.problem
                print(f"{scenario.name}, {device}: {said}", file=sys.stderr, flush=True)
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio"), help="recordings to cut from")
    parser.add_argument("--output", type=Path, default=Path("PERFORMANCE_METRICS.md"))
    parser.add_argument(
        "--checkpoint", type=Path, help="a LAION .pt; without it seeded random weights, for speed only"
    )
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--gpu-profile", default="gpu_small", help="hardware= of the GPU half")
    parser.add_argument("--short-files", type=int, default=24)
    parser.add_argument("--short-seconds", type=float, default=15.0)
    parser.add_argument("--long-files", type=int, default=3)
    parser.add_argument("--long-seconds", type=float, default=150.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="seconds of audio, two scenarios: proves that it runs"
    )
    parser.add_argument("override", nargs="*", help="further key=value for every run")
    options = parser.parse_args(argv)
    options.typed = list(sys.argv[1:] if argv is None else argv)
    if options.quick:
        options.short_files, options.short_seconds, options.long_files, options.long_seconds = 2, 3.0, 1, 12.0
    card, problem = cuda_problem()
    root = Path(tempfile.mkdtemp(prefix="cpu-gpu-"))
    try:
        if options.checkpoint:
            checkpoint, model = options.checkpoint.resolve(), options.checkpoint.name
        else:
            from helpers.clap_reference import tiny_checkpoint

            checkpoint = tiny_checkpoint(root)
            model = "HTSAT-tiny with seeded random weights, written in LAION's format: for speed only"
        results = measure(options, root, checkpoint, problem)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    text = report(results, options, card, model)
    options.output.write_text(text)
    print(f"report: {options.output}", file=sys.stderr)
    if "cpu" in options.devices and not all(m["cpu"].walls for m in results.values()):
        raise SystemExit("the CPU half could not be measured: see the report")


if __name__ == "__main__":
    main()
