"""A small dataset, jobs on it that can be killed, and the comparison of what they leave with an undisturbed run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.dataset
import soundfile

from pipeline.dataset.output import Output
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract

REPO = Path(__file__).resolve().parents[2]
EXTRACTORS = ["loudness", "mel", "quality", "spectral"]
# What a run says of itself and not of the audio.
OF_THE_RUN = {"run_id", "source_version", "first_seen"}


def write_files(folder: Path, count: int = 24, seconds: float = 2.0) -> None:
    """Tones of different pitch, two files of equal content, and two that are no audio."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time_s = np.arange(round(22050 * seconds)) / 22050
    for number in range(count):
        noise = 0.05 * rng.standard_normal(len(time_s))
        left = 0.5 * np.sin(2 * np.pi * 110.0 * 2 ** (number / 12) * time_s) + noise
        soundfile.write(folder / f"{number:03d}.wav", np.stack([left, noise], axis=1), 22050)
    shutil.copyfile(folder / "000.wav", folder / "zz_copy.wav")
    (folder / "no_audio.mp3").write_text("not audio\n")
    (folder / "cut.wav").write_bytes((folder / "001.wav").read_bytes()[:1000])


def overrides(**more: object) -> dict[str, object]:
    """DSP only, a few files to a block, series in files."""
    return {
        "features.enabled": f"[{','.join(EXTRACTORS)}]",
        "clap.enabled": "false",
        "separation.enabled": "false",
        "hardware.max_files_per_block": 2,
        "blobs.max_inline_elements": 10,
        "ray.address": "local",  # so little work would be done without Ray
        "ray.num_cpus": 2,
        "hardware.actors.features": 1,  # each takes seconds to start, and here there is little to do
        **more,
    }


def config(source: Path | str, output: Path | str) -> ExtractConfig:
    """The same for `pipeline.workflows.jobs.extract.run`."""
    made = ExtractConfig()
    made.source.uri, made.output.uri = str(source), str(output)
    made.features.enabled = list(EXTRACTORS)
    made.clap.enabled = made.separation.enabled = False
    made.hardware.max_files_per_block = 2
    made.blobs.max_inline_elements = 10
    made.ray.address, made.ray.num_cpus = "local", 2
    made.hardware.actors["features"] = 1
    return made


def command(source: str, output: str, **more: object) -> list[str]:
    """The job's command line."""
    keys = {"source.uri": source, "output.uri": output, **overrides(**more)}
    return [sys.executable, "jobs/extract_features.py", *(f"{k}={v}" for k, v in keys.items())]


@contextmanager
def job(source: str, output: str, log: Path, **more: object) -> Iterator[subprocess.Popen]:
    """A running job, in a process group of its own; what is left of it is killed at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(source, output, **more), cwd=REPO, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_to_the_end(source: str, output: str, log: Path, timeout: float = 240, **more: object) -> int:
    """The exit code of a job that nobody disturbs."""
    with job(source, output, log, **more) as process:
        return process.wait(timeout)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 120) -> bool:
    """Wait until ``condition`` holds; false if the process ended before."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    raise TimeoutError(f"not within {seconds} s")


def parts(output: Path) -> int:
    """How many parts of `tracks` are committed."""
    return len(list((output / "tracks").glob("part-*.parquet")))


def workers_of(driver: int) -> list[int]:
    """The actors of the Ray that process ``driver`` started."""
    parents, found = {}, []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            parents[int(fields["Pid"])] = int(fields["PPid"])
            if "MapWorker" in (status.parent / "cmdline").read_text():
                found.append(int(fields["Pid"]))
        except (OSError, KeyError, ValueError):
            continue

    def descends(pid: int) -> bool:
        while pid > 1:
            if pid == driver:
                return True
            pid = parents.get(pid, 0)
        return False

    return sorted(pid for pid in found if descends(pid))


def contents(output: Path) -> dict[str, object]:
    """What the tables and blobs hold, without what belongs to a run."""
    found: dict[str, object] = {}
    for table, order in (("tracks", ["uri"]), ("failures", ["uri", "stage"]), ("segments", ["asset_id"])):
        read = pyarrow.dataset.dataset(str(output / table), format="parquet").to_table()
        read = read.drop_columns([c for c in OF_THE_RUN if c in read.column_names])
        found[table] = read.sort_by([(name, "ascending") for name in order]).to_pylist()
    timings = pyarrow.dataset.dataset(str(output / "timings"), format="parquet").to_table()
    found["stages"] = sorted(
        {(a, s) for a, s in zip(timings["asset_id"].to_pylist(), timings["stage"].to_pylist(), strict=True)}
    )
    found["blobs"] = {
        str(path.relative_to(output)): path.read_bytes() for path in sorted((output / "blobs").rglob("*.npy"))
    }
    return found


def assert_same(output: Path, expected: dict[str, object], source: Path) -> None:
    """The tables are those of the undisturbed run: row for row, blob for blob, each file once."""
    found = contents(output)
    uris = [row["uri"] for row in found["tracks"]]
    assert sorted(uris) == sorted(str(p) for p in source.iterdir())
    for name, value in expected.items():
        assert found[name] == value, name
    assert Output(str(output)).tidy() == [], "nothing is left half done"


def undisturbed(source: Path, output: Path) -> dict[str, object]:
    """The tables of a run that nobody disturbs."""
    assert extract.run(config(source, output), quiet=True).exit_code == 0
    return contents(output)
