"""What the service counts and measures, for Prometheus. Every `Metrics` has a registry of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pipeline.errors import UserError
from pipeline.optional import extra
from pipeline.service.asked import Asked
from pipeline.service.messages import CODES

OUTCOMES = ("done", "failed")
NO_METHOD = "none"
"""The method of a song that none was used for."""
OTHER = "other"
"""Stands for every value of a label that is not known, so that nobody can make a series of each message."""
MOST_VALUES = 32
"""Of a label whose values nobody has listed, so many are told apart."""

SONG_BUCKETS = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200, 1800, 3600)
STAGE_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
SCORE_BUCKETS = tuple(tenth / 10 for tenth in range(1, 11))
ASKED_GAUGES = {
    "free_disk_bytes": "Free disk space where temporary files of songs go.",
    "spooled_updates": "Updates of the search index that wait on disk.",
    "worker_memory_bytes": "Memory that all workers hold together, their children included.",
}
"""Gauge, without its prefix → its help: those that are asked for when Prometheus comes."""
ASK_TIMEOUT_S = 2.0
"""A gauge that takes longer to ask for is left out."""
_PREFIX = "soundmill"


class Metrics:
    """The numbers of one service. Any thread may call.

    Args:
        methods, stages: what ``method`` and ``stage`` may be; anything else counts as ``other``. None for the first
            `MOST_VALUES` that come.

    Raises:
        UserError: prometheus-client is not installed.
    """

    def __init__(
        self, *, methods: Collection[str] | None = None, stages: Collection[str] | None = None
    ) -> None:
        prometheus = _client()
        registry = self._registry = prometheus.CollectorRegistry()

        def made(kind: str, name: str, text: str, labels: Collection[str] = (), **more: Any) -> Any:
            return getattr(prometheus, kind)(
                name, text, tuple(labels), namespace=_PREFIX, registry=registry, **more
            )

        self._songs = made("Counter", "songs", "Songs that an answer was found for.", ("outcome", "method"))
        self._errors = made("Counter", "errors", "Songs that failed for good, by error code.", ("code",))
        self._retries = made("Counter", "retries", "What was tried again.", ("what",))
        self._song_seconds = made("Histogram", "song_seconds", "Seconds for one song.", buckets=SONG_BUCKETS)
        self._stage_seconds = made(
            "Histogram",
            "stage_seconds",
            "Seconds for one stage of one song.",
            ("stage",),
            buckets=STAGE_BUCKETS,
        )
        self._score = made(
            "Histogram", "quality_score", "Score of finished songs, 0 to 1.", buckets=SCORE_BUCKETS
        )
        self._in_flight = made("Gauge", "songs_in_flight", "Songs in hand.")
        self._lag = made(
            "Gauge", "lag_messages", "Messages that were not fetched yet.", ("topic", "partition")
        )
        self._asked = _AskedGauges()
        registry.register(self._asked)
        # Of this process, under the names that every service has: memory, CPU, open files.
        prometheus.ProcessCollector(registry=registry)
        self._method = _Values({*methods, NO_METHOD} if methods is not None else None)
        self._stage = _Values(stages)
        self._outcome, self._code, self._what = _Values(OUTCOMES), _Values(CODES), _Values(None)

    def song_done(self, outcome: str, method: str, seconds: float) -> None:
        """A song is through.

        Args:
            outcome: of `OUTCOMES`.
            method: that really ran; `NO_METHOD` where none did.
            seconds: that it took.
        """
        self._songs.labels(self._outcome.of(outcome), self._method.of(method)).inc()
        self._song_seconds.observe(seconds)

    def stage(self, stage: str, seconds: float) -> None:
        """A stage of a song is through."""
        self._stage_seconds.labels(self._stage.of(stage)).observe(seconds)

    def scored(self, score: float | None) -> None:
        """A finished song has a score, 0 to 1; None and NaN are not counted."""
        if score is not None and 0.0 <= score <= 1.0:
            self._score.observe(score)

    def error(self, code: str) -> None:
        """A song failed for good, with a code of `pipeline.service.messages.CODES`."""
        self._errors.labels(self._code.of(code)).inc()

    def retried(self, what: str) -> None:
        """Something is tried again: a step, or a song for the reason of that code."""
        self._retries.labels(self._what.of(what)).inc()

    def in_flight(self, songs: int) -> None:
        """So many songs are in hand."""
        self._in_flight.set(songs)

    def lag(self, topic: str, partition: int, messages: int) -> None:
        """So many messages of a partition were not fetched yet."""
        self._lag.labels(topic, str(partition)).set(max(0, messages))

    def revoked(self, topic: str, partition: int) -> None:
        """A partition is somebody else's now, and so is its lag."""
        with suppress(KeyError):  # it had none yet
            self._lag.remove(topic, str(partition))

    def ask(self, gauge: str, value: Callable[[], float]) -> None:
        """Have ``value`` called for a gauge whenever Prometheus comes; where it raises, or takes longer than
        `ASK_TIMEOUT_S`, the gauge is left out.

        Args:
            gauge: of `ASKED_GAUGES`.

        Raises:
            ValueError: there is no such gauge.
        """
        if gauge not in ASKED_GAUGES:
            raise ValueError(f"no gauge {gauge!r} is asked for: {', '.join(ASKED_GAUGES)} are")
        self._asked.calls = {**self._asked.calls, gauge: Asked(lambda: float(value()))}

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """All numbers as text, and its content type.

        Args:
            accept: what Prometheus says it takes, as of HTTP's header; by default its text format 0.0.4.
        """
        encode, content_type = _client().exposition.choose_encoder(accept)
        return encode(self._registry), content_type

    def value(self, name: str, labels: Mapping[str, str] | None = None) -> float | None:
        """One number by its full name, such as ``soundmill_songs_total``; None where there is none."""
        return self._registry.get_sample_value(name, dict(labels or {}))


class _Values:
    """The values that a label may have.

    Args:
        known: all of them; None for the first `MOST_VALUES` that come.
    """

    def __init__(self, known: Collection[str] | None) -> None:
        self._known, self._closed = set(known or ()), known is not None
        self._lock = threading.Lock()

    def of(self, value: str) -> str:
        """``value``, or `OTHER`."""
        with self._lock:
            if value not in self._known and (self._closed or len(self._known) >= MOST_VALUES):
                return OTHER
            self._known.add(value)
            return value


class _AskedGauges:
    """A collector of the gauges that are asked for."""

    def __init__(self) -> None:
        self.calls: Mapping[str, Asked] = {}

    def collect(self) -> Iterator[Any]:
        """See prometheus-client."""
        from prometheus_client.core import GaugeMetricFamily

        calls = self.calls
        for gauge, answer in Asked.all(calls, ASK_TIMEOUT_S).items():
            if answer.error is None:
                yield GaugeMetricFamily(f"{_PREFIX}_{gauge}", ASKED_GAUGES[gauge], value=answer.value)

    def describe(self) -> list[Any]:
        """See prometheus-client: nothing is asked while it registers."""
        return []


def _client() -> Any:
    try:
        import prometheus_client
        import prometheus_client.exposition
    except ImportError:
        raise UserError(
            "the service needs prometheus-client", "it counts with it", extra("service")
        ) from None
    return prometheus_client
