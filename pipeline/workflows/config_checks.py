"""What Hydra and OmegaConf cannot check of a config: each mistake is a `UserError` that names the key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.audio.isolated import MIN_MEMORY_BYTES
from pipeline.dataset.sources.addresses import is_relative
from pipeline.errors import UserError
from pipeline.features import REGISTRY
from pipeline.models.precision import AMP, amp_word
from pipeline.models.separation import AUTO, BACKEND_NAMES
from pipeline.models.separation.names import RESIDUALS
from pipeline.workflows.place_checks import check_places

if TYPE_CHECKING:
    from pipeline.workflows.config import ClapConfig, ExtractConfig, HardwareConfig, SeparationConfig

AGGREGATES = ("mean", "weighted", "robust")
ON_UNAVAILABLE = ("skip", "fail")
# Every series that some extractor can store: those with a `*_blob` column.
BLOB_NAMES = tuple(
    field_.name.removesuffix("_blob")
    for name in sorted(REGISTRY)
    for field_ in REGISTRY[name].widest().columns()
    if field_.name.endswith("_blob")
)
GPU_STAGES = ("clap", "separation")
POOLS = ("decode", "features", *GPU_STAGES)


def check_all(config: ExtractConfig) -> None:
    """Refuse what cannot work, in words that name the key. Raises `UserError`."""
    _check_io(config)
    _check_features(config)
    _check_clap(config.clap)
    _check_separation(config.separation)
    _check_rest(config)


def nearest_of(word: str, choices: Iterable[str]) -> str:
    """The choice most like ``word``, or an empty string."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)), "")


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the choice most like ``word``, or an empty string."""
    match = nearest_of(word, choices)
    return f"; did you mean {match}?" if match else ""


def _one_of(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(
            f"{key}={value} is not one of {', '.join(choices)}{nearest(value, choices)}",
            do=f"{key}={nearest_of(value, choices) or choices[0]}",
        )


def _stage_of(key: str, stage: str, value: Any, stages: Sequence[str]) -> None:
    """Refuse a stage that ``key`` has no value for."""
    if stage not in stages:
        raise UserError(
            f"{key}.{stage}: {stage} is not one of {', '.join(stages)}{nearest(stage, stages)}",
            do=f"{key}.{nearest_of(stage, stages) or stages[0]}={value}",
        )


def _each_of(key: str, values: Sequence[str], choices: Sequence[str]) -> None:
    """Refuse a list with a word in it that is no choice; what is right in it stays in what is said to type."""
    wrong = next((value for value in values if value not in choices), None)
    if wrong is not None:
        meant = (value if value in choices else nearest_of(value, choices) for value in values)
        kept = list(dict.fromkeys(word for word in meant if word)) or [choices[0]]
        raise UserError(
            f"{key}={wrong} is not one of {', '.join(choices)}{nearest(wrong, choices)}",
            do=f"{key}=[{','.join(kept)}]",
        )


def _refuse(section: Any, key: str, must: str, why: str = "") -> UserError:
    """What to say of a value that cannot be: ``key`` and its value, what it must be, and its default to type.

    Args:
        section: the config that has the key's last part as a field.
    """
    name = key.rpartition(".")[2]
    value = getattr(section, name)
    default = getattr(type(section)(), name)
    shown = f"{value:g}" if isinstance(value, float) else value
    return UserError(f"{key}={shown} {must}", why, f"{key}={'null' if default is None else default}")


def _positive(section: Any, key: str) -> None:
    value = getattr(section, key.rpartition(".")[2])
    if not (math.isfinite(value) and value > 0):
        raise _refuse(section, key, "must be greater than 0")


def _check_io(config: ExtractConfig) -> None:
    if not config.source.uri and not config.source.manifest:
        raise UserError(
            "source.uri is not set",
            "it says where the audio is",
            "source.uri=FOLDER or source.uri=s3://BUCKET/PREFIX",
        )
    if not config.output.uri:
        raise UserError(
            "output.uri is not set",
            "it says where the tables go",
            "output.uri=FOLDER or output.uri=s3://BUCKET/PREFIX",
        )
    check_places(config)
    if config.ray.address not in (None, "local"):
        _check_paths_on_a_cluster(config)
    if config.source.manifest and config.source.glob:
        raise UserError(
            "source.glob does not apply to source.manifest",
            "a manifest names every file",
            "source.glob=null or source.manifest=null",
        )
    _one_of("source.compare", config.source.compare, ("listing", "content"))
    try:
        config.source.choice()
    except ValueError as error:
        raise UserError(
            f"source.audio_stream={error}, nor all",
            "it says which sound track is taken of a file that has several; numbers count from 0",
            "source.audio_stream=default",
        ) from None
    _one_of("source.gone", config.source.gone, ("keep", "mark", "drop"))
    if config.source.limit is not None and config.source.limit < 1:
        raise _refuse(config.source, "source.limit", "must be at least 1, or null for no limit")


def _check_paths_on_a_cluster(config: ExtractConfig) -> None:
    """A submitted job runs in a copy of the working directory, which is thrown away."""
    uris = {
        "source.uri": config.source.uri,
        "source.manifest": config.source.manifest,
        "output.uri": config.output.uri,
    }
    for key, uri in uris.items():
        if uri and is_relative(uri):
            raise UserError(
                f"{key}={uri} is relative",
                "on a cluster the job runs in a copy of this folder, which is thrown away",
                f"{key}=/an/absolute/path on a disk that all nodes share, or a URL such as s3://BUCKET/PREFIX",
            )


def _check_features(config: ExtractConfig) -> None:
    features, blobs = config.features, config.blobs
    _each_of("features.enabled", features.enabled, sorted(REGISTRY))
    for name in features.enabled:
        if features.enabled.count(name) > 1:
            once = ",".join(dict.fromkeys(features.enabled))
            raise UserError(f"features.enabled names {name} twice", do=f"features.enabled=[{once}]")
    if not 4000 <= features.sample_rate <= 192000:
        raise _refuse(features, "features.sample_rate", "must lie within 4000..192000 Hz")
    if not 10 <= features.block_seconds <= 3600:
        raise _refuse(features, "features.block_seconds", "must lie within 10..3600")
    for extractor in config.extractors():
        try:
            extractor.check()
        except ValueError as error:
            raise UserError(
                f"features.{extractor.name}.{error}", do=_own_defaults(extractor, str(error))
            ) from None
    _each_of("blobs.names", blobs.names, BLOB_NAMES)
    if blobs.max_inline_elements < 0:
        raise _refuse(blobs, "blobs.max_inline_elements", "must not be negative")


def _own_defaults(extractor: Any, said: str) -> str:
    """The defaults of the parameters that ``said`` names, as what to type."""
    named = {
        f.name: getattr(type(extractor)(), f.name)
        for f in dataclasses.fields(extractor)
        if re.search(rf"\b{f.name}\b", said)
    }
    return " ".join(f"features.{extractor.name}.{name}={value}" for name, value in named.items())


def _check_clap(clap: ClapConfig) -> None:
    _one_of("clap.aggregate", clap.aggregate, AGGREGATES)
    _one_of("clap.on_unavailable", clap.on_unavailable, ON_UNAVAILABLE)
    _one_of("clap.amp", amp_word(clap.amp), AMP)
    _one_of("clap.compile", amp_word(clap.compile), AMP)
    if not all(text.strip() for text in clap.text_queries):
        kept = ", ".join(f'"{text}"' for text in clap.text_queries if text.strip()) or '"a sad piano"'
        raise UserError(
            "clap.text_queries holds an empty text", "it is like nothing", f"'clap.text_queries=[{kept}]'"
        )
    if clap.text_queries and not clap.enabled:
        raise UserError(
            "clap.text_queries need the audio embeddings",
            "they are compared with those, and clap.enabled=false",
            "clap.enabled=true or clap.text_queries=[]",
        )
    _positive(clap, "clap.window_seconds")
    _positive(clap, "clap.hop_seconds")
    for key in ("clap.window_seconds", "clap.hop_seconds"):
        if getattr(clap, key.rpartition(".")[2]) < 0.01:
            raise _refuse(clap, key, "is below 0.01 s", "that makes millions of windows per track")
    if clap.window_seconds > 10:
        raise _refuse(clap, "clap.window_seconds", "exceeds the 10 s CLAP was trained on")
    if clap.hop_seconds > clap.window_seconds:
        raise UserError(
            f"clap.hop_seconds={clap.hop_seconds:g} exceeds clap.window_seconds={clap.window_seconds:g}",
            "audio between windows would be skipped",
            f"clap.hop_seconds={clap.window_seconds:g}",
        )
    if clap.max_batch_audio_seconds == 0:
        return  # worked out
    _positive(clap, "clap.max_batch_audio_seconds")
    if clap.max_batch_audio_seconds < clap.window_seconds:
        raise UserError(
            f"clap.max_batch_audio_seconds={clap.max_batch_audio_seconds:g} is below one window "
            f"(clap.window_seconds={clap.window_seconds:g})",
            do=f"clap.max_batch_audio_seconds={clap.window_seconds:g}, or 0, which is worked out",
        )


def _check_separation(separation: SeparationConfig) -> None:
    _one_of("separation.on_unavailable", separation.on_unavailable, ON_UNAVAILABLE)
    _one_of("separation.amp", amp_word(separation.amp), AMP)
    _one_of("separation.residual", separation.residual, RESIDUALS)
    _each_of("separation.backends", separation.backends, (AUTO, *BACKEND_NAMES))
    if AUTO in separation.backends and len(separation.backends) > 1:
        others = ",".join(name for name in separation.backends if name != AUTO) or AUTO
        raise UserError(
            "separation.backends names auto and others",
            "auto chooses among all backends: name it alone or leave it out",
            f"separation.backends=[auto] or separation.backends=[{others}]",
        )
    if not (math.isfinite(separation.auto_cpu_seconds) and separation.auto_cpu_seconds >= 0):
        raise _refuse(separation, "separation.auto_cpu_seconds", "must not be negative")
    if separation.enabled and not separation.backends:
        raise UserError(
            "separation.backends is empty",
            "there is no backend to separate with",
            "separation.enabled=false or separation.backends=[auto]",
        )


def _check_rest(config: ExtractConfig) -> None:
    config.cache.check(config.ray.address not in (None, "local"))
    config.plan.check()
    if not 0 <= config.max_failure_rate <= 1:
        raise _refuse(config, "max_failure_rate", "must lie within 0..1")
    if config.max_strikes < 1:
        raise _refuse(config, "max_strikes", "must be at least 1")
    if config.perf.threads < 1:
        raise _refuse(config.perf, "perf.threads", "must be at least 1")
    _check_hardware(config.hardware)


def _check_hardware(hardware: HardwareConfig) -> None:
    for key in ("hardware.block_audio_seconds", "hardware.max_files_per_block"):
        if hardware.name != "auto" or getattr(hardware, key.rpartition(".")[2]) != 0:
            _positive(hardware, key)
    _positive(hardware, "hardware.max_track_bytes")
    _positive(hardware, "hardware.max_track_hours")
    _positive(hardware, "hardware.decode_timeout_s")
    if hardware.decode_memory_bytes and hardware.decode_memory_bytes < MIN_MEMORY_BYTES:
        must = f"must be 0 (worked out) or at least {MIN_MEMORY_BYTES}"
        raise _refuse(hardware, "hardware.decode_memory_bytes", must)
    if not 0 < hardware.gpu_memory_fraction <= 1:
        raise _refuse(hardware, "hardware.gpu_memory_fraction", "must lie within 0..1, above 0")
    for stage, share in _of_gpu_stages("gpu_shares", hardware):
        if share < 0:
            raise UserError(
                f"hardware.gpu_shares.{stage}={share} is no share of a GPU",
                "it is the n of 1/n, because Ray packs actors onto a card by whole parts",
                f"hardware.gpu_shares.{stage}=4 for a quarter of a card, hardware.gpu_shares.{stage}=0 for the CPU",
            )
        if share and hardware.name == "auto":
            raise UserError(
                f"hardware.gpu_shares.{stage}={share} does not go with hardware=auto",
                "auto works the shares out",
                f"hardware=gpu_small to fix it, or hardware.gpu_shares.{stage}=0 and "
                f"hardware.vram_bytes.{stage}=BYTES to say what it needs",
            )
    for stage, count in hardware.actors.items():
        _stage_of("hardware.actors", stage, count, POOLS)
        if count < 0:
            raise _no_number("actors", stage, count, "automatic", "actors")
    for stage, size in _of_gpu_stages("vram_bytes", hardware):
        if size < 0:
            raise _no_number("vram_bytes", stage, size, "as measured", "bytes")
    for stage, items in hardware.batch_items.items():
        _stage_of("hardware.batch_items", stage, items, GPU_STAGES)
        if items < 0:
            raise _no_number("batch_items", stage, items, "automatic", "clips or windows")


def _no_number(key: str, stage: str, value: int, zero: str, of: str) -> UserError:
    return UserError(
        f"hardware.{key}.{stage}={value} must be 0 ({zero}) or a number of {of}",
        do=f"hardware.{key}.{stage}=0",
    )


def _of_gpu_stages(key: str, hardware: HardwareConfig) -> Iterator[tuple[str, int]]:
    """The entries of ``gpu_shares`` or ``vram_bytes``; one of the descriptors may say 0 and is left out."""
    for stage, value in getattr(hardware, key).items():
        if stage != "features":
            _stage_of(f"hardware.{key}", stage, value, GPU_STAGES)
            yield stage, value
        elif value:
            raise UserError(
                f"hardware.{key}.features={value}: the descriptors do not run on a GPU",
                "one CPU core does them at 222 times real time, an H100 at 290: their kernels are many and small",
                f"hardware.{key}.features=0; hardware.actors.features=N says how many processes compute them",
            )
