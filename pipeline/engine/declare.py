"""What a job is: a short list of stages, each of which declares what it reads, makes, fills and needs.

No torch, no Ray and no I/O: a driver with nothing to do reads declarations and imports nothing else. `Product`, `Table`
and `Artifact` lie lower (`pipeline.dataset.contents`), because what is on disk is told by them, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from pipeline.audio.views import View
from pipeline.dataset.contents import Artifact, Contents, Product, Table
from pipeline.features.base import stable_key

__all__ = ["Artifact", "Contents", "Gpu", "Pipeline", "Product", "Stage", "Table", "View"]

DECODE = "decode"
WRITE = "write"


@dataclass(frozen=True)
class Gpu:
    """What a stage does on a card.

    Args:
        unit: what its batches are counted in.
        least: a card that does not hold so many is left to other stages.
        most: enough for its network's speed.
        networks: names in `pipeline.engine.vram.MEASURED`, of which the most demanding counts.
        leaves: stages leave a full card in this order, the lowest first: that which has least to gain.
        needs_bytes: what an actor takes, whatever its batch, of a network that is not in that list; 0 of the others.
    """

    unit: str
    least: int
    most: int
    networks: tuple[tuple[str, str], ...] = ()
    leaves: int = 0
    needs_bytes: int = 0


@dataclass(frozen=True)
class Stage:
    """One pool of workers.

    Args:
        name: as in ``timings``.
        worker: ``module:Class`` of a `pipeline.engine.worker.Worker`, imported only where it works.
        products: that it computes, in this run or in another.
        reads: forms of the audio.
        makes: forms of the audio that later stages read; their ``maker`` is this stage.
        needs: earlier stages whose columns and rows it reads, as far as they run: what it computes is stale with them.
            What is there of them already is read from the tables.
        spares: product → those of ``needs`` that it can do without, where one of them failed: it is made of what there
            is then, has another key, and is made again once nothing is missing.
        arguments: for the worker's constructor.
        weight: relative cost of a second of audio on a CPU; decoding is 1.
        gpu: what it does on a card; None of a stage that never runs on one.
        torch: whether its worker runs torch, and so is told threads and seed.
        kept: what else than a product's key may change a bit of its results, so that the cache keeps them apart; None
            where the cache keeps none of them.
        view_key: what its views depend on, where that is something else than what its products do: who reads a view
            is stale with it only.
    """

    name: str
    worker: str
    products: tuple[Product, ...] = ()
    reads: tuple[View, ...] = ()
    makes: tuple[View, ...] = ()
    _: KW_ONLY
    needs: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    gpu: Gpu | None = None
    torch: bool = True
    kept: Mapping[str, Any] | None = field(default_factory=dict)
    spares: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    view_key: str | None = None

    def __post_init__(self) -> None:
        for view in self.makes:
            if view.maker != self.name:
                raise ValueError(f"stage {self.name} makes view {view.name}, whose maker is {view.maker}")

    @property
    def computed(self) -> tuple[Product, ...]:
        """The products that it computes in this run."""
        return tuple(p for p in self.products if p.key is not None)


@dataclass(frozen=True)
class Pipeline:
    """The stages of a run between decoding and writing, in order, with what follows from all of them together.

    Args:
        stages: those that run.
        declared: products of the job that no stage of this run has: rows may hold them from earlier runs.

    Raises:
        ValueError: a view is made by a stage that comes later or not at all, two views of one name have other forms, or
            a stage needs a later one.
    """

    stages: tuple[Stage, ...]
    declared: tuple[Product, ...] = ()

    def __post_init__(self) -> None:
        forms: dict[str, View] = {}
        makers = {DECODE}
        names = [stage.name for stage in self.stages]
        for place, stage in enumerate(self.stages):
            if late := [name for name in stage.needs if name in names[place:]]:
                raise ValueError(f"stage {stage.name} needs {late[0]}, which comes later")
            for view in stage.reads:
                if view.maker not in makers:
                    raise ValueError(
                        f"stage {stage.name} reads view {view.name}, which {view.maker} has not made yet"
                    )
                if forms.setdefault(view.name, view) != view:
                    raise ValueError(f"view {view.name} is {forms[view.name]} and {view}")
            forms |= {view.name: view for view in stage.makes}
            makers.add(stage.name)

    @property
    def contents(self) -> Contents:
        """What an output of this run holds."""
        own = [replace(p, stage=s.name, timed=p.timed or s.name) for s in self.stages for p in s.products]
        names = {p.name for p in own}
        return Contents((*own, *(p for p in self.declared if p.name not in names)))

    def linked(self) -> Pipeline:
        """The same, where the key of each product holds those of the makers of what it reads and of the stages that it
        needs: it is stale with them."""
        made: dict[str, str] = {}
        views: dict[str, str] = {}
        stages: list[Stage] = []
        for stage in self.stages:
            heard = {views[v.maker] for v in stage.reads if v.maker != DECODE}
            makers = sorted(heard | {made[n] for n in stage.needs if n in made})
            if makers:
                products = tuple(
                    p if p.key is None else replace(p, key=stable_key({"key": p.key, "makers": makers}))
                    for p in stage.products
                )
                stage = replace(stage, products=products)
            keys = {p.name: p.key for p in stage.computed}
            made[stage.name] = stable_key({"stage": stage.name, "products": keys, "makers": makers})
            views[stage.name] = made[stage.name]
            if stage.view_key is not None:
                own = {"stage": stage.name, "views": stage.view_key, "makers": makers}
                views[stage.name] = stable_key(own)
            stages.append(stage)
        return replace(self, stages=tuple(stages))

    def keys(self) -> dict[str, str]:
        """Product → key, of all that this run computes."""
        return {p.name: p.key for s in self.stages for p in s.products if p.key is not None}

    def needed_by(self, stage: Stage) -> dict[str, tuple[Product, ...]]:
        """The stages whose rows ``stage`` reads → the products that they compute in this run."""
        return {s.name: s.computed for s in self.stages if s.name in stage.needs}

    def feeds(self, stage: Stage) -> frozenset[str]:
        """The products that are computed of what ``stage`` makes, however many stages later."""
        found: set[str] = set()
        makers = {stage.name}
        for later in self.stages[self.stages.index(stage) + 1 :]:
            if any(view.maker in makers for view in later.reads):
                found |= {p.name for p in later.computed}
                makers.add(later.name)
        return frozenset(found)

    def last_reader(self, view: View) -> int:
        """Position of the last stage that reads a view, counted from 1; 0 where none does."""
        return max((n for n, s in enumerate(self.stages, 1) if view in s.reads), default=0)

    def decoded_views(self) -> tuple[View, ...]:
        """The views that decoding makes, that which is read last first: of equal forms the first owns the samples."""
        views = dict.fromkeys(v for s in self.stages for v in s.reads if v.maker == DECODE)
        return tuple(sorted(views, key=lambda view: -self.last_reader(view)))

    def made_views(self) -> tuple[View, ...]:
        """The views that stages make."""
        return tuple(view for stage in self.stages for view in stage.makes)

    def dropped_after(self, stage: Stage) -> frozenset[str]:
        """The names of the views that nobody reads after ``stage``."""
        place = self.stages.index(stage) + 1
        views = {*self.decoded_views(), *self.made_views()}
        return frozenset(v.name for v in views if self.last_reader(v) == place)

    def groups(self) -> list[list[Stage]]:
        """The stages that have to share a process: a maker of views and those that read them, with all in between."""
        groups: list[list[Stage]] = []
        reach = 0
        for place, stage in enumerate(self.stages, 1):
            if place > reach:
                groups.append([])
            groups[-1].append(stage)
            reach = max([reach, *(self.last_reader(view) for view in stage.makes)])
        return groups
