"""What Hydra and OmegaConf cannot check of a config: each mistake is a `UserError` that names the key."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.audio.isolated import MIN_MEMORY_BYTES
from pipeline.errors import UserError
from pipeline.features import REGISTRY
from pipeline.models.precision import AMP, normalise_amp
from pipeline.models.separation import AUTO, BACKEND_NAMES

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


def nearest(word: str, choices: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the choice most like ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def _one_of(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(
            f"{key}={value} is not one of {', '.join(choices)}{nearest(value, choices)}",
            do=f"{key}={(difflib.get_close_matches(value, list(choices), n=1, cutoff=0.5) or choices)[0]}",
        )


def _positive(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{key}={value:g} must be greater than 0")


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
    for key, uri in (("source.uri", config.source.uri), ("output.uri", config.output.uri)):
        if uri and "@" in uri.partition("://")[2].split("/", 1)[0]:
            raise UserError(
                f"{key} carries credentials",
                "they would be written down with it",
                f"'{key.partition('.')[0]}.storage_options={{key: K, secret: S}}'",
            )
    if config.output.uri.startswith("memory:"):
        raise UserError("output.uri=memory:// is seen by one process only; type a folder or a bucket")
    if config.ray.address not in (None, "local"):
        _check_paths_on_a_cluster(config)
    if config.source.manifest and config.source.glob:
        raise UserError("source.glob does not apply to source.manifest: leave one of them out")
    _one_of("source.compare", config.source.compare, ("listing", "content"))
    if config.source.limit is not None and config.source.limit < 1:
        raise UserError(f"source.limit={config.source.limit} must be at least 1, or null for no limit")


def _check_paths_on_a_cluster(config: ExtractConfig) -> None:
    """A submitted job runs in a copy of the working directory, which is thrown away."""
    uris = {
        "source.uri": config.source.uri,
        "source.manifest": config.source.manifest,
        "output.uri": config.output.uri,
    }
    for key, uri in uris.items():
        if uri and "://" not in uri and not uri.startswith(("/", "~")):
            raise UserError(
                f"{key}={uri} is relative",
                "on a cluster the job runs in a copy of this folder, which is thrown away",
                f"{key}=/an/absolute/path on a disk that all nodes share, or a URL such as s3://BUCKET/PREFIX",
            )


def _check_features(config: ExtractConfig) -> None:
    for name in config.features.enabled:
        _one_of("features.enabled", name, sorted(REGISTRY))
        if config.features.enabled.count(name) > 1:
            raise UserError(f"features.enabled names {name} twice")
    if not 4000 <= config.features.sample_rate <= 192000:
        raise UserError(f"features.sample_rate={config.features.sample_rate} must lie within 4000..192000 Hz")
    if not 10 <= config.features.block_seconds <= 3600:
        raise UserError(f"features.block_seconds={config.features.block_seconds:g} must lie within 10..3600")
    for extractor in config.extractors():
        try:
            extractor.check()
        except ValueError as error:
            raise UserError(f"features.{extractor.name}.{error}") from None
    for name in config.blobs.names:
        _one_of("blobs.names", name, BLOB_NAMES)
    if config.blobs.max_inline_elements < 0:
        raise UserError(f"blobs.max_inline_elements={config.blobs.max_inline_elements} must not be negative")


def _check_clap(clap: ClapConfig) -> None:
    _one_of("clap.aggregate", clap.aggregate, AGGREGATES)
    _one_of("clap.on_unavailable", clap.on_unavailable, ON_UNAVAILABLE)
    normalise_amp(clap.amp, "clap.amp")
    normalise_amp(clap.compile, "clap.compile")
    for text in clap.text_queries:
        if not text.strip():
            raise UserError("clap.text_queries holds an empty text: type clap.text_queries=['a sad piano']")
    if clap.text_queries and not clap.enabled:
        raise UserError("clap.text_queries need the audio embeddings: type clap.enabled=true")
    _positive("clap.window_seconds", clap.window_seconds)
    _positive("clap.hop_seconds", clap.hop_seconds)
    for key, seconds in (("window_seconds", clap.window_seconds), ("hop_seconds", clap.hop_seconds)):
        if seconds < 0.01:
            raise UserError(f"clap.{key}={seconds:g} is below 0.01 s: millions of windows per track")
    if clap.window_seconds > 10:
        raise UserError(f"clap.window_seconds={clap.window_seconds:g} exceeds the 10 s CLAP was trained on")
    if clap.hop_seconds > clap.window_seconds:
        raise UserError(
            f"clap.hop_seconds={clap.hop_seconds:g} exceeds clap.window_seconds={clap.window_seconds:g}: "
            "audio between windows would be skipped"
        )
    if clap.max_batch_audio_seconds == 0:
        return  # worked out
    _positive("clap.max_batch_audio_seconds", clap.max_batch_audio_seconds)
    if clap.max_batch_audio_seconds < clap.window_seconds:
        raise UserError(
            f"clap.max_batch_audio_seconds={clap.max_batch_audio_seconds:g} is below one window "
            f"(clap.window_seconds={clap.window_seconds:g})"
        )


def _check_separation(separation: SeparationConfig) -> None:
    _one_of("separation.on_unavailable", separation.on_unavailable, ON_UNAVAILABLE)
    _one_of("separation.amp", separation.amp, AMP)
    for name in separation.backends:
        _one_of("separation.backends", name, (AUTO, *BACKEND_NAMES))
    if AUTO in separation.backends and len(separation.backends) > 1:
        raise UserError("separation.backends: auto chooses among all backends; name it alone or leave it out")
    if not (math.isfinite(separation.auto_cpu_seconds) and separation.auto_cpu_seconds >= 0):
        raise UserError(f"separation.auto_cpu_seconds={separation.auto_cpu_seconds:g} must not be negative")
    if separation.enabled and not separation.backends:
        raise UserError("separation.backends is empty: name a backend or type separation.enabled=false")


def _check_rest(config: ExtractConfig) -> None:
    config.cache.check(config.ray.address not in (None, "local"))
    config.plan.check()
    if not 0 <= config.max_failure_rate <= 1:
        raise UserError(f"max_failure_rate={config.max_failure_rate:g} must lie within 0..1")
    if config.max_strikes < 1:
        raise UserError(f"max_strikes={config.max_strikes} must be at least 1")
    if config.perf.threads < 1:
        raise UserError(f"perf.threads={config.perf.threads} must be at least 1")
    _check_hardware(config.hardware)


def _check_hardware(hardware: HardwareConfig) -> None:
    for key in ("block_audio_seconds", "max_files_per_block"):
        value = getattr(hardware, key)
        if hardware.name != "auto" or value != 0:
            _positive(f"hardware.{key}", value)
    _positive("hardware.max_track_bytes", hardware.max_track_bytes)
    _positive("hardware.max_track_hours", hardware.max_track_hours)
    _positive("hardware.decode_timeout_s", hardware.decode_timeout_s)
    if hardware.decode_memory_bytes and hardware.decode_memory_bytes < MIN_MEMORY_BYTES:
        raise UserError(
            f"hardware.decode_memory_bytes={hardware.decode_memory_bytes} must be 0 (worked out) or at least "
            f"{MIN_MEMORY_BYTES}"
        )
    if not 0 < hardware.gpu_memory_fraction <= 1:
        raise UserError(
            f"hardware.gpu_memory_fraction={hardware.gpu_memory_fraction:g} must lie within 0..1, above 0"
        )
    for stage, share in _of_gpu_stages("gpu_shares", hardware):
        if share < 0:
            raise UserError(
                f"hardware.gpu_shares.{stage}={share} is no share of a GPU",
                "it is the n of 1/n, because Ray packs actors onto a card by whole parts",
                f"hardware.gpu_shares.{stage}=4 for a quarter of a card, 0 for the CPU",
            )
        if share and hardware.name == "auto":
            raise UserError(
                f"hardware.gpu_shares.{stage}={share}: hardware=auto works it out; type hardware=gpu_small to fix it, "
                f"or hardware.vram_bytes.{stage}=BYTES to say what it needs"
            )
    for stage, count in hardware.actors.items():
        _one_of("hardware.actors", stage, POOLS)
        if count < 0:
            raise UserError(f"hardware.actors.{stage}={count} must be 0 (automatic) or a number of actors")
    for stage, size in _of_gpu_stages("vram_bytes", hardware):
        if size < 0:
            raise UserError(
                f"hardware.vram_bytes.{stage}={size} must be 0 (as measured) or a number of bytes"
            )
    for stage, items in hardware.batch_items.items():
        _one_of("hardware.batch_items", stage, GPU_STAGES)
        if items < 0:
            raise UserError(
                f"hardware.batch_items.{stage}={items} must be 0 (automatic) or a number of clips or windows"
            )


def _of_gpu_stages(key: str, hardware: HardwareConfig) -> Iterator[tuple[str, int]]:
    """The entries of ``gpu_shares`` or ``vram_bytes``; one of the descriptors may say 0 and is left out."""
    for stage, value in getattr(hardware, key).items():
        if stage != "features":
            _one_of(f"hardware.{key}", stage, GPU_STAGES)
            yield stage, value
        elif value:
            raise UserError(
                f"hardware.{key}.features={value}: the descriptors do not run on a GPU",
                "one CPU core does them at 222 times real time, an H100 at 290: their kernels are many and small",
                "leave it out; hardware.actors.features=N says how many processes compute them",
            )
