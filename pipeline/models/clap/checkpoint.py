"""Reading the audio half of a CLAP checkpoint, without running anything it contains."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import UserError
from pipeline.models.clap.htsat import HtsatShape
from pipeline.models.clap.hub_format import audio_names, hub_files, read_hub_state

EMBEDDING_SIZE = 512

ARCHITECTURES = {
    "HTSAT-tiny": HtsatShape(96, (2, 2, 6, 2)),
    "HTSAT-base": HtsatShape(128, (2, 2, 12, 2)),
}

_AUDIO_KEYS = ("audio_branch.", "audio_projection.")
_FUSION_KEYS = (".fusion_model.", ".mel_conv1d.", ".mel_conv2d.")
# What a checkpoint holds beside what the embedding depends on: classification heads, what follows from the
# architecture, and the constants of the front end, which are checked but not used.
_BESIDES = re.compile(
    r"audio_branch\.(tscam_conv\.|head\.|spectrogram_extractor\.|logmel_extractor\.|bn0\.num_batches_tracked"
    r"|layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)$)"
)
OTHER_CHECKPOINT = "clap.checkpoint=NAME of `python jobs/models.py list --kind clap`, or a file of LAION's"
# What torch.load raises for files that are damaged, of another kind, or that ask for code.
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class CheckpointInfo:
    """What identifies a checkpoint.

    Args:
        path: the file, or the folder of a `transformers` model.
        architecture: a key of `ARCHITECTURES`.
        sha256: of the weights that the embedding depends on, hex: their names, shapes and float32 values. The
            same weights have the same hash in whichever file they come.
    """

    path: Path
    architecture: str
    sha256: str

    @property
    def model_id(self) -> str:
        """The embedding space: architecture and the first 12 hex digits of the hash.

        Such as ``HTSAT-base:0123456789ab``. Vectors compare only within one space.
        """
        return f"{self.architecture}:{self.sha256[:12]}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's identity and its audio weights, ``audio_branch.*`` and ``audio_projection.*``."""

    info: CheckpointInfo
    state: dict[str, torch.Tensor] = field(repr=False)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint in the format LAION publishes or in that of `transformers`.

    - LAION's: a ``.pt`` with ``{"state_dict": {"module.<name>": tensor}, ...}``. Only tensors and numpy
      scalars are unpickled; a file that asks for anything else is refused before it can run. Where the file
      allows it the weights are memory-mapped, so that the text tower and the optimizer's state, most of such
      a file, are never brought into memory.
    - `transformers`': a folder with ``model.safetensors`` and ``config.json``, or such a ``.safetensors`` file
      with its ``config.json`` beside it (``laion/clap-htsat-unfused``, ``laion/larger_clap_music``, ...). The
      names are converted to LAION's.

    Args:
        path: with a non-fusion HTSAT-tiny or HTSAT-base audio tower.

    Raises:
        UserError: the file is missing, damaged, unsafe, or holds another network; one line that names it.
    """
    path = Path(path)
    files = hub_files(path)
    if files is not None:
        state = _checked(audio_names(read_hub_state(files, "audio_")), path)
    elif not path.is_file():
        raise UserError(f"clap.checkpoint: there is no file {path}", do=OTHER_CHECKPOINT)
    else:
        content = load_laion(path)
        state = _checked({k: v for k, v in laion_state(content).items() if k.startswith(_AUDIO_KEYS)}, path)
    architecture = _deduce_architecture(state, path)
    return Checkpoint(CheckpointInfo(path, architecture, _weights_sha256(state)), state)


def split_besides(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """``state`` as what the embedding depends on, and the rest that checkpoints are known to hold."""
    besides = {name: value for name, value in state.items() if _BESIDES.match(name)}
    return {name: value for name, value in state.items() if name not in besides}, besides


def _weights_sha256(state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(split_besides(state)[0].items()):
        digest.update(f"{name} {list(value.shape)}\n".encode())
        digest.update(np.ascontiguousarray(value.float().numpy()))
    return digest.hexdigest()


def _safe_globals() -> list[Any]:
    """What LAION's files need besides tensors: numpy scalars such as the best metric so far.

    Numpy 2 moved the module, and files carry the name of the numpy that wrote them: both names are allowed.
    """
    # A pickled scalar names the function that rebuilds it: taken from one, it is right on both sides of the
    # move.
    rebuild = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = (np.bool_, np.int32, np.int64, np.float32, np.float64)
    return [*((rebuild, name) for name in names), np.dtype, *(type(np.dtype(kind)) for kind in kinds)]


def load_laion(path: Path) -> Any:
    """Unpickle a ``.pt`` without running anything in it. Raises `UserError` as `read_checkpoint`."""
    try:
        with torch.serialization.safe_globals(_safe_globals()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise UserError(f"clap.checkpoint: cannot read {path}", error.strerror or str(error)) from error
    except _LOAD_ERRORS as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        if unsafe:
            why = f"it asks for {unsafe[1]}, which weights have no need of; it was not run"
        else:
            why = f"expected a PyTorch checkpoint of LAION-CLAP ({type(error).__name__})"
        raise UserError(f"clap.checkpoint: refused {path}", why, OTHER_CHECKPOINT) from error


def laion_state(content: Any) -> dict[str, Any]:
    """The state dict in a LAION checkpoint, ``module.`` (left by DistributedDataParallel) removed."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    names = content if isinstance(content, dict) else {}
    return {str(name).removeprefix("module."): value for name, value in names.items()}


def _checked(state: dict[str, Any], path: Path) -> dict[str, torch.Tensor]:
    if not state:
        raise _unlike(path, "it has no audio_branch.* weights")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise _unlike(path, f"{name} is a {type(value).__name__}, not a tensor")
        if not torch.isfinite(value).all():
            raise _unlike(path, f"{name} holds NaN or infinity")
    return state


def _deduce_architecture(state: dict[str, torch.Tensor], path: Path) -> str:
    fusion = [name for name in state if any(part in name for part in _FUSION_KEYS)]
    if fusion:
        raise _unlike(path, f"it is a fusion checkpoint ({fusion[0]})")
    patch = _shape(state, "audio_branch.patch_embed.proj.weight")
    projection = _shape(state, "audio_projection.0.weight")
    if len(patch) != 4 or len(projection) != 2:
        raise _unlike(path, "it has no HTSAT patch embedding or no projection")
    if patch[1] != 1:
        raise _unlike(path, f"it is a fusion checkpoint (patch embedding of {patch[1]} channels)")
    depth = len({name.split(".")[4] for name in state if name.startswith("audio_branch.layers.2.blocks.")})
    found = (patch[0], depth, projection[1])
    for architecture, shape in ARCHITECTURES.items():
        if found == _dimensions(shape):
            return architecture
    raise _unlike(path, f"its (width, third-stage blocks, projection inputs) are {found}")


def _dimensions(shape: HtsatShape) -> tuple[int, int, int]:
    return shape.width, shape.depths[2], shape.features


def _shape(state: dict[str, torch.Tensor], name: str) -> tuple[int, ...]:
    return tuple(state[name].shape) if name in state else ()


def _unlike(path: Path, found: str) -> UserError:
    known = " or ".join(f"{name} {_dimensions(shape)}" for name, shape in ARCHITECTURES.items())
    return UserError(
        f"clap.checkpoint: refused {path}",
        f"{found}; expected a LAION-CLAP checkpoint without fusion, {known}",
        OTHER_CHECKPOINT,
    )
