"""One result as bytes: JSON for what it is, raw bytes for its arrays, a checksum in front. Never pickle.

A cache may lie where others can write. What is read from it is data: nothing in it is looked up, imported or run,
and whatever does not fit is a `DamagedEntry`.

    sha256 of the rest (32 bytes) | length of the JSON (uint32, little endian) | JSON | arrays, each on 16 bytes
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import Fallback

VERSION = 1
_SHA, _LENGTH, _ALIGN = 32, struct.Struct("<I"), 16
# Whatever else numpy can name (objects above all) is refused on both ways.
_DTYPES = frozenset(
    ("|b1", "|i1", "|u1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16")
)
# What Python says of bytes that are something else.
_MISFITS = (
    struct.error, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, AttributeError,
)  # fmt: skip


class DamagedEntry(Exception):
    """The bytes are not what was written, or not of the asset and key that they were looked up for."""


@dataclass
class Entry:
    """What is kept of one result.

    Args:
        values: None, bool, int, float, str, bytes, numpy scalars and arrays, and lists, tuples and dicts of them.
        arrays: by name.
        fallbacks: steps away from what was asked for that belong to the result.
        backend: what did the work.
    """

    values: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fallbacks: list[Fallback] = field(default_factory=list)
    backend: str = ""


def pack(asset_id: str, key: str, entry: Entry) -> bytes:
    """``entry`` as bytes that say whose result they are.

    Raises:
        TypeError: a value is of a kind that is not kept.
    """
    buffers = io.BytesIO()
    header = {
        "version": VERSION,
        "asset_id": asset_id,
        "key": key,
        "backend": entry.backend,
        "fallbacks": [[f.stage, f.wanted, f.used, f.reason] for f in entry.fallbacks],
        "values": _encode(entry.values, buffers),
        "arrays": _encode(dict(entry.arrays), buffers),
    }
    text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-(_SHA + _LENGTH.size + len(text)) % _ALIGN)
    body = b"".join((_LENGTH.pack(len(text)), text, buffers.getvalue()))
    return hashlib.sha256(body).digest() + body


def unpack(data: bytes, asset_id: str, key: str) -> Entry:
    """What `pack` was given; arrays are read-only views of ``data``.

    Raises:
        DamagedEntry: the checksum, the form or the name does not fit.
    """
    if not intact(data):
        raise DamagedEntry("checksum")
    try:
        [length] = _LENGTH.unpack_from(data, _SHA)
        start = _SHA + _LENGTH.size
        header = json.loads(data[start : start + length].decode())
        if header["version"] != VERSION:
            raise DamagedEntry("version")
        if (header["asset_id"], header["key"]) != (asset_id, key):
            raise DamagedEntry("of something else")
        buffers = memoryview(data)[start + length :]
        values, arrays = _decode(header["values"], buffers), _decode(header["arrays"], buffers)
        fallbacks = [Fallback(*map(_text, step)) for step in header["fallbacks"]]
        entry = Entry(values, arrays, fallbacks, _text(header["backend"]))
    except DamagedEntry:
        raise
    except _MISFITS as error:
        raise DamagedEntry(type(error).__name__) from None
    if not (_named(values) and _named(arrays) and all(isinstance(a, np.ndarray) for a in arrays.values())):
        raise DamagedEntry("form")
    return entry


def _encode(value: Any, buffers: io.BytesIO) -> Any:
    """As JSON; lists stay lists and everything JSON cannot tell apart is ``{"$": kind, ...}``."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # JSON has no NaN, and Python writes the shortest digits that give the same bits back.
        return value if math.isfinite(value) else {"$": "float", "hex": struct.pack("<d", value).hex()}
    if type(value) is list:
        return [_encode(v, buffers) for v in value]
    if type(value) is tuple:
        return {"$": "tuple", "of": [_encode(v, buffers) for v in value]}
    if type(value) is bytes:
        return {"$": "bytes", "hex": value.hex()}
    if type(value) is dict:
        if not _named(value):
            raise TypeError("a dict has a key that is no text")
        return {"$": "dict", "of": [[k, _encode(v, buffers)] for k, v in value.items()]}
    if isinstance(value, np.generic):
        return {"$": "scalar", "dtype": _dtype(value.dtype), "hex": value.tobytes().hex()}
    if isinstance(value, np.ndarray):
        return _encode_array(value, buffers)
    raise TypeError(f"a {type(value).__name__} is not kept")


def _encode_array(array: np.ndarray, buffers: io.BytesIO) -> dict[str, Any]:
    at = buffers.tell()
    data = array.tobytes()
    buffers.write(data)
    buffers.write(bytes(-len(data) % _ALIGN))
    return {"$": "array", "dtype": _dtype(array.dtype), "shape": list(array.shape), "at": at}


def _decode(value: Any, buffers: memoryview) -> Any:
    if isinstance(value, list):
        return [_decode(v, buffers) for v in value]
    if not isinstance(value, dict):
        return value
    kind = value["$"]
    if kind == "float":
        return struct.unpack("<d", bytes.fromhex(value["hex"]))[0]
    if kind == "tuple":
        return tuple(_decode(v, buffers) for v in value["of"])
    if kind == "bytes":
        return bytes.fromhex(value["hex"])
    if kind == "dict":
        return {_text(name): _decode(v, buffers) for name, v in value["of"]}
    if kind == "scalar":
        [scalar] = np.frombuffer(bytes.fromhex(value["hex"]), _known(value["dtype"]))
        return scalar
    if kind == "array":
        return _decode_array(value, buffers)
    raise DamagedEntry("kind")


def _decode_array(value: dict[str, Any], buffers: memoryview) -> np.ndarray:
    dtype, shape, at = _known(value["dtype"]), value["shape"], value["at"]
    if not all(type(n) is int and n >= 0 for n in (*shape, at)):
        raise DamagedEntry("shape")
    count = math.prod(shape)
    if at + count * dtype.itemsize > len(buffers):
        raise DamagedEntry("array beyond the end")
    if count == 0:  # frombuffer refuses to begin at the very end
        return np.empty(shape, dtype)
    return np.frombuffer(buffers, dtype, count, at).reshape(shape)


def _dtype(dtype: np.dtype) -> str:
    if dtype.str not in _DTYPES:
        raise TypeError(f"numbers of type {dtype} are not kept")
    return dtype.str


def _known(name: Any) -> np.dtype:
    if name not in _DTYPES:
        raise DamagedEntry("type of number")
    return np.dtype(name)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise DamagedEntry("text")
    return value


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def intact(data: bytes) -> bool:
    """Whether ``data`` is what `pack` once made, for whatever asset and key."""
    return len(data) > _SHA and hashlib.sha256(data[_SHA:]).digest() == data[:_SHA]
