"""How a run is cut into blocks."""

import pytest

from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.packing import planned
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.stages import BLOCKS_PER_CPU, plan_blocks


@pytest.mark.parametrize(("files", "size"), [(1, 10**6), (124, 250_000), (5000, 10_000), (40, 5_000_000)])
def test_there_are_enough_blocks_for_every_core_and_none_is_too_large(files, size):
    items = planned([SourceItem(f"{i}.ogg", size) for i in range(files)])
    blocks = plan_blocks(items, HardwareConfig(), cpus=2)
    assert sum(b.num_rows for b in blocks) == files
    assert max(b.num_rows for b in blocks) <= HardwareConfig().max_files_per_block
    assert len(blocks) >= min(files, BLOCKS_PER_CPU)


def test_without_files_there_are_no_blocks():
    assert plan_blocks([], HardwareConfig(), cpus=2) == []
