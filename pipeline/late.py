"""torch, imported when something of it is first used: what only looks at tables or config does not wait for it.

``from pipeline.late import torch`` in place of ``import torch``, in modules that need nothing of it while they are
loaded. The descriptors are such: their names, parameters and columns are in every config and every data dictionary.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Late:
    """A module that is imported with the first attribute that is asked of it.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self.__dict__.update(_name=name, _module=None)

    def __getattr__(self, attribute: str) -> Any:
        if attribute[:2] == "__":  # of `copy`, `pickle` and the like, which ask any object for them
            raise AttributeError(attribute)
        module = self._module
        return getattr(self._load() if module is None else module, attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(self._load(), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(self._load(), attribute)

    def _load(self) -> ModuleType:
        # Kept only once it is whole: another thread may ask meanwhile, and then waits in the import.
        self.__dict__["_module"] = module = importlib.import_module(self._name)
        return module

    def __reduce__(self) -> tuple[type[Late], tuple[str]]:
        return Late, (self._name,)


if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")
