"""What is asked of a master: a preset and how it is used. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.mastering.presets import Preset

VERSION = 3
"""Of plans: raised whenever the same plan would be rendered otherwise, or another one be made of the same song."""


@dataclass(frozen=True)
class Wish:
    """What a master shall be, whatever the song.

    Args:
        preset: the numbers.
        name: of the preset.
        mode: ``adaptive``, ``reference`` or ``hybrid``.
        amount: of everything that is done, 0 to 1.
        reference_weight: of the references in ``hybrid``, 0 to 1.
        own: numbers of the preset that were asked for by themselves: they count more than what a reference says.
        ceiling_dbtp: the highest true peak.
        phase: of the equaliser, ``linear`` or ``minimum``.
    """

    preset: Preset = field(default_factory=Preset)
    name: str = "adaptive"
    mode: str = "adaptive"
    amount: float = 1.0
    reference_weight: float = 0.5
    own: tuple[str, ...] = ()
    ceiling_dbtp: float = -1.0
    phase: str = "linear"

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return json.loads(json.dumps(asdict(self)))
