"""DSP extractors, one file each, on shared spectra. Numpy and torch in, plain values out; no Ray, no Hydra.

`REGISTRY` imports every module in this folder when it is first asked for, so a new file registers itself, and
processes that only need `pipeline.features.base` do not pay for torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from pipeline.features.base import Extraction, Extractor

if TYPE_CHECKING:
    from pipeline.features.base import REGISTRY

__all__ = ["REGISTRY", "Extraction", "Extractor"]


def __getattr__(name: str) -> Any:
    if name != "REGISTRY":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}")
    from pipeline.features.base import REGISTRY

    return REGISTRY
