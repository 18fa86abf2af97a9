"""The presets of mastering: one file of ``conf/master/`` each, read as data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from pipeline.mastering.presets import Preset

_BESIDE = Path(__file__).resolve().parents[2]
# Beside the library in a checkout; inside the package of the command in an installation.
_FOLDERS = (_BESIDE / "conf" / "master", _BESIDE / "soundmill" / "conf" / "master")
_NOT_A_PRESET = "default"


def folder() -> Path:
    """Where the files are."""
    return next((place for place in _FOLDERS if place.is_dir()), _FOLDERS[0])


@cache
def presets() -> Mapping[str, Preset]:
    """Name → preset, read once per process.

    Raises:
        ValueError: a file holds what no preset can be; it names the file.
    """
    return MappingProxyType(
        {path.stem: _read(path) for path in sorted(folder().glob("*.yaml")) if _is_one(path)}
    )


@cache
def said(name: str) -> Mapping[str, Any]:
    """What the file of a preset says, key → value; what it does not say is the default."""
    values: dict[str, Any] = yaml.safe_load((folder() / f"{name}.yaml").read_text("utf-8")) or {}
    return MappingProxyType({key: value for key, value in values.items() if key != "preset"})


def _is_one(path: Path) -> bool:
    return path.stem != _NOT_A_PRESET


def _read(path: Path) -> Preset:
    try:
        return Preset.of(said(path.stem))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path.name}: {error}") from None
