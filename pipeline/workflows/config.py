"""The configuration of the feature extraction job: plain typed dataclasses.

Nothing here imports Hydra: ``jobs/`` composes a config into these classes, a notebook can fill them by hand.
Defaults that read environment variables live in ``conf/``.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.audio.choice import FIRST, Choice, choice_of
from pipeline.audio.isolated import TIMEOUT_S
from pipeline.dataset.sources.sound_tracks import ALL_STREAMS
from pipeline.dataset.storage import public_uri
from pipeline.features import REGISTRY, Extractor
from pipeline.features.extraction import BLOCK_SECONDS
from pipeline.models.precision import normalise_amp
from pipeline.models.separation import AUTO, SeparationOptions
from pipeline.models.separation.names import ACCOMPANIMENT, AUTO_CPU_SECONDS
from pipeline.workflows.cache_config import CacheConfig
from pipeline.workflows.config_checks import BLOB_NAMES, GPU_STAGES, POOLS, check_all
from pipeline.workflows.plan_config import PlanConfig

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class SourceConfig:
    """Where the audio is.

    ``compare`` is how a later run tells that a file is the one in its tables: ``listing``, by size and by ETag or
    time of the last change; ``content``, by reading it. ``gone`` is what becomes of the row of a file that is there
    no longer: ``mark`` gives it the status ``gone``, ``drop`` removes it, ``keep`` leaves it as it is.
    ``audio_stream`` is which sound track is taken of files that have several: ``default``, the first; a number, of
    those with sound, from 0; ``language:xx``, the first in that language; ``all``, a row for each.
    """

    uri: Optional[str] = None
    glob: Optional[str] = None
    manifest: Optional[str] = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    limit: Optional[int] = None
    compare: str = "listing"
    gone: str = "mark"
    audio_stream: str = "default"

    def choice(self) -> Choice:
        """Which sound track is decoded where a listing does not say. Raises `ValueError` for what is none."""
        return FIRST if self.audio_stream == ALL_STREAMS else choice_of(self.audio_stream)


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
    max_batch_audio_seconds: float = 0.0
    amp: str = "auto"
    compile: str = "auto"
    text_queries: list[str] = field(default_factory=list)
    tokenizer: Optional[str] = None
    on_unavailable: str = "skip"


@dataclass
class SeparationConfig:
    """The separation stage: ``[auto]``, or names of which the first that can run does.

    ``residual`` is what becomes of the part of a track that is in none of its stems: ``accompaniment`` adds it to the
    stem that takes everything else, ``share`` splits it by the stems' energy, ``drop`` leaves it out.
    """

    enabled: bool = True
    backends: list[str] = field(default_factory=lambda: [AUTO])
    demucs_model: Optional[str] = None
    demucs_repo: Optional[str] = None
    openunmix_model: Optional[str] = None
    amp: str = "auto"
    auto_cpu_seconds: float = AUTO_CPU_SECONDS
    save_stems: bool = False
    save_arrays: bool = False
    residual: str = ACCOMPANIMENT
    on_unavailable: str = "skip"

    def options(self) -> SeparationOptions:
        """What the backends are told."""
        amp = normalise_amp(self.amp, "separation.amp")
        return SeparationOptions(self.demucs_model, self.demucs_repo, self.openunmix_model, amp)


@dataclass
class BlobsConfig:
    """Arrays too large for a row."""

    max_inline_elements: int = 4096
    names: list[str] = field(default_factory=lambda: list(BLOB_NAMES))


@dataclass
class HardwareConfig:
    """A profile: which share of a GPU each stage takes and how much audio travels in a block.

    ``gpu_shares.<stage>`` is the n of 1/n GPU per actor; 0 keeps the stage on the CPU, where ``decode`` and
    ``features`` always are. ``actors.<stage>`` fixes a pool's size; 0 sizes it from the cluster.
    ``batch_items.<stage>`` is how many clips, or windows of separation, a network takes at a time; 0 leaves it to
    the stage. ``gpu_memory_fraction`` of a card is what all actors on it may use together, each its 1/n of it.
    ``vram_bytes.<stage>`` is what one actor needs there, for ``hardware=auto``; 0 takes what `pipeline.engine.vram`
    knows of its batch. ``auto`` fills in ``gpu_shares``, and ``actors``, ``batch_items`` and the two block sizes where
    they are 0.
    Decoded audio of up to ``max_track_bytes`` travels between the stages; of a longer track (40 min of stereo with
    all stages on) each stage reads the source itself, in pieces. ``max_track_hours`` is the longest taken at all.
    A file of which no samples come for ``decode_timeout_s`` is a failure, however long one may take that gets on.
    ``decode_memory_bytes`` is what the process that decodes may take besides the views; 0 is twice
    ``max_track_bytes`` and 1 GiB.
    """

    name: str = "cpu"
    gpu_shares: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GPU_STAGES, 0))
    actors: dict[str, int] = field(default_factory=lambda: dict.fromkeys(POOLS, 0))
    batch_items: dict[str, int] = field(default_factory=lambda: dict.fromkeys(GPU_STAGES, 0))
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
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        check_all(self)


def config_from(values: dict[str, Any]) -> ExtractConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    config = _filled(ExtractConfig(), values)
    hardware = config.hardware
    # Versions up to 0.1 could put the descriptors on a GPU.
    for key in ("gpu_shares", "vram_bytes"):
        setattr(hardware, key, {s: n for s, n in getattr(hardware, key).items() if s != "features"})
    if hardware.name == "auto":
        # What was worked out for the cards of that run is worked out anew for those of this one.
        hardware.gpu_shares, hardware.batch_items = (dict.fromkeys(GPU_STAGES, 0) for _ in range(2))
    return config


def _filled(config: Any, values: dict[str, Any]) -> Any:
    for f in dataclasses.fields(config):
        if f.name in values:
            current, value = getattr(config, f.name), values[f.name]
            nested = dataclasses.is_dataclass(current) and isinstance(value, dict)
            setattr(config, f.name, _filled(current, value) if nested else value)
    return config


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
