"""The declaration of the descriptors' stage: each extractor is a product. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from pipeline.audio.views import View
from pipeline.engine.declare import Product, Stage
from pipeline.features.base import Extractor, stable_key

NAME = "features"
WORKER = "pipeline.stages.features.worker:FeaturesWorker"
# Beside decoding at 1: alone, one core decodes at 450 times real time and runs ten extractors at 180.
WEIGHT = 2.5


def features_stage(
    extractors: Sequence[Extractor],
    sample_rate: int,
    *,
    blob_names: Collection[str] = (),
    max_inline_elements: int = 4096,
    block_seconds: float | None = None,
    max_track_bytes: int = 0,
    golden: Any = None,
) -> Stage:
    """The stage that runs ``extractors``.

    Args:
        sample_rate: the DSP rate, Hz.
        blob_names: series to keep at all.
        max_inline_elements: larger arrays become ``.npy`` files.
        block_seconds: longer tracks are worked on in blocks of this length; None for the worker's own.
        max_track_bytes: as in the config: what does not fit is read in other blocks.
        golden: see `pipeline.stages.features.worker.FeaturesWorker`.
    """
    products = tuple(extractor_product(e, sample_rate, blob_names, max_inline_elements) for e in extractors)
    arguments: dict[str, Any] = {
        "extractors": list(extractors),
        "sample_rate": sample_rate,
        "blob_names": list(blob_names),
        "max_inline_elements": max_inline_elements,
        "golden": golden,
    }
    if block_seconds is not None:
        arguments["block_seconds"] = block_seconds
    return Stage(
        NAME,
        WORKER,
        products,
        views_of(extractors, sample_rate),
        arguments=arguments,
        weight=WEIGHT,
        kept={"block_seconds": block_seconds, "max_track_bytes": max_track_bytes},
    )


def views_of(extractors: Sequence[Extractor], sample_rate: int) -> tuple[View, ...]:
    """The forms of the audio that ``extractors`` read."""
    wanted = {view for e in extractors for view in e.views}
    forms = (View("native", None, None), View("mono", sample_rate, 1), View("channels", sample_rate, None))
    return tuple(form for form in forms if form.name in wanted)


def extractor_product(
    extractor: Extractor, sample_rate: int, blob_names: Collection[str] = (), max_inline_elements: int = 4096
) -> Product:
    """An extractor as a product that is computed."""
    widest, own = extractor.widest().columns(), {f.name: f for f in extractor.columns()}
    columns = [own.get(f.name, f) for f in widest]
    columns += [f for f in own.values() if f.name not in {c.name for c in columns}]
    return Product(
        extractor.name,
        tuple(columns),
        key=feature_key(extractor, sample_rate, blob_names, max_inline_elements),
        stage=NAME,
        timed=f"{NAME}.{extractor.name}",
        version=extractor.version,
        title=extractor.description,
        present=frozenset(own),
    )


def known_extractors() -> tuple[Product, ...]:
    """Every registered extractor with all the columns that it can have, none of them computed."""
    # Loads every extractor's module: not for a process that only works.
    from pipeline.features import REGISTRY

    found = (extractor_product(REGISTRY[name].widest(), 22050) for name in sorted(REGISTRY))
    return tuple(replace(product, key=None) for product in found)


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
