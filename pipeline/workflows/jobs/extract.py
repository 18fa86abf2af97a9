"""Feature extraction: from its config and the models that were found to its stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.dataset.output import Output
from pipeline.engine.declare import Pipeline, Product, Stage
from pipeline.features.base import Extractor
from pipeline.features.golden import Golden
from pipeline.models.precision import normalise_amp
from pipeline.models.separation.names import STEMS
from pipeline.stages.beats.spec import beats_product, beats_stage
from pipeline.stages.clap.spec import clap_product, clap_stage
from pipeline.stages.features.spec import features_stage, known_extractors
from pipeline.stages.separation.spec import separation_product, separation_stage
from pipeline.stages.tags.spec import tags_product, tags_stage
from pipeline.workflows.availability import Models, check_paths, look_for
from pipeline.workflows.config import ExtractConfig, config_from
from pipeline.workflows.hardware import settle_compile
from pipeline.workflows.job import Job
from pipeline.workflows.outcome import Result
from pipeline.workflows.run import Asked, run_job


class ExtractModels(Models):
    """The models that were found, and the stages that they allow."""

    def pipeline(
        self,
        config: ExtractConfig,
        output: Output | None = None,
        *,
        everywhere: bool = False,
        golden: Golden | None = None,
    ) -> Pipeline:
        """The stages that the config asks for and the found models allow, see `Found.pipeline`."""
        stages: list[Stage] = []
        if config.features.enabled:
            stages.append(_features(config, golden))
        if self.tags_key is not None:
            stages.append(_tags(config, self.tags_key))
        if self.beats_key is not None:
            stages.append(beats_stage(self.beats_key, config.beats.options()))
        if self.clap_checkpoint is not None:
            stages.append(_clap(config, self))
        if config.separation.enabled:
            # Other machines may have backends that this one lacks, and so stems.
            stages.append(_separation(config, self, output, STEMS if everywhere else self.stems))
        return Pipeline(tuple(stages), known_products()).linked()

    def extractors(self, config: ExtractConfig) -> tuple[list[Extractor], int]:
        """The enabled ones, and the DSP rate."""
        return config.extractors(), config.features.sample_rate

    def settle(self, config: ExtractConfig, audio_s: float) -> tuple[ExtractConfig, Sequence[str]]:
        """Whether CLAP's network is compiled."""
        share = config.hardware.gpu_shares.get("clap", 0) if self.clap_checkpoint else 0
        clap, reasons = settle_compile(config.clap, share, audio_s)
        return dataclasses.replace(config, clap=clap), reasons

    def on_a_card(self, config: ExtractConfig, stage: str, sample: Any, backends: Mapping[str, int]) -> Any:
        """By the rates that were measured on one."""
        # Here: it loads what cuts windows, which only a plan needs.
        from pipeline.workflows.plan.gpu_rates import as_on_a_card

        return as_on_a_card(stage, sample, backends, config.clap)

    def hints(self, config: ExtractConfig, alone_s: Mapping[str, float]) -> Sequence[str]:
        """What separation costs, where that is most of it."""
        total, separation = sum(alone_s.values()), alone_s.get("separation", 0.0)
        if not total or separation <= 0.5 * total or config.separation.backends == ["midside"]:
            return ()
        return (
            f"separation is {separation / total:.0%} of the compute: separation.enabled=false leaves it out, "
            "separation.backends=[midside] is a rough one at a tenth of the price",
        )

    def header(self, config: ExtractConfig) -> dict[str, Any]:
        """How windows become one vector of a track."""
        return {"aggregate_strategy": config.clap.aggregate}

    def about(self, config: ExtractConfig) -> str:
        """Extractors, CLAP, separation, tags and beats."""
        return (
            f"features {', '.join(config.features.enabled) or 'none'} at {config.features.sample_rate} Hz; "
            f"CLAP {self.clap_model or 'off'}; separation {self.separation or 'off'}; "
            f"tags {'musicnn' if self.tags_key else self.tags_off or 'off'}; "
            f"beats {'BeatNet' if self.beats_key else self.beats_off or 'off'}"
        )


def find_models(config: ExtractConfig) -> ExtractModels:
    """Look for what the config asks for. Raises `UserError` where ``on_unavailable=fail`` or a path is wrong."""
    models = ExtractModels()
    look_for(config, models)
    return models


def _seeks(config: ExtractConfig) -> str:
    stages = (config.clap, config.separation, config.tags, config.beats)
    if any(stage.enabled for stage in stages):
        return "looking for the models and loading what names them"
    return ""


def known_products() -> tuple[Product, ...]:
    """Every product that this job can have, none of them computed."""
    return (*known_extractors(), clap_product(), separation_product(), tags_product(), beats_product())


def _features(config: ExtractConfig, golden: Golden | None) -> Stage:
    return features_stage(
        config.extractors(),
        config.features.sample_rate,
        blob_names=config.blobs.names,
        max_inline_elements=config.blobs.max_inline_elements,
        block_seconds=config.features.block_seconds,
        max_track_bytes=config.hardware.max_track_bytes,
        golden=golden,
    )


def _clap(config: ExtractConfig, models: Models) -> Stage:
    clap = config.clap
    return clap_stage(
        models.clap_checkpoint,
        models.clap_key,
        models.clap_model,
        queries=models.clap_queries,
        window_seconds=clap.window_seconds,
        hop_seconds=clap.hop_seconds,
        aggregate=clap.aggregate,
        max_batch_audio_seconds=clap.max_batch_audio_seconds,
        batch_items=config.hardware.batch_items.get("clap", 0),
        compile=normalise_amp(clap.compile, "clap.compile") == "true",
        amp=clap.amp,
    )


def _tags(config: ExtractConfig, key: str) -> Stage:
    tags = config.tags
    return tags_stage(key, segments=tags.segments, threshold=tags.threshold, amp=tags.amp)


def _separation(config: ExtractConfig, models: Models, output: Output | None, stems: Sequence[str]) -> Stage:
    separation = config.separation
    return separation_stage(
        separation.backends,
        models.separation_key,
        stems=stems,
        threads=config.perf.threads,
        backend=(models.separation or "midside").partition(" ")[0],
        options=separation.options(),
        auto_cpu_seconds=separation.auto_cpu_seconds,
        save_stems=separation.save_stems,
        save_arrays=separation.save_arrays,
        residual=separation.residual,
        batch_items=config.hardware.batch_items.get("separation", 0),
        output=output,
    )


EXTRACT = Job(
    "extract",
    "extract_features.py",
    config=config_from,
    find=find_models,
    unsought=ExtractModels,
    known=known_products,
    check=check_paths,
    seeks=_seeks,
)


def run(
    config: ExtractConfig,
    quiet: bool = False,
    retry: Sequence[str] = (),
    given: Sequence[str] = (),
    moments: Mapping[str, float] | None = None,
) -> Result:
    """Run the job, see `run_job` and `Asked`. Raises `UserError`."""
    return run_job(EXTRACT, config, Asked(quiet, retry, given, moments or {}))
