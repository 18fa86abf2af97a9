"""The configuration of the feature extraction job: plain typed dataclasses, see `pipeline.workflows.run_config`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.errors import UserError
from pipeline.features import Extractor
from pipeline.models.beats.names import FASTEST_BPM, METERS, SLOWEST_BPM, BeatOptions
from pipeline.models.clap.aggregate import AGGREGATES
from pipeline.models.clap.defaults import HOP_SECONDS, WINDOW_SECONDS
from pipeline.models.precision import AMP, amp_word, normalise_amp
from pipeline.models.separation import AUTO, BACKEND_NAMES, SeparationOptions
from pipeline.models.separation.names import ACCOMPANIMENT, AUTO_CPU_SECONDS, RESIDUALS
from pipeline.models.tags.names import THRESHOLD
from pipeline.workflows.config_checks import ON_UNAVAILABLE, each_of, filled, one_of, positive, refused
from pipeline.workflows.features_config import SERIES, FeaturesConfig
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.run_config import BlobsConfig, RunConfig

GPU_STAGES = ("clap", "separation")
NETWORKS = (*GPU_STAGES, "tags", "beats")
"""The stages with weights, each a section of the config."""
POOLS = ("decode", "features", *NETWORKS)

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class ClapConfig:
    """The CLAP stage."""

    enabled: bool = True
    checkpoint: Optional[str] = None
    window_seconds: float = WINDOW_SECONDS
    hop_seconds: float = HOP_SECONDS
    aggregate: str = "mean"
    max_batch_audio_seconds: float = 0.0
    amp: str = "auto"
    compile: str = "auto"
    text_queries: list[str] = field(default_factory=list)
    tokenizer: Optional[str] = None
    on_unavailable: str = "skip"

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("clap.aggregate", self.aggregate, AGGREGATES)
        one_of("clap.on_unavailable", self.on_unavailable, ON_UNAVAILABLE)
        one_of("clap.amp", amp_word(self.amp), AMP)
        one_of("clap.compile", amp_word(self.compile), AMP)
        if not all(text.strip() for text in self.text_queries):
            kept = ", ".join(f'"{text}"' for text in self.text_queries if text.strip()) or '"a sad piano"'
            raise UserError(
                "clap.text_queries holds an empty text", "it is like nothing", f"'clap.text_queries=[{kept}]'"
            )
        if self.text_queries and not self.enabled:
            raise UserError(
                "clap.text_queries need the audio embeddings",
                "they are compared with those, and clap.enabled=false",
                "clap.enabled=true or clap.text_queries=[]",
            )
        positive(self, "clap.window_seconds")
        positive(self, "clap.hop_seconds")
        for key in ("clap.window_seconds", "clap.hop_seconds"):
            if getattr(self, key.rpartition(".")[2]) < 0.01:
                raise refused(self, key, "is below 0.01 s", "that makes millions of windows per track")
        if self.window_seconds > 10:
            raise refused(self, "clap.window_seconds", "exceeds the 10 s CLAP was trained on")
        if self.hop_seconds > self.window_seconds:
            raise UserError(
                f"clap.hop_seconds={self.hop_seconds:g} exceeds clap.window_seconds={self.window_seconds:g}",
                "audio between windows would be skipped",
                f"clap.hop_seconds={self.window_seconds:g}",
            )
        if self.max_batch_audio_seconds == 0:
            return  # worked out
        positive(self, "clap.max_batch_audio_seconds")
        if self.max_batch_audio_seconds < self.window_seconds:
            raise UserError(
                f"clap.max_batch_audio_seconds={self.max_batch_audio_seconds:g} is below one window "
                f"(clap.window_seconds={self.window_seconds:g})",
                do=f"clap.max_batch_audio_seconds={self.window_seconds:g}, or 0, which is worked out",
            )


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

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("separation.on_unavailable", self.on_unavailable, ON_UNAVAILABLE)
        one_of("separation.amp", amp_word(self.amp), AMP)
        one_of("separation.residual", self.residual, RESIDUALS)
        each_of("separation.backends", self.backends, (AUTO, *BACKEND_NAMES))
        if AUTO in self.backends and len(self.backends) > 1:
            others = ",".join(name for name in self.backends if name != AUTO) or AUTO
            raise UserError(
                "separation.backends names auto and others",
                "auto chooses among all backends: name it alone or leave it out",
                f"separation.backends=[auto] or separation.backends=[{others}]",
            )
        if not (math.isfinite(self.auto_cpu_seconds) and self.auto_cpu_seconds >= 0):
            raise refused(self, "separation.auto_cpu_seconds", "must not be negative")
        if self.enabled and not self.backends:
            raise UserError(
                "separation.backends is empty",
                "there is no backend to separate with",
                "separation.enabled=false or separation.backends=[auto]",
            )


@dataclass
class TagsConfig:
    """The tags stage. ``enabled`` null is on where the weights are; true refuses to start without them."""

    enabled: Optional[bool] = None
    threshold: float = THRESHOLD
    segments: bool = False
    amp: str = "auto"

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("tags.amp", amp_word(self.amp), AMP)
        if not 0 < self.threshold < 1:
            raise refused(self, "tags.threshold", "must lie within 0..1, both excluded")


@dataclass
class BeatsConfig:
    """The beats stage. ``enabled`` null is on where the weights are; true refuses to start without them."""

    enabled: Optional[bool] = None
    meters: list[int] = field(default_factory=lambda: [2, 3, 4])
    min_bpm: float = 40.0
    max_bpm: float = 300.0

    def options(self) -> BeatOptions:
        """What the tracker is told."""
        return BeatOptions(tuple(sorted(set(self.meters))), self.min_bpm, self.max_bpm)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        known = ", ".join(map(str, METERS))
        if not self.meters or not set(self.meters) <= set(METERS):
            raise UserError(
                f"beats.meters={self.meters} does not name meters of {known}",
                "they are the beats of a bar that are considered",
                "beats.meters=[2,3,4]",
            )
        for key in ("beats.min_bpm", "beats.max_bpm"):
            if not SLOWEST_BPM <= getattr(self, key.rpartition(".")[2]) <= FASTEST_BPM:
                raise refused(self, key, f"must lie within {SLOWEST_BPM:g}..{FASTEST_BPM:g}")
        if self.max_bpm < 2 * self.min_bpm:
            raise UserError(
                f"beats.max_bpm={self.max_bpm:g} is less than twice beats.min_bpm={self.min_bpm:g}",
                "within less than an octave some music has no tempo",
                f"beats.max_bpm={2 * self.min_bpm:g}",
            )


@dataclass
class ExtractConfig(RunConfig):
    """Everything ``jobs/extract_features.py`` can be told.

    ``stages`` are the networks that run, by name, each of which refuses to start without its weights; null is whatever
    the sections of the networks say themselves.
    """

    stages: Optional[list[str]] = None
    blobs: BlobsConfig = field(default_factory=lambda: BlobsConfig(names=list(SERIES)))
    hardware: HardwareConfig = field(default_factory=lambda: HardwareConfig.for_stages(POOLS, GPU_STAGES))
    features: FeaturesConfig = field(default_factory=FeaturesConfig)  # type: ignore[valid-type]
    clap: ClapConfig = field(default_factory=ClapConfig)
    separation: SeparationConfig = field(default_factory=SeparationConfig)
    tags: TagsConfig = field(default_factory=TagsConfig)
    beats: BeatsConfig = field(default_factory=BeatsConfig)

    def __post_init__(self) -> None:
        """A config that names its stages is one in which no other is enabled."""
        if self.stages is not None:
            self.run_only(self.stages)

    def run_only(self, networks: Sequence[str]) -> None:
        """Turn the networks off that are not named; whoever names one wants it, or a word why not."""
        for name in NETWORKS:
            section = getattr(self, name)
            if name not in networks:
                section.enabled = False
                continue
            if section.enabled is None:
                section.enabled = True
            if hasattr(section, "on_unavailable"):
                section.on_unavailable = "fail"

    def extractors(self) -> list[Extractor]:
        """The enabled extractors with their parameters, in the order of their names."""
        return self.features.extractors()

    def pools(self) -> tuple[str, ...]:
        """Decoding, descriptors and the networks."""
        return POOLS

    def gpu_stages(self) -> tuple[str, ...]:
        """The networks."""
        return GPU_STAGES

    def arrays(self) -> tuple[str, ...]:
        """The series of the extractors."""
        return SERIES

    def questions(self) -> tuple[str, ...]:
        """The places, what is computed, and on what machine."""
        stems = ("separation.save_stems",) if self.separation.enabled else ()
        networks = ("clap.enabled", "separation.enabled", *stems, "tags.enabled", "beats.enabled")
        named = self.stages is not None  # whoever named them has answered
        return (*super().questions(), "features.enabled", *(stems if named else networks), "hardware")

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        super().check()
        self._check_stages()
        self.features.check()
        self.clap.check()
        self.separation.check()
        self.tags.check()
        self.beats.check()

    def _check_stages(self) -> None:
        each_of("stages", self.stages or (), NETWORKS)
        for name in self.stages or ():
            if not getattr(self, name).enabled:
                raise UserError(
                    f"stages names {name}, and {name}.enabled=false",
                    do=f"{name}.enabled=true, or stages=[{','.join(s for s in self.stages or () if s != name)}]",
                )
        if self.stages is not None and "clap" not in self.stages and self.clap.text_queries:
            raise UserError(
                "clap.text_queries need the audio embeddings",
                f"they are compared with those, and stages=[{','.join(self.stages)}] leaves clap out",
                f"stages=[{','.join(('clap', *self.stages))}] or clap.text_queries=[]",
            )


def config_from(values: dict[str, Any]) -> ExtractConfig:
    """The config that a run wrote down as ``config.yaml``; what it does not say, or this version does not know, is
    the default."""
    config = filled(ExtractConfig(), values)
    hardware = config.hardware
    # Versions up to 0.1 could put the descriptors on a GPU.
    for key in ("gpu_shares", "vram_bytes"):
        setattr(hardware, key, {s: n for s, n in getattr(hardware, key).items() if s != "features"})
    if hardware.name == "auto":
        # What was worked out for the cards of that run is worked out anew for those of this one.
        hardware.gpu_shares, hardware.batch_items = (dict.fromkeys(GPU_STAGES, 0) for _ in range(2))
    return config
