"""What is pinned against what is found: exact but for floats, whose last bits depend on the processor."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent
RELATIVE, ABSOLUTE = 1e-4, 1e-4
"""As of the golden vectors (`pipeline.features.golden`): another CPU changes a sum in the 6th digit, another algorithm
the 3rd."""
HALF = 2e-3
"""Relative, of single elements of float16 arrays: two steps of that type."""
LOOSE = {"spectral_contrast_mean": 3.0, "clap_embedding": 1e-3}
"""Column → absolute tolerance. The weakest bins of a band in which there is no sound are rounding errors: with AVX2 in
the place of AVX-512 the contrast moves by up to 2.4 dB. CLAP computes in bfloat16 where the processor does, and what is
multiplied in which order is the processor's: 0.2 thousandths of an embedding, whose length is 1. No other column moves
by more than is allowed. The hashes pin all of them."""
PACKAGES = (
    "av",
    "llvmlite",
    "numba",
    "numpy",
    "pyarrow",
    "scipy",
    "soundfile",
    "soxr",
    "torch",
    "torchaudio",
)


SAME = "="


def differences(
    pinned: Any, found: Any, place: str = "", allowed: tuple[float, float] | None = (ABSOLUTE, RELATIVE)
) -> list[str]:
    """Where the two are not the same, a line each.

    Args:
        place: that they are of, for the lines.
        allowed: between floats, absolute and relative; None does not compare them.
    """
    if isinstance(pinned, dict) and isinstance(found, dict):
        lines = []
        if allowed and pinned.get("dtype") == "float16":
            allowed = ABSOLUTE, HALF
        for name in sorted({*pinned, *found}):
            where = f"{place}/{name}"
            if name not in found or name not in pinned:
                lines.append(f"{where}: {'gone' if name in pinned else 'new'}")
            else:
                within = (LOOSE[name], 0.0) if allowed and name in LOOSE else allowed
                lines += differences(pinned[name], found[name], where, within)
        return lines
    if isinstance(pinned, list) and isinstance(found, list):
        if len(pinned) != len(found):
            return [f"{place}: {len(found)} instead of {len(pinned)}"]
        pairs = enumerate(zip(pinned, found, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{place}[{i}]", allowed)]
    if isinstance(pinned, float) and isinstance(found, float):
        return [] if _near(pinned, found, allowed) else [f"{place}: {found!r} instead of {pinned!r}"]
    same = type(pinned) is type(found) and pinned == found
    return [] if same else [f"{place}: {_told(found)} instead of {_told(pinned)}"]


def _near(pinned: float, found: float, allowed: tuple[float, float] | None) -> bool:
    if allowed is None:
        return True
    absolute, relative = allowed
    return abs(pinned - found) <= absolute + relative * max(abs(pinned), abs(found))  # false for NaN


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:200]}…"


def fingerprint() -> dict[str, str]:
    """All that last bits are known to depend on: the processor, what the libraries make of it, and their versions."""
    cpu = Path("/proc/cpuinfo")
    lines = (
        dict(line.split("\t: ", 1) for line in cpu.read_text().split("\n") if "\t: " in line)
        if cpu.exists()
        else {}
    )
    lines = {name.strip(): value for name, value in lines.items()}
    flags = " ".join(sorted(lines.get("flags", "").split()))
    enabled = sorted(name for name, there in np.core._multiarray_umath.__cpu_features__.items() if there)
    return {
        "cpu": lines.get("model name", ""),
        "flags": hashlib.sha256(flags.encode()).hexdigest()[:16],
        "torch uses": torch.backends.cpu.get_cpu_capability(),
        "numpy uses": hashlib.sha256(" ".join(enabled).encode()).hexdigest()[:16],
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def load(name: str) -> Any:
    """A file of pins, by run where it has runs: what the default config has in common with the other is filled in."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if "default" in content:
        content["default"] = _whole(content["default"], content["everything"])
    return content


def save(name: str, content: Any) -> None:
    """Write a file of pins, a line for each small thing, so that a change of one is a change of a line."""
    if "default" in content:
        content = {**content, "default": _against(content["default"], content["everything"])}
    (FOLDER / f"{name}.json").write_text(_lines(content, 0) + "\n", encoding="utf-8")


def _against(value: Any, other: Any) -> Any:
    if value == other:
        return SAME
    if isinstance(value, dict) and isinstance(other, dict):
        return {name: _against(item, other.get(name, None)) for name, item in value.items()}
    return value


def _whole(value: Any, other: Any) -> Any:
    if value == SAME:
        return other
    if isinstance(value, dict) and isinstance(other, dict):
        return {name: _whole(item, other.get(name, None)) for name, item in value.items()}
    return value


def _lines(content: Any, depth: int) -> str:
    flat = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    of_dicts = isinstance(content, dict) and any(isinstance(value, dict) for value in content.values())
    if not of_dicts and (len(flat) < 2000 or isinstance(content, str)) and depth:
        return flat
    if isinstance(content, dict):
        items = [f"{json.dumps(k, ensure_ascii=False)}:{_lines(v, depth + 1)}" for k, v in content.items()]
        return "{\n" + ",\n".join(items) + "\n}"
    if isinstance(content, list):
        return "[\n" + ",\n".join(_lines(v, depth + 1) for v in content) + "\n]"
    return flat
