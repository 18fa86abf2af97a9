"""Open-Unmix through the openunmix package: three BLSTM layers per stem and a multichannel Wiener filter.

Source: Stöter, Uhlich, Liutkus, Mitsufuji 2019, "Open-Unmix: a reference implementation for music source
separation", JOSS 4(41). ``umxhq`` is under MIT, ``umxl`` under CC BY-NC-SA 4.0; that one must be named to be used.

The package runs its recurrent layers over the whole track, in memory that grows with it. Here a track is cut
into stretches of 30 s that overlap by a quarter, with demucs's transitions: up to 30 s the stems are the
package's own, and beyond that those of its separator on each stretch.

What the package computes target by target, item by item and frame by frame is computed here for many at once, with the
same weights, see `Batched`. Where the channels of a mix are alike or nearly so, the package's filter is off by rounding
errors that ours does not make (`pipeline.models.separation.wiener`).
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.counting import plural
from pipeline.errors import UserError
from pipeline.models.separation.base import (
    BackendUnavailable,
    SeparationOptions,
    Separator,
    register,
)
from pipeline.models.separation.device_audio import DeviceTrack
from pipeline.models.separation.networks import parameters_hash
from pipeline.models.separation.overlap import triangle
from pipeline.models.separation.wiener import wiener
from pipeline.models.separation.window import UNTOUCHED, Level, Window
from pipeline.places import expanded, has_file

SEGMENT_SECONDS = 30.0
OVERLAP = 0.25
DEFAULT_MODEL = "umxhq"
# Published models: address, units of a layer, and the file of each target, whose name ends in its checksum.
PUBLISHED = {
    "umxhq": ("https://zenodo.org/records/3370489/files/", 512, {
        "vocals": "vocals-b62c91ce.pth", "drums": "drums-9619578f.pth",
        "bass": "bass-8d85a5bd.pth", "other": "other-b52fbbf7.pth",
    }),
    "umxl": ("https://zenodo.org/records/5069601/files/", 1024, {
        "vocals": "vocals-bccbd9aa.pth", "drums": "drums-69e0ebd4.pth",
        "bass": "bass-2ca1ce51.pth", "other": "other-c8c5b3e6.pth",
    }),
}  # fmt: skip
# Of the published models: 4096-point spectra, of which the networks see those bins up to 16 kHz.
N_FFT, SEEN_BINS = 4096, 1487
# On a GPU: windows whose recurrent layers run together, and of those the ones whose spectra are in memory at a time.
# The recurrence is a chain of small steps that more windows hardly lengthen; spectra and filter take most memory.
# Counted from the tensors, not measured: 130 MB per window and 1 GB, 5 GB in all, at umxhq's 4 x 512 units.
BATCH_ITEMS, FILTERED_ITEMS, BATCH_UNITS = 32, 2, 32 * 2048


@register
class OpenUnmix(Separator):
    """An Open-Unmix separator.

    Args:
        separator: ``openunmix.model.Separator``, stereo.
        device: where it runs.
        name: of the model, for `model_id`.
    """

    name = "openunmix"
    version = "2"
    cpu_speed = 8.0

    def __init__(
        self, separator: nn.Module, device: str | torch.device = "cpu", name: str = DEFAULT_MODEL
    ) -> None:
        self.device = torch.device(device)
        self.network = separator.to(self.device).eval()
        self.model_name = name
        self.sources = tuple(separator.target_models)
        self.sample_rate = int(separator.sample_rate)
        self.segment = SEGMENT_SECONDS
        self.batched = Batched(self.network) if Batched.handles(self.network) else None
        self.batch_items = 1
        if self.device.type != "cpu":
            fitting = BATCH_UNITS // self.batched.units if self.batched else 8
            self.batch_items = min(BATCH_ITEMS, max(1, fitting))
        self._size = int(self.sample_rate * SEGMENT_SECONDS)
        self._weight = triangle(self._size)
        self._digest = parameters_hash([separator])

    @classmethod
    def load(cls, device: str = "cpu", options: SeparationOptions | None = None) -> OpenUnmix:
        wanted = (options or SeparationOptions()).openunmix_model
        if importlib.util.find_spec("openunmix") is None:
            raise BackendUnavailable("the openunmix package is missing: pip install 'openunmix>=1.3'")
        name = wanted or DEFAULT_MODEL
        if name in PUBLISHED:
            return cls(_published(name, download=wanted is not None), device, name)
        folder = expanded(name)
        if not folder.is_dir():
            raise UserError(
                f"separation.openunmix_model={name} is neither a folder nor one of {', '.join(PUBLISHED)}"
            )
        return cls(_from_folder(folder), device, folder.name)

    def model_id(self) -> str:
        return f"{self.model_name}:{self._digest[:12]}"

    def windows(self, samples: int) -> Iterator[Window]:
        """Stretches of 30 s; the last one is as short as what is left, but no shorter than one spectrum."""
        stride = int((1 - OVERLAP) * self._size)
        for offset in range(0, samples, stride):
            length = min(self._size, samples - offset)
            yield Window(offset, max(length, N_FFT), offset, length)
            if offset + length >= samples:
                return

    def transition(self, size: int) -> Tensor | None:
        return self._weight

    def level(self, audio: DeviceTrack) -> Level | None:
        """As it is; the filter divides by the energy of the mix, which silence does not have."""
        return UNTOUCHED if any(bool(block.any()) for block in audio.blocks()) else None

    def separate(self, batch: Tensor) -> Tensor:
        # The Wiener filter's matrix inversions need float32, and the rest gains too little from less.
        return self.network(batch) if self.batched is None else self.batched(batch)


class _Target:
    """One target's network in evaluation, its norms and scales folded into the matrices beside them.

    Args:
        network: ``openunmix.model.OpenUnmix``.
    """

    def __init__(self, network: nn.Module) -> None:
        self.recurrent, self.seen = network.lstm, network.nb_bins
        # What goes in is added to and scaled, then multiplied by a matrix, then normed: all of it affine.
        scale, mean = (
            value.detach().double().repeat(2) for value in (network.input_scale, network.input_mean)
        )
        gain, offset = _affine(network.bn1)
        matrix = network.fc1.weight.detach().double() * scale
        self.encoder = (gain[:, None] * matrix).float(), (gain * (matrix @ mean) + offset).float()
        gain, offset = _affine(network.bn2)
        self.middle = (gain[:, None] * network.fc2.weight.detach().double()).float(), offset.float()
        scale, mean = (
            value.detach().double().repeat(2) for value in (network.output_scale, network.output_mean)
        )
        gain, offset = _affine(network.bn3)
        matrix = (scale * gain)[:, None] * network.fc3.weight.detach().double()
        self.decoder = matrix.float(), (scale * offset + mean).float()

    def encode(self, magnitudes: Tensor) -> Tensor:
        """Float32 ``[items, frames, 2, bins]`` → ``[frames, items, units]``."""
        seen = magnitudes[..., : self.seen].flatten(2)
        return functional.linear(seen, *self.encoder).tanh_().transpose(0, 1)

    def recur(self, encoded: Tensor) -> Tensor:
        """Float32 ``[frames, items, units]`` → the same."""
        hidden = torch.cat([encoded, self.recurrent(encoded)[0]], dim=-1)
        return functional.linear(hidden, *self.middle).relu_()

    def mask(self, hidden: Tensor) -> Tensor:
        """Float32 ``[frames, items, units]`` → what the mix is multiplied by, ``[items, frames, 2, bins]``."""
        return functional.linear(hidden.transpose(0, 1), *self.decoder).relu_().unflatten(-1, (2, -1))


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a norm multiplies by and then adds, float64."""
    weight, bias, mean, variance = (
        value.detach().double() for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    )
    gain = weight / (variance + norm.eps).sqrt()
    return gain, bias - gain * mean


class Batched:
    """What ``openunmix.model.Separator`` computes, for many windows at once and without waiting for the device.

    The recurrent layers, whose frames follow one another, see all windows, and on a GPU the targets' run side by side
    on streams of their own. Spectra, masks and the filter, which are large, are those of a few windows at a time.

    Args:
        separator: one that it `handles`, on its device and in evaluation; its weights must not change afterwards.
    """

    def __init__(self, separator: nn.Module) -> None:
        self.targets = [_Target(network) for network in separator.target_models.values()]
        self.window = separator.stft.window.detach()
        self.units = sum(target.recurrent.input_size for target in self.targets)
        self.n_fft, self.hop = separator.stft.n_fft, separator.stft.n_hop
        self.stretch = separator.wiener_win_len
        device = self.window.device
        self.filtered_items = FILTERED_ITEMS if device.type == "cuda" else 1
        self.streams = [torch.cuda.Stream(device) for _ in self.targets] if device.type == "cuda" else []
        self._envelope = functools.lru_cache(8)(self._overlapping_windows)

    @staticmethod
    def handles(separator: nn.Module) -> bool:
        """Whether it is the package's, stereo, with one iteration of the filter on targets without a residual."""
        try:
            targets, (stft, istft) = list(separator.target_models.values()), (separator.stft, separator.istft)
            return (
                all(_is(part, "model", "OpenUnmix") for part in targets)
                and _is(separator, "model", "Separator")
                and _is(stft, "transforms", "TorchSTFT")
                and _is(istft, "transforms", "TorchISTFT")
                and len(targets) >= 2
                and separator.niter == 1
                and not (separator.residual or separator.softmask or separator.complexnorm.mono)
                and bool(stft.center and istft.center)
                and (stft.n_fft, stft.n_hop) == (istft.n_fft, istft.n_hop)
                and stft.n_fft % stft.n_hop == 0 < stft.n_hop <= stft.n_fft // 2
                and torch.equal(stft.window, istft.window)
                and all(_fits(target, stft.n_fft // 2 + 1) for target in targets)
            )
        # Another version of the package, or nothing of the package at all.
        except AttributeError:
            return False

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """The stems, float32 ``[items, targets, 2, samples]``, of ``[items, 2, samples]``."""
        hidden, few = self._recur(self._encode(audio)), self.filtered_items
        stems = audio.new_empty(len(audio), len(self.targets), *audio.shape[1:])
        for first in range(0, len(audio), few):
            some = slice(first, first + few)
            mix = self.spectra(audio[some])
            masks = (target.mask(hidden[i][:, some]) for i, target in enumerate(self.targets))
            for i, spectra in enumerate(wiener(mix, masks, self.stretch or mix.shape[2])):
                stems[some, i] = self.waveform(spectra, audio.shape[-1])
        return stems

    def _encode(self, audio: Tensor) -> list[Tensor]:
        """Per target float32 ``[frames, items, units]``."""
        seen, parts = max(target.seen for target in self.targets), []
        for some in audio.split(self.filtered_items):
            magnitudes = self.spectra(some)[..., :seen].abs().transpose(1, 2).contiguous()
            parts.append([target.encode(magnitudes) for target in self.targets])
        return [torch.cat(each, dim=1).contiguous() for each in zip(*parts, strict=True)]

    def _recur(self, encoded: list[Tensor]) -> list[Tensor]:
        if not self.streams:
            return [target.recur(x) for target, x in zip(self.targets, encoded, strict=True)]
        # Made and given back on the current stream, and written on another: both ends wait for each other.
        hidden, current = (
            [torch.empty_like(x) for x in encoded],
            torch.cuda.current_stream(self.window.device),
        )
        try:
            for target, stream, x, out in zip(self.targets, self.streams, encoded, hidden, strict=True):
                stream.wait_stream(current)
                with torch.cuda.stream(stream):
                    out.copy_(target.recur(x))
        finally:
            for stream in self.streams:
                current.wait_stream(stream)
        return hidden

    def spectra(self, audio: Tensor) -> Tensor:
        """Unnormalised spectra, complex64 ``[items, 2, frames, bins]``, of float32 ``[items, 2, samples]``."""
        found = torch.stft(
            audio.flatten(0, 1), self.n_fft, self.hop, window=self.window, center=True, pad_mode="reflect",
            normalized=False, onesided=True, return_complex=True,
        )  # fmt: skip
        return found.transpose(1, 2).unflatten(0, audio.shape[:2])

    def waveform(self, spectra: Tensor, samples: int) -> Tensor:
        """Inverse of `spectra`; unlike ``torch.istft`` it does not ask the device whether the windows cover it all."""
        summed = self._overlap_add(torch.fft.irfft(spectra, n=self.n_fft) * self.window)
        start = self.n_fft // 2
        return (
            summed[..., start : start + samples] / self._envelope(spectra.shape[-2])[start : start + samples]
        )

    def _overlapping_windows(self, frames: int) -> Tensor:
        return self._overlap_add(self.window.square().expand(frames, -1))

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """``[..., frames, n_fft]`` → ``[..., samples]``."""
        done = frames.shape[-2] * self.hop
        out = frames.new_zeros(*frames.shape[:-2], done + self.n_fft - self.hop)
        for begin in range(0, self.n_fft, self.hop):
            part = out[..., begin : begin + done].unflatten(-1, (-1, self.hop))
            part += frames[..., begin : begin + self.hop]
        return out


def _is(part: nn.Module, module: str, name: str) -> bool:
    """Whether it is exactly this class of the package: one derived from it may compute something else."""
    return (type(part).__module__, type(part).__qualname__) == (f"openunmix.{module}", name)


def _fits(target: nn.Module, bins: int) -> bool:
    """Whether a target's network is stereo, of so many bins, in float32 and in evaluation."""
    return (
        target.fc1.in_features == 2 * target.nb_bins
        and target.fc3.out_features == 2 * target.nb_output_bins == 2 * bins
        and not target.training
        and all(value.dtype == torch.float32 for value in target.parameters())
    )


def _published(name: str, download: bool) -> nn.Module:
    from openunmix.model import OpenUnmix as Target
    from openunmix.model import Separator as Network

    address, hidden, files = PUBLISHED[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [file for file in files.values() if not has_file(folder / file)]
    if missing and not download:
        raise BackendUnavailable(
            f"{name} is not in torch's cache on this machine: type separation.openunmix_model={name} to "
            "download it, or separation.openunmix_model=FOLDER"
        )
    targets = {}
    for target, file in files.items():
        state = _state(name, address, folder, file)
        with torch.random.fork_rng(devices=[]):
            targets[target] = Target(
                nb_bins=N_FFT // 2 + 1, nb_channels=2, hidden_size=hidden, max_bin=SEEN_BINS
            )
        # Not strict, as in the package: the files also hold the spectral transform.
        targets[target].load_state_dict(state, strict=False)
    return Network(targets, niter=1, n_fft=N_FFT, n_hop=1024, nb_channels=2, wiener_win_len=300)


def _state(name: str, address: str, folder: Path, file: str) -> dict[str, Tensor]:
    from pipeline.models.separation.demucs_weights import socket_timeout

    try:
        with socket_timeout():
            return torch.hub.load_state_dict_from_url(
                address + file, str(folder), "cpu", progress=False, check_hash=True, weights_only=True
            )
    # A damaged file and an unreachable server raise anything: the user gets one line.
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(
            f"cannot load or download {name} ({why}): delete {folder / file} if it is there, and try again "
            "online, or type separation.openunmix_model=FOLDER"
        ) from error


def _from_folder(folder: Path) -> nn.Module:
    """A model in the package's own layout: separator.json, and per target TARGET.json and TARGET*.pth."""
    from openunmix.utils import load_separator

    targets = sorted(path.stem for path in folder.glob("*.json") if path.stem != "separator")
    if not (folder / "separator.json").is_file() or not targets:
        raise UserError(
            f"separation.openunmix_model={folder} does not hold separator.json and TARGET.json, TARGET.pth files"
        )
    try:
        channels = json.loads((folder / "separator.json").read_text(encoding="utf-8"))["nb_channels"]
        if channels != 2 or len(targets) < 2:
            raise ValueError(
                f"{plural(channels, 'channel')} and {plural(len(targets), 'target')}: at least 2 of both are needed"
            )
        with torch.random.fork_rng(devices=[]):
            return load_separator(str(folder), targets=targets, niter=1, device="cpu")
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(f"the openunmix model in {folder} cannot be loaded: {why}") from error
