"""Models this process has loaded: each once, shared by whoever uses the same weights, bounded, given back."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

Model = TypeVar("Model")


class ModelKey(NamedTuple):
    """What makes two models the same.

    Args:
        kind: what was built: ``clap-audio:HTSAT-base``, ``spleeter``.
        weights: hash of the weights it was filled with.
        device: where it lies, ``cpu`` or ``cuda``.
        dtype: of its parameters.
    """

    kind: str
    weights: str
    device: str = "cpu"
    dtype: str = "float32"


class ModelCache:
    """Loaded models, the least recently used forgotten first.

    A model that is forgotten is freed once nobody else holds it; a stage that does keeps its model.

    Args:
        max_models: how many are kept.
        max_bytes: how many bytes of parameters and buffers are kept, on all devices together. The model asked
            for last is kept whatever its size.

    Raises:
        ValueError: a bound is below 1.
    """

    def __init__(self, max_models: int = 4, max_bytes: int = 8 << 30) -> None:
        if max_models < 1 or max_bytes < 1:
            raise ValueError(f"the bounds must be at least 1, got {max_models} models, {max_bytes} bytes")
        self.max_models = max_models
        self.max_bytes = max_bytes
        self._models: OrderedDict[ModelKey, tuple[Any, int]] = OrderedDict()
        # Reentrant: a loader may ask for a part that is a model itself.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, key: ModelKey) -> bool:
        return key in self._models

    @property
    def size_bytes(self) -> int:
        """Bytes of parameters and buffers of what is kept."""
        return sum(size for _, size in self._models.values())

    def get(self, key: ModelKey, load: Callable[[], Model]) -> Model:
        """The model of ``key``, loaded if it is not there.

        Whatever ``load`` raises is passed on, and the next call tries again.
        """
        with self._lock:
            if key in self._models:
                self._models.move_to_end(key)
                return self._models[key][0]
            model = load()
            self._models[key] = (model, model_bytes(model))
            self._trim()
            return model

    def release(self, key: ModelKey | None = None) -> None:
        """Forget ``key``, or everything, and give the memory back at once, on a GPU to the card."""
        with self._lock:
            dropped = list(self._models) if key is None else [key] * (key in self._models)
            self._drop(dropped)

    def _trim(self) -> None:
        excess = []
        count, size = len(self._models), self.size_bytes
        for key, (_, own) in list(self._models.items())[:-1]:
            if count <= self.max_models and size <= self.max_bytes:
                break
            excess.append(key)
            count, size = count - 1, size - own
        self._drop(excess)

    def _drop(self, keys: list[ModelKey]) -> None:
        for key in keys:
            del self._models[key]
        if keys:
            gc.collect()  # modules that refer to themselves through hooks would wait for a later pass
        if any(torch.device(key.device).type == "cuda" for key in keys):
            torch.cuda.empty_cache()


def model_bytes(model: Any) -> int:
    """Bytes of the parameters and buffers in a module, or in the attributes of what wraps modules."""
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for module in _modules(model)
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())


def _modules(model: Any) -> Iterator[nn.Module]:
    if isinstance(model, nn.Module):
        yield model
        return
    for value in vars(model).values() if hasattr(model, "__dict__") else ():
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, nn.Module):
                yield part


# Of this process: an actor, a pool worker, a notebook.
MODELS = ModelCache()
