"""Extractor keys: what has to be the same for a value in a table to be the one that would be computed now.

Without Ray, for the driver knows the keys before it starts anything, and without torch, for decoding has one too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from pipeline.audio.choice import FIRST, Choice
from pipeline.features.base import Extractor, stable_key

if TYPE_CHECKING:
    from pipeline.models.clap.text import TextQueries
    from pipeline.models.separation import SeparationOptions, Separator

CLAP_VERSION = "2"


def decode_key(choice: Choice = FIRST) -> str:
    """Of decoding: a file that it failed on is not tried again before it changes.

    Args:
        choice: which of several sound tracks is taken. Rows of any but the first have this key among those of their
            extractors, so that another choice computes them anew, see `chosen_stream`.
    """
    key = stable_key({"name": "decode", "version": "2"})
    return key if choice == FIRST else f"{key}/{choice}"


def chosen_stream(key: str | None) -> str:
    """The choice in a `decode_key`; empty for the first sound track, and for None."""
    return (key or "").partition("/")[2]


def feature_key(
    extractor: Extractor, sample_rate: int, blob_names: Collection[str] = (), max_inline_elements: int = 4096
) -> str:
    """The key of what this stage stores for ``extractor``: its own, and where its series go if it has any."""
    key = extractor.key(sample_rate)
    series = [c.name.removesuffix("_blob") for c in extractor.columns() if c.name.endswith("_blob")]
    if not series:
        return key
    kept = sorted(name for name in series if name in blob_names)
    return stable_key({"extractor": key, "series": kept, "inline": max_inline_elements if kept else None})


def clap_key(
    sha256: str,
    window_seconds: float,
    hop_seconds: float,
    aggregate: str,
    amp: str | bool,
    queries: TextQueries | None = None,
) -> str:
    """The key of CLAP's columns: model and parameters.

    Not the batch limit, which changes no number, nor the device: float32 and bfloat16 agree within the tolerance
    that a network has anyway, and the tables of a laptop may be finished on a cluster.
    """
    from pipeline.models.precision import normalise_amp

    parameters = {
        "name": "clap",
        "version": CLAP_VERSION,
        "model": sha256,
        "window_seconds": window_seconds,
        "hop_seconds": hop_seconds,
        "aggregate": aggregate,
        "bfloat16_allowed": normalise_amp(amp) != "false",
    }
    if queries is not None:
        parameters |= {"text_queries": list(queries.texts), "text_model": queries.model_id}
    return stable_key(parameters)


def separation_key(
    backends: Sequence[str],
    load: Callable[[str], Separator],
    options: SeparationOptions,
    auto_cpu_seconds: float,
    save_stems: bool,
    save_arrays: bool,
    residual: str,
) -> str:
    """The key of the separation columns: what could be chosen from, where the residual goes, and what is stored.

    Of each backend that can run the model and its weights are in it: where a better one was installed since, a
    later run computes the tracks anew.
    """
    from pipeline.models.separation import AUTO, BACKEND_NAMES, BackendUnavailable
    from pipeline.models.separation.names import DROP

    models = []
    for name in BACKEND_NAMES if AUTO in backends else backends:
        with contextlib.suppress(BackendUnavailable):
            separator = load(name)
            models.append((name, separator.version, separator.model_id()))
    parameters = {
        "name": "separation",
        "models": models,
        "bfloat16_allowed": options.amp != "false",
        "auto_cpu_seconds": auto_cpu_seconds if AUTO in backends else None,
        "stems": save_stems,
        "arrays": save_arrays,
    }
    # Stems without their residual are what they were before there was a choice, and so is their key.
    return stable_key(parameters | ({"residual": residual} if residual != DROP else {}))
