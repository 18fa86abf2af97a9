"""One real run of the main job on local Ray that many tests look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from in_process import InProcess

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import DemoTrack, write_demo
from pipeline.workflows.jobs import extract
from pipeline.workflows.outcome import Result

SECONDS = 5.0
# File name → the class its failure must have.
BAD = {
    "text.mp3": "UnrecognizedFormat",
    "truncated.flac": "TruncatedAudio",
    "empty.wav": "EmptyAudio",
    "x.wav": "UnreadableSource",
    "<img src=x>\n.mp3": "UnrecognizedFormat",
}
ODD = ("one_sample.wav", "three.wav", "eight.wav")


@dataclass(frozen=True)
class Run:
    """A finished run: its result, where it read and wrote, and what is true of the demo tracks."""

    result: Result
    source: Path
    output: Path
    truth: list[DemoTrack]

    @property
    def folder(self) -> Path:
        return self.output / "runs" / self.result.run_id


def write_bad_files(folder: Path) -> None:
    """A text named .mp3, a truncated flac, an empty wav, a directory with an audio name; and one sample."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.mp3").write_text("this is no music\n")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100)
    soundfile.write(folder / "whole.flac", noise, 44100)
    data = (folder / "whole.flac").read_bytes()
    (folder / "whole.flac").unlink()
    (folder / "truncated.flac").write_bytes(data[: len(data) // 2])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "x.wav").mkdir(exist_ok=True)
    # Inputs, not errors: one sample, three and eight channels, a name that would be markup in a report.
    soundfile.write(folder / "one_sample.wav", np.array([0.5]), 44100)
    soundfile.write(folder / "three.wav", np.stack([noise, -noise, noise / 2], axis=1), 44100)
    soundfile.write(folder / "eight.wav", np.repeat(noise[:, None], 8, axis=1), 48000)
    (folder / "<img src=x>\n.mp3").write_text("no music either\n")


@pytest.fixture(scope="session")
def spleeter() -> Path:
    """The real weights, fetched once; skips where they cannot be had."""
    try:
        return weights.find("spleeter-2stems") or weights.fetch("spleeter-2stems", print)
    except UserError as error:
        pytest.skip(f"no Spleeter weights: {error}")


@pytest.fixture(scope="session")
def clap_checkpoint(tmp_path_factory) -> Path:
    """A seeded random HTSAT-tiny in LAION's format: a stand-in for trained weights, which no package carries."""
    from helpers.clap_reference import tiny_checkpoint

    return tiny_checkpoint(tmp_path_factory.mktemp("clap"))


def one_actor_each() -> dict[str, int]:
    """Each that runs torch takes seconds to start, and here there is little to do."""
    return dict.fromkeys(("decode", "features", "clap", "separation"), 1)


@pytest.fixture(scope="session")
def local_run(tmp_path_factory, spleeter, clap_checkpoint) -> Run:
    """The demo tracks and the bad files through every stage."""
    root = tmp_path_factory.mktemp("local")
    truth = write_demo(root / "in" / "demo", seconds=SECONDS)
    write_bad_files(root / "in" / "bad")
    config = every_stage(root / "in", root / "out", clap_checkpoint)
    config.ray.address = "local"
    return Run(extract.run(config), root / "in", root / "out", truth)


def every_stage(source: Path, output: Path, clap_checkpoint: Path) -> ExtractConfig:
    """A config that leaves out nothing but tags and beats, which depend on what weights other tests have fetched."""
    config = ExtractConfig()
    config.tags.enabled = config.beats.enabled = False
    config.source.uri, config.output.uri = str(source), str(output)
    config.clap.checkpoint = str(clap_checkpoint)
    config.separation.backends = ["demucs", "spleeter", "midside"]
    config.separation.save_stems = True
    config.blobs.max_inline_elements = 200
    config.hardware.actors = one_actor_each()
    return config


@pytest.fixture(scope="module")
def in_process():
    """Runs of the job within the tests' process: for what they leave behind, where nothing depends on Ray."""
    with pytest.MonkeyPatch.context() as patched:
        yield InProcess(patched)
