"""No disk, no right to write, and an object store smaller than a track: one clear line, and nothing half committed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.undisturbed import assert_same, contents, run_to_the_end, undisturbed, write_files

from pipeline.dataset.output import Output

pytestmark = [pytest.mark.timeout(900), pytest.mark.chaos]


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no right to mount a tmpfs here: {done.stderr.strip()}")


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` on ``folder``."""
    folder.mkdir()
    mount(folder, f"size={size}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def errors(log: Path) -> list[str]:
    """The lines of the terminal that say what went wrong."""
    return [line for line in log.read_text().splitlines() if "error" in line.lower()]


def test_a_full_disk_stops_the_job_with_one_line_and_the_next_run_goes_on(tmp_path):
    write_files(tmp_path / "in", 60, seconds=4.0)
    expected = undisturbed(tmp_path / "in", tmp_path / "quiet")
    with tmpfs(tmp_path / "disk", "1m") as disk:
        output = disk / "out"
        assert run_to_the_end(str(tmp_path / "in"), str(output), tmp_path / "log") == 1
        said = errors(tmp_path / "log")
        assert any("No space left on device" in line for line in said), said
        assert "Traceback" not in (tmp_path / "log").read_text()
        tracks = pq.read_table(output / "tracks")
        assert 0 < tracks.num_rows < len(expected["tracks"])
        for blob in tracks.to_pylist():
            if blob["mel_blob"]:
                np.load(output / blob["mel_blob"], allow_pickle=False)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        assert run_to_the_end(str(tmp_path / "in"), str(output), tmp_path / "log2") == 0
        assert_same(output, expected, tmp_path / "in")


def test_an_output_that_cannot_be_written_is_said_and_why(tmp_path):
    write_files(tmp_path / "in", 2)
    with tmpfs(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert run_to_the_end(str(tmp_path / "in"), str(disk / "out"), tmp_path / "log") == 2
    what, why, do = (tmp_path / "log").read_text().strip().splitlines()[-3:]
    assert what.startswith(f"error: output.uri={tmp_path / 'disk' / 'out'}")
    assert why == "why:   the file system is read-only"
    assert do.startswith("type: ")


def test_tracks_larger_than_the_object_store(tmp_path):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    second = (0.2 * rng.standard_normal((44100, 2))).astype(np.float32)
    for number in range(3):  # 400 MB each as float32
        with soundfile.SoundFile(tmp_path / "in" / f"{number}.wav", "w", 44100, 2, subtype="PCM_16") as file:
            for _ in range(1130):
                file.write(second * (1 + number) / 3)
    code = run_to_the_end(
        str(tmp_path / "in"), str(tmp_path / "out"), tmp_path / "log", timeout=800,
        **{"ray.object_store_memory": 100_000_000, "features.enabled": "[quality]"},
    )  # fmt: skip
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    if code == 0:
        assert [r["status"] for r in contents(tmp_path / "out")["tracks"]] == ["ok"] * 3
    else:
        assert code == 1
        assert len(errors(tmp_path / "log")) == 1
    assert Output(str(tmp_path / "out")).tidy() == []
