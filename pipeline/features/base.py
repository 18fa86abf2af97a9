"""What an extractor is, and the registry it enters by being written.

To add one, write one file in this folder with a frozen dataclass that derives from `Extractor` and is
decorated with `@register`. That is enough for it to appear in the config (``features.<name>.*``), in
``features.enabled``, in the schema of ``tracks``, in the cache key and in ``--help``.

A track of at most ``features.block_seconds`` comes as one block; a longer one comes block by block. An extractor
that defines `Extractor.start` takes both. One that defines `Extractor.extract` alone is simpler and takes
tracks of one block only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.errors import Fallback

if TYPE_CHECKING:
    from pipeline.features.spectra import SharedSpectra
    from pipeline.features.track import TrackInfo


def column(name: str, type_: pa.DataType, unit: str, description: str, source: str = "") -> pa.Field:
    """An Arrow field that carries its unit, its definition and the paper or standard behind it.

    Args:
        name: ``<extractor>_<quantity>[_<unit>]``.
        type_: a plain Arrow type; list columns use ``pa.list_``.
        unit: such as ``dB``, ``LUFS``, ``Hz``, ``ratio``; ``1`` where there is none.
        description: one sentence.
        source: paper, standard or reference implementation.
    """
    metadata = {"unit": unit, "description": description}
    if source:
        metadata["source"] = source
    return pa.field(name, type_, nullable=True, metadata=metadata)


def blob_columns(name: str, unit: str, description: str, source: str = "") -> tuple[pa.Field, ...]:
    """The three columns of an array that may be too large for a row.

    ``<name>_blob`` refers to the ``.npy`` file, relative to the output root; an array that is small enough
    stays in ``<name>_inline`` (C order). Exactly one of the two is set, and ``<name>_shape`` with it.
    """
    return (
        column(
            f"{name}_blob",
            pa.string(),
            "path",
            f"{description}: .npy file, relative to the output root",
            source,
        ),
        column(f"{name}_inline", pa.list_(pa.float32()), unit, f"{description}: C order, when small", source),
        column(f"{name}_shape", pa.list_(pa.int32()), "1", f"{description}: shape"),
    )


@dataclass
class Extraction:
    """What an extractor returns for one track.

    Args:
        values: column name → scalar, list or 1-D array; ``None`` where the quantity is undefined.
        arrays: name → array for a `blob_columns` triple; the writer decides between file and row.
        fallbacks: steps away from what the parameters asked for.
        backend: library that did most of the work.
        full_precision: names of the arrays that a file must hold as float32; the others may be halved.
    """

    values: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    fallbacks: list[Fallback] = field(default_factory=list)
    backend: str = "torch"
    full_precision: frozenset[str] = frozenset()


class Running:
    """An extractor at work on one track: fed block by block, then asked for the result."""

    def add(self, block: SharedSpectra) -> None:
        """Take in the next block. What is to be known of the whole track (`TrackInfo.fact`) is asked for first:
        on a track of several blocks the first answer is `Pending`, and this block comes again later."""
        raise NotImplementedError

    def finish(self) -> Extraction:
        """The columns of the track, after its last block."""
        raise NotImplementedError


@dataclass(frozen=True)
class Extractor:
    """Base of all extractors: the dataclass fields are the parameters users set in the config.

    Class attributes:
        name: prefix of all columns.
        version: raised whenever the numbers change; part of the extractor key.
        views: the audio it reads, of ``mono`` (the DSP rate), ``native`` (all channels, native rate) and
            ``channels`` (all channels at the DSP rate).
        description: one line for ``--help``.
        by_default: whether it runs where ``features.enabled`` does not say which do.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = ""
    by_default: ClassVar[bool] = True

    @classmethod
    def widest(cls) -> Extractor:
        """With the parameters that give every column it can have."""
        return cls()

    def check(self) -> None:
        """Refuse impossible parameters: raises ``ValueError("<parameter> ...")``, one line."""

    def columns(self) -> tuple[pa.Field, ...]:
        """The columns this extractor fills, `blob_columns` included."""
        raise NotImplementedError

    def start(self, track: TrackInfo) -> Running:
        """Begin a track."""
        raise NotImplementedError

    def extract(self, spectra: SharedSpectra) -> Extraction:
        """Compute the columns of a track that is one block."""
        running = self.start(spectra.track)
        running.add(spectra)
        return running.finish()

    def context_seconds(self, sample_rate: int) -> float:
        """How far beyond a block on either side the extractor looks; ``sample_rate`` is the DSP rate, Hz."""
        return 2.0 + getattr(self, "n_fft", 0) / sample_rate

    @classmethod
    def takes_blocks(cls) -> bool:
        """Whether it can work on a track that does not fit into one block."""
        return cls.start is not Extractor.start

    def key(self, sample_rate: int) -> str:
        """12 hex digits that change whenever the numbers could: version, parameters and DSP rate."""
        return stable_key(
            {
                "name": self.name,
                "version": self.version,
                "params": dataclasses.asdict(self),
                "rate": sample_rate,
            }
        )


def stable_key(parts: dict[str, Any]) -> str:
    """First 12 hex digits of the sha256 of ``parts`` as canonical JSON."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


REGISTRY: dict[str, type[Extractor]] = {}


def register(cls: type[Extractor]) -> type[Extractor]:
    """Class decorator: enter ``cls`` under its ``name``."""
    if cls.name in REGISTRY and REGISTRY[cls.name].__qualname__ != cls.__qualname__:
        raise ValueError(f"two extractors are called {cls.name!r}")
    REGISTRY[cls.name] = cls
    return cls
