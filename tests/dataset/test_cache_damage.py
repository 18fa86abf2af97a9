"""The result cache, damaged by accident or made to do harm: a miss, said, and nothing else."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import pytest
from cache_samples import ASSET, KEY, entry, shards

from pipeline.dataset.cache.cache import Cache
from pipeline.dataset.cache.entry import DamagedEntry, unpack
from pipeline.dataset.cache.upkeep import evict
from pipeline.errors import Fallback


def damage(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 0x01
    path.write_bytes(data)


def test_a_damaged_entry_is_computed_anew_and_its_neighbour_is_not(tmp_path):
    writer = Cache(str(tmp_path))
    for n in range(2):
        writer.put(ASSET, f"key{n}", entry(n, 100))
    writer.flush()
    damage(shards(tmp_path)[0], 100)
    cache = Cache(str(tmp_path))
    assert cache.get(ASSET, "key0") is None
    assert cache.get(ASSET, "key1").values == {"x": 1}
    assert (cache.hits, cache.misses, cache.corrupt) == (1, 1, 1)
    [fallback] = cache.take_fallbacks()
    assert fallback == Fallback("cache", "cached results", "computed", "an entry is computed anew: checksum")
    cache.put(ASSET, "key0", entry(7.0))
    cache.flush()
    assert Cache(str(tmp_path)).get(ASSET, "key0").values == {"x": 7.0}, "the newer copy hides the damage"
    assert evict(cache)["merged_shards"] == 2
    cache = Cache(str(tmp_path))
    assert [cache.get(ASSET, f"key{n}").values["x"] for n in range(2)] == [7.0, 1]
    assert cache.corrupt == 0


@pytest.mark.parametrize("left", [0, 5, 60, 150, -1, -60])
def test_a_truncated_shard_is_left_out_and_removed(tmp_path, left):
    writer = Cache(str(tmp_path))
    writer.put(ASSET, KEY, entry(1.0, 100))
    writer.flush()
    [path] = shards(tmp_path)
    path.write_bytes(path.read_bytes()[:left])
    cache = Cache(str(tmp_path))
    assert cache.get(ASSET, KEY) is None
    assert len(cache.take_fallbacks()) == 1
    assert evict(cache)["removed_shards"] == 1
    assert shards(tmp_path) == []


def test_a_damaged_index_is_left_out(tmp_path):
    writer = Cache(str(tmp_path))
    writer.put(ASSET, KEY, entry())
    writer.flush()
    [path] = shards(tmp_path)
    for where in (-60, -40, -3):  # a row, the checksum, the magic
        whole = path.read_bytes()
        damage(path, where)
        assert Cache(str(tmp_path)).get(ASSET, KEY) is None
        path.write_bytes(whole)
    assert Cache(str(tmp_path)).get(ASSET, KEY)


def sealed(header: dict, buffers: bytes = b"") -> bytes:
    """An entry with a right checksum, whatever is in it."""
    good = {"version": 1, "asset_id": ASSET, "key": KEY, "backend": "", "fallbacks": []}
    good |= {"values": {"$": "dict", "of": []}, "arrays": {"$": "dict", "of": []}}
    text = json.dumps({**good, **header}).encode()
    body = struct.pack("<I", len(text)) + text + buffers
    return hashlib.sha256(body).digest() + body


def array(**fields) -> dict:
    made = {"$": "array", "dtype": "<f4", "shape": [2], "at": 0, **fields}
    return {"values": {"$": "dict", "of": [["x", made]]}}


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


HOSTILE = {
    "objects": array(dtype="|O"), "long": array(dtype="<f16"), "record": array(dtype="f4,O"),
    "beyond": array(shape=[1000]), "negative": array(shape=[-1]), "before": array(at=-8),
    "huge": array(shape=[2**62, 4]),
    "no shape": array(shape=None), "float shape": array(shape=[1.0]), "deep": array(shape=[1] * 100),
    "unknown": {"values": {"$": "pickle", "of": "gASVAAA="}}, "no kind": {"values": {"a": 1}},
    "list": {"values": [1]}, "not arrays": {"arrays": {"$": "dict", "of": [["a", 1]]}},
    "number as name": {"values": {"$": "dict", "of": [[1, 1]]}}, "fallback": {"fallbacks": [[1, 2, 3, 4]]},
    "short fallback": {"fallbacks": [["a"]]}, "backend": {"backend": 1}, "version": {"version": 2},
    "odd hex": {"values": {"$": "dict", "of": [["x", {"$": "float", "hex": "00"}]]}},
    "another's": {"asset_id": "cd" * 32}, "another key": {"key": "x"},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_an_entry_made_to_do_harm_is_only_damaged(name):
    assert unpack(sealed(array(), bytes(8)), ASSET, KEY).values["x"].tolist() == [0, 0]
    with pytest.raises(DamagedEntry):
        unpack(sealed(HOSTILE[name], bytes(8)), ASSET, KEY)


def test_a_nested_entry_does_not_exhaust_the_stack():
    text = b'{"version":1,"values":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    body = struct.pack("<I", len(text)) + text
    with pytest.raises(DamagedEntry):
        unpack(hashlib.sha256(body).digest() + body, ASSET, KEY)


def test_nothing_in_a_cache_is_run(tmp_path):
    trace = tmp_path / "ran"
    data = pickle.dumps(Bomb(trace))
    assert unpack(sealed({"backend": "x"}), ASSET, KEY).backend == "x"
    body = struct.pack("<I", len(data)) + data
    for bad in (data, hashlib.sha256(data).digest() + data, hashlib.sha256(body).digest() + body):
        with pytest.raises(DamagedEntry):
            unpack(bad, ASSET, KEY)
    folder = tmp_path / "cache" / "shards"
    folder.mkdir(parents=True)
    (folder / f"{0:013d}-{'a' * 16}.shard").write_bytes(data)
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    cache = Cache(str(tmp_path / "cache"))
    assert cache.get(ASSET, KEY) is None
    evict(cache)
    assert not trace.exists()
    assert (folder / "evil.py").exists(), "what is none of ours is left alone"
