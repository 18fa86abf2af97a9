"""How a run ends when too much fails, when nothing is asked for, and when it cannot start."""

import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest
from conftest import BAD, ODD, write_bad_files

from pipeline.dataset.output import Output
from pipeline.errors import UserError
from pipeline.workflows import features
from pipeline.workflows.config import ExtractConfig

pytestmark = pytest.mark.timeout(300)


def bare(source, output) -> ExtractConfig:
    """Decoding and nothing else."""
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(source), str(output)
    config.features.enabled = []
    config.clap.enabled = config.separation.enabled = False
    return config


def test_more_failures_than_allowed_is_exit_code_3_and_every_row_is_there(tmp_path):
    write_bad_files(tmp_path / "in")
    config = bare(tmp_path / "in", tmp_path / "out")
    config.max_failure_rate = 0.1
    result = features.run(config, quiet=True)
    assert result.exit_code == features.EXIT_FAILURES
    tracks = pd.read_parquet(tmp_path / "out" / "tracks")
    assert sorted(tracks["status"]) == ["failed"] * len(BAD) + ["ok"] * len(ODD)
    assert len(pd.read_parquet(tmp_path / "out" / "failures")) == len(BAD)
    assert pd.read_parquet(tmp_path / "out" / "segments").empty
    log = (tmp_path / "out" / "runs" / result.run_id / "log.jsonl").read_text()
    assert "more than max_failure_rate=0.1" in log


def test_a_gpu_that_is_not_there_is_one_line_and_costs_no_table(tmp_path):
    write_bad_files(tmp_path / "in")
    output = Output(str(tmp_path / "out"))
    output.write_table("tracks/part-0.parquet", pa.table({"a": [1]}))
    config = bare(tmp_path / "in", tmp_path / "out")
    config.features.enabled = ["quality"]
    config.output.overwrite = True
    config.hardware.gpu_shares = {"features": 4, "clap": 4, "separation": 2}
    with pytest.raises(UserError, match="hardware=cpu"):
        features.run(config, quiet=True)
    assert output.parts("tracks") == ["tracks/part-0.parquet"], "nothing is cleared before the run can start"


def test_a_sweep_has_an_output_per_combination_and_a_table_in_the_end(repo, tmp_path):
    write_bad_files(tmp_path / "in")
    done = subprocess.run(
        [
            sys.executable, "jobs/extract_features.py", "--multirun", f"source.uri={tmp_path}/in", "source.glob=*.wav",
            f"output.uri={tmp_path}/out", "features.enabled=[]", "clap.enabled=false", "separation.enabled=false",
            "+source.storage_options={key: not-for-files}", "perf.threads=1,2", "ray.num_cpus=2",
        ],
        cwd=repo, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "out" / "comparison.md").read_text()
    assert table in done.stdout
    assert {line.split("|")[1].strip() for line in table.splitlines()[2:]} == {"1", "2"}, (
        "the swept key, and no other"
    )
    for place in ("00", "01"):
        assert len(pd.read_parquet(tmp_path / "out" / place / "tracks")) == 5
    assert "not-for-files" not in done.stdout + done.stderr
    assert not (repo / "multirun.yaml").exists()
