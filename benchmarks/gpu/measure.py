"""What a GPU does with Soundmill: networks alone, the stages' own calls, memory, tests, and the main job.

    python benchmarks/gpu/measure.py --device cuda --out /tmp/gpu
    python benchmarks/gpu/measure.py --device cuda --out /tmp/gpu --steps clap,embed --label before --project ../old
    python benchmarks/gpu/measure.py --device cpu --out /tmp/gpu --minutes 1     a rehearsal: figures mean nothing

Made for a bare CUDA machine: torch, numpy and pyarrow installed, what else the project needs unpacked on PYTHONPATH,
no network, PyAV perhaps missing. Weights are random. Results go to OUT/results.json after every row, so a kill
loses only what was being measured; `benchmarks/gpu/adopt.py` makes documents of them. Steps, in this order:

- machine      the card, the cores and versions; always
- probe        matrix products in four formats, copies on the card and to and from it
- clap         the audio tower alone: eager, as a CUDA graph, compiled; agreement with float32; its peers
- embed        `ClapEmbedder.embed_tracks` from arrays in memory, from one thread and from eight at once
- separation   htdemucs, Spleeter and Open-Unmix alone, and `SeparationStream`; agreement with demucs's apply_model
- descriptors  all extractors on one CPU core
- decode       the decode stage's decoder, alone and one per core
- memory       bytes per item of a batch, for the table of what a stage needs of a card
- oom          a batch that cannot fit, under a limit of 3 GiB, must end right
- tests        the tests that need a card
- job          the main job over 120 and 1200 files of 30 s, with and without htdemucs, and how busy the card was

Steps run in a process of their own, which is replaced when it dies, hangs or loses the card. --minutes bounds all of
it: what does not fit is skipped, and a row says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from kit import Kit, child_environment, revision, use_project
from ledger import Ledger, today


@dataclass(frozen=True)
class Step:
    """A step.

    Args:
        module: its file, with a function of the step's name.
        seconds: what it takes at least on a large card; with less left it is not begun.
        most_s: after so long it is ended, and the next one begins.
        alone: whether no process of ours may hold the card, or have begun threads, while it runs.
        card: whether there is nothing to rehearse without one.
    """

    module: str
    seconds: float
    most_s: float
    alone: bool = False
    card: bool = False


STEPS = {
    "machine": Step("network_steps", 1, 60),
    "probe": Step("network_steps", 8, 60),
    "clap": Step("network_steps", 40, 150),
    "embed": Step("stage_steps", 15, 90),
    "separation": Step("stage_steps", 45, 150),
    "descriptors": Step("host_steps", 10, 60, alone=True),
    "decode": Step("host_steps", 15, 60, alone=True),
    "memory": Step("network_steps", 15, 90),
    "oom": Step("stage_steps", 15, 90, alone=True, card=True),
    "tests": Step("host_steps", 30, 150, alone=True, card=True),
    "job": Step("job_steps", 45, 400, alone=True),
}
# A step knows when it must be done; one that is not done so much later hangs.
GRACE_S = 10.0
# A rehearsal's steps take about so much of the above.
REHEARSAL_SHARE = 0.1


class Worker:
    """The process that runs steps: a line in names one, lines out are its rows and its end."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        command = [sys.executable, str(HERE / "measure.py"), "--worker", "--scratch", str(scratch)]
        for name in ("device", "out", "project", "hardware", "music"):
            if getattr(options, name) is not None:
                command += [f"--{name}", str(getattr(options, name))]
        environment = child_environment(options.project)
        if options.device == "cpu":
            # A rehearsal beside other work: threads of OpenMP that wait for each other would take minutes.
            environment["OMP_NUM_THREADS"] = "1"
        self.log = (options.out / "worker.log").open("a")
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def run(self, step: str, seconds: float, ledger: Ledger) -> bool:
        """Run a step, its rows into ``ledger``; whether this process can run another."""
        until = time.monotonic() + seconds
        try:
            order = {"step": step, "module": STEPS[step].module, "seconds": seconds}
            print(json.dumps(order), file=self.process.stdin, flush=True)
        except OSError:
            ledger.add(step, {"what": step, "error": "its process had ended before it began"})
            return False
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, until + GRACE_S - time.monotonic()))
            except queue.Empty:
                ledger.add(step, {"what": step, "error": f"not done after {seconds:.0f} s: ended"})
                return False
            if line is None:
                code = self.process.wait()
                ledger.add(step, {"what": step, "error": f"its process ended with exit code {code}"})
                return False
            said = json.loads(line)
            if "end" in said:
                return said["end"] == "fine"
            show(ledger.add(step, said["row"]))

    def close(self) -> None:
        """End it, and what it started."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for sign, patience in ((None, 5), (signal.SIGTERM, 8), (signal.SIGKILL, 10)):
            if sign is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
                break
        self.log.close()


def show(row: dict[str, Any]) -> None:
    """A row on the terminal."""
    figures = " ".join(f"{k}={v}" for k, v in row.items() if k not in ("label", "step", "what"))
    print(f"{row['step']}: {row['what']}: {figures}"[:1000], flush=True)


def serve(options: argparse.Namespace) -> None:
    """Run the steps that are named on stdin. Only rows go to the real stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    use_project(options.project)

    def tell(**said: Any) -> None:
        print(json.dumps(said), file=answers, flush=True)

    for line in sys.stdin:
        given = json.loads(line)
        name = given["step"]
        until = time.monotonic() + given["seconds"]
        kit = Kit(
            name,
            options.device,
            options.out,
            options.scratch,
            options.project,
            music=options.music,
            hardware=options.hardware,
            until=until,
            say=lambda row: tell(row=row),
        )
        print(f"--- {name}", file=sys.stderr, flush=True)
        end = "fine"
        try:
            getattr(importlib.import_module(given["module"]), name)(kit)
            kit.free()
        except Exception as error:  # noqa: BLE001  the next step may work
            import traceback

            traceback.print_exc()
            kit.emit(name, error=f"{type(error).__name__}: {str(error)[:300]}")
            # After that the card is lost to this process.
            end = "lost" if type(error).__name__ == "AcceleratorError" else "fine"
        tell(end=end)


def measure(options: argparse.Namespace, steps: Sequence[str]) -> Ledger:
    """All steps, as far as time allows."""
    options.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.out / "results.json", options.label)
    ledger.describe(
        date=today(), revision=revision(options.project), device=options.device, weights="random",
        music="synthetic" if options.music is None else "songs", rehearsal=options.device == "cpu",
    )  # fmt: skip
    started, until = time.monotonic(), time.monotonic() + 60 * options.minutes
    scratch = Path(tempfile.mkdtemp(prefix="soundmill-gpu-random-"))
    worker: Worker | None = None
    try:
        for name in steps:
            step, left = STEPS[name], until - time.monotonic()
            needed = step.seconds * (REHEARSAL_SHARE if options.device == "cpu" else 1.0)
            ledger.begin(name)
            reason = ""
            if left < needed:
                reason = f"{needed:.0f} s needed, {max(0, left):.0f} s left of --minutes {options.minutes:g}"
            elif step.card and options.device == "cpu":
                reason = "it needs a card"
            if reason:
                show(ledger.add(name, {"what": name, "skipped": reason}))
                continue
            if step.alone and worker is not None:
                worker.close()
                worker = None
            worker = worker or Worker(options, scratch)
            begun = time.monotonic()
            good = worker.run(name, min(left, step.most_s), ledger)
            show(ledger.add(name, {"what": "seconds of the step", "s": round(time.monotonic() - begun, 1)}))
            if step.alone or not good:
                worker.close()
                worker = None
    finally:
        if worker is not None:
            worker.close()
        shutil.rmtree(scratch, ignore_errors=True)
    ledger.describe(measured_in_s=round(time.monotonic() - started, 1))
    return ledger


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run; 1 if a step failed."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True, help="folder of results.json and logs")
    parser.add_argument("--steps", default=",".join(STEPS), help="separated by commas; default: all")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together")
    parser.add_argument("--music", type=Path, help="folder of songs; default: synthetic ones")
    project = Path(os.environ.get("PROJECT") or HERE.parents[1])
    parser.add_argument(
        "--project", type=Path, default=project, help="checkout; default $PROJECT or this one"
    )
    parser.add_argument("--label", default="now", help="name of this state of the project in the results")
    parser.add_argument("--hardware", default="auto", help="the job's hardware= on a GPU")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    for name in ("out", "project", "music", "scratch"):
        value = getattr(options, name)
        setattr(options, name, value and value.expanduser().resolve())
    steps = list(dict.fromkeys(["machine", *filter(None, options.steps.split(","))]))
    unknown = [name for name in steps if name not in STEPS]
    if unknown:
        parser.error(f"--steps {', '.join(unknown)}: there are {', '.join(STEPS)}")
    if options.worker:
        serve(options)
        return 0
    ledger = measure(options, steps)
    failed = [r for r in ledger.content["rows"] if r["label"] == options.label and "error" in r]
    print(f"{ledger.path}: {len(ledger.content['rows'])} rows, {len(failed)} errors")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
