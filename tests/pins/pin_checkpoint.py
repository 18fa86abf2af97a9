"""A CLAP checkpoint in LAION's format whose weights are the same on every machine.

`clap_reference.seeded_state` draws from torch's generator, whose normal numbers differ in their last bits between
CPUs. The key of CLAP's columns is a hash of the weights, so here they come from numpy's frozen `RandomState` by way of
uniform numbers and IEEE arithmetic alone: no logarithm, no sine, nothing that a library may round its own way.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import torch

SHAPES = Path(__file__).with_name("clap_shapes.json")
"""Name → shape of the audio weights of LAION's HTSAT-tiny that an embedding depends on."""

SEED = 20261
SHA256 = "23c0706741e999482a11de4e24336d8697a5cd3ae0b3b8a2cd9016948f4d31b1"
"""Of the names and the float32 values, in the order of `SHAPES`."""


def weights() -> dict[str, np.ndarray]:
    """Name → float32 values; larger than LAION's initial ones, under which all sounds would be alike."""
    random = np.random.RandomState(SEED)
    shapes = json.loads(SHAPES.read_text())
    return {name: _values(name, tuple(shape), random) for name, shape in shapes.items()}


def _values(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    # What training leaves in the batch norm: the mean and the spread of log-mel bins.
    constants = {"running_mean": -30.0, "running_var": 400.0}
    last = name.rsplit(".", 1)[-1]
    if last in constants:
        return np.full(shape, constants[last], np.float32)
    if len(shape) == 1:
        return np.full(shape, 0.0 if last == "bias" else 1.0, np.float32)
    widest = math.sqrt(3.0) * 1.5 / math.sqrt(math.prod(shape[1:]))
    return ((2.0 * random.random_sample(shape) - 1.0) * widest).astype(np.float32)


def digest(values: dict[str, np.ndarray]) -> str:
    """What `SHA256` is of."""
    found = hashlib.sha256()
    for name, value in values.items():
        found.update(f"{name} {value.shape}\n".encode())
        found.update(value.tobytes())
    return found.hexdigest()


def write_checkpoint(path: Path) -> Path:
    """Write the checkpoint as LAION's training script does, without its optimizer and its text half.

    Raises:
        AssertionError: this machine's weights are not those that the pins were made with.
    """
    values = weights()
    assert digest(values) == SHA256, (
        "numpy's RandomState gives other numbers here than where the pins were made"
    )
    state = {f"module.{name}": torch.from_numpy(value) for name, value in values.items()}
    torch.save({"epoch": 1, "name": "pins", "state_dict": state}, path)
    return path
