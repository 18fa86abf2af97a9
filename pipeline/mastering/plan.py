"""The plan of a master: everything that is done to a song, in numbers, settled before the first sample is rendered.

A plan is immutable and JSON: what is rendered follows from it and the song alone, piece by piece or at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.mastering.curves import Curve
from pipeline.mastering.dynamics import Compression
from pipeline.mastering.levels import Levels
from pipeline.mastering.limiter import Limiting
from pipeline.mastering.presets import Preset
from pipeline.mastering.wish import VERSION


@dataclass(frozen=True)
class Plan:
    """What is done to a song.

    Args:
        sample_rate, channels, samples: of the song, and of the master.
        wish: what was asked for, as JSON.
        preset: the numbers as they suit this song.
        reasons: why they are others than the preset's, a sentence each.
        before: the song's levels.
        target_lufs: the loudness that is promised; None where the song has none.
        curve: of the equaliser, width and bass included; None where it changes nothing.
        phase: of the equaliser.
        compression: None where nothing is compressed.
        gain_db: before the limiter.
        limiting: of the limiter.
        lufs: the loudness that this gives, as predicted.
        limited_by: what keeps it from the target: ``ceiling``, ``max_gr_db``, ``silence``, ``no loudness``; else None.
        references: asset ids.
    """

    sample_rate: int
    channels: int
    samples: int
    wish: Mapping[str, Any]
    preset: Preset
    reasons: tuple[str, ...]
    before: Levels
    target_lufs: float | None
    curve: Curve | None
    phase: str
    compression: Compression | None
    gain_db: float
    limiting: Limiting
    lufs: float | None
    limited_by: str | None
    references: tuple[str, ...] = ()
    version: int = VERSION

    def to_json(self) -> str:
        """The plan as one line of JSON, the same for the same plan."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("preset", "before", "compression", "limiting"):
            values[name] = None if values[name] is None else asdict(values[name])
        values["curve"] = None if self.curve is None else self.curve.to_dict()
        values["wish"] = dict(self.wish)
        return json.dumps(values, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            ValueError: it is none, or one of another version.
        """
        try:
            values = json.loads(text)
            version = values["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"no plan of a master: {error}") from None
        if version != VERSION:
            raise ValueError(f"a plan of version {version}, and this is version {VERSION}: plan anew")
        compression, curve = values["compression"], values["curve"]
        return cls(
            **{
                **values,
                "preset": Preset.of(values["preset"]),
                "before": Levels(**values["before"]),
                "compression": None if compression is None else Compression(**_tuples(compression)),
                "limiting": Limiting(**values["limiting"]),
                "curve": None if curve is None else Curve.from_dict(curve),
                "reasons": tuple(values["reasons"]),
                "references": tuple(values["references"]),
            }
        )

    def with_gain(
        self, gain_db: float, limiting: Limiting, lufs: float | None, limited_by: str | None
    ) -> Plan:
        """The same with another gain, and what comes of it."""
        return replace(self, gain_db=gain_db, limiting=limiting, lufs=lufs, limited_by=limited_by)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where a dataclass that is compared has tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
