"""What processes without torch need, too: those that only write tables, or read a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEMS = ("vocals", "drums", "bass", "other", "guitar", "piano", "accompaniment")
"""Every stem that has columns in ``tracks``."""

# In the order of preference, which `auto` follows.
BACKEND_NAMES = ("demucs", "openunmix", "spleeter", "midside")
AUTO = "auto"
AUTO_CPU_SECONDS = 60.0

ACCOMPANIMENT, SHARE, DROP = "accompaniment", "share", "drop"
RESIDUALS = (ACCOMPANIMENT, SHARE, DROP)
"""What becomes of the part of a mix that is in none of its stems, see `pipeline.models.separation.residual`."""


def rest_stem(sources: Sequence[str]) -> str:
    """The stem for what is none of the others: ``accompaniment``, else ``other``, whether a model has it or not."""
    return "accompaniment" if "accompaniment" in sources else "other"


def stems_written(sources: Sequence[str], residual: str) -> tuple[str, ...]:
    """The stems of a track, in order.

    Args:
        sources: those of the backend.
        residual: one of `RESIDUALS`. Under ``accompaniment`` a model without a stem for the rest (an Open-Unmix folder
            of vocals and drums, say) gets one more, ``other``.
    """
    rest = () if residual != ACCOMPANIMENT or rest_stem(sources) in sources else (rest_stem(sources),)
    return (*sources, *rest)


@dataclass(frozen=True)
class SeparationOptions:
    """What a backend may be told; the ``separation.*`` keys of the same names.

    Args:
        demucs_model: name of a demucs model; None takes htdemucs if its weights are on this machine.
        demucs_repo: folder of ``<signature>.th`` and ``<name>.yaml`` files to take it from.
        openunmix_model: ``umxhq``, ``umxl`` or a folder; None takes umxhq if it is on this machine.
        amp: bfloat16 autocast, see `pipeline.models.precision.pick_precision`.
    """

    demucs_model: str | None = None
    demucs_repo: str | None = None
    openunmix_model: str | None = None
    amp: str = "auto"
