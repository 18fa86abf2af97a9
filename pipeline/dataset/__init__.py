"""What lies on disk: sources, schemas, tables, blobs, the manifest. Knows nothing of Ray or Hydra.

`open` gives the tables of an output to whoever reads them. It is loaded when it is first asked for, and needs
pyarrow and fsspec only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.dataset.tables.reading import Tables, open

__all__ = ["Tables", "open"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.dataset.tables import reading as tables

    return getattr(tables, name)
