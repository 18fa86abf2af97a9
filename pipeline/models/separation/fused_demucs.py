"""demucs's networks with fused kernels and without waits, for inference on a GPU.

`fuse` gives the modules of one loaded network other forwards; parameters, names and hashes stay. They are used for
tensors on a GPU while no gradient is recorded, and anything else goes through the package's own code, as does
everything once a kernel has failed.

What is replaced: the residual branches, encoder and decoder layers without norms of their own, the group norms of
the transformer (`fused_norm`); and what makes the host wait for the card or copy to it with every call: the check
of `pad1d`, windows and position embeddings made on the host, the check within `torch.istft`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.device import is_out_of_memory
from pipeline.models.kernels import DEVICES, only_compiling, reason
from pipeline.models.separation import fused_norm
from pipeline.models.separation.fused_norm import Cast, is_branch, is_plain_convolution

log = logging.getLogger(__name__)

# Why kernels are no longer used in this process.
_GIVEN_UP: list[str] = []


def fuse(model: nn.Module, device: torch.device, amp: bool) -> str | None:
    """Give a network its fused forwards, compile the kernels side by side, and compare them with torch's.

    Args:
        model: ``Demucs``, ``HDemucs`` or ``HTDemucs`` of the demucs package, on ``device``, in evaluation mode.
        device: without Triton's interpreter only a CUDA device has kernels.
        amp: whether it will run in bfloat16 autocast.

    Returns:
        None, or why the network stays as it is; that is also logged, once per reason.
    """
    unfuse(model)
    if device.type not in DEVICES:
        return f"no kernels for {device.type}"
    problem = _problem(device, torch.bfloat16 if amp else torch.float32)
    if problem is not None or _GIVEN_UP:
        return problem or _GIVEN_UP[0]
    cast = Cast()
    for module in model.modules():
        forward = _forward_for(module)
        if forward is not None:
            module.forward = _Forward(module, "forward", forward, cast)
    if type(model).__name__ == "HTDemucs" and model.cac:
        model._spec = _Forward(model, "_spec", _spec, {})
        model._ispec = _Forward(model, "_ispec", _ispec, {})
    _compile(model, device, amp)
    return _GIVEN_UP[0] if _GIVEN_UP else None


def unfuse(model: nn.Module) -> None:
    """Take back what `fuse` did."""
    for module in model.modules():
        for name in ("forward", "_spec", "_ispec"):
            if isinstance(module.__dict__.get(name), _Forward):
                del module.__dict__[name]


def _compile(model: nn.Module, device: torch.device, amp: bool) -> None:
    """Have all kernels of a full window compiled; which ones it takes depends on sizes, not on the batch."""
    size = int(model.segment * model.samplerate)
    if hasattr(model, "valid_length"):
        size = int(model.valid_length(size))
    window = torch.zeros(1, model.audio_channels, size, device=device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=amp), only_compiling():
        try:
            model(window)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # Then each is compiled when it is first run.
            log.debug("demucs: kernels not compiled ahead: %s", error)


@functools.cache
def _problem(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot be used on this device, found out by trying them."""
    try:
        fused_norm.check(device, dtype)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001  no compiler, no driver it knows, a card too old: each raises another
        return _logged(error)
    return None


def _logged(error: Exception) -> str:
    why = f"plain torch instead of fused kernels: {reason(error)}"
    log.warning("demucs: %s", why)
    return why


class _Forward:
    """A method of one module: the fast one where it may run, else that of its class.

    Args:
        module: whose it is.
        name: of the method.
        fast: ``(module, kept, *args)``; `NotImplemented` where it does not know these inputs.
        kept: what it keeps between calls.
    """

    def __init__(self, module: nn.Module, name: str, fast: Callable[..., Any], kept: Any) -> None:
        self.module, self.name, self.fast, self.kept = module, name, fast, kept

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        usable = (
            x.device.type in DEVICES
            and x.numel() > 0
            and not self.module.training
            and not torch.is_grad_enabled()
            and not _GIVEN_UP
        )
        if usable:
            on = torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
            try:
                with on:
                    result = self.fast(self.module, self.kept, x, *args, **kwargs)
                if result is not NotImplemented:
                    return result
            except Exception as error:
                if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):
                    raise
                _GIVEN_UP.append(_logged(error))
        return getattr(type(self.module), self.name)(self.module, x, *args, **kwargs)


def _forward_for(module: nn.Module) -> Callable[..., Any] | None:
    """The fused forward of a module, if there is one."""
    kind = type(module).__name__
    if kind == "DConv" and all(is_branch(layer) for layer in module.layers):
        return _dconv
    if kind == "HEncLayer" and not module.empty and _is_plain_layer(module, module.conv):
        return _encode
    if kind == "HDecLayer" and not module.empty and _is_plain_layer(module, module.conv_tr):
        return _decode
    if kind == "MyGroupNorm" and module.num_groups == 1 and module.affine:
        return _group_norm
    if kind == "CrossTransformerEncoder" and module.emb == "sin" and not module.sin_random_shift:
        return _cross
    return None


def _is_plain_layer(layer: nn.Module, conv: nn.Module) -> bool:
    """No norms of its own, a convolution that doubles the channels for GLU, branches that can be fused."""
    return (
        layer.rewrite is not None
        and isinstance(layer.norm1, nn.Identity)
        and isinstance(layer.norm2, nn.Identity)
        and is_plain_convolution(conv)
        and is_plain_convolution(layer.rewrite)
        and (layer.dconv is None or all(is_branch(branch) for branch in layer.dconv.layers))
    )


def _format(x: Tensor) -> torch.dtype | None:
    """The format a convolution of ``x`` runs in; None for one without kernels."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if x.dtype == torch.float32 else None


def _dconv(module: nn.Module, cast: Cast, x: Tensor) -> Tensor:
    dtype = _format(x)
    if dtype is None or x.dim() != 3:
        return NotImplemented
    return fused_norm.residual_branches(module.layers, cast, x[:, :, None], dtype, rounds=False)[:, :, 0]


def _encode(layer: nn.Module, cast: Cast, x: Tensor, inject: Tensor | None = None) -> Tensor:
    dtype = _format(x)
    if dtype is None or inject is not None:
        return NotImplemented
    if not layer.freq:
        x = x.flatten(1, 2) if x.dim() == 4 else x
        missing = -x.shape[-1] % layer.stride
        x = F.pad(x, (0, missing)) if missing else x
    y = _convolved(layer.conv, cast, x, dtype)
    y = fused_norm.gelu(y.flatten(2), cast(layer.conv.bias)).view(y.shape)
    return _rewritten(layer, cast, _branched(layer, cast, y, dtype), dtype)


def _decode(
    layer: nn.Module, cast: Cast, x: Tensor, skip: Tensor, length: int | None
) -> tuple[Tensor, Tensor]:
    dtype = _format(x)
    if dtype is None:
        return NotImplemented
    if layer.freq and x.dim() == 3:
        x = x.view(len(x), layer.chin, -1, x.shape[-1])
    y = _branched(layer, cast, _rewritten(layer, cast, x + skip, dtype), dtype)
    z = _convolved(layer.conv_tr, cast, y, dtype)
    # What the padding added is left out, for which time or frequencies must be all that lies in a channel.
    if layer.freq:
        times = z.shape[3]
        size = (z.shape[2] - 2 * int(layer.pad), times)
        first = int(layer.pad) * times
    else:
        size, first = (length,), int(layer.pad)
        if first + length > z.shape[-1]:
            return NotImplemented
    shape = (*z.shape[:2], *size)
    bias = cast(layer.conv_tr.bias)
    z = fused_norm.gelu(z.flatten(2), bias, first, math.prod(size), activate=not layer.last).view(shape)
    return z, y


def _convolved(conv: nn.Module, cast: Cast, x: Tensor, dtype: torch.dtype) -> Tensor:
    """A convolution without its bias, which the kernel after it adds."""
    x, weight = x.to(dtype), cast(conv.weight, dtype)
    if isinstance(conv, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
        transposed = F.conv_transpose2d if weight.dim() == 4 else F.conv_transpose1d
        padding = (conv.padding, conv.output_padding, conv.groups, conv.dilation)
        return transposed(x, weight, None, conv.stride, *padding).contiguous()
    forward = F.conv2d if weight.dim() == 4 else F.conv1d
    return forward(x, weight, None, conv.stride, conv.padding, conv.dilation).contiguous()


def _rewritten(layer: nn.Module, cast: Cast, x: Tensor, dtype: torch.dtype) -> Tensor:
    return fused_norm.glu(_convolved(layer.rewrite, cast, x, dtype), cast(layer.rewrite.bias))


def _branched(layer: nn.Module, cast: Cast, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Through the residual branches; the frequencies are rows of their own and stay where they are."""
    if layer.dconv is None:
        return y
    rows = y if y.dim() == 4 else y[:, :, None]
    return fused_norm.residual_branches(layer.dconv.layers, cast, rows, dtype, rounds=True).view(y.shape)


def _group_norm(norm: nn.GroupNorm, cast: Cast, x: Tensor) -> Tensor:
    if _format(x) is None:
        return NotImplemented
    return fused_norm.group_norm(x.contiguous(), cast(norm.weight), cast(norm.bias), norm.eps, torch.float32)


def _cross(module: nn.Module, cast: Cast, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
    """The transformer, whose position embeddings are made once."""
    batch, channels, frequencies, times = x.shape
    positions = _positions(module, cast, (channels, frequencies, times, xt.shape[-1]), x.device)
    x = module.norm_in(x.permute(0, 3, 2, 1).reshape(batch, times * frequencies, channels)) + positions[0]
    xt = module.norm_in_t(xt.transpose(1, 2)) + positions[1]
    for index in range(module.num_layers):
        if index % 2 == module.classic_parity:
            x, xt = module.layers[index](x), module.layers_t[index](xt)
        else:
            x, xt = module.layers[index](x, xt), module.layers_t[index](xt, x)
    x = x.reshape(batch, times, frequencies, channels).permute(0, 3, 2, 1)
    return x, xt.transpose(1, 2)


def _positions(
    module: nn.Module, cast: Cast, shape: tuple[int, int, int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    from demucs.transformer import create_2d_sin_embedding

    def make() -> tuple[Tensor, Tensor]:
        channels, frequencies, times, samples = shape
        grid = create_2d_sin_embedding(channels, frequencies, times, device, module.max_period)
        grid = grid.permute(0, 3, 2, 1).reshape(1, times * frequencies, channels)
        line = module._get_pos_embedding(samples, 1, channels, device).transpose(0, 1)
        return module.weight_pos_embed * grid, module.weight_pos_embed * line

    return cast.once((id(module), *shape, device), make)


def _window(kept: dict, n_fft: int, device: torch.device) -> Tensor:
    if (n_fft, device) not in kept:
        # On the host, as demucs does: its cosine is not the card's.
        kept[n_fft, device] = torch.hann_window(n_fft).to(device)
    return kept[n_fft, device]


def _spec(model: nn.Module, kept: dict, x: Tensor) -> Tensor:
    hop, samples = model.hop_length, x.shape[-1]
    frames, pad = math.ceil(samples / hop), hop // 2 * 3
    fill = pad + frames * hop - samples
    if samples <= fill:
        return NotImplemented  # demucs extends so short a window with zeros first
    x = F.pad(x, (pad, fill), mode="reflect")
    spectra = torch.stft(
        x.flatten(0, -2),
        model.nfft,
        hop,
        window=_window(kept, model.nfft, x.device),
        normalized=True,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    return spectra.view(*x.shape[:-1], *spectra.shape[-2:])[..., :-1, 2 : 2 + frames]


def _ispec(model: nn.Module, kept: dict, z: Tensor, length: int | None = None, scale: int = 0) -> Tensor:
    """As `torch.istft`; with a hop of a quarter window the squared windows sum to 3/2 everywhere."""
    n_fft, hop = model.nfft, model.hop_length
    if scale or n_fft != 4 * hop or length is None or length > hop * z.shape[-1]:
        return NotImplemented
    *batch, _, frames = z.shape
    window = _window(kept, n_fft, z.device)
    synthesis = window * (n_fft**0.5 / 1.5)
    # The bin at half the rate, which the network leaves out, is filled with zero.
    waves = torch.fft.irfft(z.transpose(-1, -2), n=n_fft).mul_(synthesis)
    out = waves.new_zeros(*batch, frames + 3, hop)
    for part in range(4):
        out[..., part : part + frames, :] += waves[..., part * hop : (part + 1) * hop]
    first = hop // 2 * 3
    return out.flatten(-2)[..., first : first + length]
