"""Read a TensorFlow checkpoint (a "tensor bundle") without TensorFlow.

A bundle is ``<prefix>.index``, an uncompressed LevelDB table from tensor name to a ``BundleEntryProto``, and
``<prefix>.data-00000-of-00001``, the raw little-endian values. Only what Saver writes for a network of one
shard is read (float32, int32 and int64 values); anything else is a `ValueError`, and so is a damaged index.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/lib/io/format.cc,
LevelDB's doc/table_format.md.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import numpy as np

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_TRAILER_BYTES = 5  # compression type, masked crc32c
_DTYPES = {1: "<f4", 3: "<i4", 9: "<i8"}  # DT_FLOAT, DT_INT32, DT_INT64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf wire types


def read_tensor_bundle(index: bytes, data: bytes) -> dict[str, np.ndarray]:
    """All tensors of a one-shard bundle.

    Args:
        index: content of ``<prefix>.index``; its checksums are verified.
        data: content of ``<prefix>.data-00000-of-00001``. Its checksums are not verified (in Python that
            takes longer than the download): check the file it came from.

    Returns:
        tensor name → array with the stored shape, read-only views of ``data``.

    Raises:
        ValueError: either part is damaged, truncated, or of a kind that is not read here.
    """
    tensors = {}
    for key, value in _table(bytes(index)):
        if not key:  # the BundleHeaderProto
            _check_header(value)
            continue
        name = key.decode("utf-8", errors="replace")
        if name in tensors:
            raise ValueError(f"tensor bundle: {name!r} occurs twice")
        tensors[name] = _tensor(name, value, data)
    return tensors


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of an SSTable in the order they are stored."""
    if len(index) < _FOOTER_BYTES:
        raise ValueError(f"tensor bundle: an index of {len(index)} bytes has no footer")
    footer = index[-_FOOTER_BYTES:]
    if struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise ValueError("tensor bundle: the footer's magic number is not that of a LevelDB table")
    _, _, position = _handle(footer, 0)  # the metaindex block: empty in bundles
    offset, size, _ = _handle(footer, position)
    for _, value in _block(index, offset, size):
        data_offset, data_size, _ = _handle(value, 0)
        yield from _block(index, data_offset, data_size)


def _block(index: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block: each key shares a prefix with the one before it."""
    end = offset + size
    if size < 4 or end + _TRAILER_BYTES > len(index) - _FOOTER_BYTES:
        raise ValueError(f"tensor bundle: block at {offset} of {size} bytes lies outside the index")
    block, compression = index[offset:end], index[end]
    if compression != 0:
        raise ValueError(f"tensor bundle: block compression {compression} is not read here")
    if masked_crc32c(index[offset : end + 1]) != struct.unpack_from("<I", index, end + 1)[0]:
        raise ValueError(f"tensor bundle: checksum of the block at {offset} does not match")
    restarts = struct.unpack("<I", block[-4:])[0]
    entries_end = size - 4 * (restarts + 1)
    if entries_end < 0:
        raise ValueError(f"tensor bundle: block at {offset} claims {restarts} restarts")
    key, position = b"", 0
    while position < entries_end:
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or position + unshared + length > entries_end:
            raise ValueError(f"tensor bundle: entry overruns the block at {offset}")
        key = key[:shared] + block[position : position + unshared]
        position += unshared
        yield key, block[position : position + length]
        position += length


def _handle(buffer: bytes, position: int) -> tuple[int, int, int]:
    """A BlockHandle: offset, size, and the position after it."""
    offset, position = _varint(buffer, position)
    size, position = _varint(buffer, position)
    return offset, size, position


def _varint(buffer: bytes, position: int) -> tuple[int, int]:
    """A base-128 varint of at most 64 bits, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(buffer):
            break
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    raise ValueError("tensor bundle: damaged varint")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values of a protobuf message."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == _BYTES:
            length, position = _varint(message, position)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"tensor bundle: protobuf wire type {wire} in field {number}")
        if position + length > len(message):
            raise ValueError(f"tensor bundle: protobuf field {number} is truncated")
        yield number, message[position : position + length]
        position += length


def _check_header(message: bytes) -> None:
    header = dict(_fields(message))
    if header.get(1, 1) != 1:
        raise ValueError(f"tensor bundle: shards: {header[1]}; only one is read here")
    if header.get(2, 0) != 0:
        raise ValueError("tensor bundle: big-endian values are not read here")


def _tensor(name: str, message: bytes, data: bytes) -> np.ndarray:
    """The array a BundleEntryProto points to."""
    entry = dict(_fields(message))
    code, shard, offset, size = (entry.get(number, 0) for number in (1, 3, 4, 5))
    if code not in _DTYPES or shard != 0 or 7 in entry:
        raise ValueError(f"tensor bundle: {name!r} is not a whole float32, int32 or int64 tensor of shard 0")
    shape, dtype = _shape(entry.get(2, b"")), np.dtype(_DTYPES[code])
    if not isinstance(offset, int) or not isinstance(size, int) or size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"tensor bundle: {name!r} has shape {shape} but not the bytes for it")
    if offset + size > len(data):
        raise ValueError(f"tensor bundle: {name!r} ends at byte {offset + size} of {len(data)}")
    return np.frombuffer(data, dtype=dtype, count=math.prod(shape), offset=offset).reshape(shape)


def _shape(message: int | bytes) -> tuple[int, ...]:
    """Sizes in a TensorShapeProto (field 2: dimensions, each with its size in field 1)."""
    if isinstance(message, int):
        raise ValueError("tensor bundle: the shape is not a message")
    sizes = []
    for number, dimension in _fields(message):
        if number != 2 or isinstance(dimension, int):
            raise ValueError("tensor bundle: the rank of a tensor is unknown")
        size = dict(_fields(dimension)).get(1, 0)
        if not isinstance(size, int) or size >= 1 << 31 or len(sizes) == 8:
            raise ValueError("tensor bundle: a dimension is out of range")
        sizes.append(size)
    return tuple(sizes)


def _crc32c_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def masked_crc32c(buffer: bytes) -> int:
    """CRC-32C (Castagnoli) of ``buffer`` as LevelDB stores it: rotated and offset."""
    crc = 0xFFFFFFFF
    for byte in buffer:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
