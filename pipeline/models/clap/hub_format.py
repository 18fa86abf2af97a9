"""CLAP as `transformers` stores it: ``model.safetensors`` with ``config.json`` beside it, and other names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pipeline.errors import UserError

WEIGHTS, CONFIG = "model.safetensors", "config.json"

# What this version computes; a model trained otherwise would load and give wrong vectors.
_AUDIO_CONFIG = {
    "window_size": 8,
    "spec_size": 256,
    "num_mel_bins": 64,
    "patch_size": 4,
    "hidden_act": "gelu",
    "mlp_ratio": 4.0,
    "layer_norm_eps": 1e-5,
    "projection_hidden_act": "relu",
    "qkv_bias": True,
    "enable_patch_layer_norm": True,
}
_ENCODER = "audio_model.audio_encoder."
# Parts of a name, as `transformers` writes them and as LAION does.
_PARTS = (
    (re.compile(r"^batch_norm\."), "bn0."),
    (re.compile(r"\.layernorm_before\."), ".norm1."),
    (re.compile(r"\.layernorm_after\."), ".norm2."),
    (re.compile(r"\.attention\.self\."), ".attn."),
    (re.compile(r"\.attention\.output\.dense\."), ".attn.proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"\.output\.dense\."), ".mlp.fc2."),
)
_QUERY = re.compile(r"(.*\.attn\.)query(\.(?:weight|bias))$")
_LINEAR = {"linear1": "0", "linear2": "2"}


@dataclass(frozen=True)
class HubFiles:
    """The two files of a model, and the path that the user gave for them."""

    given: Path
    weights: Path
    config: Path


def hub_files(path: Path) -> HubFiles | None:
    """The files of a `transformers` model at ``path``, or None where it looks like something else.

    Raises:
        UserError: a folder without weights, or weights without their config.
    """
    if path.is_dir():
        weights = path / WEIGHTS
        if not weights.is_file():
            raise UserError(
                f"clap.checkpoint: there is no file {weights}; type a LAION .pt file, or a folder with it"
            )
    elif path.suffix == ".safetensors" and path.is_file():
        weights = path
    else:
        return None
    config = weights.parent / CONFIG
    if not config.is_file():
        raise UserError(f"clap.checkpoint: refused {path}: there is no {CONFIG} beside {weights.name}")
    return HubFiles(path, weights, config)


def read_hub_config(files: HubFiles) -> dict[str, Any]:
    """``config.json``, checked to be of a CLAP without fusion that computes what this version does.

    Raises:
        UserError: it is not.
    """
    try:
        config = json.loads(files.config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"clap.checkpoint: cannot read {files.config}: {error}") from error
    if not isinstance(config, dict) or config.get("model_type") not in ("clap", "clap_audio_model"):
        raise _refused(files, "its config.json is not of a transformers CLAP model")
    audio = config.get("audio_config", config)
    if not isinstance(audio, dict):
        raise _refused(files, "its audio_config is not an object")
    if audio.get("enable_fusion"):
        raise _refused(
            files,
            "it is a fusion checkpoint; clap-htsat-unfused and larger_clap_* are not",
        )
    for name, expected in _AUDIO_CONFIG.items():
        if audio.get(name, expected) != expected:
            raise _refused(files, f"its {name} is {audio[name]}, not {expected}")
    return config


def read_hub_state(files: HubFiles, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``; the rest of the file is not read.

    Raises:
        UserError: the config is refused, or the file is damaged.
    """
    read_hub_config(files)
    try:
        with safe_open(files.weights, framework="pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"clap.checkpoint: refused {files.given}: {error}") from error


def audio_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The audio half under LAION's names; query, key and value become one matrix, as there.

    Names that this does not know pass through, so that whoever fits the weights refuses them.
    """
    out: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.startswith(_ENCODER):
            name = name.removeprefix(_ENCODER)
            for theirs, laions in _PARTS:
                name = theirs.sub(laions, name)
            out[f"audio_branch.{name}"] = value
        else:
            out[projection_name(name)] = value
    for name in list(out):
        found = _QUERY.match(name)
        parts = [found[1] + part + found[2] for part in ("query", "key", "value")] if found else []
        if parts and all(part in out for part in parts):
            out[f"{found[1]}qkv{found[2]}"] = torch.cat([out.pop(part) for part in parts])
    return out


def projection_name(name: str) -> str:
    """LAION's name of a projection's layer: its linear layers are entries 0 and 2 of a sequence."""
    parts = name.split(".")
    return ".".join(_LINEAR.get(part, part) for part in parts)


def _refused(files: HubFiles, why: str) -> UserError:
    return UserError(f"clap.checkpoint: refused {files.given}: {why}")
