"""``--multirun``: every combination of the swept values into an output of its own, and a table in the end."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from pipeline.dataset.output import Output
from pipeline.dataset.storage import absolute
from pipeline.errors import UserError
from pipeline.report.comparison import Trial, comparison, comparison_markdown
from pipeline.workflows.outcome import Result
from pipeline.workflows.run_config import RunConfig


def _given() -> dict[str, str]:
    """The overrides of this combination, but for those that may be secrets: they end up in files."""
    pairs = (line.lstrip("+").split("=", 1) for line in HydraConfig.get().overrides.task)
    return {key: value for key, value in pairs if "storage_options" not in key}


@dataclass
class Sweep:
    """The runs of this process, where it was started with ``--multirun``."""

    trials: list[Trial] = field(default_factory=list)
    output: Output | None = None

    def own_output(self, config: RunConfig) -> RunConfig:
        """``config`` with an output for this combination alone: in a shared one the second has nothing to do."""
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            return config
        number = int(hydra.job.num)
        if self.output is None:
            if absolute(config.output.uri).startswith(f"{absolute(config.source.uri or '')}/"):
                raise UserError(
                    f"output.uri={config.output.uri} lies within source.uri={config.source.uri}",
                    "stems of one combination would be the input of the next",
                    "another output.uri",
                )
            self.output = Output(config.output.uri, config.output_options())
        config.output.uri = f"{self.output.uri}/{number:02d}"
        given = " ".join(f"{key}={value}" for key, value in _given().items())
        print(f"\ncombination {number}: {given}", file=sys.stderr, flush=True)
        return config

    def add(self, result: Result) -> None:
        """Note how a combination ended."""
        if self.output is not None:
            self.trials.append(Trial(_given(), result.output, result.performance))

    def finish(self) -> None:
        """Print the table and leave it beside the outputs, as ``comparison.md`` and ``comparison.json``."""
        if self.output is None:
            return
        trials = [replace(trial, settings=self._swept(trial)) for trial in self.trials]
        rows = comparison(trials)
        table = comparison_markdown(rows)
        self.output.write("comparison.md", table.encode())
        self.output.write("comparison.json", (json.dumps(rows, indent=2) + "\n").encode())
        print(f"\n{table}\n{self.output.uri}/comparison.md", flush=True)

    def _swept(self, trial: Trial) -> dict[str, str]:
        """The settings of a trial that are not the same in all of them."""
        values = {key: {other.settings.get(key) for other in self.trials} for key in trial.settings}
        return {key: value for key, value in trial.settings.items() if len(values[key]) > 1}


if __name__ == "__main__":
    import preflight

    places = "source.uri=FOLDER output.uri=FOLDER"
    preflight.no_job(__doc__, f"python jobs/extract_features.py --multirun {places} perf.threads=1,2")
