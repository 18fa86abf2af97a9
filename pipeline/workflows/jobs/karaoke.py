"""Karaoke: from its config and the backends that were found to its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import __version__
from pipeline.audio.song_formats import SongFormat
from pipeline.dataset.output import Output
from pipeline.engine.declare import Pipeline, Product
from pipeline.errors import UserError
from pipeline.features.golden import Golden
from pipeline.karaoke.calibration import calibration
from pipeline.models.separation.names import AUTO, BACKEND_NAMES, DROP, STEMS
from pipeline.stages.instrumental.spec import instrumental_product, instrumental_stage
from pipeline.stages.karaoke.spec import REMOVED, karaoke_product, karaoke_stage
from pipeline.stages.separation.spec import separation_key, separation_product, separation_stage
from pipeline.workflows.availability import backend_stems
from pipeline.workflows.job import Found, Job
from pipeline.workflows.karaoke_config import KaraokeConfig, config_from

METHOD = f"vocals removed by Soundmill {__version__}"
JUDGE = "spleeter"
"""The backend that looks for voice in the results of others: the calibration knows it."""


@dataclass
class KaraokeModels(Found):
    """What was found.

    Args:
        backend: for a short stereo song, and why it.
        stems: that some backend here may make.
        separation_key: the key of the separation columns.
        judge: `JUDGE`, where it is here.
        judged_by: its version and model.
    """

    backend: str = "midside"
    stems: tuple[str, ...] = STEMS
    separation_key: str | None = None
    judge: str | None = None
    judged_by: str = ""

    def pipeline(
        self,
        config: KaraokeConfig,
        output: Output | None = None,
        *,
        everywhere: bool = False,
        golden: Golden | None = None,
    ) -> Pipeline:
        """Separate, score, encode, see `Found.pipeline`."""
        options, method = config.karaoke.options(), config.karaoke.method
        separate = separation_stage(
            config.karaoke.backends(),
            self.separation_key,
            stems=STEMS if everywhere else self.stems,
            threads=config.perf.threads,
            backend=self.backend.partition(" ")[0],
            makes_vocals=True,
            options=options,
            auto_cpu_seconds=config.karaoke.auto_cpu_seconds,
            residual=DROP,
            takes_near_mono=False,
            batch_items=config.hardware.batch_items.get("separation", 0),
        )
        judged = karaoke_stage(
            calibration().version,
            judge=self.judge,
            judged_by=self.judged_by,
            compare=method == AUTO,
            options=options,
        )
        encode = instrumental_stage(
            REMOVED,
            config.karaoke.form(),
            keep=config.karaoke.keep,
            ceiling_dbtp=config.karaoke.ceiling_dbtp,
            sample_rate=config.karaoke.sample_rate,
            channels=config.karaoke.channels,
            output=output,
            method=METHOD,
        )
        return Pipeline((separate, judged, encode), known_products()).linked()

    def hints(self, config: KaraokeConfig, alone_s: Mapping[str, float]) -> Sequence[str]:
        """What the network costs, where that is most of it."""
        total, separation = sum(alone_s.values()), alone_s.get("separation", 0.0)
        if not total or separation <= 0.5 * total or config.karaoke.method == "midside":
            return ()
        return (
            f"separation is {separation / total:.0%} of the compute: karaoke.method=midside is a rough one at a tenth "
            "of the price",
        )

    def about(self, config: KaraokeConfig) -> str:
        """Method, judge and format."""
        kept = f", {', '.join(config.karaoke.keep)} kept" if config.karaoke.keep else ""
        return f"vocals removed by {self.backend}; judged by {self.judge or 'nobody'}; {config.karaoke.format}{kept}"


def find_models(config: KaraokeConfig) -> KaraokeModels:
    """Look for what the config asks for. Raises `UserError` where no backend can run."""
    from pipeline.models.separation.base import BackendUnavailable
    from pipeline.models.separation.choose import choose, forget_backends, load_backend

    options, wanted = config.karaoke.options(), config.karaoke.backends()

    def load(name: str) -> Any:
        return load_backend(name, options=options)

    found = KaraokeModels()
    try:
        choice = choose(wanted, load)
        if choice.separator is None:
            raise UserError(
                f"karaoke.method={config.karaoke.method} cannot run here",
                choice.reason,
                "karaoke.method=auto, or python jobs/models.py fetch spleeter-2stems",
            )
        found.backend = f"{choice.separator.name} ({choice.reason})"
        listed = BACKEND_NAMES if wanted == [AUTO] else wanted
        found.stems = backend_stems(listed, load, DROP)
        saved = {
            "auto_cpu_seconds": config.karaoke.auto_cpu_seconds,
            "save_stems": False,
            "save_arrays": False,
            "takes_near_mono": False,
        }
        found.separation_key = separation_key(wanted, load, options, {**saved, "residual": DROP})
        try:
            judge = load(JUDGE)
            found.judge, found.judged_by = JUDGE, f"{judge.version}:{judge.model_id()}"
        except BackendUnavailable as missing:
            found.warnings.append(
                f"nobody judges the results, and intervals are wider: {JUDGE} is not here ({missing})"
            )
    finally:
        forget_backends()
    return found


def known_products() -> tuple[Product, ...]:
    """Every product that this job can have, none of them computed."""
    return (separation_product(), karaoke_product(), instrumental_product(SongFormat("mp3")))


KARAOKE = Job(
    "karaoke",
    "karaoke.py",
    config=config_from,
    find=find_models,
    unsought=KaraokeModels,
    known=known_products,
    seeks=lambda config: "looking for the models and loading what names them",
)
