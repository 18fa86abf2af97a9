"""The base of what works in a stage: it owns the clock, looks into the cache, settles, and adds the columns.

The author of a stage writes `Worker.process`. A worker may be called by several threads at once, each with a table of
its own, so that a network's batch is filled from all of them and each table leaves when its own tracks are done: what
was spent, what failed and what was found is therefore of a track, never of a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.audio.reader import PIECE, ArrayReader, AudioReader, blocks
from pipeline.audio.views import View
from pipeline.dataset.cache.entry import DamagedEntry, Entry
from pipeline.dataset.contents import ARRAYS_SUFFIX, Product
from pipeline.engine.batch import Track, add_stage, tracks_of
from pipeline.engine.declare import DECODE
from pipeline.engine.earlier import Earlier
from pipeline.engine.made_views import forget_spooled, take_spooled
from pipeline.engine.needs import RowsMissing, key_without, missing_stages
from pipeline.engine.process import note_extra, start_torch
from pipeline.engine.results import Results
from pipeline.engine.source_file import Fetcher
from pipeline.engine.timing import Cost, StageClock
from pipeline.engine.within import CountedReader, leave, listened, tell
from pipeline.errors import Fallback

# A value of these columns says where a series lies, which is never taken from a cache.
_PLACES = ("_blob", "_inline", "_shape")


class ViewMissing(Exception):
    """A view that an earlier stage makes is not there: that stage says in ``failures`` why."""


class Worker:
    """One stage at work: a table of tracks in, the same with what the stage found out.

    Args:
        stage: its name, as in ``timings``.
        products: that it computes.
        reads: views that it reads; where one that another stage makes is missing, its products fail.
        makes: views that it makes.
        feeds: products of later stages that are computed of those views.
        needs: stages whose columns and rows it reads, with their products; where one is missing, its products fail.
        spares: product → those of them that it can do without, see `pipeline.engine.declare.Stage`.
        earlier: has what runs before found out; None where there are none.
        drop: names of the views that nobody reads after this stage.
        torch: whether it runs torch.
        device: ``cpu`` or ``cuda``, as asked for; ``self.device`` is the one that it works on.
        threads, seed: of torch in this process.
        storage_options: of the source, for the tracks that are too long to travel.
        results: the result cache.
        parameters: the other arguments of the stage, each of which becomes an attribute.
    """

    says_how_far = False
    """Whether it calls `progress` itself; otherwise that is told by how far it has read a track."""

    def __init__(
        self,
        *,
        stage: str,
        products: Sequence[Product] = (),
        reads: Sequence[View] = (),
        makes: Sequence[View] = (),
        feeds: frozenset[str] = frozenset(),
        needs: Mapping[str, Sequence[Product]] | None = None,
        spares: Mapping[str, Sequence[str]] | None = None,
        earlier: Earlier | None = None,
        drop: frozenset[str] = frozenset(),
        torch: bool = True,
        device: str = "cpu",
        threads: int = 1,
        seed: int = 0,
        storage_options: dict[str, Any] | None = None,
        results: Results | None = None,
        **parameters: Any,
    ) -> None:
        taken = [name for name in parameters if hasattr(self, name)]
        if taken:
            raise ValueError(f"stage {stage}: an argument cannot be called {taken[0]}")
        self.__dict__.update(parameters)
        self.stage = stage
        self.products = tuple(products)
        self.reads, self.makes, self.feeds, self.drop = tuple(reads), tuple(makes), feeds, drop
        self.needs, self.spares, self.earlier = dict(needs or {}), dict(spares or {}), earlier
        self.threads = threads
        self.fetcher = Fetcher(storage_options)
        self.results = results
        # Recorded in every track that the stage works on.
        self.standing: list[Fallback] = []
        self.device = device
        if torch:
            self.device, self.standing = start_torch(stage, device, threads, seed)
        # What another device computed than the key says would differ in its last bits.
        self.keeps = results is not None and self.device == device
        self.fields = fields_of(self.products)
        self._columns = {p.name: frozenset(f.name for f in p.filled) for p in self.products}

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Compute ``track.due`` of each track, and the views that `Track.make` gives where ``track.makes`` is true.

        What goes into the row is put into ``track.values``, rows of tables into ``track.rows``, files into
        ``track.blobs``; `done` says that a product is complete. What fails is told by `fail`, and is of its track only.
        A track gets a `Cost` for each stage of ``timings`` that it cost something in; one without any gets its share of
        the time that the call took.

        Args:
            clock: is told of time that went into the tracks of other calls.
        """
        raise NotImplementedError

    def usage(self) -> dict[str, Any]:
        """What is to be said of this process beside what every process says, see `process_facts`."""
        return {}

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the columns of this stage; rows without audio get nulls."""
        clock = StageClock()
        tracks = tracks_of(table)
        due = [track for track in tracks if self._is_due(track)]
        if due:
            self.process(due, clock)
            leave(self.stage, due)
        for track in due:
            if not track.costs:  # of the time that the whole call took it gets its share
                track.costs.append(
                    Cost(self.stage, device=self.device, batch_audio_s=track.duration_s or 0.0)
                )
        for track in due:
            for product in track.due:
                self._keep(track, product)
        for track in tracks:
            if len(self.products) > 1 and any(cost.cache_hit for cost in track.costs):
                self._put_in_order(track)
        if self.results is not None:
            self.results.settle(tracks)
        if self.drop:
            here = {track.index for track in tracks}
            forget_spooled(lambda index, view: index in here and view.name in self.drop)
        extra = self.usage()
        if extra:
            note_extra(extra)
        return add_stage(
            table,
            tracks,
            self.stage,
            self.fields,
            clock,
            products=self.products,
            makes=[view.name for view in self.makes],
            drop=self._dropped,
        )

    def done(self, track: Track, product: str, entry: Entry | None = None) -> None:
        """Everything that was asked for of a product is in the row.

        Args:
            entry: what the cache may keep of it; None where it must not, or where all of it is ``track.values``.
        """
        track.values[f"key@{product}"] = self.key_of(track, product)
        track.entries[product] = entry
        if lacking := track.lacking.get(product):
            # Complete, and yet not what was asked for: it is made again with them, if they may still come at once.
            declared = next(p for p in self.products if p.name == product)
            key = declared.key if all(lacking.values()) else None
            track.values[f"failkey@{product}"] = key
            error = RowsMissing(
                f"made without {' and '.join(lacking)}, which found nothing out of this track"
            )
            track.fail(declared.timed or self.stage, error, key=key)

    def fail(self, track: Track, product: str, error: BaseException) -> None:
        """A product could not be computed of a track: it is a row of ``failures``, and not tried again before its key
        changes or somebody asks for it."""
        declared = next(p for p in self.products if p.name == product)
        track.fail(declared.timed or self.stage, error, key=declared.key)

    def progress(self, track: Track, share: float, text: Callable[[], str] | None = None) -> None:
        """Say how far this stage is with a track, as often as is handy: it is shown once a second, and costs nothing
        where nobody looks, or where a track is done within a moment.

        Args:
            share: of the work on it that is done, 0 to 1.
            text: gives what is being done, in words, where that is more than the stage's name and the share.
        """
        tell(self.stage, track, share, text)

    def one_by_one(
        self,
        tracks: Sequence[Track],
        product: str,
        work: Callable[[Track], None],
        undo: Callable[[Track], None] = lambda track: None,
    ) -> None:
        """Do ``work`` on each track: one's trouble must not cost its neighbours.

        A source or a disk that is away is tried again by the next run; anything else fails the product, see `fail`.

        Args:
            undo: takes back what of the work is there already.
        """
        for track in tracks:
            try:
                work(track)
            except OSError as error:
                undo(track)
                track.fail(self.stage, error)
            except Exception as error:  # noqa: BLE001  whatever it is, it is of this track
                undo(track)
                self.fail(track, product, error)

    def key(self, product: str) -> str | None:
        """The key of a product."""
        return next(p.key for p in self.products if p.name == product)

    def key_of(self, track: Track, product: str) -> str | None:
        """The same, of one that may lack what an earlier stage should have found out of a track."""
        return key_without(self.key(product), track.lacking.get(product, ()))

    def settle_key(self, product: str, key: Callable[[], str]) -> None:
        """Give a product its ``key``, unless it came with one."""
        if self.key(product) is None:
            self.products = tuple(replace(p, key=key()) if p.name == product else p for p in self.products)

    def restore(self, track: Track, product: Product, entry: Entry) -> None:
        """Fill in what the cache has of a product."""
        tables = {table.name for table in product.tables}
        names = {name for name in self._columns[product.name] if not name.endswith(_PLACES)}
        track.values.update({name: value for name, value in entry.values.items() if name in names})
        track.rows.update({name: value for name, value in entry.values.items() if name in tables})
        track.fallbacks.extend(entry.fallbacks)

    def readers(
        self, tracks: Sequence[Track], view: View, stack: ExitStack
    ) -> tuple[list[Track], list[AudioReader]]:
        """The audio of each track: the tracks whose audio is there, and that audio.

        The others are failures without a key: a source that is away now may be there for the next run.

        Args:
            stack: closes temporary files.
        """
        heard: list[Track] = []
        found: list[AudioReader] = []
        for track in tracks:
            try:
                found.append(self.reader(track, view, stack))
                heard.append(track)
            except Exception as error:  # noqa: BLE001  the source may be gone since it was decoded
                track.fail(self.stage, error)
        return heard, found

    def reader(self, track: Track, view: View, stack: ExitStack, *, counted: bool = True) -> AudioReader:
        """A view of a track: what travels with it, or, of a long one, a temporary file of its samples.

        Args:
            counted: how far it has been read is how far the stage is with the track.

        Raises:
            ViewMissing: another stage makes it, and did not.
            Exception: as `pipeline.engine.source_file.Fetcher.reader`.
        """
        found = self._reader(track, view, stack)
        if self.says_how_far or not counted or not listened():
            return found
        return CountedReader(found, lambda share: self.progress(track, share))

    def _reader(self, track: Track, view: View, stack: ExitStack) -> AudioReader:
        if view.name in track.views:
            return ArrayReader(track.audio(view.name))
        spooled = take_spooled(track.index, view)
        if spooled is not None:
            return spooled
        if view.maker != DECODE:  # the source has other samples
            raise ViewMissing(f"{view.maker} made no view {view.name} of this track")
        return self.fetcher.reader(track, self.stage, view, stack)

    def blocks(self, track: Track, view: View, piece: int = PIECE) -> Iterator[np.ndarray]:
        """The samples of a view of a track from beginning to end, float32 ``[channels, n]``, ``n <= piece``.

        Raises:
            Exception: as `reader`.
        """
        with ExitStack() as stack:
            yield from blocks(self.reader(track, view, stack), piece)

    def _dropped(self, column: str) -> bool:
        return column == f"cached@{self.stage}" or column.removeprefix("pcm@") in self.drop

    def _is_due(self, track: Track) -> bool:
        """Whether anything is to be done of a track; what the cache has is filled in."""
        wanted = [p for p in self.products if track.can_have(p.name) and track.wants(p.name)]
        track.due = [p.name for p in wanted if not self._recalled(track, p)]
        missing = next((view for view in self.reads if not self._is_there(track, view)), None)
        if missing is not None:
            self._fail_without(track, missing)
        elif track.due:
            self._fail_without_rows(track)
        track.makes = bool(
            self.makes
            and track.decoded
            and any(track.wants(name) and name not in track.cached for name in self.feeds)
        )
        track.makes = track.makes and missing is None
        return bool(track.due) or track.makes

    def _fail_without(self, track: Track, view: View) -> None:
        """What is due cannot be computed without ``view``. It is tried again as its maker is: where that failed for
        good, neither is."""
        for_good = any(failure["extractor_key"] for failure in track.failures_of(view.maker))
        # Or it took no such track at all, which is no failure of its own.
        for_good = for_good or track.found(f"failkey@{view.maker}") is not None
        for product in (p for p in self.products if p.name in track.due):
            error = ViewMissing(f"{view.maker} made no view {view.name} of this track")
            track.fail(product.timed or self.stage, error, key=product.key if for_good else None)
        track.due = []

    def _fail_without_rows(self, track: Track) -> None:
        """The same of what an earlier stage finds out: of this run, or of one before, which the tables have."""
        lacking = missing_stages(track, self.needs, self.earlier)
        for product in (p for p in self.products if lacking and p.name in track.due):
            spared = set(self.spares.get(product.name, ())) if len(lacking) < len(self.needs) else set()
            stage = next((stage for stage in lacking if stage not in spared), None)
            if stage is None:
                track.lacking[product.name] = lacking
                continue
            error = RowsMissing(f"{stage} found nothing out of this track")
            track.fail(product.timed or self.stage, error, key=product.key if lacking[stage] else None)
            track.due = [name for name in track.due if name != product.name]

    def _is_there(self, track: Track, view: View) -> bool:
        """Whether a view can be read: what decoding makes always can, of the file if need be."""
        if view.maker == DECODE or view.name in track.views:
            return True
        return take_spooled(track.index, view) is not None

    def _recalled(self, track: Track, product: Product) -> bool:
        """Fill in what the cache has of a product; false where it has nothing."""
        if product.name not in track.cached:
            return False
        started = time.perf_counter()
        cost = Cost(
            product.timed or self.stage,
            device=self.device,
            batch_audio_s=track.duration_s or 0.0,
            cache_hit=True,
        )
        track.costs.append(cost)
        stage = product.timed or self.stage
        try:
            entry = self.results.take(track, product.name)
            cost.backend = entry.backend
            track.fallbacks.extend(self.standing)
            self.restore(track, product, entry)
            track.values[f"key@{product.name}"] = product.key
        except DamagedEntry as error:
            track.fail(stage, error)
        except Exception as error:  # noqa: BLE001  one product must not cost the others
            track.fail(stage, error, key=product.key)
        cost.compute_s = time.perf_counter() - started
        return True

    def _put_in_order(self, track: Track) -> None:
        """Product by product, whichever came from the cache: rows are the same with it and without."""
        place: dict[str, int] = {}
        for number, product in enumerate(self.products):
            place |= dict.fromkeys((*product.names, product.timed), number)
        track.costs.sort(key=lambda cost: place.get(cost.stage, -1))
        track.failures.sort(key=lambda failure: place.get(failure["stage"], -1))
        track.fallbacks.sort(key=lambda fallback: place.get(fallback.stage, -1))
        track.blobs.sort(key=lambda blob: place.get(f"{blob.name}{ARRAYS_SUFFIX}", -1))

    def _keep(self, track: Track, product: str) -> None:
        """Keep a result, unless something stood in its way."""
        entry = track.entries.pop(product, None)
        if not self.keeps or entry is None or f"key@{product}" not in track.values:
            return
        self.results.put(track, product, entry)


def fields_of(products: Sequence[Product]) -> tuple[pa.Field, ...]:
    """The columns that travel: values, rows of tables, the keys of what was computed and of what failed."""
    found: list[pa.Field] = []
    for product in products:
        found += product.filled
        found += [pa.field(f"rows@{t.name}", pa.list_(t.row)) for t in product.tables]
        found += [pa.field(f"{kind}@{product.name}", pa.string()) for kind in ("key", "failkey")]
    return tuple(found)
