"""Estimate against fact: a plan of real audio, then the run it is a plan of.

    python benchmarks/plan.py --audio ../shared/audio
    python benchmarks/plan.py --audio ../shared/audio clap.enabled=false     # any overrides of the main job
    python benchmarks/plan.py --audio ../shared/audio --cached               # of what the result cache has already

The plan is made first, on an output that does not exist, by `jobs/plan.py`; the run is its command with the same
overrides. Figures of the plan are those of the ``plan.json`` that the run found and took along.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
MIB = 1 << 20
# Not part of what a plan estimates: the run's log, reports and config.
RUN_FILES = ("runs",)


def timed(script: str, arguments: list[str]) -> float:
    """Wall seconds of a job from its first import to its end."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, f"jobs/{script}.py", *arguments], cwd=REPO)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{script} ended with exit code {done.returncode}")
    return time.perf_counter() - started


def written_bytes(output: Path) -> int:
    """Of tables, arrays and stems."""
    files = (p for p in output.rglob("*") if p.is_file() and p.relative_to(output).parts[0] not in RUN_FILES)
    return sum(p.stat().st_size for p in files)


def rows(plan: dict[str, Any], fact: dict[str, Any], written: int) -> list[tuple[str, ...]]:
    """Quantity, low, expected, high, fact, and whether the fact lies within."""
    failed, files = plan["failures_expected"], plan["files"]
    found = [
        _row("wall time of the work, s", plan["wall_s"], fact["wall_s"]),
        _row("wall time of the command, s", plan["command_s"], fact["command_s"]),
        _row("audio, h", plan["audio_hours_range"], fact["audio_s"] / 3600, 4),
        _row(
            "files that fail",
            {
                "low": failed["low"] * files,
                "expected": failed["rate"] * files,
                "high": failed["high"] * files,
            },
            fact["status"].get("failed", 0),
        ),
        _single("before the first block, s", plan["startup_s"], fact["startup_s"]),
        _single("output, MiB", plan["output_bytes"] / MIB, written / MIB),
    ]
    for stage, actor in sorted(fact["actors"].items()):
        found.append(_single(f"{stage}: compute, s", plan["stages"][stage]["compute_s"], actor["compute_s"]))
    peaks: dict[str, int] = {}
    for process in fact["processes"]:
        peaks[process["stage"]] = max(peaks.get(process["stage"], 0), process["peak_rss_bytes"])
    for stage, peak in sorted(peaks.items()):
        found.append(_single(f"{stage}: peak RSS, MiB", plan["peak_rss_bytes"][stage] / MIB, peak / MIB))
    return found


def _row(name: str, told: dict[str, float], fact: float, digits: int = 1) -> tuple[str, ...]:
    within = told["low"] - 1e-9 <= fact <= told["high"] + 1e-9
    numbers = (told["low"], told["expected"], told["high"], fact)
    ratio = f"{fact / told['expected']:.2f}" if told["expected"] else "–"
    return (name, *(f"{n:.{digits}f}" for n in numbers), ratio, "yes" if within else "no")


def _single(name: str, told: float, fact: float) -> tuple[str, ...]:
    return (name, "", f"{told:.1f}", "", f"{fact:.1f}", f"{fact / told:.2f}" if told else "–", "")


def main() -> None:
    """Plan, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio"))
    parser.add_argument("--cached", action="store_true", help="another run fills the result cache before")
    parser.add_argument("overrides", nargs="*", help="of the main job")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-") as folder:
        output = Path(folder) / "out"
        arguments = [f"source.uri={options.audio.resolve()}", f"output.uri={output}", "ray.address=local"]
        arguments += options.overrides
        if options.cached:
            arguments += ["cache.enabled=true", f"cache.uri={folder}/cache"]
            timed("extract_features", [*arguments, f"output.uri={folder}/before"])
        planned_s = timed("plan", arguments)
        timed("extract_features", arguments)
        [run] = (output / "runs").glob("2*")
        plan, fact = (json.loads((run / f"{name}.json").read_text()) for name in ("plan", "performance"))
        found = rows(plan, fact, written_bytes(output))
    sample = plan["sample"]
    print(
        f"\nThe plan took {planned_s:.0f} s: {sample['files']} of {plan['files']} files, "
        f"{sample['audio_s'] / 60:.1f} min of {60 * plan['audio_hours']:.1f} min.\n"
    )
    print("| quantity | low | expected | high | fact | fact / expected | within |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for row in found:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
