"""What of an instrumental is backing, what is voice that was left, and what is harm done to the backing.

In each cell of 0.37 s and a third of an octave the instrumental Y is fitted by the backing B and the voice V with
two real gains that all channels share, ``Y ≈ β B + γ V`` (least squares). ``γ V`` is voice that was left; what else
Y differs from B by, ``Y - γ V - B``, is damage. After the gains of Vincent, Gribonval and Févotte 2006,
"Performance measurement in blind audio source separation", IEEE TASLP 14(4), which may vary with time there, too.
With the true backing and voice that is the truth; with a judge's estimates of both it is evidence.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pipeline.karaoke.spectra import group_sums, power, products

RIDGE = 1e-3
"""Added to the diagonal, as a share of the cell's energy: where there is next to no voice, its gain stays small."""


class Parts(NamedTuple):
    """Energies summed over cells.

    Args:
        voice: of V.
        backing: of B.
        left: of ``γ V``.
        damage: of ``Y - γ V - B``.
    """

    voice: float
    backing: float
    left: float
    damage: float


def decompose(instrumental: Tensor, backing: Tensor, voice: Tensor) -> Parts:
    """The parts of an instrumental.

    Shape: complex ``[channels, frames, bins]`` each, ``frames`` a multiple of `GROUP`.
    """
    return fit(
        group_sums(power(instrumental)),
        group_sums(power(backing)),
        group_sums(power(voice)),
        backing_voice=group_sums(products(backing, voice)),
        backing_instrumental=group_sums(products(backing, instrumental)),
        voice_instrumental=group_sums(products(voice, instrumental)),
    )


def fit(
    instrumental: Tensor,
    backing: Tensor,
    voice: Tensor,
    *,
    backing_voice: Tensor,
    backing_instrumental: Tensor,
    voice_instrumental: Tensor,
) -> Parts:
    """The parts from energies of the three signals and their products, per cell: float64 ``[groups, bands]``."""
    yy, bb, vv = instrumental, backing, voice
    bv, by, vy = backing_voice, backing_instrumental, voice_instrumental
    ridge = RIDGE * (bb + vv) + 1e-20
    b2, v2 = bb + ridge, vv + ridge
    gain = (b2 * vy - bv * by) / (b2 * v2 - bv * bv)
    # The energy of Y - γ V - B, multiplied out.
    damage = yy + gain * gain * vv + bb - 2 * gain * vy - 2 * by + 2 * gain * bv
    return Parts(
        float(vv.sum()), float(bb.sum()), float((gain * gain * vv).sum()), float(damage.clamp(min=0).sum())
    )
