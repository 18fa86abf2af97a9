"""The CPU against GPU benchmark runs, and says what it did not measure."""

import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

# Two whole benchmarks, if small ones: `make chaos` runs it with the other slow tests.
pytestmark = [pytest.mark.timeout(400), pytest.mark.chaos]


def test_the_report_has_a_measured_cpu_half_and_never_an_estimated_gpu_half(repo, tmp_path):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(5 * 44100) / 44100)
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "tone.flac", np.stack([tone, tone], axis=1), 44100)
    command = [sys.executable, "benchmarks/cpu_gpu.py", "--quick", "--audio", str(tmp_path / "audio")]
    command += ["--output", str(tmp_path / "report.md")]
    overrides = ["features.enabled=[loudness]", "separation.backends=[spleter_typo]"]
    done = subprocess.run([*command, *overrides], cwd=repo, capture_output=True, text=True, timeout=300)
    text = (tmp_path / "report.md").read_text()
    assert done.returncode == 1
    assert "not measured: the job ended with exit code 2: error: separation.backends" in text
    assert not re.search(
        r"\| \d", text.split("## Totals")[1].split("## Fallbacks")[0].replace("| 0.0 |", "|")
    )

    overrides[1] = "separation.backends=[demucs,midside]"
    done = subprocess.run([*command, *overrides], cwd=repo, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| short,", "| long,"))]
    assert len(rows) >= 2
    for row in rows[:2]:
        assert float(row[2]) > 0
    for stage in ("decode", "features", "clap", "separation", "write"):
        assert re.search(rf"^\| {stage} \| \d+\.\d\d \|", text, re.M)
    assert re.search(r"cpu \| separation \| demucs \| midside \| 1 \|", text), "the two excerpts are equal"
    assert "seeded random weights" in text
    if not torch.cuda.is_available():
        assert "- GPU: not measured: no CUDA device (" in text
        assert all(row[4:7] == ["–", "–", "–"] for row in rows[:2])
