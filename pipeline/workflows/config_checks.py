"""How a config says what is wrong with it: each mistake is a `UserError` that names the key and what to type.

What Hydra and OmegaConf cannot check is checked by the dataclasses themselves, in these words.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import UserError

ON_UNAVAILABLE = ("skip", "fail")


def nearest_of(word: str, choices: Iterable[str]) -> str:
    """The choice most like ``word``, or an empty string."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)), "")


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the choice most like ``word``, or an empty string."""
    match = nearest_of(word, choices)
    return f"; did you mean {match}?" if match else ""


def one_of(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a value that is no choice."""
    if value not in choices:
        raise UserError(
            f"{key}={value} is not one of {', '.join(choices)}{nearest(value, choices)}",
            do=f"{key}={nearest_of(value, choices) or choices[0]}",
        )


def stage_of(key: str, stage: str, value: Any, stages: Sequence[str]) -> None:
    """Refuse a stage that ``key`` has no value for."""
    if stage not in stages:
        raise UserError(
            f"{key}.{stage}: {stage} is not one of {', '.join(stages)}{nearest(stage, stages)}",
            do=f"{key}.{nearest_of(stage, stages) or stages[0]}={value}",
        )


def each_of(key: str, values: Sequence[str], choices: Sequence[str]) -> None:
    """Refuse a list with a word in it that is no choice; what is right in it stays in what is said to type."""
    wrong = next((value for value in values if value not in choices), None)
    if wrong is not None:
        meant = (value if value in choices else nearest_of(value, choices) for value in values)
        kept = list(dict.fromkeys(word for word in meant if word)) or [choices[0]]
        raise UserError(
            f"{key}={wrong} is not one of {', '.join(choices)}{nearest(wrong, choices)}",
            do=f"{key}=[{','.join(kept)}]",
        )


def refused(section: Any, key: str, must: str, why: str = "") -> UserError:
    """The error of a value that cannot be: ``key`` and its value, what it must be, and its default to type.

    Args:
        section: the config that has the key's last part as a field.
    """
    name = key.rpartition(".")[2]
    value = getattr(section, name)
    default = getattr(type(section)(), name)
    shown = f"{value:g}" if isinstance(value, float) else value
    return UserError(f"{key}={shown} {must}", why, f"{key}={'null' if default is None else default}")


def positive(section: Any, key: str) -> None:
    """Refuse zero, a negative number, infinity and NaN."""
    value = getattr(section, key.rpartition(".")[2])
    if not (math.isfinite(value) and value > 0):
        raise refused(section, key, "must be greater than 0")


def filled(config: Any, values: dict[str, Any]) -> Any:
    """``config`` with what ``values`` say, group by group; keys that it does not have are passed over."""
    for f in dataclasses.fields(config):
        if f.name in values:
            current, value = getattr(config, f.name), values[f.name]
            nested = dataclasses.is_dataclass(current) and isinstance(value, dict)
            setattr(config, f.name, filled(current, value) if nested else value)
    return config
