"""How a run ends when too much fails, when nothing is asked for, and when it cannot start."""

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
