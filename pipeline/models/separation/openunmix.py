"""Open-Unmix through the openunmix package: three BLSTM layers per stem and a multichannel Wiener filter.

Source: Stöter, Uhlich, Liutkus, Mitsufuji 2019, "Open-Unmix: a reference implementation for music source
separation", JOSS 4(41). ``umxhq`` is under MIT, ``umxl`` under CC BY-NC-SA 4.0; that one must be named to be used.

The package runs its recurrent layers over the whole track, in memory that grows with it. Here a track is cut
into stretches of 30 s that overlap by a quarter, with demucs's transitions: up to 30 s the stems are the
package's own, and beyond that those of its separator on each stretch.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.audio.reader import AudioReader, blocks
from pipeline.errors import UserError
from pipeline.models.separation.base import (
    UNTOUCHED,
    BackendUnavailable,
    Level,
    SeparationOptions,
    Separator,
    Window,
    register,
)
from pipeline.models.separation.networks import parameters_hash
from pipeline.models.separation.overlap import triangle

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


@register
class OpenUnmix(Separator):
    """An Open-Unmix separator.

    Args:
        separator: ``openunmix.model.Separator``, stereo.
        device: where it runs.
        name: of the model, for `model_id`.
    """

    name = "openunmix"
    version = "1"
    cpu_speed = 3.0

    def __init__(
        self, separator: nn.Module, device: str | torch.device = "cpu", name: str = DEFAULT_MODEL
    ) -> None:
        self.device = torch.device(device)
        self.network = separator.to(self.device).eval()
        self.model_name = name
        self.sources = tuple(separator.target_models)
        self.sample_rate = int(separator.sample_rate)
        self.segment = SEGMENT_SECONDS
        self.batch_items = 1 if self.device.type == "cpu" else 4
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
        folder = Path(name).expanduser()
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

    def level(self, audio: AudioReader) -> Level | None:
        """As it is; the filter divides by the energy of the mix, which silence does not have."""
        return UNTOUCHED if any(block.any() for block in blocks(audio)) else None

    def separate(self, batch: Tensor) -> Tensor:
        # The Wiener filter's matrix inversions need float32, and the rest gains too little from less.
        return self.network(batch)


def _published(name: str, download: bool) -> nn.Module:
    from openunmix.model import OpenUnmix as Target
    from openunmix.model import Separator as Network

    address, hidden, files = PUBLISHED[name]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    missing = [file for file in files.values() if not (folder / file).is_file()]
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
                f"{channels} channel(s) and {len(targets)} target(s): at least 2 of both are needed"
            )
        with torch.random.fork_rng(devices=[]):
            return load_separator(str(folder), targets=targets, niter=1, device="cpu")
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendUnavailable(f"the openunmix model in {folder} cannot be loaded: {why}") from error
