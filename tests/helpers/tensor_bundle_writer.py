"""Writes tensor bundles from the format's description, for tests of the reader."""

from __future__ import annotations

import struct

import numpy as np

from pipeline.models.separation.tensor_bundle import masked_crc32c

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
CODES = {np.dtype("float32"): 1, np.dtype("int64"): 9}


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(**fields: int | bytes) -> bytes:
    """A protobuf message of varints and byte strings: ``message(f1=3, f2=b"...")``."""
    out = b""
    for name, value in fields.items():
        number = int(name[1:])
        if isinstance(value, bytes):
            out += varint(number << 3 | 2) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Prefix-compressed entries and one restart point."""
    out, previous = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        previous = key
    return out + struct.pack("<II", 0, 1)


def seal(content: bytes) -> bytes:
    """A block with its trailer: no compression, masked checksum."""
    return content + b"\0" + struct.pack("<I", masked_crc32c(content + b"\0"))


def table(blocks: list[bytes]) -> bytes:
    """An SSTable of data blocks (without trailers)."""
    out, handles = b"", []
    for content in blocks:
        handles.append(varint(len(out)) + varint(len(content)))
        out += seal(content)
    meta_content = block([])
    index_content = block([(b"%04d" % i, handle) for i, handle in enumerate(handles)])
    meta = varint(len(out)) + varint(len(meta_content))
    out += seal(meta_content)
    index = varint(len(out)) + varint(len(index_content))
    return out + seal(index_content) + (meta + index).ljust(40, b"\0") + MAGIC


def entries(tensors: dict[str, np.ndarray]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Key-value pairs, header first, and the data file."""
    pairs, data = [(b"", message(f1=1))], b""
    for name in sorted(tensors):
        value = tensors[name]
        shape = b"".join(message(f2=message(f1=size)) for size in value.shape)
        pairs.append((name.encode(), message(f1=CODES[value.dtype], f2=shape, f4=len(data), f5=value.nbytes)))
        data += value.tobytes()
    return pairs, data


def write_bundle(tensors: dict[str, np.ndarray], per_block: int = 3) -> tuple[bytes, bytes]:
    """Index and data of a bundle."""
    pairs, data = entries(tensors)
    blocks = [block(pairs[i : i + per_block]) for i in range(0, len(pairs), per_block)]
    return table(blocks), data
