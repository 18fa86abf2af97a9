"""Models are loaded once, shared, bounded and given back."""

import weakref

import pytest
import torch
from torch import nn

from pipeline.models.model_cache import ModelCache, ModelKey, model_bytes


def linear(inputs=8, outputs=4):
    return nn.Linear(inputs, outputs, bias=False)


class Loader:
    def __init__(self, build=linear):
        self.build, self.calls = build, 0

    def __call__(self):
        self.calls += 1
        return self.build()


def test_the_same_weights_are_loaded_once_and_shared():
    cache, load = ModelCache(), Loader()
    key = ModelKey("clap", "abc", "cpu")
    assert cache.get(key, load) is cache.get(ModelKey("clap", "abc"), load)
    assert load.calls == 1


@pytest.mark.parametrize("other", ["kind", "weights", "device", "dtype"])
def test_every_part_of_the_key_makes_another_model(other):
    cache, key = ModelCache(), ModelKey("clap", "abc", "cpu", "float32")
    first = cache.get(key, linear)
    assert cache.get(key._replace(**{other: "meta"}), linear) is not first
    assert len(cache) == 2


def test_the_least_recently_used_goes_first():
    cache, load = ModelCache(max_models=2), Loader()
    a, b, c = (ModelKey("k", name) for name in "abc")
    cache.get(a, load)
    cache.get(b, load)
    cache.get(a, load)
    cache.get(c, load)
    assert (a in cache, b in cache, c in cache) == (True, False, True)
    cache.get(b, load)
    assert load.calls == 4


def test_bytes_bound_it_too_and_the_newest_always_stays():
    cache = ModelCache(max_models=10, max_bytes=300)
    keys = [ModelKey("k", str(i)) for i in range(4)]
    for key in keys[:3]:
        cache.get(key, linear)  # 8 × 4 × 4 = 128 bytes each
    assert [key in cache for key in keys[:3]] == [False, True, True]
    assert cache.size_bytes == 256
    cache.get(keys[3], lambda: linear(100, 100))
    assert len(cache) == 1
    assert keys[3] in cache


def test_what_is_forgotten_is_freed_unless_somebody_holds_it():
    cache = ModelCache(max_models=1)
    freed = weakref.ref(cache.get(ModelKey("k", "a"), linear))
    held = cache.get(ModelKey("k", "b"), linear)
    assert freed() is None
    held_too = weakref.ref(held)
    cache.release()
    assert held_too() is held
    assert held(torch.zeros(1, 8)).shape == (1, 4)


def test_release_frees_modules_that_refer_to_themselves():
    cache = ModelCache()

    def hooked():
        module = linear()
        module.register_forward_hook(lambda *_: module)
        return module

    one, two = ModelKey("k", "1"), ModelKey("k", "2")
    references = [weakref.ref(cache.get(key, hooked)) for key in (one, two)]
    cache.release(one)
    assert (references[0](), one in cache, two in cache) == (None, False, True)
    cache.release(one)
    cache.release()
    assert references[1]() is None
    assert len(cache) == cache.size_bytes == 0


def test_a_loader_that_fails_is_tried_again():
    cache, key = ModelCache(), ModelKey("k", "a")
    with pytest.raises(OSError, match="gone"):
        cache.get(key, Loader(lambda: (_ for _ in ()).throw(OSError("gone"))))
    assert key not in cache
    assert isinstance(cache.get(key, linear), nn.Linear)


def test_a_loader_may_use_the_cache_itself():
    cache, part = ModelCache(), ModelKey("part", "a")
    whole = cache.get(ModelKey("whole", "a"), lambda: nn.Sequential(cache.get(part, linear)))
    assert whole[0] is cache.get(part, linear)


def test_bytes_are_counted_through_wrappers_and_shared_tensors_once():
    class Backend:
        def __init__(self):
            self.unets = [linear(), linear()]
            self.extra = nn.BatchNorm1d(4)
            self.name = "x"

    norm = 4 * 4 * 4 + 8  # weight, bias, mean, variance in float32, and an int64 counter
    assert model_bytes(Backend()) == 2 * 128 + norm
    tied = nn.ModuleList([linear(), linear()])
    tied[1].weight = tied[0].weight
    assert model_bytes(tied) == 128
    assert model_bytes(object()) == 0


def test_bounds_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        ModelCache(max_models=0)
    with pytest.raises(ValueError, match="at least 1"):
        ModelCache(max_bytes=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_release_gives_gpu_memory_back_to_the_card():
    cache = ModelCache()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    cache.get(ModelKey("k", "a", "cuda"), lambda: linear(8192, 8192).cuda())
    assert torch.cuda.memory_reserved() >= before + 8192 * 8192 * 4
    cache.release()
    assert torch.cuda.memory_reserved() == before
