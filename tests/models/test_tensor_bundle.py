from __future__ import annotations

import struct

import numpy as np
import pytest
from helpers.tensor_bundle_writer import MAGIC, block, entries, message, seal, table, varint, write_bundle

from pipeline.models.separation.tensor_bundle import masked_crc32c, read_tensor_bundle


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"conv2d/bias": (16,), "conv2d/kernel": (5, 5, 2, 16), "conv2d_1/bias": (32,), "scale": ()}
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    values = {name: np.asarray(value, np.float32) for name, value in values.items()}
    return {**values, "empty": np.zeros((0, 3), np.float32), "global_step": np.asarray(7, np.int64)}


def single(entry: bytes, data: bytes = bytes(64)) -> dict[str, np.ndarray]:
    """Read a bundle whose one entry is given as bytes."""
    return read_tensor_bundle(table([block([(b"", message(f1=1)), (b"w", entry)])]), data)


@pytest.mark.parametrize("per_block", [1, 3, 100])
def test_every_tensor_comes_back_bit_for_bit(tensors, per_block):
    found = read_tensor_bundle(*write_bundle(tensors, per_block))
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, strict=True)


def test_checksum_is_crc32c():
    # RFC 3720, appendix B.4, and LevelDB's util/crc32c.h for the mask.
    for text, crc in ((bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"123456789", 0xE3069283)):
        assert masked_crc32c(text) == ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def test_each_damaged_byte_of_a_block_is_found(tensors):
    index, data = write_bundle(tensors)
    unread = index.find(seal(block([])))  # the metaindex block, of which bundles make no use
    for position in {*range(len(index) - 48)} - {*range(unread, unread + len(seal(block([]))))}:
        damaged = bytearray(index)
        damaged[position] ^= 0x55
        with pytest.raises(ValueError, match="tensor bundle"):
            read_tensor_bundle(bytes(damaged), data)


def test_damage_that_keeps_its_checksum_ends_in_value_error_or_other_tensors(tensors):
    pairs, data = entries(tensors)
    content = block(pairs)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), size=rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        try:
            read_tensor_bundle(table([bytes(damaged)]), data)
        except ValueError:
            refused += 1
    assert refused > 1500


def test_random_and_truncated_bytes_are_refused(tensors):
    rng = np.random.default_rng(2)
    for length in (0, 1, 47, 48, 500):
        noise = rng.bytes(length)
        with pytest.raises(ValueError, match="tensor bundle"):
            read_tensor_bundle(noise, b"")
        with pytest.raises(ValueError, match="tensor bundle"):
            read_tensor_bundle(noise + rng.bytes(40) + MAGIC, b"")
    index, data = write_bundle(tensors)
    for length in range(0, len(index), 7):
        with pytest.raises(ValueError, match="tensor bundle"):
            read_tensor_bundle(index[:length], data)
    with pytest.raises(ValueError, match="ends at byte"):
        read_tensor_bundle(index, data[:-1])


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (message(f1=2, f2=message(f2=message(f1=1)), f5=8), "float32"),
        (message(f1=1, f2=message(f2=message(f1=1)), f3=1, f5=4), "shard 0"),
        (message(f1=1, f2=message(f2=message(f1=1)), f5=4, f7=b"slice"), "whole"),
        (message(f1=1, f2=message(f2=message(f1=3)), f5=8), "not the bytes"),
        (message(f1=1, f2=message(f2=message(f1=1)), f4=61, f5=4), "ends at byte 65 of 64"),
        (message(f1=1, f2=message(f2=message(f1=(1 << 64) - 1)), f5=4), "out of range"),
        (message(f1=1, f2=message(f2=message(f1=0)) * 9, f5=0), "out of range"),
        (message(f1=1, f2=message(f3=1), f5=4), "rank"),
        (message(f1=1, f2=5, f5=4), "not a message"),
        (message(f1=1, f4=b"four", f5=4), "not the bytes"),
        (b"\x0b", "wire type 3"),
        (b"\x12\x7f", "truncated"),
        (b"\x08" + b"\xff" * 11, "varint"),
    ],
)
def test_entries_that_are_not_read_say_why(entry, why):
    with pytest.raises(ValueError, match=why):
        single(entry)


def test_headers_that_are_not_read_say_why():
    with pytest.raises(ValueError, match="shards: 2"):
        read_tensor_bundle(table([block([(b"", message(f1=2))])]), b"")
    with pytest.raises(ValueError, match="big-endian"):
        read_tensor_bundle(table([block([(b"", message(f1=1, f2=1))])]), b"")


def test_blocks_that_are_not_read_say_why():
    scalar = (b"w", message(f1=1, f5=4))
    with pytest.raises(ValueError, match="twice"):
        read_tensor_bundle(table([block([scalar]), block([scalar])]), bytes(4))
    with pytest.raises(ValueError, match="restarts"):
        read_tensor_bundle(table([struct.pack("<I", 1 << 30)]), b"")
    content = block([(b"0", varint(0) + varint(10**6))])
    footer = (varint(0) + varint(0) + varint(0) + varint(len(content))).ljust(40, b"\0") + MAGIC
    with pytest.raises(ValueError, match="outside the index"):
        read_tensor_bundle(seal(content) + footer, b"")
    packed = bytearray(seal(content))
    packed[len(content)] = 1
    with pytest.raises(ValueError, match="compression 1"):
        read_tensor_bundle(bytes(packed) + footer, b"")
