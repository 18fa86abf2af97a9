"""The configuration of the feature extraction job: plain typed dataclasses and the checks Hydra cannot make.

Nothing here imports Hydra: ``jobs/`` composes a config into these classes, a notebook can fill them by hand.
Defaults that read environment variables live in ``conf/``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.audio.isolated import MIN_MEMORY_BYTES, TIMEOUT_S
from pipeline.dataset.storage import public_uri
from pipeline.errors import UserError
from pipeline.features import REGISTRY, Extractor
from pipeline.features.run import BLOCK_SECONDS
from pipeline.models.precision import AMP, normalise_amp
from pipeline.models.separation import AUTO, BACKEND_NAMES, SeparationOptions
from pipeline.models.separation.choose import AUTO_CPU_SECONDS
from pipeline.workflows.cache_config import CacheConfig
from pipeline.workflows.plan_config import PlanConfig

AGGREGATES = ("mean", "weighted", "robust")
ON_UNAVAILABLE = ("skip", "fail")
# Every series that some extractor can store: those with a `*_blob` column.
BLOB_NAMES = tuple(
    field_.name.removesuffix("_blob")
    for name in sorted(REGISTRY)
    for field_ in REGISTRY[name].widest().columns()
    if field_.name.endswith("_blob")
)
GPU_STAGES = ("features", "clap", "separation")

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class SourceConfig:
    """Where the audio is.

    ``compare`` is how a later run tells that a file is the one in its tables: ``listing``, by size and by ETag or
    time of the last change; ``content``, by reading it.
    """

    uri: Optional[str] = None
    glob: Optional[str] = None
    manifest: Optional[str] = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    limit: Optional[int] = None
    compare: str = "listing"


@dataclass
class OutputConfig:
    """Where the tables go. With no storage options of its own it uses the source's.

    ``accept_other_numbers`` goes on where this machine computes other values than those in the tables.
    """

    uri: Optional[str] = None
    overwrite: bool = False
    accept_other_numbers: bool = False
    storage_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ClapConfig:
    """The CLAP stage."""

    enabled: bool = True
    checkpoint: Optional[str] = None
    window_seconds: float = 10.0
    hop_seconds: float = 5.0
    aggregate: str = "mean"
    max_batch_audio_seconds: float = 160.0
    amp: str = "auto"
    text_queries: list[str] = field(default_factory=list)
    tokenizer: Optional[str] = None
    on_unavailable: str = "skip"


@dataclass
class SeparationConfig:
    """The separation stage: ``[auto]``, or names of which the first that can run does."""

    enabled: bool = True
    backends: list[str] = field(default_factory=lambda: [AUTO])
    demucs_model: Optional[str] = None
    demucs_repo: Optional[str] = None
    openunmix_model: Optional[str] = None
    amp: str = "auto"
    auto_cpu_seconds: float = AUTO_CPU_SECONDS
    save_stems: bool = False
    save_arrays: bool = False
    on_unavailable: str = "skip"

    def options(self) -> SeparationOptions:
        """What the backends are told."""
        return SeparationOptions(self.demucs_model, self.demucs_repo, self.openunmix_model, self.amp)


@dataclass
class BlobsConfig:
    """Arrays too large for a row."""

    max_inline_elements: int = 4096
    names: list[str] = field(default_factory=lambda: list(BLOB_NAMES))


@dataclass
class HardwareConfig:
    """A profile: which share of a GPU each stage takes and how much audio travels in a block.

    ``gpu_shares.<stage>`` is the n of 1/n GPU per actor; 0 keeps the stage on the CPU.
    ``actors.<stage>`` fixes a pool's size; 0 sizes it from the cluster. ``gpu_memory_fraction`` of a card is what
    all actors on it may use together, each its 1/n of it. ``vram_bytes.<stage>`` is what one actor needs there, for
    ``hardware=auto``; 0 takes the estimate of `pipeline.engine.sizing`. ``auto`` fills in ``gpu_shares``, ``actors``
    that are 0, and the two block sizes where they are 0.
    Decoded audio of up to ``max_track_bytes`` travels between the stages; of a longer track (40 min of stereo with
    all stages on) each stage reads the source itself, in pieces. ``max_track_hours`` is the longest taken at all.
    A file of which no samples come for ``decode_timeout_s`` is a failure, however long one may take that gets on.
    ``decode_memory_bytes`` is what the process that decodes may take besides the views; 0 is twice
    ``max_track_bytes`` and 1 GiB.
    """

    name: str = "cpu"
    gpu_shares: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GPU_STAGES, 0))
    actors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("decode", *GPU_STAGES), 0))
    gpu_memory_fraction: float = 0.75
    vram_bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GPU_STAGES, 0))
    block_audio_seconds: float = 300.0
    max_files_per_block: int = 256
    max_track_bytes: int = 1_500_000_000
    max_track_hours: float = 24.0
    decode_timeout_s: float = TIMEOUT_S
    decode_memory_bytes: int = 0


@dataclass
class RayConfig:
    """How to reach or start Ray."""

    address: Optional[str] = None
    num_cpus: Optional[int] = None
    object_store_memory: Optional[int] = None


@dataclass
class PerfConfig:
    """Threads per actor for torch, OpenMP and MKL."""

    threads: int = 1


def extractor_config_class(cls: type[Extractor]) -> type:
    """A mutable twin of an extractor's frozen dataclass, which OmegaConf can override."""
    hints = typing.get_type_hints(cls)
    fields = []
    for f in dataclasses.fields(cls):
        if f.default_factory is not dataclasses.MISSING:
            fields.append((f.name, hints[f.name], field(default_factory=f.default_factory)))
        else:
            fields.append((f.name, hints[f.name], field(default=f.default)))
    return dataclasses.make_dataclass(f"{cls.__name__}Config", fields)


def _features_config_class() -> type:
    fields: list[tuple] = [
        ("enabled", list[str], field(default_factory=lambda: sorted(REGISTRY))),
        ("sample_rate", int, field(default=22050)),
        ("block_seconds", float, field(default=BLOCK_SECONDS)),
    ]
    for name in sorted(REGISTRY):
        config = extractor_config_class(REGISTRY[name])
        fields.append((name, config, field(default_factory=config)))
    return dataclasses.make_dataclass("FeaturesConfig", fields)


FeaturesConfig = _features_config_class()


@dataclass
class ExtractConfig:
    """Everything ``jobs/extract_features.py`` can be told."""

    source: SourceConfig = field(default_factory=SourceConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)  # type: ignore[valid-type]
    clap: ClapConfig = field(default_factory=ClapConfig)
    separation: SeparationConfig = field(default_factory=SeparationConfig)
    blobs: BlobsConfig = field(default_factory=BlobsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    perf: PerfConfig = field(default_factory=PerfConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    dry_run: bool = False
    max_failure_rate: float = 0.9
    max_strikes: int = 3
    seed: int = 0

    def output_options(self) -> dict[str, Any]:
        """Storage options of the output: its own, or the source's."""
        return dict(self.output.storage_options or self.source.storage_options)

    def extractors(self) -> list[Extractor]:
        """The enabled extractors with their parameters, in the order of their names."""
        return [
            REGISTRY[name](**dataclasses.asdict(getattr(self.features, name)))
            for name in sorted(self.features.enabled)
        ]

    def check(self) -> None:
        """Refuse what cannot work, in one line that names the key. Raises `UserError`."""
        _check_io(self)
        _check_features(self)
        _check_clap(self.clap)
        _check_separation(self.separation)
        _check_rest(self)


def config_from(values: dict[str, Any]) -> ExtractConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    return _filled(ExtractConfig(), values)


def _filled(config: Any, values: dict[str, Any]) -> Any:
    for f in dataclasses.fields(config):
        if f.name in values:
            current, value = getattr(config, f.name), values[f.name]
            nested = dataclasses.is_dataclass(current) and isinstance(value, dict)
            setattr(config, f.name, _filled(current, value) if nested else value)
    return config


def nearest(word: str, choices: typing.Iterable[str]) -> str:
    """``"; did you mean X?"`` for the choice most like ``word``, or an empty string."""
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else ""


def _one_of(key: str, value: str, choices: typing.Sequence[str]) -> None:
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
    _positive("clap.max_batch_audio_seconds", clap.max_batch_audio_seconds)
    if clap.window_seconds > 10:
        raise UserError(f"clap.window_seconds={clap.window_seconds:g} exceeds the 10 s CLAP was trained on")
    if clap.hop_seconds > clap.window_seconds:
        raise UserError(
            f"clap.hop_seconds={clap.hop_seconds:g} exceeds clap.window_seconds={clap.window_seconds:g}: "
            "audio between windows would be skipped"
        )
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
    for stage, share in hardware.gpu_shares.items():
        _one_of("hardware.gpu_shares", stage, GPU_STAGES)
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
        _one_of("hardware.actors", stage, ("decode", *GPU_STAGES))
        if count < 0:
            raise UserError(f"hardware.actors.{stage}={count} must be 0 (automatic) or a number of actors")
    for stage, size in hardware.vram_bytes.items():
        _one_of("hardware.vram_bytes", stage, GPU_STAGES)
        if size < 0:
            raise UserError(
                f"hardware.vram_bytes.{stage}={size} must be 0 (an estimate) or a number of bytes"
            )


# Storage options whose values are safe to write down; whatever else a file system takes may be a secret.
PUBLIC_OPTIONS = {"endpoint", "endpoint_url", "region", "region_name", "anon", "use_ssl", "verify", "mode"}
PUBLIC_OPTIONS |= {
    "connect_timeout",
    "read_timeout",
    "max_attempts",
    "requester_pays",
    "project",
    "account_name",
}


def redacted(config: Any) -> Any:
    """``config`` as plain dicts and lists, with every storage option replaced by ``***`` unless known as harmless."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {
            name: _redact_options(value) if name == "storage_options" else redacted(value)
            for name, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [redacted(value) for value in config]
    return public_uri(config) if isinstance(config, str) and "://" in config else config


def _redact_options(options: Any, name: str = "") -> Any:
    if isinstance(options, dict):
        return {key: _redact_options(value, str(key)) for key, value in options.items()}
    if options is None or name in PUBLIC_OPTIONS:
        return redacted(options)
    return "***"
