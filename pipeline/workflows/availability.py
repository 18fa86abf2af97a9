"""Which models a run can use, decided once before it starts, with every step away from the config recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands import as_typed
from pipeline.counting import plural
from pipeline.errors import Fallback, UserError
from pipeline.models import weights
from pipeline.models.beats.checkpoint import checked_files as check_beatnet
from pipeline.models.beats.checkpoint import model_id as beatnet_id
from pipeline.models.beats.names import WEIGHTS as BEATNET
from pipeline.models.separation.names import AUTO, BACKEND_NAMES, STEMS, stems_written
from pipeline.models.tags.checkpoint import read_checkpoint as read_checkpoint_of_tags
from pipeline.models.tags.names import WEIGHTS as MUSICNN
from pipeline.places import expanded
from pipeline.stages.beats.spec import beats_key
from pipeline.stages.clap.spec import clap_key
from pipeline.stages.separation.spec import separation_key
from pipeline.stages.tags.spec import tags_key
from pipeline.workflows.config import ClapConfig, ExtractConfig
from pipeline.workflows.job import Found

if TYPE_CHECKING:
    from pipeline.models.clap.text import TextQueries
    from pipeline.models.separation.base import Separator

# The checkpoint that is taken when the config names none and several are fetched: music first.
CLAP_PREFERENCE = (
    "clap-htsat-base-music",
    "clap-larger-music",
    "clap-htsat-base-music-speech",
    "clap-larger-general",
    "clap-larger-music-speech",
    "clap-htsat-tiny",
    "clap-htsat-unfused",
)


@dataclass
class Models(Found):
    """What was found.

    Args:
        clap_checkpoint: file, or None where CLAP is off or skipped.
        clap_model: architecture and weights hash.
        clap_queries: the text queries and their vectors; None where there are none or they are skipped.
        clap_key: the key of CLAP's product; None where it is off or skipped.
        separation: backend for a short stereo track and why it; None where there is none. Each row has its own.
        stems: every stem that some backend that can run here may make.
        separation_key: the key of the separation columns; None where the stage is off.
        tags_key: the key of the tags; None where they are off, and ``tags_off`` says why.
        beats_key: the key of the beats; None where they are off, and ``beats_off`` says why.
    """

    clap_checkpoint: str | None = None
    clap_model: str | None = None
    clap_queries: TextQueries | None = None
    clap_key: str | None = None
    separation: str | None = None
    stems: tuple[str, ...] = ()
    separation_key: str | None = None
    tags_key: str | None = None
    tags_off: str = ""
    beats_key: str | None = None
    beats_off: str = ""


def look_for(config: ExtractConfig, models: Models) -> None:
    """Fill in what the config asks for. Raises `UserError` where ``on_unavailable=fail`` or a path is wrong."""
    if config.clap.enabled:
        _find_clap(config, models)
    if config.separation.enabled:
        _find_backend(config, models)
    _find_tags(config, models)
    _find_beats(config, models)
    stages = (models.clap_checkpoint, models.separation_key, models.tags_key, models.beats_key)
    if not config.features.enabled and not any(stages):
        models.warnings.append(
            "nothing is computed: without extractors, CLAP, separation, tags and beats the tables describe the "
            "files only; features.enabled=[loudness] would compute something"
        )


def check_paths(config: ExtractConfig) -> None:
    """Refuse a checkpoint that is not there, which needs no reading. Raises `UserError`."""
    if config.clap.enabled:
        _clap_path(config.clap.checkpoint)


def _find_clap(config: ExtractConfig, models: Models) -> None:
    path = _clap_path(config.clap.checkpoint)
    if path is not None:
        models.clap_checkpoint = str(path)
        info = read_checkpoint(path).info
        models.clap_model = info.model_id
        clap = config.clap
        if clap.text_queries:
            _embed_queries(clap, path, models)
        models.clap_key = clap_key(
            info.sha256,
            clap.window_seconds,
            clap.hop_seconds,
            clap.aggregate,
            clap.amp,
            queries=models.clap_queries,
        )
        return
    what = as_typed(f"python jobs/models.py fetch {config.clap.checkpoint or CLAP_PREFERENCE[0]}")
    reason = f"no CLAP checkpoint found {weights.where()}; type `{what}` or clap.checkpoint=FILE"
    if config.clap.on_unavailable == "fail":
        raise UserError("clap.on_unavailable=fail", reason, f"{what}, or clap.enabled=false")
    models.fallbacks.append(Fallback("clap", config.clap.checkpoint or "CLAP embeddings", "none", reason))
    models.warnings.append(f"CLAP is skipped: {reason}")


def _embed_queries(clap: ClapConfig, path: Path, models: Models) -> None:
    """Here and not in the actors: they then need neither transformers nor the text tower's half gigabyte."""
    from pipeline.models.clap.text import TextUnavailable

    try:
        models.clap_queries = embed_queries(clap.text_queries, path, clap.tokenizer)
    except TextUnavailable as error:
        if clap.on_unavailable == "fail":
            raise UserError(f"clap.on_unavailable=fail: {error}") from error
        wanted = plural(len(clap.text_queries), "text query", "text queries")
        models.fallbacks.append(Fallback("clap", wanted, "none", str(error)))
        models.warnings.append(f"clap.text_queries are skipped: {error}")


def _clap_path(checkpoint: str | None) -> Path | None:
    if checkpoint is None:
        return next((p for p in map(weights.find, CLAP_PREFERENCE) if p is not None), None)
    if checkpoint in {entry.name for entry in weights.catalogue()}:
        return weights.find(checkpoint)
    path = expanded(checkpoint)
    if not path.exists():
        raise UserError(
            f"clap.checkpoint={checkpoint} is not there",
            "it is neither a file, a folder nor a name from the catalogue",
            "python jobs/models.py list, for the names; clap.checkpoint=FILE.pt, or leave it out to do without CLAP",
        )
    return path.resolve()


def backend_stems(
    backends: Sequence[str], load: Callable[[str], Separator], residual: str
) -> tuple[str, ...]:
    """Every stem that one of the backends which can run here may make."""
    from pipeline.models.separation.base import BackendUnavailable

    found: set[str] = set()
    for name in backends:
        with contextlib.suppress(BackendUnavailable):
            found.update(stems_written(load(name).sources, residual))
    return tuple(stem for stem in STEMS if stem in found)


def _find_backend(config: ExtractConfig, models: Models) -> None:
    """The backend that a short stereo track gets; what the user named by file or model must be there or say why.

    Loaded here once, before any worker does: a mistake is then one line, and a download happens once.
    """
    from pipeline.models.separation.base import BackendUnavailable
    from pipeline.models.separation.choose import choose, forget_backends, load_backend

    separation = config.separation

    def load(name: str) -> Separator:
        return load_backend(name, options=separation.options())

    named = {
        "demucs": separation.demucs_model or separation.demucs_repo,
        "openunmix": separation.openunmix_model,
    }
    listed = BACKEND_NAMES if separation.backends == [AUTO] else separation.backends
    try:
        for name in listed:
            if named.get(name):
                with contextlib.suppress(BackendUnavailable):  # `choose` says why
                    load(name)
        choice = choose(separation.backends, load)
        if choice.separator is not None:
            models.stems = backend_stems(listed, load, separation.residual)
            models.separation_key = separation_key(
                separation.backends,
                load,
                separation.options(),
                vars(separation),
            )
    finally:
        forget_backends()
    if choice.separator is not None:
        models.separation = f"{choice.separator.name} ({choice.reason})"
        return
    if separation.on_unavailable == "fail":
        raise UserError(
            "separation.on_unavailable=fail and no backend can run",
            choice.reason,
            "separation.backends=auto, python jobs/models.py fetch spleeter-2stems, or separation.enabled=false",
        )


def _find_tags(config: ExtractConfig, models: Models) -> None:
    """Whether there are weights, read here once: damaged ones are then one line."""
    models.tags_off = _why_off("tags", config.tags.enabled, MUSICNN)
    if not models.tags_off:
        tags, model_id = config.tags, read_checkpoint_of_tags().model_id
        models.tags_key = tags_key(model_id, tags.threshold, tags.segments, tags.amp)


def _find_beats(config: ExtractConfig, models: Models) -> None:
    """The same of the beats."""
    models.beats_off = _why_off("beats", config.beats.enabled, BEATNET)
    if not models.beats_off:
        check_beatnet()
        models.beats_key = beats_key(beatnet_id(), config.beats.options())


def _why_off(stage: str, enabled: bool | None, name: str) -> str:
    """Why a stage that is on where its weights are does not run; empty where it does.

    Raises `UserError` where it is switched on and they are missing.
    """
    if enabled is False:
        return "off"
    if weights.find(name) is not None:
        return ""
    reason = weights.missing(name)
    if enabled:
        do = as_typed(f"python jobs/models.py fetch {name}, or {stage}.enabled=null to do without")
        raise UserError(f"{stage}.enabled=true", reason, do)
    return f"off: {reason}"


# Imported with the first call: a run that has neither CLAP nor separation needs no torch here.
def read_checkpoint(path: Path) -> Any:
    """See `pipeline.models.clap.checkpoint.read_checkpoint`."""
    from pipeline.models.clap import checkpoint

    return checkpoint.read_checkpoint(path)


def embed_queries(texts: Sequence[str], path: Path, tokenizer: str | None) -> TextQueries:
    """See `pipeline.models.clap.text.embed_queries`."""
    from pipeline.models.clap import text

    return text.embed_queries(texts, path, tokenizer)
