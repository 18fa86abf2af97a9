"""CLAP's audio tower: waveforms in, unit vectors out. LAION's HTSAT under its published weights."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.models.clap.checkpoint import EMBEDDING_SIZE, Checkpoint, CheckpointInfo, read_checkpoint
from pipeline.optional import look_up

SAMPLE_RATE = 48000
CLIP_SAMPLES = 480000
CLIP_SECONDS = CLIP_SAMPLES / SAMPLE_RATE

_PACKAGE = "_soundmill_laion_htsat"
_STFT = "audio_branch.spectrogram_extractor.stft"


class AudioTower(nn.Module):
    """HTSAT, the projection into the shared space, and the unit norm (Wu et al., ICASSP 2023).

    Always in evaluation mode: no dropout, no SpecAugment, no mixup, so equal inputs give equal outputs. The
    spectrogram is an FFT in float32 whatever the rest runs in: LAION computes the same numbers by convolving
    with a DFT matrix, which takes 10 to 20 % of the time. A front end in bfloat16 would bury the quiet bands
    that the logarithm brings up (cosine to float32 down to 0.996, against 0.9999 with only the rest in it).

    Args:
        checkpoint: the weights; there is no tower without them.

    Shape:
        - waveforms: float32 ``[batch, 480000]``, mono at 48 kHz, -1..1
        - returns: float32 ``[batch, 512]``, unit norm; with ``return_raw`` also ``[batch, 512]``, the
          projection before normalisation

    Raises:
        UserError: the weights do not fit their architecture; one line that names the first that does not.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.architecture = checkpoint.info.architecture
        config = laion_audio_config(self.architecture)
        # Initialising draws random numbers that the weights then replace: leave the caller's generator alone.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # HTSAT calls torch.meshgrid without the argument that a later torch will require.
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
            self.audio_branch = laion_htsat().create_htsat_model(config)
            inputs = self.audio_branch.num_features
            self.audio_projection = nn.Sequential(
                nn.Linear(inputs, EMBEDDING_SIZE), nn.ReLU(), nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)
            )
        _check_fit(self.state_dict(), checkpoint)
        self.load_state_dict(checkpoint.state)
        self.n_fft, self.hop_length = config.window_size, config.hop_size
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AudioTower:
        """Stays in evaluation mode; raises ``ValueError`` when asked to train."""
        if mode:
            raise ValueError("the audio tower only infers")
        return super().train(False)

    @torch.inference_mode()
    def forward(
        self, waveforms: torch.Tensor, amp: bool = False, return_raw: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Embed clips; ``amp`` runs the transformer in bfloat16."""
        if waveforms.ndim != 2 or waveforms.shape[1] != CLIP_SAMPLES:
            raise ValueError(f"expected [batch, {CLIP_SAMPLES}], got {list(waveforms.shape)}")
        # Without this, convolutions on recent GPUs use TensorFloat-32, and how much they lose depends on the
        # algorithm, which depends on the batch.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            image = self.audio_branch.reshape_wav2img(self._log_mel(waveforms.float()))
            with torch.autocast(waveforms.device.type, torch.bfloat16, enabled=amp):
                latent = self.audio_branch.forward_features(image)["embedding"]
            raw = self.audio_projection(latent.float())
        unit = F.normalize(raw, dim=-1)
        return (unit, raw) if return_raw else unit

    def _log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """``[batch, samples]`` → ``[batch, 1, frames, mel_bins]`` in dB, batch-normalised per mel bin."""
        branch = self.audio_branch
        spectrum = torch.stft(
            waveforms,
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel = branch.logmel_extractor(power.transpose(1, 2).unsqueeze(1))
        return branch.bn0(log_mel.transpose(1, 3)).transpose(1, 3)


def load_tower(path: str | Path, device: str = "cpu") -> tuple[AudioTower, CheckpointInfo]:
    """Build the tower of a checkpoint on ``device``. Raises `UserError` as `read_checkpoint` does."""
    checkpoint = read_checkpoint(path)
    return AudioTower(checkpoint).to(device), checkpoint.info


def laion_htsat() -> types.ModuleType:
    """LAION's ``clap_module.htsat``, imported on its own.

    ``import laion_clap`` fetches three tokenizers from a model hub and extends ``sys.path``, and
    ``clap_module/__init__.py`` pulls in transformers and the training losses. So the folder is entered under
    a private package name instead, whose ``__init__`` is empty; ``sys.path`` stays as it is.

    Raises:
        UserError: laion-clap is not installed.
    """
    if _PACKAGE not in sys.modules:
        package = types.ModuleType(_PACKAGE, "laion_clap/clap_module without its __init__")
        package.__path__ = [str(_clap_module_folder())]
        sys.modules.setdefault(_PACKAGE, package)
    return importlib.import_module(f"{_PACKAGE}.htsat")


def laion_audio_config(architecture: str) -> types.SimpleNamespace:
    """The ``audio_cfg`` that laion-clap ships for ``architecture``: sample_rate, hop_size, mel_bins, ..."""
    text = (_clap_module_folder() / "model_configs" / f"{architecture}.json").read_text(encoding="utf-8")
    return types.SimpleNamespace(**json.loads(text)["audio_cfg"])


def _clap_module_folder() -> Path:
    found = look_up("laion_clap")
    if not found.available:
        raise UserError(f"clap.enabled: {found.reason}")
    return Path(importlib.util.find_spec("laion_clap").origin).parent / "clap_module"


def _check_fit(expected: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Refuse weights that are not, name by name and shape by shape, those of the architecture."""
    info, found = checkpoint.info, checkpoint.state

    def refuse(what: str) -> UserError:
        return UserError(f"clap.checkpoint: refused {info.path}: as {info.architecture} {what}")

    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise refuse(f"it lacks {min(missing)} and {len(missing) - 1} more")
    if unexpected:
        raise refuse(f"it has {min(unexpected)} and {len(unexpected) - 1} more that do not belong to it")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise refuse(f"{name} should be {list(value.shape)}, it is {list(found[name].shape)}")
    for part in ("conv_real", "conv_imag"):
        name = f"{_STFT}.{part}.weight"
        if not torch.allclose(found[name], expected[name], atol=1e-5):
            raise refuse(f"{name} should be the DFT under a Hann window, it is not")
