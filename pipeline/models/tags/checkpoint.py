"""musicnn's weights in the store: the variables of both networks, checked, and what they are called together."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.separation.tensor_bundle import read_tensor_bundle
from pipeline.models.tags.names import NAMES, NETWORKS, WEIGHTS
from pipeline.models.weights_entry import FilesOrigin

CONFIGURATION = "configuration.py"
"""The wheel's own list of tags: read as text, never run."""


@dataclass(frozen=True)
class Checkpoint:
    """Both networks.

    Args:
        model_id: ``musicnn:`` and the beginning of a hash over all files.
        variables: network → TensorFlow's name of a variable → float32 array.
    """

    model_id: str
    variables: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)


def model_id() -> str:
    """As `Checkpoint.model_id`, without reading anything: `read_checkpoint` takes no other files than these."""
    origin = weights.entry(WEIGHTS).origin
    assert isinstance(origin, FilesOrigin)  # noqa: S101  a constant of the catalogue
    together = hashlib.sha256("".join(file.sha256 for file in origin.files).encode())
    return f"{WEIGHTS}:{together.hexdigest()[:12]}"


def read_checkpoint() -> Checkpoint:
    """The weights of the store.

    Raises:
        UserError: they are missing or damaged, or their tags are not those of `NAMES`; one line that says what to type.
    """
    labels = weights.checked_file(WEIGHTS, CONFIGURATION).read_text(encoding="utf-8")
    again = as_typed(f"python jobs/models.py fetch {WEIGHTS}")
    for network in NETWORKS:
        if _listed(labels, f"{network.upper()}_LABELS") != NAMES[network]:
            raise UserError(
                f"{WEIGHTS}: {CONFIGURATION} lists other {network} tags than this version: {again}"
            )
    try:
        variables = {network: _variables(network) for network in NETWORKS}
    except ValueError as error:
        raise UserError(f"{WEIGHTS} weights are damaged ({error}): delete them, then {again}") from error
    return Checkpoint(model_id(), variables)


def _variables(network: str) -> dict[str, np.ndarray]:
    index, data = (
        weights.checked_file(WEIGHTS, f"{network}.{part}").read_bytes() for part in ("index", "data")
    )
    tensors = read_tensor_bundle(index, data)
    # What is left out are the optimizer's.
    return {name: value for name, value in tensors.items() if "Adam" not in name and "_power" not in name}


def _listed(text: str, name: str) -> tuple[str, ...] | None:
    """The list that a Python file assigns to ``name``; None where it assigns none."""
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return tuple(ast.literal_eval(statement.value))
    return None
