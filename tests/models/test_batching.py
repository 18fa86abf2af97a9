"""Batches that fit memory: every rung of the ladder, with the exceptions torch itself raises."""

import gc
import weakref

import pytest
import torch

from pipeline.errors import Fallback
from pipeline.models.batching import FITS, BatchRunner
from pipeline.models.memory import TorchMemory


@pytest.fixture(autouse=True)
def fresh_fits():
    FITS.clear()
    yield
    FITS.clear()


class Card:
    """A GPU's memory in numbers: ``free`` bytes, ``item`` bytes for each item of a batch."""

    def __init__(self, free=None, item=10):
        self.free, self.item = free, item
        self.released = 0
        self.batch = 0

    def available(self, device):
        return self.free

    def start(self, device):
        self.batch = 0

    def peak(self, device):
        return self.item * self.batch

    def release(self, device):
        self.released += 1


class Network:
    """Doubles its items; refuses batches above ``gpu`` or ``cpu`` items as torch does."""

    def __init__(self, gpu=10**9, cpu=10**9, card=None):
        self.largest = {"cuda": gpu, "cpu": cpu}
        self.card = card
        self.calls = []

    def __call__(self, items, device):
        self.calls.append((device, len(items)))
        if self.card is not None:
            self.card.batch = len(items)
        if len(items) > self.largest[device]:
            raise torch.OutOfMemoryError(f"{device} out of memory. Tried to allocate {len(items)} GiB")
        return [2 * item for item in items]


def run(network, device="cuda", max_items=8, n=20, **options):
    runner = BatchRunner("clap", network, device, max_items, memory=options.pop("memory", Card()), **options)
    assert runner.run(range(n)) == [2 * i for i in range(n)]
    return runner


def test_what_fits_runs_in_full_batches_without_a_trace():
    network = Network()
    runner = run(network)
    assert network.calls == [("cuda", 8), ("cuda", 8), ("cuda", 4)]
    assert (runner.take_fallbacks(), runner.oom_halvings, runner.oom_cpu_items) == ([], 0, 0)
    assert runner.run([]) == []


def test_a_batch_that_does_not_fit_is_halved_for_good():
    network, card = Network(gpu=4), Card()
    runner = run(network, memory=card)
    assert network.calls == [("cuda", 8)] + [("cuda", 4)] * 5
    assert (runner.batch_items, runner.oom_halvings, runner.oom_cpu_items, card.released) == (4, 1, 0, 1)
    assert runner.take_fallbacks() == [Fallback("clap", "batches of 8", "batches of 4", "out of memory")]
    assert runner.take_fallbacks() == []
    assert runner.run(range(8)) == [2 * i for i in range(8)]
    assert runner.take_fallbacks() == []


def test_the_ladder_goes_down_to_one_item():
    network, card = Network(gpu=1), Card()
    runner = run(network, memory=card, n=3, max_items=9)
    # Three items are a batch of three: that is the size that did not fit.
    assert network.calls == [("cuda", 3), ("cuda", 1), ("cuda", 1), ("cuda", 1)]
    runner = run(network, memory=card, n=9, max_items=9)
    assert [size for _, size in network.calls[4:7]] == [9, 4, 2]
    assert (runner.batch_items, runner.oom_halvings, runner.oom_cpu_items) == (1, 3, 0)


def test_the_last_rung_is_the_cpu_for_that_item_only():
    class Greedy(Network):
        def __call__(self, items, device):
            self.largest["cuda"] = 0 if 2 in items else 10**9
            return super().__call__(items, device)

    network = Greedy()
    runner = run(network, n=5, max_items=4)
    assert [c for c in network.calls if c[0] == "cpu"] == [("cpu", 1)]
    # 0..3 refused, 0..1 fine, 2..3 refused, 2 refused and moved, then 3 and 4.
    assert [size for device, size in network.calls if device == "cuda"] == [4, 2, 2, 1, 1, 1]
    assert (runner.oom_halvings, runner.oom_cpu_items) == (2, 1)
    assert runner.take_fallbacks() == [
        Fallback("clap", "batches of 4", "batches of 2", "out of memory"),
        Fallback("clap", "batches of 2", "batches of 1", "out of memory"),
        Fallback("clap", "cuda", "cpu", "out of memory with a single item"),
    ]


def test_a_step_taken_often_is_one_fallback_with_its_count():
    runner = run(Network(gpu=0), n=7, max_items=1)
    assert runner.oom_cpu_items == 7
    [step] = runner.take_fallbacks()
    assert step == Fallback("clap", "cuda", "cpu", "out of memory with a single item, 7 times")


def test_what_does_not_even_fit_the_cpu_raises_the_last_error():
    network = Network(gpu=0, cpu=0)
    runner = BatchRunner("clap", network, "cuda", 2, memory=Card())
    with pytest.raises(torch.OutOfMemoryError, match="cpu out of memory"):
        runner.run([1, 2])
    assert network.calls == [("cuda", 2), ("cuda", 1), ("cpu", 1)]
    assert [s.used for s in runner.take_fallbacks()] == ["batches of 1", "cpu"]


def test_on_the_cpu_a_single_item_has_nowhere_to_go():
    network = Network(cpu=0)
    runner = BatchRunner("clap", network, "cpu", 4)
    with pytest.raises(torch.OutOfMemoryError):
        runner.run([1, 2, 3, 4])
    assert network.calls == [("cpu", 4), ("cpu", 2), ("cpu", 1)]


def test_torchs_own_host_allocator_runs_out_for_real():
    sizes = []

    def forward(items, device):
        sizes.append(len(items))
        torch.empty(1 << 60 if len(items) > 1 else 8, dtype=torch.uint8)
        return items

    runner = BatchRunner("clap", forward, "cpu", 4)
    assert runner.run([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert runner.oom_halvings == 2


def test_tensors_of_a_failed_attempt_are_gone_before_the_next():
    class Tensors(list):
        """Stands for the activations that a frame of the traceback holds."""

    alive = []

    def forward(items, device):
        assert not [ref for ref in alive if ref() is not None]
        activations = Tensors(items)
        alive.append(weakref.ref(activations))
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(activations)

    class Counting(Card):
        def release(self, device):
            gc.collect()

    assert BatchRunner("clap", forward, "cuda", 4, memory=Counting()).run([1, 2, 3, 4]) == [1, 2, 3, 4]
    assert len(alive) == 6


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bad clip"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.AcceleratorError("CUDA error: out of memory"),
        KeyboardInterrupt(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_other_errors_pass_through_untouched_and_unretried(error):
    calls = []

    def forward(items, device):
        calls.append(len(items))
        raise error

    runner = BatchRunner("clap", forward, "cuda", 4, memory=Card())
    with pytest.raises(type(error)) as caught:
        runner.run([1, 2, 3, 4])
    assert caught.value is error
    assert calls == [4]
    assert runner.take_fallbacks() == []


def test_what_an_item_takes_is_measured_once_per_key_and_decides_the_batch():
    card = Card(free=100, item=10)
    network = Network(card=card)
    runner = run(network, memory=card, max_items=64, n=20, key=("model", "float32"))
    # One to warm up, two to measure, then nine of ten bytes into ninety of a hundred.
    assert [size for _, size in network.calls] == [1, 2, 9, 8]
    assert [(s.wanted, s.used) for s in runner.take_fallbacks()] == [("batches of 17", "batches of 9")]
    again = Network(card=card)
    run(again, memory=card, max_items=64, n=9, key=("model", "float32"))
    assert again.calls == [("cuda", 9)]
    other = Network(card=card)
    run(other, memory=card, max_items=64, n=9, key=("model", "bfloat16"))
    assert [size for _, size in other.calls] == [1, 2, 6]


def test_the_batch_follows_what_is_free_and_grows_again():
    card = Card(free=1000, item=10)
    network = Network(card=card)
    runner = run(network, memory=card, max_items=8, n=11)
    card.free = 25
    runner.run(range(4))
    card.free = 1000
    runner.run(range(8))
    assert [size for _, size in network.calls] == [1, 2, 8, 2, 2, 8]
    [step] = runner.take_fallbacks()
    assert step == Fallback("clap", "batches of 4", "batches of 2", "too little free GPU memory")
    card.free = 0  # one item is always tried: the allocator has the last word
    assert runner.run([1]) == [2]


def test_the_limit_that_memory_taught_holds_for_the_next_runner_of_the_key():
    run(Network(gpu=2), max_items=8, key="model")
    network = Network(gpu=2)
    assert run(network, max_items=8, n=4, key="model").oom_halvings == 0
    assert network.calls == [("cuda", 2), ("cuda", 2)]


def test_a_forward_that_loses_items_is_found_out():
    with pytest.raises(ValueError, match="2 results for a batch of 3"):
        BatchRunner("clap", lambda items, device: items[1:], "cpu", 4).run([1, 2, 3])
    with pytest.raises(ValueError, match="at least one"):
        BatchRunner("clap", list, "cpu", 0)


def test_nobody_can_say_what_the_cpu_has_left():
    assert TorchMemory().available("cpu") is None


@pytest.mark.parametrize(
    ("card", "fraction", "available"),
    [
        ({"free": 70, "reserved": 20, "allocated": 15}, 1.0, 75),  # what is cached and unused is ours
        ({"free": 70, "reserved": 20, "allocated": 15}, 0.25, 10),  # the share of the card is the bound
        ({"free": 5, "reserved": 20, "allocated": 15}, 0.9, 10),  # others have filled the card
        ({"free": 70, "reserved": 30, "allocated": 30}, 0.25, 0),  # beyond its share already
    ],
)
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_what_is_available_is_the_lesser_of_the_card_and_the_share(
    monkeypatch, card, fraction, available, device
):
    def numbered(index):
        assert isinstance(index, int), "torch refuses a plain cuda here"
        return fraction

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (card["free"], 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: card["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: card["allocated"])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", numbered)
    assert TorchMemory().available(device) == available


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_share_of_a_card_is_kept():
    memory = TorchMemory()
    _, total = torch.cuda.mem_get_info()
    try:
        memory.limit("cuda", 0.1)
        assert memory.available("cuda") <= 0.1 * total
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 5, dtype=torch.uint8, device="cuda")
    finally:
        memory.limit("cuda", 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_absurd_batch_on_a_real_card_is_halved_until_it_fits():
    free, _ = torch.cuda.mem_get_info()
    floats = free // 4 // 6  # an item takes a sixth of the card, and its square as much again

    class Blind(TorchMemory):
        def available(self, device):
            return None  # no precaution: the allocator itself must refuse

    def forward(items, device):
        x = torch.ones(len(items), floats, device=device)
        return (x * torch.tensor(items, device=device, dtype=torch.float32)[:, None]).mean(1).tolist()

    runner = BatchRunner("clap", forward, "cuda", 1000, memory=Blind())
    assert runner.run([float(i) for i in range(12)]) == pytest.approx([float(i) for i in range(12)])
    assert runner.oom_halvings >= 2
    assert runner.oom_cpu_items == 0
    cautious = BatchRunner("clap", forward, "cuda", 1000)
    assert cautious.run([float(i) for i in range(12)]) == pytest.approx([float(i) for i in range(12)])
    assert cautious.oom_halvings == 0
    torch.cuda.empty_cache()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_item_larger_than_the_card_runs_on_the_cpu():
    _, total = torch.cuda.mem_get_info()

    def forward(items, device):
        if device != "cpu":
            torch.empty(total, dtype=torch.float32, device=device)
        return [torch.full((2,), item, device=device).sum().item() for item in items]

    runner = BatchRunner("separation", forward, "cuda", 2)
    assert runner.run([1.0, 2.0]) == [2.0, 4.0]
    assert runner.oom_cpu_items == 2
