"""How far a partition is done: only what is done without a gap is committed, and what is done ahead is remembered.

Songs of one partition end in another order than they came. The committed offset stays before the first that is not
done, and the metadata that Kafka keeps beside it lists those behind it that are: whoever takes the partition over
answers none of them twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

AHEAD = "ahead:"
METADATA_BYTES = 4000
"""Brokers take 4096 by default."""


class Offsets:
    """Of one partition, for as long as it is assigned. Several threads may ask at once.

    Args:
        ahead: offsets behind the committed one that are done already, see `ahead_of`.
    """

    def __init__(self, ahead: Iterable[int] = ()) -> None:
        self._lock = threading.Lock()
        self._ahead = set(ahead)
        self._in_hand: set[int] = set()
        self._next: int | None = None

    def take(self, offset: int) -> bool:
        """Note that a message is in hand; false where it is done already, or in hand."""
        with self._lock:
            self._next = max(offset + 1, self._next or 0)
            if offset in self._ahead or offset in self._in_hand:
                return False
            self._in_hand.add(offset)
            return True

    def finish(self, offsets: Iterable[int]) -> None:
        """Note that messages are done, and that Kafka knows."""
        with self._lock:
            for offset in offsets:
                self._in_hand.discard(offset)
                self._ahead.add(offset)
            # What was not received yet is still to come, though it is done.
            received = min(self._position(frozenset()), self._next or 0)
            self._ahead = {offset for offset in self._ahead if offset >= received}

    def commit_of(self, offsets: Iterable[int]) -> tuple[int, str]:
        """What is to be committed once these are done: the offset, and the metadata beside it."""
        with self._lock:
            done = frozenset(offsets)
            position = self._position(done)
            ahead = sorted(offset for offset in self._ahead | done if offset >= position)
            return position, metadata_of(position, ahead)

    @property
    def begun(self) -> bool:
        """Whether any message was received: before that nobody knows where it stands."""
        with self._lock:
            return self._next is not None

    @property
    def in_hand(self) -> int:
        """Messages that are taken and not done."""
        with self._lock:
            return len(self._in_hand)

    def _position(self, done: frozenset[int]) -> int:
        left = self._in_hand - done
        if left:
            return min(left)
        position = self._next or 0
        while position in self._ahead:  # done before this consumer, which has not received it yet
            position += 1
        return position


def metadata_of(position: int, ahead: Iterable[int]) -> str:
    """What is done at or behind ``position``, as text of at most `METADATA_BYTES`; what does not fit would be done
    again."""
    text = ""
    for first, last in _runs(sorted(ahead)):
        word = str(first - position) if first == last else f"{first - position}-{last - position}"
        longer = f"{text},{word}" if text else AHEAD + word
        if len(longer) > METADATA_BYTES:
            break
        text = longer
    return text


def ahead_of(position: int, metadata: str | None) -> set[int]:
    """The offsets that `metadata_of` wrote down. Metadata that somebody else wrote says nothing."""
    if not metadata or not metadata.startswith(AHEAD):
        return set()
    try:
        found: set[int] = set()
        for word in metadata.removeprefix(AHEAD).split(","):
            first, _, last = word.partition("-")
            found |= set(range(position + int(first), position + int(last or first) + 1))
        return found
    except ValueError:
        return set()


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of what follows one upon the other."""
    for number, offset in enumerate(offsets):
        if number == 0 or offset != offsets[number - 1] + 1:
            first = offset
        if number == len(offsets) - 1 or offsets[number + 1] != offset + 1:
            yield first, offset
