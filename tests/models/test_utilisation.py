"""A card's utilisation, from a driver that is played."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from pipeline.models import utilisation
from pipeline.models.utilisation import CardWatch, open_watch

UUID = "0f1e2d3c-0000-1111-2222-333344445555"


class FakeNvml:
    """A driver that knows one card; it answers with ``shares`` in turn, the last for ever, then fails if told."""

    def __init__(self, shares: list[int], fails_after: int | None = None, by_uuid: bool = True) -> None:
        self.shares, self.fails_after, self.by_uuid = shares, fails_after, by_uuid
        self.asked = 0
        self.places: list[bytes] = []
        self.enough = threading.Event()

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
        if not self.by_uuid or uuid != f"GPU-{UUID}".encode():
            raise RuntimeError("not found")
        return "card"

    def nvmlDeviceGetHandleByPciBusId(self, place: bytes) -> str:
        self.places.append(place)
        return "card"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return f"GPU-{UUID}".encode()

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Played Card"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(total=80 << 30, used=(1 + self.asked) << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:
        if self.fails_after is not None and self.asked >= self.fails_after:
            self.enough.set()
            raise RuntimeError("the driver is gone")
        share = self.shares[min(self.asked, len(self.shares) - 1)]
        self.asked += 1
        if self.asked >= len(self.shares):
            self.enough.set()
        return SimpleNamespace(gpu=share)


def watched(nvml: FakeNvml) -> CardWatch:
    watch = CardWatch(nvml, "card", interval_s=0.001).start()
    assert nvml.enough.wait(10)
    watch.stop()
    return watch


def test_the_mean_of_the_samples_and_the_most_memory():
    use = watched(FakeNvml([0, 50, 100], fails_after=3)).use()
    assert use.busy_share == pytest.approx(0.5)
    assert (use.samples, use.card, use.name) == (3, f"GPU-{UUID}", "Played Card")
    assert (use.memory_bytes, use.memory_total_bytes) == (4 << 30, 80 << 30)
    assert 0 < use.seconds < 10


def test_what_was_before_a_restart_does_not_count():
    watch = watched(FakeNvml([100, 100], fails_after=2))
    watch.restart()
    assert watch.use() is None


def test_a_driver_that_fails_ends_the_watch_and_keeps_what_was_seen():
    nvml = FakeNvml([80], fails_after=1)
    watch = CardWatch(nvml, "card", interval_s=0.001).start()
    deadline = time.monotonic() + 10
    while watch._thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert watch.use().busy_share == pytest.approx(0.8)


@pytest.fixture
def a_card(monkeypatch):
    properties = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=0x1B, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)


@pytest.mark.usefixtures("a_card")
def test_the_card_is_found_by_its_uuid():
    nvml = FakeNvml([1])
    assert open_watch(nvml) is not None
    assert not nvml.places


@pytest.mark.usefixtures("a_card")
def test_a_card_whose_uuid_is_unknown_is_found_by_its_place():
    nvml = FakeNvml([1], by_uuid=False)
    assert open_watch(nvml) is not None
    assert nvml.places == [b"00000000:1B:00.0"]


def test_without_a_card_nobody_watches(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: (_ for _ in ()).throw(RuntimeError("no card")))
    assert open_watch(FakeNvml([1])) is None


@pytest.mark.usefixtures("a_card")
def test_without_the_package_nobody_watches(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert open_watch() is None


def test_the_module_does_not_load_torch_by_itself():
    assert not hasattr(utilisation, "torch")
