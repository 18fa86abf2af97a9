"""What is known of a track as a whole, while its audio goes by in blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class Pending(Exception):
    """A fact about the whole track is not known yet: this pass only gathers it."""


@dataclass(frozen=True)
class Axis:
    """Where the samples of a view lie within the track, in samples from its beginning.

    Args:
        origin: the first sample at hand; context before the block is there to be looked at only.
        start: the first sample of the block itself.
        stop: the first sample after it. Further samples at hand are context, too.
        last: whether the track ends at ``stop``.
    """

    origin: int
    start: int
    stop: int
    last: bool

    @classmethod
    def whole(cls, samples: int) -> Axis:
        """The axis of a track that is one block."""
        return cls(0, 0, samples, True)

    def inside(self) -> slice:
        """The block itself among the samples at hand."""
        return slice(self.start - self.origin, self.stop - self.origin)

    def frames(self, hop_length: int) -> range:
        """The frames centred within the block, of those centred on multiples of ``hop_length``.

        A track has ``1 + samples // hop_length`` frames, none without samples.
        """
        first = -(-self.start // hop_length)
        if self.last:
            return range(first, self.stop // hop_length + 1 if self.stop else 0)
        return range(first, -(-self.stop // hop_length))


@dataclass
class _Fact:
    value: Any = None
    known: bool = False
    blocks: set[int] = field(default_factory=set)
    conclude: Callable[[Any], Any] | None = None


class TrackInfo:
    """A track as a whole: its form, its length, and facts that no single block can tell.

    Args:
        sample_rate: of the mono view, Hz.
        native_rate: of the native view, Hz.
        channels: of the native view.
        samples: of the mono view; None until the end of the track has been seen.
        native_samples: per channel of the native view; None until then.
        one_block: the whole track is one block.

    ``counts`` says how often each result of `once` was computed; a count above one is a bug.
    """

    def __init__(
        self,
        sample_rate: int,
        native_rate: int,
        channels: int,
        *,
        samples: int | None = None,
        native_samples: int | None = None,
        one_block: bool = True,
    ) -> None:
        self.sample_rate = sample_rate
        self.native_rate = native_rate
        self.channels = channels
        self.samples = samples
        self.native_samples = native_samples
        self.one_block = one_block
        self.counts: Counter[Hashable] = Counter()
        self._facts: dict[Hashable, _Fact] = {}
        self._results: dict[Hashable, Any] = {}

    @property
    def seconds(self) -> float:
        """Length of the mono view."""
        return (self.samples or 0) / self.sample_rate

    def length(self) -> int:
        """Samples per channel of the native view. Raises `Pending` before the end of the track was seen."""
        if self.native_samples is None:
            raise Pending("length")
        return self.native_samples

    def fact(
        self,
        key: Hashable,
        block: int,
        measure: Callable[[], Any],
        merge: Callable[[Any, Any], Any],
        conclude: Callable[[Any], T] = lambda merged: merged,
    ) -> T:
        """A quantity of the whole track, merged from what each block measures.

        Of a track of one block it is there at once. Otherwise the first pass over the blocks gathers it and
        raises `Pending` each time; it is known once `conclude` was called at the end of the pass.

        Args:
            key: names the fact; whoever asks with the same key shares it.
            block: number of the block that asks.
            measure: what this block contributes.
            merge: of two contributions one.
            conclude: of the merged contributions the fact.
        """
        fact = self._facts.setdefault(key, _Fact())
        if not fact.known and block not in fact.blocks:
            part = measure()
            fact.value = merge(fact.value, part) if fact.blocks else part
            fact.blocks.add(block)
            fact.conclude = conclude
            if self.one_block:
                self.conclude()
        if not fact.known:
            raise Pending(key)
        return fact.value

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """``compute()`` of the first who asks for ``key``, once the whole track has been seen."""
        if key not in self._results:
            self.counts[key] += 1
            self._results[key] = compute()
        return self._results[key]

    def conclude(self) -> None:
        """A pass over all blocks is over: what it gathered is known now."""
        for fact in self._facts.values():
            if not fact.known and fact.conclude is not None:
                fact.value, fact.known = fact.conclude(fact.value), True
