"""CLAP's audio tower of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.models.clap.checkpoint import CheckpointInfo, read_checkpoint
from pipeline.models.clap.tower import AudioTower


def load_tower(
    path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[AudioTower, CheckpointInfo]:
    """The tower of a checkpoint on ``device``, and what the checkpoint says of itself."""
    checkpoint = read_checkpoint(path)
    return AudioTower(checkpoint, dtype).to(device), checkpoint.info
