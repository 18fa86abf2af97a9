"""What songs say to the search index: it goes there at once, or waits on disk until the index is back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.service.search import SearchAway, SearchRefused, TakesUpdates
from pipeline.service.spool import Spool
from pipeline.service.taking_turns import Turns

log = logging.getLogger(__name__)

UPDATED, SPOOLED, REFUSED = "updated", "spooled", "refused"


@dataclass(frozen=True)
class Backoff:
    """How long to wait, in seconds. A wait between two tries is a random part of one that doubles every time.

    Args:
        first_s, longest_s: between two tries on the spot.
        all_s: after this long no further try on the spot begins.
        away_first_s, away_longest_s: between two looks whether the index is back.
    """

    first_s: float = 0.2
    longest_s: float = 1.0
    all_s: float = 2.0
    away_first_s: float = 0.5
    away_longest_s: float = 30.0

    def wait_s(self, tries: int) -> float:
        """After so many tries on the spot, 1 and up."""
        return random.uniform(0, min(self.longest_s, self.first_s * 2 ** (tries - 1)))  # noqa: S311  no secret

    def away_s(self, looks: int) -> float:
        """After so many looks in vain, 1 and up; several services do not look at the same time."""
        longest = min(self.away_longest_s, self.away_first_s * 2 ** min(looks - 1, 30))
        return random.uniform(0.75, 1.0) * longest  # noqa: S311  no secret


class SearchUpdates:
    """Updates for a search index that may be away. Any number of threads may `record`.

    Updates of one video reach the index in the order in which they were recorded here.

    Args:
        index: that takes them; it tries nothing again by itself.
        spool: where they wait.
        attempts: on the spot.
        backoff: between attempts.
        ending: when it is set, nobody waits any more: what does not get through is spooled.
    """

    def __init__(
        self,
        index: TakesUpdates,
        spool: Spool,
        *,
        attempts: int = 3,
        backoff: Backoff | None = None,
        ending: threading.Event | None = None,
    ) -> None:
        self.spool = spool
        self._index = _Guarded(index)
        self._attempts, self._backoff = attempts, backoff or Backoff()
        self._ending = ending or threading.Event()
        self._turns = Turns()
        self._away = ""
        self._something_waits = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def away(self) -> str:
        """Why the index cannot be reached; empty while it can, as far as is known."""
        return self._away

    def record(self, video_id: str, document: dict[str, Any]) -> str:
        """Tell the index, or let it wait.

        Returns:
            ``updated``, ``spooled``, or ``refused``: then it lies in the spool's folder ``refused``.

        Raises:
            OSError: it can neither be sent nor written down.
        """
        with self._turns.of(video_id, lambda: None):
            if (self._away and self._draining()) or self.spool.holds(video_id):
                return self._spooled(video_id, document)
            try:
                self._tried(video_id, document)
            except SearchAway as away:
                if not away.only_this:
                    self._note_away(str(away))
                return self._spooled(video_id, document)
            except SearchRefused as refused:
                self._note_there()
                log.warning("the search index refuses an update of %s: %s", video_id, refused)
                self.spool.refuse(video_id, document, str(refused))
                return REFUSED
            self._note_there()
            self.spool.applied(video_id, document)
            return UPDATED

    def _tried(self, video_id: str, document: dict[str, Any]) -> None:
        started = time.monotonic()
        for attempt in range(1, self._attempts + 1):
            try:
                self._index.update(video_id, document)
                return
            except SearchAway:
                wait = self._backoff.wait_s(attempt)
                spent = time.monotonic() - started + wait
                if attempt == self._attempts or spent > self._backoff.all_s or self._ending.wait(wait):
                    raise

    def _spooled(self, video_id: str, document: dict[str, Any]) -> str:
        self.spool.put(video_id, document)
        self._something_waits.set()
        return SPOOLED

    def _note_away(self, reason: str) -> None:
        if not self._away:
            log.warning("the search index is away, updates wait in %s: %s", self.spool.folder, reason)
        self._away = reason

    def _note_there(self) -> None:
        if self._away:
            log.warning("the search index is back; %d videos wait for it", self.spool.waiting())
        self._away = ""

    def start(self) -> None:
        """Begin to send what waits, in a thread: what an earlier run has left, and once more what was refused then."""
        self._kept_going(self.spool.take_back)  # before songs are recorded, which come after it
        self._thread = threading.Thread(target=self._drain, name="search-updates", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread, and all waits; what waits on disk stays there."""
        self._ending.set()
        self._something_waits.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _draining(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._ending.is_set()

    def _drain(self) -> None:
        noting = _Noting(self._index, self._note_there, self._note_away)
        in_vain = 0
        while not self._ending.is_set():
            self._something_waits.clear()
            gone = self._kept_going(lambda: self.spool.drain(noting, self._ending))
            if self._kept_going(self.spool.waiting) == 0:
                in_vain = 0
                # Entries of a dead instance may be adopted without a word.
                self._something_waits.wait(self._backoff.away_longest_s)
            else:
                in_vain = 1 if gone else in_vain + 1
                self._ending.wait(self._backoff.away_s(in_vain))

    def _kept_going(self, call: Callable[[], int]) -> int | None:
        """What ``call`` returns; None if it fails: the disk may be there again the next time."""
        try:
            return call()
        except Exception:
            log.exception("updates for the search index that wait in %s", self.spool.folder)
            return None


class _Guarded:
    """The index, from which nothing but two kinds of errors comes."""

    def __init__(self, index: TakesUpdates) -> None:
        self._index = index

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        try:
            self._index.update(video_id, document)
        except (SearchAway, SearchRefused):
            raise
        except Exception as error:  # noqa: BLE001  a client may raise anything; what it says may have a password in it
            raise SearchAway(f"its client fails: {type(error).__name__}", only_this=True) from None


class _Noting:
    """An index of which it is noted whether it answers."""

    def __init__(self, index: TakesUpdates, there: Callable[[], None], away: Callable[[str], None]) -> None:
        self._index, self._there, self._away = index, there, away

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        try:
            self._index.update(video_id, document)
        except SearchAway as away:
            if not away.only_this:
                self._away(str(away))
            raise
        except SearchRefused:
            self._there()
            raise
        self._there()
