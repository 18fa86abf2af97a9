"""The model of an output (`output_model`) over two jobs: extraction, and the toy job with its view, table and texts.

`make test` draws 200 sequences, the same each time; `make chaos` draws 2,000 longer ones of ten fixed seeds. A failing
one is printed as calls: paste them into a test below, after ``state = of_...``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from helpers.toy_job import TOY, ToyConfig
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from in_process import InProcess
from output_model import Model, Replayed, Settings

from pipeline.dataset.output import Output
from pipeline.dataset.tables.failures import retry_request
from pipeline.workflows import retry as failures
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.jobs import extract
from pipeline.workflows.run import Asked, run_job


@dataclass(frozen=True)
class OfExtraction(Settings):
    """What is switched on."""

    features: tuple[str, ...] = ("loudness",)
    clap: bool = True
    hop_seconds: float = 0.2
    separation: bool = False
    stems: bool = False

    def config(self, source: Path, output: Path) -> ExtractConfig:
        made = self.common(ExtractConfig(), source, output)
        made.features.enabled = list(self.features)
        made.clap.enabled, made.clap.window_seconds, made.clap.hop_seconds = self.clap, 0.2, self.hop_seconds
        made.separation.enabled, made.separation.backends = self.separation, ["midside"]
        made.separation.save_stems = self.stems
        made.blobs.max_inline_elements = 10
        return made

    def plain(self) -> OfExtraction:
        hop = self.hop_seconds if self.clap else 0.2
        return replace(self, hop_seconds=hop, stems=self.stems and self.separation)

    def wanted(self) -> set[str]:
        return {*self.features, *(name for name in ("clap", "separation") if getattr(self, name))}


class Extraction(Model):
    """Extractors, CLAP with its windows, separation with its stems."""

    begins_with = OfExtraction()

    def job(self, config: ExtractConfig) -> int:
        return extract.run(config, quiet=True).exit_code

    def job_again(self) -> int:
        return failures.retry(Output(str(self.output)))

    @rule(
        names=st.sampled_from(
            [("loudness",), ("loudness", "quality"), ("mfcc", "quality"), ("loudness", "mel")]
        )
    )
    def choose_features(self, names: tuple[str, ...]) -> None:
        """Other extractors; ``mel`` keeps its arrays in files."""
        self.change(features=names)

    @rule(clap=st.booleans(), hop=st.sampled_from([0.2, 0.1]))
    def choose_clap(self, clap: bool, hop: float) -> None:
        """CLAP on, off, or with another parameter."""
        self.change(clap=clap, hop_seconds=hop)

    @rule(separation=st.booleans(), stems=st.booleans())
    def choose_separation(self, separation: bool, stems: bool) -> None:
        """Separation on or off, with and without stems."""
        self.change(separation=separation, stems=stems)


@dataclass(frozen=True)
class OfToy(Settings):
    """The parameters of both stages. A file of full scale is too much for the second at a factor of 1/2."""

    factor: float = 0.5
    loud: float = 0.1

    def config(self, source: Path, output: Path) -> ToyConfig:
        return self.common(ToyConfig(factor=self.factor, loud=self.loud), source, output)

    def wanted(self) -> set[str]:
        return {"soft", "loud"}


class Toy(Model):
    """A view that a stage makes, a table and a text per file."""

    begins_with = OfToy()

    def job(self, config: ToyConfig, retry: tuple[str, ...] = ()) -> int:
        return run_job(TOY, config, Asked(quiet=True, retry=retry)).exit_code

    def job_again(self) -> int:
        uris = retry_request(Output(str(self.output))).uris
        return self.job(self.of_last_run.config(self.source, self.output), uris) if uris else 0

    @rule(factor=st.sampled_from([0.5, 0.25]), loud=st.sampled_from([0.1, 0.2]))
    def choose_parameters(self, factor: float, loud: float) -> None:
        """Of the maker of the view, of its reader, or of both."""
        self.change(factor=factor, loud=loud)


@pytest.fixture
def jobs(monkeypatch) -> None:
    # Asked for several times in each run; nothing is registered meanwhile.
    monkeypatch.setattr(extract, "known_products", cache(extract.known_products))
    monkeypatch.setattr(Model, "jobs", InProcess(monkeypatch), raising=False)
    monkeypatch.setattr(Model, "at_once", {}, raising=False)


def _replayed(model: type[Model]) -> Iterator[Any]:
    state = model()
    try:
        yield Replayed(state)
    finally:
        state.teardown()


@pytest.fixture
def of_toy(jobs) -> Iterator[Any]:
    yield from _replayed(Toy)


@pytest.fixture
def of_extraction(jobs) -> Iterator[Any]:
    yield from _replayed(Extraction)


# Sequences that failed, each cut down to the steps that matter.


@pytest.mark.parametrize("state", ["of_toy", "of_extraction"])
def test_what_belongs_to_a_content_outlives_the_file_that_lost_it(request, state):
    state = request.getfixturevalue(state)
    if isinstance(state.settings, OfExtraction):
        state.choose_separation(separation=True, stems=True)
    state.begin(names=["low", "full", "high"])
    state.put(name="a.wav", what="high")  # computed before the file that had this content is written anew
    state.put(name="sub/c.wav", what="full")
    state.run()


@pytest.mark.parametrize("writes", [11, 16, 18])
def test_what_a_killed_run_meant_to_tidy_up_the_next_one_does(of_toy, writes):
    of_toy.begin(names=["full", "low", "silent"])
    of_toy.put(name="b.wav", what="full")
    of_toy.put(name="a.wav", what="high")
    of_toy.put(name="sub/c.wav", what="high")
    of_toy.kill(writes=writes)


def test_what_two_killed_runs_meant_to_tidy_up_the_third_does(of_toy):
    of_toy.begin(names=["low", "low", "silent"])
    of_toy.put(name="b.wav", what="full")
    of_toy.put(name="a.wav", what="silent")
    of_toy.interrupt(writes=11)
    of_toy.interrupt(writes=5)
    of_toy.run()


def test_the_times_of_a_file_that_is_gone_do_not_replace_those_of_its_copy(of_toy):
    of_toy.begin(names=["high", "high"])
    of_toy.choose_parameters(factor=0.5, loud=0.2)
    of_toy.delete(number=0)
    of_toy.damage(damage="rows of nobody", number=0)
    of_toy.prune()


@pytest.mark.parametrize("what", ["low", "full"])
def test_of_a_content_without_rows_no_file_keeps_older_ones(of_toy, what):
    of_toy.choose_parameters(factor=0.5 if what == "low" else 0.25, loud=0.1)
    of_toy.begin(names=[what, "silent", "empty", what])
    of_toy.choose_parameters(factor=0.25 if what == "low" else 0.5, loud=0.1)
    of_toy.run_twice()


def test_rows_of_a_content_that_is_computed_anew_do_not_come_home(of_toy):
    """Its first file has another content now; of the second it is computed anew, and has no rows."""
    of_toy.begin(names=["low", "low"])
    of_toy.put(name="a.wav", what="high")
    of_toy.choose_parameters(factor=0.5, loud=0.2)
    of_toy.run()


def test_windows_that_stay_are_of_the_model_that_they_were_of(of_extraction):
    of_extraction.begin(names=["full", "low"])
    of_extraction.choose_clap(clap=False, hop=0.2)
    of_extraction.touch(number=0)
    of_extraction.run()


def test_a_copy_does_not_say_that_the_other_file_could_not_be_reached(of_toy):
    of_toy.begin(names=["broken", "broken"])
    of_toy.rename(number=0, to="sub/e.wav")
    of_toy.retry()  # of a file that is there no longer
    of_toy.run()


@pytest.mark.parametrize("state", ["of_toy", "of_extraction"])
@pytest.mark.parametrize("then", ["damage", "other parameters", "other content"])
def test_what_a_pruned_file_leaves_behind_is_its_copys(request, state, then):
    state = request.getfixturevalue(state)
    state.begin(names=["low", "low"])
    state.delete(number=0)
    state.run()
    state.prune()
    if then == "damage":
        state.damage(damage="lost rows", number=0)
    elif then == "other content":
        state.put(name="b.wav", what="high")
    elif isinstance(state.settings, OfExtraction):
        state.choose_clap(clap=True, hop=0.1)
    else:
        state.choose_parameters(factor=0.5, loud=0.2)
    state.run_twice()


def test_what_an_earlier_config_fell_back_on_is_not_the_present_ones(of_extraction):
    of_extraction.choose_separation(separation=True, stems=False)
    of_extraction.begin(names=["low"])
    of_extraction.choose_separation(separation=False, stems=False)
    of_extraction.run()


def draw(model: type[Model], number: int, steps: int, seed: int) -> None:
    """So many sequences of so many steps, the same for the same ``seed``."""
    run_state_machine_as_test(
        seeded(seed)(type(model.__name__, (model,), {})),
        settings=settings(
            max_examples=number,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


MANY = pytest.mark.chaos


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("model", "number"), [(Toy, 150), (Extraction, 50)])
def test_any_sequence_gives_the_output_of_one_run(jobs, model, number):
    draw(model, number, steps=4, seed=0)


@MANY
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("seed", range(1, 11))
@pytest.mark.parametrize("model", [Toy, Extraction])
def test_any_of_many_sequences_gives_the_output_of_one_run(jobs, model, seed):
    draw(model, 100, steps=12, seed=seed)
