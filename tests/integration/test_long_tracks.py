"""Tracks too long to travel between stages: each stage reads them from the source, with the same result."""

import numpy as np
import pandas as pd
import pytest

from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import write_demo
from pipeline.workflows.jobs import extract
from pipeline.workflows.outcome import Result

pytestmark = pytest.mark.timeout(600)
IDENTITY = {"run_id", "uri"}


def run(folder, output, checkpoint=None, **hardware) -> Result:
    """Through all stages; without a checkpoint through those that need no network."""
    config = ExtractConfig()
    config.source.uri, config.output.uri = str(folder), str(output)
    config.source.glob = "*.flac"
    config.source.limit = 3
    config.clap.enabled = config.separation.enabled = checkpoint is not None
    config.clap.checkpoint = str(checkpoint)
    config.clap.amp = "false"
    config.separation.backends = ["spleeter", "midside"]
    config.ray.address = "inline"
    for name, value in hardware.items():
        setattr(config.hardware, name, value)
    return extract.run(config, quiet=True)


@pytest.fixture(scope="module")
def both(tmp_path_factory, spleeter, clap_checkpoint) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tracks of the same files, travelling and read by each stage."""
    root = tmp_path_factory.mktemp("long")
    write_demo(root / "in", seconds=12.0)
    tables = []
    for name, hardware in (("short", {}), ("long", {"max_track_bytes": 200_000})):
        result = run(root / "in", root / name, clap_checkpoint, **hardware)
        assert result.exit_code == 0
        assert pd.read_parquet(root / name / "failures").empty
        tables.append(pd.read_parquet(root / name / "tracks").sort_values("uri").reset_index(drop=True))
    return tuple(tables)


def test_every_column_is_that_of_the_track_in_memory(both):
    travelled, read = both
    assert set(read["status"]) == {"ok"}
    assert len(read) == 3
    for name in set(read.columns) - IDENTITY:
        for value, expected in zip(read[name], travelled[name], strict=True):
            if isinstance(expected, (float, np.ndarray)) and np.asarray(expected).dtype.kind == "f":
                np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3, err_msg=name)
            elif not isinstance(expected, np.ndarray):
                assert value == expected or (pd.isna(value) and pd.isna(expected)), name


def test_a_track_longer_than_allowed_is_a_failure(tmp_path):
    write_demo(tmp_path / "in", seconds=8.0)
    result = run(tmp_path / "in", tmp_path / "out", max_track_hours=0.001)
    assert result.exit_code == 3
    failures = pd.read_parquet(tmp_path / "out" / "failures")
    assert set(failures["error_class"]) == {"AudioTooLong"}
    assert len(failures) == 3
