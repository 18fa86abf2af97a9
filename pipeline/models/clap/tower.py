"""CLAP's audio tower: waveforms in, unit vectors out. LAION's HTSAT under its published weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import UserError
from pipeline.models.clap import fast_paths
from pipeline.models.clap.checkpoint import (
    ARCHITECTURES,
    EMBEDDING_SIZE,
    Checkpoint,
    CheckpointInfo,
    split_besides,
)
from pipeline.models.clap.clips import CLIP_SAMPLES, SAMPLE_RATE
from pipeline.models.clap.htsat import FRAMES, MEL_BINS, Htsat

N_FFT, HOP = 1024, 480
MEL_HZ = (50.0, 14000.0)
MEL_FLOOR = 1e-10

_STFT = "audio_branch.spectrogram_extractor.stft"
_MEL = "audio_branch.logmel_extractor.melW"


class AudioTower(nn.Module):
    """HTSAT, the projection into the shared space, and the unit norm (Wu et al., ICASSP 2023).

    Always in evaluation mode: no dropout, no SpecAugment, no mixup, so equal inputs give equal outputs. The
    spectrogram is an FFT in float32 whatever the rest runs in: LAION computes the same numbers by convolving
    with a DFT matrix, which takes 10 to 20 % of the time. A front end in bfloat16 would bury the quiet bands
    that the logarithm brings up (cosine to float32 down to 0.996, against 0.9999 with only the rest in it).

    Args:
        checkpoint: the weights; there is no tower without them.
        dtype: of the transformer's matrices, float32 or bfloat16.

    Shape:
        - waveforms: float32 ``[batch, 480000]``, mono at 48 kHz, -1..1
        - returns: float32 ``[batch, 512]``, unit norm; with ``return_raw`` also ``[batch, 512]``, the
          projection before normalisation

    Raises:
        UserError: the weights do not fit their architecture; one line that names the first that does not.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.architecture = checkpoint.info.architecture
        # Initialising draws random numbers that the weights then replace: leave the caller's generator alone.
        with torch.random.fork_rng(devices=[]):
            self.audio_branch = Htsat(ARCHITECTURES[self.architecture])
            self.audio_branch.bn0 = nn.BatchNorm2d(MEL_BINS)
            inputs = ARCHITECTURES[self.architecture].features
            self.audio_projection = nn.Sequential(
                nn.Linear(inputs, EMBEDDING_SIZE), nn.ReLU(), nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)
            )
        expected = split_besides(self.state_dict())[0]
        state, besides = split_besides(checkpoint.state)
        _check_fit(expected, state, checkpoint.info)
        _check_front_end(besides, checkpoint.info)
        self.load_state_dict(state, strict=False)
        # In evaluation a batch norm is one factor and one offset per mel bin.
        norm = self.audio_branch.bn0
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        self.register_buffer("scale", scale.detach(), persistent=False)
        self.register_buffer("offset", (norm.bias - norm.running_mean * scale).detach(), persistent=False)
        del self.audio_branch.bn0
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("mel", mel_filters(), persistent=False)
        self.requires_grad_(False).eval()
        self.dtype = dtype
        self.audio_branch.use_dtype(dtype)
        # Set by `prepare`.
        self.fused: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.compiled: tuple[int, Callable[[torch.Tensor], torch.Tensor]] | None = None
        self.captured: fast_paths.Captured | None = None

    def train(self, mode: bool = True) -> AudioTower:
        """Stays in evaluation mode; raises ``ValueError`` when asked to train."""
        if mode:
            raise ValueError("the audio tower only infers")
        return super().train(False)

    @torch.inference_mode()
    def forward(
        self, waveforms: torch.Tensor, return_raw: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Embed clips."""
        if waveforms.ndim != 2 or waveforms.shape[1] != CLIP_SAMPLES:
            raise ValueError(f"expected [batch, {CLIP_SAMPLES}], got {list(waveforms.shape)}")
        if self.captured is not None and len(waveforms) <= self.captured.most:
            unit, raw = self.captured(waveforms)
        else:
            unit, raw = self.embed(waveforms)
        return (unit, raw) if return_raw else unit

    def embed(self, waveforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed clips without a captured graph: unit vectors and raw projections."""
        raw = self.audio_projection(fast_paths.latent(self, self.log_mel(waveforms.float())))
        return F.normalize(raw, dim=-1), raw

    def prepare(self, batch_items: int, compile: bool = False, capture: bool = True) -> list[str]:
        """Set up faster ways on a GPU, see `pipeline.models.clap.fast_paths.prepare`; a line for each that fails."""
        return fast_paths.prepare(self, batch_items, compile, capture)

    @torch.inference_mode()
    def log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        """``[batch, samples]`` → ``[batch, 1024, 64]``: mel bands in dB, normalised per band as in training.

        The 1001 frames of a clip are stretched to 1024 by bicubic interpolation, as LAION does.
        """
        spectrum = torch.stft(
            waveforms,
            N_FFT,
            HOP,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        decibels = 10 * (power.transpose(1, 2) @ self.mel).clamp_(min=MEL_FLOOR).log10()
        normal = decibels.mul_(self.scale).add_(self.offset)
        size = (FRAMES, MEL_BINS)
        return F.interpolate(normal[:, None], size, mode="bicubic", align_corners=True)[:, 0]


def mel_filters() -> torch.Tensor:
    """The mel filters LAION trains with, Slaney's of unit area, 50 to 14,000 Hz: float32 ``[513, 64]``."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(N_FFT // 2 + 1, *MEL_HZ, MEL_BINS, SAMPLE_RATE, norm="slaney", mel_scale="slaney")


def _check_fit(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], info: CheckpointInfo
) -> None:
    """Refuse weights that are not, name by name and shape by shape, those of the architecture."""
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        raise _refusal(info, f"it lacks {min(missing)} and {len(missing) - 1} more")
    if unexpected:
        raise _refusal(
            info, f"it has {min(unexpected)} and {len(unexpected) - 1} more that do not belong to it"
        )
    for name, value in expected.items():
        if found[name].shape != value.shape:
            what = f"{name} should be {list(value.shape)}, it is {list(found[name].shape)}"
            raise _refusal(info, what)


def _check_front_end(besides: dict[str, torch.Tensor], info: CheckpointInfo) -> None:
    """Refuse a checkpoint whose spectrogram, where it states one, is not the one computed here."""
    turns = torch.arange(N_FFT // 2 + 1)[:, None] * torch.arange(N_FFT) % N_FFT
    angle = 2 * torch.pi / N_FFT * turns.double()
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    stated = {
        f"{_STFT}.conv_real.weight": (angle.cos() * window, "the DFT under a Hann window"),
        f"{_STFT}.conv_imag.weight": (-angle.sin() * window, "the DFT under a Hann window"),
        _MEL: (mel_filters(), "Slaney's mel filters from 50 to 14,000 Hz"),
    }
    for name, (expected, what) in stated.items():
        found = besides.get(name)
        if found is None:
            continue
        flat = found.squeeze()
        if flat.shape != expected.shape or not torch.allclose(flat.double(), expected.double(), atol=1e-5):
            raise _refusal(info, f"{name} should be {what}, it is not")


def _refusal(info: CheckpointInfo, what: str) -> UserError:
    return UserError(f"clap.checkpoint: refused {info.path}: as {info.architecture} {what}")
