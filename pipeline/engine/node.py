"""One stage of a run with all its arguments: what each driver makes a worker of. Imports neither Ray nor the worker."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

Worker = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Node:
    """One stage of a run.

    Args:
        name: as in `timings`.
        worker: ``module:Class``, imported only where it works, so that a driver with nothing to do imports no torch;
            or the class itself.
        arguments: for its constructor, which runs where it works.
        parts: stages that share a process, in order; they then stand for ``worker``.
    """

    name: str
    worker: str | type
    arguments: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Node, ...] = ()

    @property
    def class_name(self) -> str:
        """Of the worker, without importing it."""
        if self.parts:
            return "And".join(part.class_name for part in self.parts)
        return self.worker.rpartition(":")[2] if isinstance(self.worker, str) else self.worker.__name__

    def load(self) -> type:
        """The worker's class."""
        if not isinstance(self.worker, str):
            return self.worker
        module, _, name = self.worker.partition(":")
        return getattr(importlib.import_module(module), name)

    def make(self) -> Worker:
        """A worker, which takes a table and returns one."""
        return self.load()(**self.arguments)

    def having(self, **arguments: Any) -> Node:
        """The same stage with other ``arguments``."""
        return replace(self, arguments={**self.arguments, **arguments})
