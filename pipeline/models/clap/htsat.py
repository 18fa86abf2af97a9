"""HTSAT, the Swin transformer over spectrograms that CLAP's audio tower is, written for inference."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

MEL_BINS = 64
FRAMES = 1024
PATCH = 4
# The spectrogram is cut into four quarters in time, stacked into a square of 256 x 256.
QUARTERS = 4
GRID = 64
WINDOW = 8
TOKENS = WINDOW * WINDOW
HEADS = (4, 8, 16, 32)
# What LAION adds to the scores of tokens that a shift has brought together.
APART = -100.0
# Clips at a time on a CPU: what passes between two layers then stays in the cache, and larger matrices gain
# nothing. On a GPU the whole batch is one.
CPU_CLIPS = 2


@dataclass(frozen=True)
class HtsatShape:
    """The sizes in which HTSATs differ.

    Args:
        width: channels of the first stage; they double with each stage.
        depths: blocks per stage.
    """

    width: int
    depths: tuple[int, int, int, int]

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return self.width * 2 ** (len(self.depths) - 1)


class Htsat(nn.Module):
    """Log-mel spectrograms in, one latent vector per clip out.

    The network of Chen et al., "HTS-AT: A Hierarchical Token-Semantic Audio Transformer", ICASSP 2022, without
    its classification heads, under the parameter names of LAION's checkpoints. It differs from other
    implementations in how tokens lie in memory. They are kept window by window, so that the attention within
    windows and the merging of patches read them where they are, and only a shifted block moves them, once
    there and once back.

    Layer norms, the residual stream and the pooling stay in float32. The matrices run in `dtype`, to which
    `use_dtype` converts their weights once: autocast would convert them again for every batch.

    On a CPU three quarters of the time go into matrix products that run at the speed of the library; compiling
    the rest with ``torch.compile`` gained nothing there, and there is no convolution left for channels_last.

    Shape:
        - log_mel: float32 ``[batch, 1024, 64]``, frames by mel bins, normalised per bin
        - returns: float32 ``[batch, features]``
    """

    def __init__(self, shape: HtsatShape) -> None:
        super().__init__()
        self.dtype = torch.float32
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(1, shape.width, PATCH, PATCH)
        self.patch_embed.norm = nn.LayerNorm(shape.width)
        last = len(shape.depths) - 1
        self.layers = nn.ModuleList(
            _Stage(shape.width * 2**i, depth, HEADS[i], GRID // 2**i, merges=i < last)
            for i, depth in enumerate(shape.depths)
        )
        self.norm = nn.LayerNorm(shape.features)

    def use_dtype(self, dtype: torch.dtype) -> None:
        """Run the matrices in ``dtype`` from now on. Call it once the weights are loaded."""
        self.dtype = dtype
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)
            elif isinstance(module, _Attention):
                module.prepare(dtype)

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Latent vectors of ``log_mel``."""
        if log_mel.device.type != "cpu":
            return self._latent(log_mel)
        return torch.cat([self._latent(clips) for clips in log_mel.split(CPU_CLIPS)])

    def _latent(self, log_mel: torch.Tensor) -> torch.Tensor:
        proj, norm = self.patch_embed.proj, self.patch_embed.norm
        # A convolution whose stride is its kernel is one matrix over the patches.
        x = norm(F.linear(patches(log_mel), proj.weight.flatten(1), proj.bias))
        for stage in self.layers:
            x = stage(x)
        return self.norm(x).mean(dim=1)


def patches(log_mel: torch.Tensor) -> torch.Tensor:
    """Patches of 4 mel bins by 4 frames, window by window.

    Shape:
        - log_mel: ``[batch, 1024, 64]``
        - returns: ``[batch, 4096, 16]``; windows and the patches in them run by frequency, then time
    """
    windows, side = GRID // WINDOW, WINDOW
    bands = windows // QUARTERS
    x = log_mel.view(-1, QUARTERS, windows, side, PATCH, bands, side, PATCH)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(len(log_mel), GRID * GRID, PATCH * PATCH)


def window_order(side: int) -> torch.Tensor:
    """Which token of a ``side`` x ``side`` grid, counted by rows, comes at which place when kept by windows."""
    n = side // WINDOW
    return torch.arange(side * side).view(n, WINDOW, n, WINDOW).transpose(1, 2).flatten()


class _Stage(nn.Module):
    """Blocks of one resolution and, but in the last stage, the merging of 2 x 2 patches."""

    def __init__(self, dim: int, depth: int, heads: int, side: int, merges: bool) -> None:
        super().__init__()
        # One window cannot be shifted against others.
        shifts = [side > WINDOW and i % 2 == 1 for i in range(depth)]
        self.blocks = nn.ModuleList(_Block(dim, heads, side, shift) for shift in shifts)
        self.downsample = _Merge(dim, side) if merges else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Merge(nn.Module):
    """Four neighbours become one token of twice the channels."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        # For each token of the smaller grid, kept by windows, the places of its four: down, then across.
        grid = torch.empty(side * side, dtype=torch.long)
        grid[window_order(side)] = torch.arange(side * side)
        four = grid.view(side // 2, 2, side // 2, 2).permute(0, 2, 3, 1).reshape(-1, 4)
        self.register_buffer("places", four[window_order(side // 2)].flatten(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.index_select(1, self.places).view(len(x), -1, 4 * x.shape[2])
        return self.reduction(self.norm(x).to(self.reduction.weight.dtype)).float()


class _Block(nn.Module):
    """Attention within windows, then the multilayer perceptron."""

    def __init__(self, dim: int, heads: int, side: int, shift: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = _Attention(dim, heads, side, shift)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.mlp.fc1.weight.dtype
        x = x + self.attn(self.norm1(x).to(dtype))
        return x.add_(self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x).to(dtype)))))


class _Attention(nn.Module):
    """Multi-head attention among the 64 tokens of each window, with a bias for their relative positions.

    In a shifted block the windows lie half a window further down and across; what a shift over the edge
    brings into one window from opposite sides does not attend to each other.
    """

    def __init__(self, dim: int, heads: int, side: int, shift: bool) -> None:
        super().__init__()
        self.heads, self.windows = heads, (side // WINDOW) ** 2
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.shifted = shift
        self.register_buffer("there", _shifted_places(side) if shift else None, persistent=False)
        self.register_buffer("back", self.there.argsort() if shift else None, persistent=False)
        self.register_buffer("apart", _apart(side) if shift else None, persistent=False)
        self.register_buffer("relative", _relative_positions(), persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def prepare(self, dtype: torch.dtype) -> None:
        """Spread the bias table over pairs of tokens: ``[1 or windows, heads, 64, 64]``."""
        bias = self.relative_position_bias_table[self.relative].permute(2, 0, 1)[None]
        if self.shifted:
            bias = bias + self.apart[:, None]
        self.bias = bias.to(dtype).contiguous()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, dim = x.shape
        if self.shifted:
            x = x.index_select(1, self.there)
        qkv = self.qkv(x).view(batch * self.windows, TOKENS, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias = self.bias if len(self.bias) in (1, len(q)) else self.bias.repeat(batch, 1, 1, 1)
        bias = bias.expand(len(q), -1, -1, -1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))
        return x.index_select(1, self.back) if self.shifted else x


def _relative_positions() -> torch.Tensor:
    """Row of the bias table for each pair of tokens of a window: ``[64, 64]``."""
    place = torch.arange(TOKENS)
    row, column = place // WINDOW, place % WINDOW
    down = row[:, None] - row[None] + WINDOW - 1
    across = column[:, None] - column[None] + WINDOW - 1
    return down * (2 * WINDOW - 1) + across


def _shifted_places(side: int) -> torch.Tensor:
    """Places, in window order, of the tokens of the shifted windows."""
    grid = torch.empty(side * side, dtype=torch.long)
    grid[window_order(side)] = torch.arange(side * side)
    rolled = grid.view(side, side).roll((-(WINDOW // 2), -(WINDOW // 2)), (0, 1)).flatten()
    return rolled[window_order(side)]


def _apart(side: int) -> torch.Tensor:
    """`APART` for pairs of a shifted window that come from opposite edges, else 0: ``[windows, 64, 64]``."""
    place = torch.arange(side)
    # Three regions along an axis: whole windows, and the two halves that share the last one.
    region = (place >= side - WINDOW).long() + (place >= side - WINDOW // 2).long()
    regions = (3 * region[:, None] + region[None]).flatten()[window_order(side)].view(-1, TOKENS)
    return APART * (regions[:, :, None] != regions[:, None]).float()
