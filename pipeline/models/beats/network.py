"""The three networks of BeatNet: from what is heard to the odds of a beat and of a downbeat, 50 times a second.

A convolution over frequency, two LSTM layers over time that only look back, and a softmax over beat, downbeat and
neither. The three were trained on different music; the mean of what they say is better than each.

Source: Heydari, Cwitkowitz and Duan, "BeatNet: CRNN and particle filtering for online joint beat, downbeat and meter
tracking", ISMIR 2021. Their weights are CC-BY-4.0.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.models.beats.checkpoint import checked_files, model_id
from pipeline.models.beats.front_end import FRAMES_PER_SECOND, INPUTS

KERNEL = 10
UNITS = 150
LAYERS = 2
BEAT, DOWNBEAT, NEITHER = range(3)
QUIET_FRAMES = int(5 * FRAMES_PER_SECOND)
"""Of silence before every track: without it the networks take the beginning for a beat."""

State = tuple[Tensor, Tensor]
"""Hidden and cell values of the LSTM layers, ``[LAYERS, tracks, UNITS]`` each."""


class BeatNetwork(nn.Module):
    """One of the three networks.

    Shape:
        - Input: ``[tracks, frames, INPUTS]``, and the state behind the frames before; None at the beginning.
        - Output: odds ``[tracks, frames, 3]`` that sum to 1, and the state behind the last frame.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 2, KERNEL)
        self.linear0 = nn.Linear(2 * ((INPUTS - KERNEL + 1) // 2), UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, LAYERS, batch_first=True)
        self.linear = nn.Linear(UNITS, 3)
        self.eval()

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        tracks, frames = inputs.shape[:2]
        x = functional.relu(self.conv1(inputs.reshape(-1, 1, INPUTS)))
        x = self.linear0(functional.max_pool1d(x, 2).flatten(1))
        x, state = self.lstm(x.reshape(tracks, frames, UNITS), state)
        return torch.softmax(self.linear(x), dim=-1), state


class Ensemble:
    """The mean of several networks.

    Args:
        networks: all of the same kind.
        device: where they run.
        model_id: what they are called together.
    """

    def __init__(
        self, networks: Sequence[BeatNetwork], device: str | torch.device = "cpu", model_id: str = ""
    ) -> None:
        self.device = torch.device(device)
        self.networks = [network.to(self.device) for network in networks]
        self.model_id = model_id
        self._quiet: list[State] = []

    @torch.inference_mode()
    def start(self, tracks: int) -> list[State]:
        """The state of each network before so many tracks begin."""
        if not self._quiet:
            silence = torch.zeros((1, QUIET_FRAMES, INPUTS), device=self.device)
            self._quiet = [network(silence)[1] for network in self.networks]
        return [(hidden.repeat(1, tracks, 1), cell.repeat(1, tracks, 1)) for hidden, cell in self._quiet]

    @torch.inference_mode()
    def __call__(self, inputs: Tensor, states: Sequence[State]) -> tuple[Tensor, list[State]]:
        """Odds of beat and downbeat, ``[tracks, frames, 2]``, and each network's state; as `BeatNetwork`.

        Args:
            states: of `start`, or behind the frames before.
        """
        total, behind = None, []
        for number, network in enumerate(self.networks):
            odds, state = network(inputs, states[number])
            total = odds if total is None else total.add_(odds)
            behind.append(state)
        return total[..., :NEITHER] / len(self.networks), behind


def network_from(tensors: Mapping[str, Tensor]) -> BeatNetwork:
    """A network with the published values. Raises `ValueError` where they do not fit or are not finite."""
    # Layers start out random: leave the caller's generator alone.
    with torch.random.fork_rng(devices=[]):
        network = BeatNetwork()
    if damaged := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{damaged[0]} holds NaN or infinity")
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:  # one line of many
        raise ValueError(str(error).splitlines()[-1].strip()) from error
    return network


def load_ensemble(device: str | torch.device = "cpu") -> Ensemble:
    """The published networks, out of the weights store. Raises `UserError` where they are missing or damaged."""
    return Ensemble([_read(path) for path in checked_files()], device, model_id())


def _read(path: Path) -> BeatNetwork:
    try:
        return network_from(torch.load(path, map_location="cpu", weights_only=True))
    except (ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} holds no such network: {str(error).splitlines()[0]}") from error
