"""Demucs and Hybrid Transformer Demucs through the demucs package, with its windows and transitions.

Any model that ``demucs.pretrained`` knows by name, or one from a local folder. What comes out is what
``demucs.api.Separator(model, repo, shifts=0, overlap=0.25)`` gives, which is `demucs.apply.apply_model` on the
track brought to zero mean and unit standard deviation; here the windows of all tracks of a block share
batches, and a track is never in memory as a whole. ``shifts`` stays 0: it draws a random offset, and a row
would come out differently each time.

Sources: Rouard, Massa, Défossez 2023, "Hybrid Transformers for Music Source Separation", ICASSP; Défossez
2021, "Hybrid Spectrogram and Waveform Source Separation", MDX workshop.

Weights are pickles in demucs's own format, and its loader unpickles without restriction: a file can run code.
So a folder is read only if the user names it in ``separation.demucs_repo``, a file from the torch cache only if
it has the checksum that the demucs package states, and nothing is downloaded unless
``separation.demucs_model`` asks for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.counting import plural
from pipeline.models.separation.base import (
    BackendUnavailable,
    SeparationOptions,
    Separator,
    register,
)
from pipeline.models.separation.demucs_weights import find_model
from pipeline.models.separation.device_audio import DeviceTrack
from pipeline.models.separation.fused_demucs import fuse
from pipeline.models.separation.networks import parameters_hash, use_amp
from pipeline.models.separation.overlap import triangle
from pipeline.models.separation.window import Level, Window

OVERLAP = 0.25
DEFAULT_MODEL = "htdemucs"


@register
class Demucs(Separator):
    """A demucs model, or a bag of them whose outputs are averaged with the bag's weights.

    Args:
        model: a ``Demucs``, ``HDemucs``, ``HTDemucs`` or ``BagOfModels`` of the demucs package.
        device: where it runs.
        amp: whether it runs in bfloat16 autocast.
        name: of the model, for `model_id`.

    Attributes:
        plain: why the network runs without `fused_demucs`'s kernels on a GPU; empty where it does not.

    Raises:
        BackendUnavailable: the model is not stereo, or it is a bag whose members cut a track differently.
    """

    name = "demucs"
    version = "1"
    cpu_speed = 0.8

    def __init__(
        self,
        model: nn.Module,
        device: str | torch.device = "cpu",
        amp: bool = False,
        name: str = DEFAULT_MODEL,
    ) -> None:
        self.device = torch.device(device)
        self.amp = amp
        self.model_name = name
        self.models, self.mix = _members(model, name)
        first = self.models[0]
        self.models = [member.to(self.device).eval() for member in self.models]
        self.sources = tuple(first.sources)
        self.sample_rate = int(first.samplerate)
        self.segment = float(first.segment)
        self.cpu_speed = Demucs.cpu_speed / len(self.models)
        self.batch_items = 1 if self.device.type == "cpu" else 32
        self._size = int(first.samplerate * first.segment)
        self._weight = triangle(self._size)
        self.mix = self.mix.to(self.device)
        self._digest = parameters_hash(self.models, str(self.mix.tolist()))
        self.plain = ""
        if self.device.type == "cuda":
            self.plain = next(filter(None, [fuse(member, self.device, amp) for member in self.models]), "")

    @classmethod
    def load(cls, device: str = "cpu", options: SeparationOptions | None = None) -> Demucs:
        options = options or SeparationOptions()
        if importlib.util.find_spec("demucs") is None:
            raise BackendUnavailable("the demucs package is missing: pip install 'demucs>=4.1,<5'")
        name = options.demucs_model or DEFAULT_MODEL
        model = find_model(name, options.demucs_repo, download=options.demucs_model is not None)
        return cls(model, device, use_amp(options.amp, device), name)

    def model_id(self) -> str:
        return f"{self.model_name}:{self._digest[:12]}"

    def windows(self, samples: int) -> Iterator[Window]:
        """One every three quarters of a segment, until the track ends; short ones are centred in their padding."""
        # The last ones may lie wholly within the one before: so it is in demucs.
        for offset in range(0, samples, int((1 - OVERLAP) * self._size)):
            length = min(self._size, samples - offset)
            size = _valid_length(self.models[0], length)
            yield Window(offset - (size - length) // 2, size, offset, length)

    def transition(self, size: int) -> Tensor | None:
        return self._weight

    def level(self, audio: DeviceTrack) -> Level | None:
        """Mean and standard deviation of the mono mix; the latter with demucs's 1e-8, so never 0."""
        sums = []
        for block in audio.blocks():
            mono = block.mean(dim=0).double()
            peak = torch.linalg.vector_norm(block, float("inf")).double()
            sums.append(torch.stack([mono.sum(), mono.square().sum(), peak]))
        total, squares, peak = torch.stack(sums).sum(dim=0).tolist()
        if peak == 0.0:
            return None
        mean = total / audio.samples
        variance = max(0.0, squares - total * mean) / max(1, audio.samples - 1)
        return Level(mean, variance**0.5 + 1e-8)

    def separate(self, batch: Tensor) -> Tensor:
        total = 0.0
        with flash_attention(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            for model, share in zip(self.models, self.mix, strict=True):
                stems = model(batch).float()
                total = total + (stems * share[:, None, None] if len(self.models) > 1 else stems)
        return total


@contextlib.contextmanager
def flash_attention() -> Iterator[None]:
    """Without torch's "fast path" for attention, which holds a whole matrix of 2688 x 2688 scores per head.

    What torch does instead never holds it: about a tenth less time for htdemucs on a CPU, and 230 MB less per
    window. The outputs differ by rounding.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _members(model: nn.Module, name: str) -> tuple[list[nn.Module], Tensor]:
    """The networks of a model, and each one's share of each source ``[models, sources]``."""
    members = list(model.models) if hasattr(model, "models") else [model]
    weights = torch.tensor(model.weights if hasattr(model, "models") else [[1.0] * len(model.sources)])
    first = members[0]
    if int(first.audio_channels) != 2:
        raise BackendUnavailable(
            f"{name} takes {plural(first.audio_channels, 'channel')}: only stereo models fit here"
        )
    if len({_layout(member) for member in members}) > 1:
        raise BackendUnavailable(
            f"the models of the bag {name} cut a track differently and cannot share batches: "
            "name one of them in separation.demucs_model"
        )
    return members, weights / weights.sum(dim=0)


def _layout(model: nn.Module) -> tuple[int, int, int]:
    """Length of a window, and what a full one and one of half the length are padded to."""
    size = int(model.samplerate * model.segment)
    return size, _valid_length(model, size), _valid_length(model, size // 2)


def _valid_length(model: nn.Module, length: int) -> int:
    """What `demucs.apply.apply_model` pads a stretch of this length to."""
    return int(model.valid_length(length)) if hasattr(model, "valid_length") else length
