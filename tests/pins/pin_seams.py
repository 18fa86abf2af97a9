"""All that the pins import of the project: where a module is moved, this file is mended and no other one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
from in_process import InProcess

from pipeline.dataset.output import Output
from pipeline.dataset.sources.items import SourceItem
from pipeline.dataset.verify import check
from pipeline.engine.packing import pack, planned
from pipeline.models.clap.text import TextQueries
from pipeline.workflows import availability, stages, wanted_keys
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import write_demo
from pipeline.workflows.jobs import extract

__all__ = [
    "ExtractConfig",
    "in_this_process",
    "owners",
    "part_names",
    "problems",
    "run",
    "wanted",
    "write_demo",
]

QUERIES = ("a quiet song", "two people talking")


# What `InProcess` has a stand-in for, and the pins have not.
REAL = (
    "pipeline.stages.clap.worker.ClapWorker",
    "pipeline.workflows.execution.settle_golden",
    "pipeline.workflows.jobs.extract.EXTRACT",
)


class _Job(InProcess):
    """Runs of the job in this process with the real network, and the golden vectors of this machine."""

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = {name: resolve_name(name) for name in REAL}
        super()._patch(monkeypatch)
        for name, value in real.items():
            monkeypatch.setattr(name, value)
        monkeypatch.setattr(availability, "embed_queries", _embedded)


def _embedded(texts: Sequence[str], checkpoint: Any, tokenizer: str | None = None) -> TextQueries:
    """A stand-in for the text tower, which no package carries."""
    vectors = 2.0 * np.random.RandomState(4).random_sample((len(texts), 512)) - 1.0
    vectors /= np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return TextQueries(tuple(texts), vectors.astype(np.float32), "stand-in")


@contextmanager
def in_this_process() -> Iterator[None]:
    """Within it `run` needs no Ray, and finds no weights but those that a config names."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOUNDMILL_WEIGHTS", "/nonexistent/weights")
        patched.setenv("TORCH_HOME", "/nonexistent/torch")
        _Job(patched)
        yield


@contextmanager
def few_parts() -> Iterator[None]:
    """Within it five files on two cores lie in two parts, as many thousand would in hundreds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stages, "BLOCKS_PER_CPU", 1)
        yield


def run(config: ExtractConfig) -> Any:
    """The main job: its result, with ``exit_code`` and ``run_id``."""
    return extract.run(config, quiet=True)


def wanted(config: ExtractConfig) -> dict[str, str]:
    """Product → key."""
    return wanted_keys.wanted_keys(config, extract.find_models(config))


def owners(config: ExtractConfig) -> dict[str, str]:
    """Column of `tracks` → product."""
    return extract.find_models(config).pipeline(config).contents.owners


def part_names(uris: Sequence[str], most: int) -> list[str]:
    """Of the parts that these files would lie in, at most so many in each."""
    files = planned(SourceItem(uri, 1000) for uri in uris)
    return [block["part"][0].as_py() for block in pack(files, 300.0, most)]


def problems(output: Path) -> dict[str, int]:
    """What verify finds when it reads all there is."""
    return dict(check(Output(str(output)), deep=True)[0].counts)
