"""Windows of several callers in shared batches: order, fairness, failures, and a device that works on its own."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
import torch

from pipeline.models.batching import BatchRunner
from pipeline.models.window_pool import LARGEST_BATCH, WAITING, Call, WindowPool


@dataclass
class Item:
    number: int
    owner: Hashable = "a"
    group: Hashable = 1
    seconds: float = 1.0
    unwanted: bool = False


@dataclass
class Doubling:
    """A pool whose network doubles numbers, and chokes on ``poison``."""

    batch_items: int = 4
    poison: int | None = None
    error: Exception = field(default_factory=lambda: RuntimeError("choked"))
    new_event: object = None
    batches: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool: WindowPool[Item, int] = WindowPool(self.runner, self.new_event)

    def runner(self, group: Hashable) -> BatchRunner[Item, int]:
        return BatchRunner("clap", self.pool.timed(self.forward), "cpu", self.batch_items)

    def forward(self, items: list[Item], device: str) -> list[int]:
        self.batches.append([item.number for item in items])
        if self.poison in self.batches[-1]:
            raise self.error
        return [2 * item.number for item in items]


def values(answers) -> list[int | None]:
    return [answer.value for answer in answers]


def test_one_caller_gets_full_batches_and_its_answers_in_order():
    network = Doubling()
    assert values(network.pool.run(Item(n) for n in range(10))) == [2 * n for n in range(10)]
    assert [len(batch) for batch in network.batches] == [4, 4, 2]
    assert values(network.pool.run([])) == []


def test_no_more_is_asked_for_than_there_is_room():
    network, asked = Doubling(), 0

    def items():
        nonlocal asked
        for n in range(100):
            asked += 1
            yield Item(n)

    for given, _ in enumerate(network.pool.run(items())):
        assert asked - given <= WAITING * 4 + 1
    assert asked == 100


def test_a_batch_beyond_reason_does_not_fill_the_memory_with_windows():
    network, asked = Doubling(batch_items=10**6), 0

    def items():
        nonlocal asked
        for n in range(4000):
            asked += 1
            yield Item(n)

    for given, _ in enumerate(network.pool.run(items())):
        assert asked - given <= WAITING * LARGEST_BATCH + 1
    assert asked == 4000


def test_groups_do_not_mix_and_order_stays():
    network = Doubling()
    found = network.pool.run(Item(n, group=n % 2) for n in range(12))
    assert values(found) == [2 * n for n in range(12)]
    assert all(len({n % 2 for n in batch}) == 1 for batch in network.batches)


def test_several_callers_fill_a_batch_together():
    """Eight callers of one window each: alone, each would be a batch."""
    network, together = Doubling(batch_items=8), threading.Barrier(8)

    def caller(n: int):
        def items():
            together.wait(10)  # nobody runs a batch while others are about to bring more
            yield Item(n, owner=n)

        return values(network.pool.run(items()))

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(caller, range(8))) == [[2 * n] for n in range(8)]
    assert len(network.batches) < 8
    assert sorted(n for batch in network.batches for n in batch) == list(range(8))


@pytest.mark.parametrize("callers", [2, 5])
def test_many_callers_with_many_windows_lose_and_mix_nothing(callers):
    network = Doubling(batch_items=3)

    def caller(c: int):
        numbers = [1000 * c + n for n in range(57 + c)]
        return values(network.pool.run(Item(n, owner=c, group=n % 3 == 0) for n in numbers)), numbers

    with ThreadPoolExecutor(callers) as threads:
        for found, numbers in threads.map(caller, range(callers)):
            assert found == [2 * n for n in numbers]
    assert max(map(len, network.batches)) == 3


def test_a_batch_that_fails_costs_its_culprit_only():
    network = Doubling(poison=1)
    answers = list(network.pool.run([Item(0, "a"), Item(1, "b"), Item(2, "a"), Item(3, "b")]))
    assert values(answers) == [0, None, 4, None]
    assert [answer.error for answer in answers] == [None, network.error, None, network.error]
    assert network.batches == [[0, 1, 2, 3], [0, 2], [1, 3]]
    assert all(answer.seconds > 0 for answer in answers), "failed attempts are paid for"


def test_what_nobody_wants_is_not_computed():
    network = Doubling()
    assert values(network.pool.run([Item(0), Item(1, unwanted=True), Item(2)])) == [0, None, 4]
    assert network.batches == [[0, 2]]


def test_a_device_that_is_lost_ends_all_callers():
    network = Doubling(batch_items=2, poison=5, error=torch.AcceleratorError("gone"))
    started = threading.Barrier(2)

    def caller(first: int):
        def items():
            started.wait(10)
            for n in itertools.count(first):
                yield Item(n, owner=first)

        return list(network.pool.run(items()))

    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(caller, first) for first in (0, 10**6)]
        assert all(isinstance(run.exception(30), torch.AcceleratorError) for run in runs)


def test_a_caller_that_leaves_early_takes_its_windows_along():
    network = Doubling()
    leaving = network.pool.run(Item(n, owner="leaving") for n in range(100))
    assert next(leaving).value == 0
    leaving.close()
    assert values(network.pool.run([Item(200), Item(201)])) == [400, 402]
    assert network.batches[-1] == [200, 201]


class StandInDevice:
    """A stand-in for a GPU: batches take ``seconds`` each, one after the other, of a clock that only waiting moves."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.clock, self.until, self.records = seconds, 0.0, 0.0, 0

    def new_event(self) -> _Event:
        return _Event(self)


class _Event:
    def __init__(self, device: StandInDevice) -> None:
        self.device, self.at = device, 0.0

    def record(self) -> None:
        """Every second event stands behind a batch."""
        device = self.device
        device.records += 1
        device.until = max(device.clock, device.until) + (0.0 if device.records % 2 else device.seconds)
        self.at = device.until

    def query(self) -> bool:
        return self.device.clock >= self.at

    def synchronize(self) -> None:
        self.device.clock = max(self.device.clock, self.at)

    def elapsed_time(self, end: _Event) -> float:
        return 1000.0 * (end.at - self.at)


def test_the_next_batch_is_launched_while_one_runs():
    device = StandInDevice(0.05)
    network = Doubling(new_event=device.new_event)
    call = Call()
    first = True
    for answer in network.pool.run((Item(n) for n in range(16)), call):
        if first:
            assert len(network.batches) > 1, "launched before anybody waited for the first"
            first = False
        assert answer.batch.done()
        assert answer.seconds == pytest.approx(0.05 / 4, rel=0.01)
    assert [len(batch) for batch in network.batches] == [4, 4, 4, 4]
    spent = network.pool.spent()
    assert spent["device_s"] == pytest.approx(0.2, rel=0.01)
    assert call.elsewhere_s > 0


def test_starving_is_told_from_preparing():
    network = Doubling()
    list(network.pool.run([Item(0)]))
    time.sleep(0.05)
    list(network.pool.run([Item(1)]))
    spent = network.pool.spent()
    assert spent["starved_s"] >= 0.05
    assert spent["device_s"] >= 0
    assert spent["host_s"] >= 0
