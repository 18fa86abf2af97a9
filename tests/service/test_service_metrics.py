"""What Prometheus reads of the service."""

from __future__ import annotations

import sys
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import UserError
from pipeline.service import metrics as module
from pipeline.service.messages import CODES, DISK_FULL
from pipeline.service.metrics import ASKED_GAUGES, MOST_VALUES, OTHER, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def families(metrics: Metrics) -> dict:
    text, content_type = metrics.exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def values(metrics: Metrics, name: str, label: str) -> set[str]:
    return {
        s.labels[label] for family in families(metrics).values() for s in family.samples if s.name == name
    }


def test_songs_are_counted_by_outcome_and_method(metrics):
    metrics.song_done("done", "demucs", 12.0)
    metrics.song_done("done", "demucs", 14.0)
    metrics.song_done("failed", "none", 3.0)
    assert metrics.value("soundmill_songs_total", {"outcome": "done", "method": "demucs"}) == 2
    assert metrics.value("soundmill_songs_total", {"outcome": "failed", "method": "none"}) == 1
    assert metrics.value("soundmill_song_seconds_count") == 3
    assert metrics.value("soundmill_song_seconds_sum") == 29
    assert metrics.value("soundmill_song_seconds_bucket", {"le": "5.0"}) == 1


def test_seconds_of_stages_and_scores_are_histograms(metrics):
    metrics.stage("separation", 4.0)
    metrics.stage("store", 0.02)
    for score in (0.05, 0.55, 1.0, None, float("nan")):
        metrics.scored(score)
    assert metrics.value("soundmill_stage_seconds_sum", {"stage": "separation"}) == 4
    assert metrics.value("soundmill_stage_seconds_count", {"stage": "store"}) == 1
    assert metrics.value("soundmill_quality_score_count") == 3
    assert metrics.value("soundmill_quality_score_bucket", {"le": "0.1"}) == 1
    assert metrics.value("soundmill_quality_score_bucket", {"le": "0.6"}) == 2
    assert metrics.value("soundmill_quality_score_bucket", {"le": "1.0"}) == 3


def test_errors_retries_and_songs_in_hand(metrics):
    metrics.error(DISK_FULL)
    metrics.retried("store")
    metrics.retried("store")
    metrics.in_flight(3)
    metrics.in_flight(1)
    assert metrics.value("soundmill_errors_total", {"code": DISK_FULL}) == 1
    assert metrics.value("soundmill_retries_total", {"what": "store"}) == 2
    assert metrics.value("soundmill_songs_in_flight") == 1


def test_the_lag_of_a_partition_goes_with_it(metrics):
    metrics.lag("songs", 0, 5)
    metrics.lag("songs", 1, -1)
    assert metrics.value("soundmill_lag_messages", {"topic": "songs", "partition": "0"}) == 5
    assert metrics.value("soundmill_lag_messages", {"topic": "songs", "partition": "1"}) == 0
    metrics.revoked("songs", 0)
    metrics.revoked("songs", 7)
    assert values(metrics, "soundmill_lag_messages", "partition") == {"1"}


def test_gauges_that_are_asked_for_are_asked_each_time(metrics):
    sizes = iter([10, 20])
    metrics.ask("free_disk_bytes", lambda: next(sizes))
    metrics.ask("spooled_updates", lambda: 4)
    metrics.ask("worker_memory_bytes", lambda: 2.5)
    first, second = families(metrics), families(metrics)
    assert [f["soundmill_free_disk_bytes"].samples[0].value for f in (first, second)] == [10, 20]
    assert metrics.value("soundmill_spooled_updates") == 4
    assert first["soundmill_worker_memory_bytes"].documentation == ASKED_GAUGES["worker_memory_bytes"]


def test_a_gauge_that_raises_or_hangs_costs_itself_only(metrics, monkeypatch):
    monkeypatch.setattr(module, "ASK_TIMEOUT_S", 0.05)
    free, calls = threading.Event(), []

    def hangs():
        calls.append(1)
        return 1 if free.wait(60) else 0

    def gone():
        raise OSError("the disk is away")

    metrics.ask("free_disk_bytes", gone)
    metrics.ask("spooled_updates", hangs)
    metrics.ask("worker_memory_bytes", lambda: "none")
    metrics.in_flight(2)
    found = families(metrics)
    assert not found.keys() & {"soundmill_free_disk_bytes", "soundmill_spooled_updates"}
    assert found["soundmill_songs_in_flight"].samples[0].value == 2
    families(metrics)
    # One thread stands for everybody who asks meanwhile.
    assert calls == [1]
    free.set()
    monkeypatch.setattr(module, "ASK_TIMEOUT_S", 60.0)
    assert metrics.value("soundmill_spooled_updates") == 1


def test_only_known_gauges_are_asked_for(metrics):
    with pytest.raises(ValueError, match="free_disk_bytes"):
        metrics.ask("free_disk", lambda: 1)


def test_nobody_can_make_a_series_of_each_message():
    metrics = Metrics(methods=("demucs", "midside"), stages=("decode",))
    for method in ("demucs", "none", "x", "y" * 10_000):
        metrics.song_done("done", method, 1.0)
        metrics.stage(method, 1.0)
    metrics.song_done("whatever", "demucs", 1.0)
    for code in (*CODES, "MINE"):
        metrics.error(code)
    for number in range(100):
        metrics.retried(f"step {number}")
    assert values(metrics, "soundmill_songs_total", "method") == {"demucs", "none", OTHER}
    assert values(metrics, "soundmill_songs_total", "outcome") == {"done", OTHER}
    assert values(metrics, "soundmill_stage_seconds_count", "stage") == {OTHER}
    assert values(metrics, "soundmill_errors_total", "code") == {*CODES, OTHER}
    assert len(values(metrics, "soundmill_retries_total", "what")) == MOST_VALUES + 1
    assert metrics.value("soundmill_songs_total", {"outcome": "done", "method": OTHER}) == 2


def test_several_live_in_one_process():
    one, two = Metrics(), Metrics()
    one.retried("store")
    assert one.value("soundmill_retries_total", {"what": "store"}) == 1
    assert two.value("soundmill_retries_total", {"what": "store"}) is None


def test_names_follow_prometheus(metrics):
    metrics.song_done("done", "demucs", 1.0)
    metrics.ask("free_disk_bytes", lambda: 1)
    found = families(metrics)
    own = {name for name in found if not name.startswith(("process_",))}
    assert all(name.startswith("soundmill_") for name in own)
    assert found["soundmill_songs"].type == "counter"
    assert all(family.documentation for family in found.values())
    assert "process_resident_memory_bytes" in found


def test_prometheus_may_ask_for_the_newer_format(metrics):
    text, content_type = metrics.exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_threads_count_all_together(metrics):
    def count() -> None:
        for _ in range(500):
            metrics.song_done("done", "demucs", 0.0)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.value("soundmill_songs_total", {"outcome": "done", "method": "demucs"}) == 4000


def test_without_prometheus_client_it_is_told_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(UserError, match=r"pip install .*\[service\]"):
        Metrics()
