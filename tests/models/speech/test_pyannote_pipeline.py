"""Pyannote.audio's own pipeline. The package and its models are not here: a small stand-in has what is used of its
interface (as of 4.0), and hears who is loud."""

from __future__ import annotations

import os
import sys
import types
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pyannote.core import Annotation, Segment

from pipeline.models.speech import pyannote_pipeline
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize import load_backend
from pipeline.models.speech.pyannote_pipeline import KLASS, PARTS, SAMPLE_RATE, Told, resolved
from pipeline.speech.clustering import SpeakerCounts
from pipeline.stages.diarize.turns import turns_of

COMMUNITY = "pyannote/speaker-diarization-community-1"


@dataclass
class StandInOutput:
    """In place of ``DiarizeOutput``."""

    speaker_diarization: Annotation
    speaker_embeddings: np.ndarray | None = None


class StandInPipeline:
    """In place of ``pyannote.audio.Pipeline``: A speaks in the first half, B from a third on until after the end, C in
    the last second."""

    loaded: list[dict] = []  # noqa: RUF012
    broken = False
    embeddings = True

    def __init__(self) -> None:
        self.device: torch.device | None = None
        self.calls: list[dict] = []

    @classmethod
    def from_pretrained(cls, checkpoint: dict) -> StandInPipeline:
        assert os.environ["PYANNOTE_METRICS_ENABLED"] == "false"
        if cls.broken:
            raise KeyError("state_dict")
        cls.loaded.append(checkpoint)
        return cls()

    def to(self, device: torch.device) -> StandInPipeline:
        self.device = device
        return self

    def __call__(self, file: dict, **known: int | None) -> StandInOutput:
        self.calls.append(known)
        assert file["waveform"].dtype == torch.float32
        channels, samples = file["waveform"].shape
        assert (channels, file["sample_rate"]) == (1, SAMPLE_RATE)
        length = samples / SAMPLE_RATE
        found = Annotation(uri=file["uri"])
        for start, end, who in (
            (length / 3, length + 0.2, "A"),
            (0, length / 2, "B"),
            (length - 1, length, "C"),
        ):
            found[Segment(start, end), who] = f"SPEAKER_{who}"
        # In the order of labels, of any length; zeros of C, whom nobody heard alone.
        vectors = np.array([[3.0, 4.0], [0.0, 0.5], [0.0, 0.0]])
        return StandInOutput(found, vectors if self.embeddings else None)


@pytest.fixture
def package(monkeypatch):
    """The stand-in, as if it were installed."""
    module = types.ModuleType("pyannote.audio")
    module.Pipeline = StandInPipeline
    monkeypatch.setitem(sys.modules, "pyannote.audio", module)
    monkeypatch.setattr(pyannote_pipeline, "version", lambda name: "4.0.7")
    monkeypatch.setattr(StandInPipeline, "loaded", [])
    monkeypatch.setenv("PYANNOTE_METRICS_ENABLED", "true")


def write_model(folder: Path, parts: dict[str, str], **params: object) -> Path:
    """A model with the files of these parts inside, each with a content of its own."""
    folder.mkdir(parents=True)
    config = {
        "version": "4.0.0",
        "pipeline": {"name": KLASS, "params": {"clustering": "VBxClustering", **parts, **params}},
        "params": {"clustering": {"threshold": 0.6}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for part, said in parts.items():
        if said.startswith("$model/"):
            (folder / part).mkdir()
            for name in PARTS[part]:
                (folder / part / name).write_bytes(f"{folder.name} {part} {name}".encode())
    return folder


@pytest.fixture
def community(tmp_path) -> Path:
    """As community-1 is made: all parts in one repository."""
    return write_model(tmp_path / "community", {part: f"$model/{part}" for part in PARTS})


@pytest.fixture
def cache(tmp_path, community, monkeypatch) -> dict[str, Path]:
    """The hub's cache, and 3.1 as it is made in it: a description that names other repositories."""
    repositories = {COMMUNITY: community}
    for name in ("segmentation-3.0", "wespeaker-voxceleb-resnet34-LM"):
        repositories[f"pyannote/{name}"] = tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "pytorch_model.bin").write_bytes(name.encode())
    parts = {
        "segmentation": "pyannote/segmentation-3.0",
        "embedding": "pyannote/wespeaker-voxceleb-resnet34-LM",
    }
    repositories["pyannote/speaker-diarization-3.1"] = write_model(tmp_path / "three", parts)

    def snapshot(name: str, *, local_files_only: bool) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        assert local_files_only
        if name not in repositories:
            raise LocalEntryNotFoundError("not there")
        return str(repositories[name])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    return repositories


def heard(backend, seconds: float, size: int = 7777, **counts: int | None) -> Told:
    stream = backend.stream(**counts)
    samples = np.full(round(seconds * SAMPLE_RATE), 0.1)
    for first in range(0, len(samples), size):
        stream.push(samples[first : first + size])
    return stream.finish()


def test_its_turns_and_voices(package, community):
    backend = load_backend("pyannote", model=str(community))
    told = heard(backend, 6.0)
    assert sorted(told.turns) == [(0, 3, "SPEAKER_B"), (2, 6, "SPEAKER_A"), (5, 6, "SPEAKER_C")]
    assert told == Told(told.turns, 6.0, told.voices)
    assert set(told.voices) == {"SPEAKER_A", "SPEAKER_B"}
    found = turns_of(told, SpeakerCounts(num=1))
    assert found.speakers.tolist() == [0, 1, 2]
    assert [turn.speaker for turn in found.turns()] == ["S1", "S2", "S3"]
    assert found.overlaps.tolist() == [True, True, True]
    assert np.isnan(found.confidences).all()
    np.testing.assert_allclose(found.centroids, [[0, 1], [0.6, 0.8], [0, 0]])
    assert found.seconds.tolist() == [3, 4, 1]


def test_without_embeddings_there_are_no_voices(package, community, monkeypatch):
    monkeypatch.setattr(StandInPipeline, "embeddings", False)
    found = turns_of(heard(load_backend("pyannote", model=str(community)), 6.0))
    assert found.centroids.shape == (3, 0)
    assert not any(map(np.any, found.centroids))


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (SpeakerCounts(), {"min_speakers": 1, "max_speakers": None}),
        (SpeakerCounts(num=3), {"num_speakers": 3}),
        (SpeakerCounts(minimum=2, maximum=4), {"min_speakers": 2, "max_speakers": 4}),
    ],
)
def test_the_number_of_speakers_is_handed_on(package, community, counts, told):
    backend = load_backend("pyannote", model=str(community))
    heard(backend, 2.0, **vars(counts))
    assert backend._pipeline.calls == [told]
    assert backend._pipeline.device == torch.device("cpu")


def test_the_size_of_pieces_changes_nothing(package, community):
    backend = load_backend("pyannote", model=str(community))
    assert heard(backend, 3.3, 1600).turns == heard(backend, 3.3, 10**6).turns


def test_silence_and_nothing_have_no_turns(package, community):
    backend = load_backend("pyannote", model=str(community))
    assert heard(backend, 0.0) == Told((), 0.0)
    stream = backend.stream()
    stream.push(np.zeros(SAMPLE_RATE))
    found = turns_of(stream.finish())
    assert (len(found.starts_s), len(found.seconds)) == (0, 0)
    with pytest.raises(ValueError, match="finished"):
        stream.push(np.zeros(8))


@pytest.mark.parametrize("wrong", [np.zeros((2, 8)), np.zeros(8, np.int16), np.array([0.0, np.nan])])
def test_what_is_no_recording_is_refused(package, community, wrong):
    with pytest.raises(ValueError, match="samples"):
        load_backend("pyannote", model=str(community)).stream().push(wrong)


def test_a_model_is_handed_on_in_folders_of_this_disk(community, cache):
    config, files = resolved(str(community))
    params = config["pipeline"]["params"]
    assert {part: params[part] for part in PARTS} == {
        part: {"checkpoint": str(community / part)} for part in PARTS
    }
    assert params["clustering"] == "VBxClustering"
    assert config["params"] == {"clustering": {"threshold": 0.6}}
    assert set(config) == {"pipeline", "params"}
    assert len(files) == 5
    assert resolved(COMMUNITY) == (config, files)


def test_parts_of_other_repositories_are_found_in_the_cache(cache):
    config, files = resolved("pyannote/speaker-diarization-3.1")
    params = config["pipeline"]["params"]
    assert params["segmentation"] == {"checkpoint": str(cache["pyannote/segmentation-3.0"])}
    # It names none, and the package would fetch that of its newest model.
    assert params["plda"] == {"checkpoint": str(cache[COMMUNITY] / "plda")}
    assert all(path.is_file() for path in files)
    del cache["pyannote/segmentation-3.0"]
    with pytest.raises(BackendUnavailable, match="type `hf download pyannote/segmentation-3.0`"):
        resolved("pyannote/speaker-diarization-3.1")


def test_the_model_is_named_by_its_weights_and_the_package(package, cache, monkeypatch):
    before = load_backend("pyannote").model_id()
    assert before.startswith("pyannote.audio-4.0.7:")
    assert load_backend("pyannote", model=str(cache[COMMUNITY])).model_id() == before
    ids = {before, load_backend("pyannote", model="pyannote/speaker-diarization-3.1").model_id()}
    (cache[COMMUNITY] / "plda" / "plda.npz").write_bytes(b"another")
    ids.add(load_backend("pyannote").model_id())
    monkeypatch.setattr(pyannote_pipeline, "version", lambda name: "4.1.0")
    ids.add(load_backend("pyannote").model_id())
    assert len(ids) == 4


def test_a_missing_part_is_named(community):
    (community / "embedding" / "pytorch_model.bin").unlink()
    with pytest.raises(BackendUnavailable, match="no embedding/pytorch_model.bin"):
        resolved(str(community))


@pytest.mark.parametrize("said", ["- a list", "pipeline: {name: os.system}", "pipeline: 3", "{}"])
def test_what_describes_something_else_is_refused(community, said):
    (community / "config.yaml").write_text(said)
    with pytest.raises(BackendUnavailable, match="describes no"):
        resolved(str(community))


def test_a_part_that_is_not_understood_is_refused(tmp_path):
    folder = write_model(tmp_path / "old", {"segmentation": "pyannote/segmentation@2022.07"})
    with pytest.raises(BackendUnavailable, match="not understood"):
        resolved(str(folder))


def test_without_the_package_it_says_what_to_type(monkeypatch, community):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setitem(sys.modules, "pyannote.audio", None)
    monkeypatch.setattr(pyannote_pipeline, "version", missing)
    with pytest.raises(BackendUnavailable, match=r"type `pip install 'pyannote.audio>=4,<5'`"):
        load_backend("pyannote", model=str(community))


def test_an_old_package_is_refused(package, monkeypatch, community):
    monkeypatch.setattr(pyannote_pipeline, "version", lambda name: "3.3.2")
    with pytest.raises(BackendUnavailable, match="3.3.2 is too old; type"):
        load_backend("pyannote", model=str(community))


def test_what_does_not_load_says_why(package, monkeypatch, community):
    monkeypatch.setattr(StandInPipeline, "broken", True)
    with pytest.raises(BackendUnavailable, match="does not load .*state_dict"):
        load_backend("pyannote", model=str(community))
