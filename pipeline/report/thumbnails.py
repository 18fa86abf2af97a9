"""Small pictures of spectrograms and chroma, as data URIs, from the arrays that a run left."""

from __future__ import annotations

import base64
import functools
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from pipeline.dataset.output import Output
from pipeline.dataset.storage import is_local
from pipeline.dataset.verify.files import is_ours
from pipeline.report.details import select
from pipeline.report.overview import Overview

WIDTH, HEIGHT = 160, 48
RANGE_DB = 70.0
NAMES = ("mel", "chroma")
# An object that is not on this machine is read whole, so a day of audio gets no picture there.
_MOST_REMOTE_BYTES = 16 << 20
_COLUMNS = tuple(f"{name}_{kind}" for name in NAMES for kind in ("blob", "inline", "shape"))
# Frames of one column of the picture that are looked at: more would only cost reading.
_FRAMES = 16


@dataclass
class Pictures:
    """Of one content, as ``data:`` URIs; empty where there is no array."""

    mel: str = ""
    chroma: str = ""

    def __bool__(self) -> bool:
        return bool(self.mel or self.chroma)


def thumbnails(output: Output, found: Overview, ids: list[int]) -> dict[int, Pictures]:
    """The pictures of those of ``ids`` that have arrays."""
    known: dict[int, Pictures] = {}
    for identity, row in select(output, found, ids, ["asset_id", *_COLUMNS]):
        if identity not in known:
            mel, chroma = (read_array(output, row, name) for name in NAMES)
            pictures = Pictures(
                "" if mel is None else png(decibel_levels(mel)),
                "" if chroma is None else png(chroma_levels(chroma)),
            )
            if pictures:
                known[identity] = pictures
    return known


def read_array(output: Output, row: dict[str, Any], name: str) -> np.ndarray | None:
    """The array of a row, ``[bands, frames]``; None where there is none that can be read and drawn.

    Only files of ours below the root are opened, whatever the row says, and nothing is unpickled.
    """
    path, inline, shape = (row.get(f"{name}_{kind}") for kind in ("blob", "inline", "shape"))
    try:
        if path and is_ours(path, output.folders()):
            array = _load(output, path)
        elif inline and shape:
            array = np.asarray(inline, np.float32).reshape(shape)
        else:
            return None
    except (OSError, ValueError, EOFError, MemoryError):
        return None
    if array is None or array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or 0 in array.shape:
        return None
    return array if array.ndim == 2 else array[0]  # of several channels the first


def _load(output: Output, path: str) -> np.ndarray | None:
    if is_local(output.uri):
        return np.load(output.path(path), mmap_mode="r", allow_pickle=False)
    if output.fs.size(output.path(path)) > _MOST_REMOTE_BYTES:
        return None
    return np.load(io.BytesIO(output.read(path)), allow_pickle=False)


def decibel_levels(array: np.ndarray) -> np.ndarray:
    """Levels in dB ``[bands, frames]`` as shades, uint8 ``[HEIGHT, WIDTH]``: the loudest `RANGE_DB` of them."""
    small = shrunk(array, min(HEIGHT, array.shape[0]))
    top = small.max()
    return _shades((small - (top - RANGE_DB)) / RANGE_DB)


def chroma_levels(array: np.ndarray) -> np.ndarray:
    """Chroma ``[12, frames]`` as shades, uint8 ``[12, WIDTH]``."""
    small = shrunk(array, array.shape[0])
    top = small.max()
    return _shades(small / top if top > 0 else small)


def _shades(levels: np.ndarray) -> np.ndarray:
    # Low frequencies are at the bottom.
    return np.round(np.clip(levels, 0.0, 1.0) * 255).astype(np.uint8)[::-1]


def shrunk(array: np.ndarray, height: int) -> np.ndarray:
    """Means over cells, float32 ``[height, WIDTH]``; what is not finite counts as the least value."""
    frames = array.shape[1]
    starts = np.arange(WIDTH) * frames // WIDTH
    stops = np.maximum(starts + 1, (np.arange(WIDTH) + 1) * frames // WIDTH)
    step = np.maximum(1, np.ceil((stops - starts) / _FRAMES)).astype(np.int64)
    columns = [
        np.asarray(array[:, a:b:s], np.float32).mean(axis=1)
        for a, b, s in zip(starts.tolist(), stops.tolist(), step.tolist(), strict=True)
    ]
    rows = np.stack(columns, axis=1)
    finite = np.isfinite(rows)
    rows = np.where(finite, rows, rows[finite].min() if finite.any() else 0.0)
    edges = [math.floor(n * len(rows) / height) for n in range(height)]
    counts = np.diff([*edges, len(rows)])
    return np.add.reduceat(rows, edges, axis=0) / counts[:, None]


def png(shades: np.ndarray) -> str:
    """Shades, uint8 ``[height, width]``, as a PNG with a palette, in a ``data:`` URI."""
    image = Image.fromarray(shades)
    image.putpalette(_palette())  # the shades are its numbers now
    sink = io.BytesIO()
    image.save(sink, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


@functools.cache
def _palette() -> bytes:
    colours = sample_colorscale("Magma", np.linspace(0.0, 1.0, 256).tolist())
    return bytes(round(part) for colour in colours for part in unlabel_rgb(colour))


def spread(places: np.ndarray, count: int) -> list[int]:
    """Numbers of up to ``count`` points that cover the map, ``[n, 2]``: each next one is farthest from the others."""
    if not len(places):
        return []
    scaled = (places - places.mean(axis=0)) / np.maximum(places.std(axis=0), 1e-12)
    chosen = [int(np.argmin(np.square(scaled).sum(axis=1)))]
    distance = np.square(scaled - scaled[chosen[0]]).sum(axis=1)
    while len(chosen) < min(count, len(places)):
        farthest = int(np.argmax(distance))
        if distance[farthest] == 0.0:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.square(scaled - scaled[farthest]).sum(axis=1))
    return chosen
