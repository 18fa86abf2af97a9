"""Which Whisper model words are recognised with: that which suits what the stage will run on, as far as it is here."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.driver import has_card
from pipeline.engine.sizing import size_for_cards
from pipeline.models.speech.transcribe.names import AUTO, CARD_GIB, SIZES
from pipeline.models.speech.transcribe.names import BACKEND_NAMES as TRANSCRIBERS
from pipeline.stages.transcribe.spec import transcribe_stage
from pipeline.workflows.speech_config import HEARD, SpeechConfig

WHISPER = TRANSCRIBERS[0]


def card_bytes(size: str) -> int:
    """What a model takes of a card; of one that is not on the list that is as much as of the largest."""
    return CARD_GIB.get(size, max(CARD_GIB.values())) << 30


def first_here(sizes: Sequence[str]) -> tuple[str, str]:
    """The first model whose files are here, or else the last; and why it is not the first of all."""
    from pipeline.models.speech.base import BackendUnavailable
    from pipeline.models.speech.transcribe.whisper_models import find_model

    lacking = ""
    for size in sizes[:-1]:
        try:
            find_model(size)
        except BackendUnavailable as missing:
            lacking = lacking or str(missing)
        else:
            return size, lacking
    return sizes[-1], lacking


def sizes(config: SpeechConfig) -> tuple[str, ...]:
    """The model that is named; or those that suit the machine, the largest first, of which the last is always meant to
    be here."""
    if config.transcribe.model != AUTO:
        return (config.transcribe.model,)
    hardware = config.hardware
    largest = hardware.models.get("transcribe") or (SIZES[0] if hardware.name == AUTO else SIZES[-1])
    those = SIZES[SIZES.index(largest) :]
    # On a CPU a large one would take longer than the recording lasts.
    return next((those[n:] for n, size in enumerate(those) if on_card(config, size)), SIZES[-1:])


def on_card(config: SpeechConfig, size: str) -> bool:
    """Whether this model will have a share of a card: as the profile says, or as ``auto`` will work it out if all cards
    are as this machine's."""
    hardware = config.hardware
    if config.transcribe.audio != HEARD[0]:
        return False
    if hardware.name != AUTO:
        return bool(hardware.gpu_shares.get("transcribe"))
    if not has_card():
        return False
    from pipeline.engine.process import card  # wakes CUDA up: a second

    stage = transcribe_stage(WHISPER, "", options={}, card_bytes=card_bytes(size))
    cards, fraction = [card()[0]], hardware.gpu_memory_fraction
    return bool(
        size_for_cards([stage], cards, fraction, vram_bytes=hardware.vram_bytes).gpu_shares["transcribe"]
    )


def passed_over(config: SpeechConfig) -> list[str]:
    """That the model that a profile says is for a card, and the words are recognised on the CPU."""
    said = config.hardware.models.get("transcribe")
    asked = config.has("transcribe") and config.transcribe.backend == WHISPER
    if not (said and asked and config.transcribe.model == AUTO):
        return []
    taken = sizes(config)[0]
    if taken == said:
        return []
    why = f"hardware.models.transcribe={said} is for a card, which transcribe has no or too little of here"
    return [f"transcribe: whisper {taken}, since {why}; transcribe.model={said} takes it all the same"]


def whisper_model(config: SpeechConfig, size: str) -> str:
    """Version and weights of a Whisper model. Its number format is that of the CPU, unless one is named that the card
    which it will be on computes in: a driver of a cluster may have none to ask."""
    from pipeline.models.speech.transcribe import whisper, whisper_models

    precision, device = config.transcribe.precision, precision_device(config, size)
    files = whisper_models.find_model(size)
    known = device == "cpu" or has_card()
    number_format = whisper_models.compute_type(precision, device) if known else precision
    return f"{whisper.Whisper.version}:{whisper.identity(files, number_format, config.transcribe.beam)}"


def precision_device(config: SpeechConfig, size: str) -> str:
    """What has to compute in the number format that is asked for: ``cuda`` or ``cpu``."""
    return "cuda" if config.transcribe.precision != AUTO and on_card(config, size) else "cpu"
