"""Which driver a run gets: what is typed decides, then the machine, then the work."""

from __future__ import annotations

import pytest

from pipeline.counting import plural
from pipeline.dataset.sources.items import SourceItem
from pipeline.engine import driver as machine
from pipeline.engine.inline import InlineDriver
from pipeline.engine.ray_driver import RayDriver
from pipeline.workflows import drivers
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.drivers import DriverChoice, Drivers, by_config, by_work
from pipeline.workflows.jobs.extract import EXTRACT

TEN = {"decode": 1.0, "features": 2.5, "write": 0.6}
ONE_MB = [SourceItem("/in/a.mp3", 1_000_000)]


def config(address: str | None = None, name: str = "cpu", **shares: int) -> ExtractConfig:
    made = ExtractConfig()
    made.clap.enabled = made.separation.enabled = False
    made.ray.address, made.hardware.name, made.hardware.gpu_shares = address, name, shares
    return made


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(drivers, "has_card", lambda: True)


@pytest.mark.parametrize(
    ("address", "inline"),
    [("inline", True), ("local", False), ("auto", False), ("head:6379", False), ("ray://head:10001", False)],
)
def test_an_address_decides(address, inline):
    choice = by_config(config(address))
    assert (choice.inline, choice.why) == (inline, f"ray.address={address}")


@pytest.mark.parametrize("address", [None, ""])
def test_without_one_the_work_decides(address):
    assert by_config(config(address)) is None


def test_a_gpu_is_for_ray_unless_inline_is_asked_for(cards):
    assert by_config(config(clap=2, separation=0)).why == "hardware.gpu_shares.clap=2 asks for a GPU"
    assert not by_config(config(name="auto")).inline
    assert by_config(config("inline", name="auto")).inline
    assert by_config(config("inline", clap=2)).inline
    assert by_config(config()) is None, "hardware=cpu does not ask for the card"


def test_auto_without_a_card_asks_for_none(monkeypatch):
    monkeypatch.setattr(drivers, "has_card", lambda: False)
    assert by_config(config(name="auto")) is None


def test_a_card_that_is_hidden_is_none(monkeypatch):
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not machine.has_card()


@pytest.mark.parametrize(
    ("files", "size", "inline"),
    [
        (1, 1_000_000, True),  # 50 s
        (12, 1_000_000, True),
        (1, 500_000_000, False),  # seven hours
        (1000, 1_000_000, False),
        (1000, 1000, True),  # tiny ones, of which each costs its rows
        (10_000, 1000, False),
        (1, None, True),
        (400, None, False),
    ],
)
def test_small_work_needs_no_ray(files, size, inline):
    items = [SourceItem(f"/in/{n}.mp3", size) for n in range(files)]
    choice = by_work(items, TEN, 2.0)
    assert choice.inline == inline
    assert choice.why.startswith(plural(files, "file"))


def test_networks_weigh_what_they_weigh():
    items = [SourceItem(f"/in/{n}.mp3", 1_000_000) for n in range(10)]
    assert by_work(items, TEN, 2.0).inline
    assert not by_work(items, {**TEN, "separation": 400.0}, 2.0).inline


def test_there_are_as_many_processes_as_the_work_is_worth():
    items = [SourceItem(f"/in/{n}.mp3", 1_000_000) for n in range(30)]
    assert by_work(items[:1], TEN, 2.0).processes == 1, "one file"
    assert by_work(items[:2], TEN, 2.0).processes == 1, "little work"
    choice = by_work(items, TEN, 2.0)
    assert (choice.processes, choice.place) == (2, "2 processes")
    assert "would take 2 processes " in choice.why
    assert by_work(items, TEN, 1.0).place == "one process"
    assert by_work(items, {**TEN, "separation": 40.0}, 64.0).processes == 4


def test_the_more_cores_the_sooner_ray_is_the_quicker_one():
    items = [SourceItem(f"/in/{n}.mp3", 1_000_000) for n in range(30)]
    assert by_work(items, TEN, 2.0).inline
    many = items * 10
    assert by_work(many, TEN, 4.0).inline
    assert not by_work(many, TEN, 64.0).inline


def test_the_cores_are_those_that_the_job_may_use(monkeypatch):
    """A container's quota, ``ray.num_cpus``, and the threads of each actor."""
    seen = []
    monkeypatch.setattr(
        drivers, "by_work", lambda items, weights, cores: seen.append(cores) or DriverChoice(True, "")
    )
    monkeypatch.setattr(drivers, "local_cpus", lambda: 4)
    monkeypatch.setattr(InlineDriver, "begin", lambda self, calls=(): None)
    for num_cpus, threads in ((None, 1), (8, 1), (8, 4)):
        wanted = config()
        wanted.ray.num_cpus, wanted.perf.threads = num_cpus, threads
        Drivers(wanted, EXTRACT).settle(ONE_MB, EXTRACT.unsought())
    assert seen == [4.0, 8.0, 2.0]


def test_a_machine_of_little_memory_has_fewer_processes(monkeypatch):
    monkeypatch.setattr(drivers, "local_cpus", lambda: 4)
    monkeypatch.setattr(drivers, "stage_weights", lambda *given: {"clap": 1000.0})
    monkeypatch.setattr(InlineDriver, "begin", lambda self, calls=(): None)
    items, wanted, found = ONE_MB * 4, config(), []
    wanted.ray.address = "inline"
    for most in (0, 2, 9):
        wanted.hardware.processes = most
        made = Drivers(wanted, EXTRACT)
        made.settle(items, EXTRACT.unsought())
        found.append((made.choice.processes, made.cut()))
    assert [processes for processes, _ in found] == [4, 2, 4]
    (_, whole), (_, less), (_, cut) = found
    assert whole == less == "", "what is asked for is there"
    assert cut.startswith("hardware.processes=9: 4 processes at most")


def test_the_driver_is_begun_once_and_closed(monkeypatch):
    begun = []
    monkeypatch.setattr(InlineDriver, "begin", lambda self, calls=(): begun.append(self))
    made = Drivers(config(), EXTRACT)
    made.begin_early(ONE_MB)
    assert made.settle(ONE_MB, EXTRACT.unsought()) is begun[0]
    assert set(begun) == {begun[0]}
    assert made.choice.inline
    made.close()


def test_one_that_the_work_does_not_fit_is_given_up(monkeypatch):
    """Models that are found later may make the work heavier than it looked."""
    closed = []
    monkeypatch.setattr(InlineDriver, "begin", lambda self, calls=(): None)
    monkeypatch.setattr(InlineDriver, "close", lambda self: closed.append("inline"))
    monkeypatch.setattr(RayDriver, "begin", lambda self, calls=(): None)
    made = Drivers(config(), EXTRACT)
    weights = iter([TEN, {**TEN, "clap": 1e6}])
    monkeypatch.setattr(drivers, "stage_weights", lambda *given: next(weights))
    made.begin_early(ONE_MB)
    assert isinstance(made.settle(ONE_MB, EXTRACT.unsought()), RayDriver)
    assert closed == ["inline"]
    assert not made.choice.inline


def test_nothing_that_was_not_begun_is_closed():
    Drivers(config(), EXTRACT).close()
