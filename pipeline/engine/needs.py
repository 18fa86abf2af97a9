"""What a stage reads of earlier ones that is not there: they failed on a track, or have never been asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.dataset.contents import Product
from pipeline.engine.batch import Track
from pipeline.engine.earlier import Earlier
from pipeline.features.base import stable_key


class RowsMissing(Exception):
    """What an earlier stage finds out of a track is not there: that stage says in ``failures`` why."""


def missing_stages(
    track: Track, needs: Mapping[str, Sequence[Product]], earlier: Earlier | None
) -> dict[str, bool]:
    """The stages that found nothing out of a track → whether they failed for good. What the tables have of the others
    goes into ``track.earlier``.

    Args:
        needs: stages whose columns and rows are read, with their products.
        earlier: has what runs before found out; None where there are none.
    """
    lacking: dict[str, bool] = {}
    for stage, needed in needs.items():
        before = [product for product in needed if not track.wants(product.name)]
        track.earlier.update(_found_before(track, before, earlier) or {})
        missing = [p for p in needed if track.found(f"key@{p.name}") is None]
        if missing:
            keyed = any(failure["extractor_key"] for failure in track.failures_of(stage))
            lacking[stage] = keyed or any(product in before for product in missing)
    return lacking


def _found_before(
    track: Track, products: Sequence[Product], earlier: Earlier | None
) -> dict[str, Any] | None:
    if not products or earlier is None or track.part is None or track.asset_id is None:
        return None
    return earlier.found(track.part, track.uri, track.asset_id, products)


def key_without(key: str | None, stages: Iterable[str]) -> str | None:
    """The key of a product that was made without what some stages would have found out; its own where none is."""
    left_out = sorted(stages)
    return stable_key({"key": key, "without": left_out}) if key is not None and left_out else key
