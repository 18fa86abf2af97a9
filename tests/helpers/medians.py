"""Medians of whole matrices, by the network that `pipeline.dsp.masks` runs over chosen rows."""

from __future__ import annotations

import torch

from pipeline.dsp.median import median_network, reflected, row_medians


def window_medians(padded: torch.Tensor, size: int, windows: int) -> torch.Tensor:
    """Medians of ``windows`` consecutive windows along the first axis, window ``i`` from row ``i`` on.

    Args:
        padded: without NaN, ``[median_network(size).padded_length(windows), columns]``. Rows from
            ``windows + size - 1`` on must be there, their values do not matter.
        size: rows per window.
        windows: how many medians.

    Shape: → ``[windows, columns]``.
    """
    return row_medians(padded, torch.arange(len(padded)), size)[:windows]


def sliding_median(x: torch.Tensor, size: int) -> torch.Tensor:
    """Median over ``size`` rows around each row, bit for bit that of scipy.

    Equal to ``scipy.ndimage.median_filter(x, (size, 1), mode="reflect")`` where ``x`` has at least half of
    ``size`` rows (scipy 1.17 goes astray where it has but an eighth): of an even ``size``, one more row comes
    from before than from behind, and the median is the upper one of the middle pair.

    Args:
        x: without NaN.
        size: rows per window.

    Shape: ``[rows, columns]`` → ``[rows, columns]``.

    Raises:
        ValueError: ``size`` is not positive.
    """
    network = median_network(size)
    rows = x.shape[0]
    if x.numel() == 0:
        return x.clone()
    positions = torch.arange(network.padded_length(rows)) - size // 2
    return row_medians(x, reflected(positions, rows), size)[:rows]
