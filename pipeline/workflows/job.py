"""What a job is to the workflows: what it looks for before anything is computed, and the stages that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from pipeline.dataset.output import Output
from pipeline.engine.declare import Pipeline, Product
from pipeline.errors import Fallback
from pipeline.features.base import Extractor
from pipeline.features.golden import Golden
from pipeline.workflows.run_config import RunConfig


@dataclass
class Found:
    """What a job found before it starts: models, for most. A job derives its own from this.

    Args:
        fallbacks: steps away from the config, recorded in every decoded row.
        warnings: one line each, for the log.
    """

    fallbacks: list[Fallback] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def pipeline(
        self,
        config: Any,
        output: Output | None = None,
        *,
        everywhere: bool = False,
        golden: Golden | None = None,
    ) -> Pipeline:
        """The stages of a run, with their keys linked.

        Args:
            output: where artifacts go.
            everywhere: declare what any machine may fill, and not only this one.
            golden: what every node's extractors must say of a known signal; None lets them say what they will.
        """
        raise NotImplementedError

    def extractors(self, config: Any) -> tuple[list[Extractor], int]:
        """Those whose golden vectors are compared with the output's, and their sample rate in Hz."""
        return [], 0

    def settle(self, config: Any, audio_s: float) -> tuple[Any, Sequence[str]]:
        """The config once the hardware is known, and why it was changed, line by line.

        Args:
            audio_s: to be computed, roughly.
        """
        return config, ()

    def on_a_card(self, config: Any, stage: str, sample: Any, backends: Mapping[str, int]) -> Any:
        """What a stage's sample would have taken on a card, for plans that are made where there is none.

        Args:
            sample: a `pipeline.workflows.plan.cost.StageSample`, as measured on the CPU.
            backends: as measured, names → files.
        """
        return sample

    def hints(self, config: Any, alone_s: Mapping[str, float]) -> Sequence[str]:
        """Remarks for a plan, such as what would make the run cheaper.

        Args:
            alone_s: stage → seconds that it takes of an idle machine.
        """
        return ()

    def header(self, config: Any) -> dict[str, Any]:
        """What the head of the run's ``manifest.json`` says besides."""
        return {}

    def about(self, config: Any) -> str:
        """What is computed with which parameters, in one line for the log."""
        return ", ".join(self.pipeline(config).keys())


@dataclass(frozen=True)
class Job:
    """A kind of run.

    Args:
        name: of the job.
        script: the file in ``jobs/`` that runs it.
        config: from what a run wrote down as ``config.yaml`` to a config; what it does not say is the default.
        find: from the checked config to what is there. Raises `UserError`.
        unsought: what can be said before anything is looked for.
        known: every product that an output of the job may hold, for the data dictionary.
        check: refuses what needs no looking. Raises `UserError`.
        seeks: what `find` looks for, for whoever waits; empty where it takes no time.
        afterwards: what is made of all rows of the output together, once they are there, and again only as far as they
            have changed; what it did, line by line.
    """

    name: str
    script: str
    _: KW_ONLY
    config: Callable[[dict[str, Any]], RunConfig]
    find: Callable[[Any], Found]
    unsought: Callable[[], Found]
    known: Callable[[], tuple[Product, ...]] = lambda: ()
    check: Callable[[Any], None] = lambda config: None
    seeks: Callable[[Any], str] = lambda config: ""
    afterwards: Callable[[Any, Output], Sequence[str]] = lambda config, output: ()
