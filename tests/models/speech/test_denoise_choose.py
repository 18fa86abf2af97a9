from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.separation.base import Separator
from pipeline.models.separation.choose import forget_backends as forget_separators
from pipeline.models.separation.window import Window
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.denoise import choose as choosing
from pipeline.models.speech.denoise import stems
from pipeline.models.speech.denoise.choose import choose, forget_backends, load_backend
from pipeline.models.speech.denoise.names import AUTO, BACKEND_NAMES
from pipeline.models.speech.denoise.stems import StemDenoiser
from pipeline.models.speech.denoise.streams import denoised


@pytest.fixture
def empty_store(tmp_path, monkeypatch) -> Iterator[Path]:
    """No weights anywhere, and nothing loaded."""
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    for forget in (forget_backends, forget_separators):
        forget()
    yield tmp_path
    for forget in (forget_backends, forget_separators):
        forget()


def in_pieces(stream, samples: np.ndarray, sizes: list[int]) -> np.ndarray:
    """What comes out when pieces of these sizes go in, in turn, and one by one what it was in the end."""
    done, start = [], 0
    while start < len(samples):
        for size in sizes:
            done.append(stream.push(samples[start : start + size]))
            start += size
    return np.concatenate([*done, stream.finish()])


# Stems


class FakeVocals(Separator):
    """A stand-in for a network: the vocals are half the mix, and it notes the lengths of the tracks."""

    name, version, sources = "fake", "7", ("drums", "vocals")
    sample_rate, segment, device = 44100, 1.0, torch.device("cpu")

    def __init__(self) -> None:
        self.tracks: list[int] = []

    def model_id(self) -> str:
        return "fake:1"

    def windows(self, samples: int) -> Iterator[Window]:
        self.tracks.append(samples)
        yield Window(0, samples, 0, samples)

    def separate(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 * batch, 0.5 * batch], dim=1)


@pytest.fixture
def short_sections(monkeypatch):
    monkeypatch.setattr(stems, "SECTION", 1000)
    monkeypatch.setattr(stems, "FADE", 100)


@pytest.mark.parametrize("length", [0, 1, 99, 999, 1000, 1001, 1900, 1901, 2799, 2800, 2801, 5000])
def test_sections_join_to_the_whole(short_sections, length):
    samples = np.random.default_rng(0).standard_normal(length).astype(np.float32)
    separator = FakeVocals()
    for sizes in ([17, 1, 400], [2048], [10_000]):
        result = in_pieces(StemDenoiser(separator).stream(), samples, sizes)
        np.testing.assert_allclose(result, 0.5 * samples, atol=1e-6)
    assert max(separator.tracks, default=0) <= 1000


def test_sections_fade_from_one_to_the_next(short_sections):
    class Growing(FakeVocals):
        def separate(self, batch: torch.Tensor) -> torch.Tensor:
            stems = torch.full_like(batch, float(len(self.tracks)))
            return torch.stack([batch - stems, stems], dim=1)

    result = denoised(StemDenoiser(Growing()).stream(), np.ones(2500, np.float32))
    assert result[899] == 1.0
    assert result[1000] == 2.0
    assert result[-1] == 3.0
    assert np.abs(np.diff(result)).max() < 0.011


def test_a_long_recording_is_not_kept(short_sections):
    stream = StemDenoiser(FakeVocals()).stream()
    given = 0
    for _ in range(100):
        given += len(stream.push(np.ones(333, np.float32)))
        assert sum(map(len, stream._pieces)) < 1000 + 333
    assert given > 100 * 333 - 1000


def test_the_version_is_of_the_separation_too():
    denoiser = StemDenoiser(FakeVocals())
    assert denoiser.version == "1.7"
    assert denoiser.model_id() == "fake:1"


def test_a_model_without_vocals_is_refused():
    class Instruments(FakeVocals):
        sources = ("drums", "bass")

    with pytest.raises(BackendUnavailable, match="no stem of vocals"):
        StemDenoiser(Instruments())


# Choosing


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("deepfilternet", "fetch deepfilternet3"),
        ("dtln", "fetch dtln"),
        ("spleeter", "fetch spleeter-2stems"),
        ("demucs", "demucs"),
    ],
)
def test_missing_weights_say_what_to_type(empty_store, monkeypatch, name, said):
    monkeypatch.setenv("TORCH_HOME", str(empty_store))
    with pytest.raises(BackendUnavailable, match=said):
        load_backend(name)


@pytest.mark.parametrize(("name", "weights_name"), [("dtln", "dtln"), ("deepfilternet", "deepfilternet3")])
def test_files_that_are_not_the_very_ones_are_not_loaded(empty_store, name, weights_name):
    paths = weights.files(weights_name)
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(b"something else")
    with pytest.raises(BackendUnavailable, match=f"{paths[0].name} is not the file it should be.*fetch"):
        load_backend(name)


def test_an_unknown_name_is_a_mistake():
    with pytest.raises(UserError, match="did you mean dtln"):
        load_backend("dtlm")
    with pytest.raises(UserError, match="no backend for denoising is named"):
        choose([])


def stand_in(here: str):
    """A loader that has only one backend; the backends themselves are none."""

    def load(name: str):
        if name == here:
            return here
        raise BackendUnavailable(f"no {name}")

    return load


def test_the_first_that_is_here_is_taken_and_said():
    choice = choose(["deepfilternet", "dtln"], stand_in("dtln"))
    assert choice.denoiser == "dtln"
    assert (choice.fallback.stage, choice.fallback.wanted, choice.fallback.used) == (
        "denoise",
        "deepfilternet",
        "dtln",
    )
    assert choose(["dtln"], stand_in("dtln")) == ("dtln", "listed", None)


def test_what_auto_does_without_is_a_fallback():
    assert choose([AUTO], stand_in("deepfilternet")).fallback is None
    choice = choose([AUTO], stand_in("spleeter"))
    assert choice.denoiser == "spleeter"
    assert (choice.fallback.wanted, choice.fallback.used) == (AUTO, "spleeter")
    assert choice.reason.startswith("auto; deepfilternet: no deepfilternet; dtln")
    none = choose([AUTO], stand_in("nothing"))
    assert none.denoiser is None
    assert none.fallback.used == "none"


def test_every_name_has_a_class():
    assert tuple(choosing._CLASSES) == BACKEND_NAMES
