"""Where the part of a mix goes that is in none of its stems: sums, edges, memory, and what `drop` leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.separation_models import small_htdemucs
from test_openunmix import folder as openunmix_folder  # noqa: F401  a fixture
from test_openunmix import load as load_openunmix

from pipeline.audio.reader import ArrayReader, Spool
from pipeline.models import weights
from pipeline.models.separation import SeparationStream, device_audio, load_backend, separate_track
from pipeline.models.separation.base import Separator
from pipeline.models.separation.device_audio import DeviceTrack
from pipeline.models.separation.midside import MidSide
from pipeline.models.separation.names import RESIDUALS, stems_written
from pipeline.models.separation.residual import HOP, Remainder
from pipeline.models.separation.window import Level, Window

RATE = 44100


def music(samples: int) -> np.ndarray:
    """Noise up to 22 kHz over tones, both panned, and a pause; -20 dBFS or so."""
    rng, time = np.random.default_rng(1), np.arange(samples) / RATE
    tones = sum(0.05 * np.sin(2 * np.pi * f * time) for f in (110, 440, 3520, 14000))
    audio = np.stack([tones, 0.6 * tones]) + 0.05 * rng.standard_normal((2, samples))
    audio[:, samples // 3 : samples // 2] = 0.0
    return audio.astype(np.float32)


def db_below(error: np.ndarray, mix: np.ndarray) -> float:
    error, mix = (np.square(a.astype(np.float64)).sum() for a in (error, mix))
    return 10 * np.log10(max(error, 1e-300) / mix)


class Thirds(Separator):
    """A third of the mix, levelled, to vocals and to drums, and none to anybody else: a third remains."""

    name, version, cpu_speed, device = "thirds", "1", 1.0, torch.device("cpu")
    sources = ("vocals", "drums")
    segment = 700 / RATE

    def model_id(self):
        return "thirds:0"

    def windows(self, samples):
        for offset in range(0, samples, 700):
            yield Window(offset, 700, offset, min(700, samples - offset))

    def level(self, audio):
        return Level(0.01, 0.5)

    def separate(self, batch):
        return torch.stack([batch / 3, batch / 3], dim=1)


def midside(request) -> Separator:
    return MidSide()


def spleeter(request) -> Separator:
    if weights.find("spleeter-2stems") is None:
        pytest.skip("the weights of Spleeter are not here")
    return load_backend("spleeter")


def demucs(request) -> Separator:
    pytest.importorskip("demucs")
    from pipeline.models.separation.demucs import Demucs

    return Demucs(small_htdemucs())


def openunmix(request) -> Separator:
    return load_openunmix(request.getfixturevalue("openunmix_folder"))


BACKENDS = (midside, spleeter, demucs, openunmix, lambda request: Thirds())


@pytest.mark.filterwarnings(
    "ignore"
)  # demucs's, about layers of small models that have nothing to initialise
@pytest.mark.parametrize("backend", BACKENDS, ids=["midside", "spleeter", "demucs", "openunmix", "thirds"])
def test_stems_add_up_to_the_mix(backend, request):
    """At 44.1 kHz, with whatever weights are here: below -100 dB with the residual, and as before without."""
    separator, mix = backend(request), music(RATE + 7)
    raw = separate_track(separator, mix, "drop")
    if separator.name not in ("midside", "openunmix"):  # whose Wiener filter leaves little, -93 dB here
        assert db_below(raw.sum(axis=0) - mix, mix) > -60, "there is something to put back"
    for residual in ("accompaniment", "share"):
        stems = separate_track(separator, mix, residual)
        assert stems.dtype == np.float32
        assert stems.shape == (len(stems_written(separator.sources, residual)), *mix.shape)
        assert db_below(stems.astype(np.float64).sum(axis=0) - mix, mix) < -100
    to_the_rest = separate_track(separator, mix, "accompaniment")
    for number, stem in enumerate(separator.sources):
        if stem not in ("accompaniment", "other"):
            np.testing.assert_array_equal(to_the_rest[number], raw[number])


def test_a_model_without_a_stem_for_the_rest_gets_one():
    assert stems_written(("vocals", "drums"), "accompaniment") == ("vocals", "drums", "other")
    assert stems_written(("vocals", "drums"), "share") == ("vocals", "drums")
    mix = music(5000)
    vocals, drums, other = separate_track(Thirds(), mix, "accompaniment")
    np.testing.assert_allclose(other, mix - vocals - drums, atol=1e-7)


def test_what_is_shared_follows_the_energy_around_each_sample():
    """Only vocals sound in the first half, only drums in the second: each gets its half of what remains."""

    class Halves(Thirds):
        def separate(self, batch):
            first = torch.where(batch > 0, batch / 2, 0.0)  # the first half of the mix is positive
            return torch.stack([first, torch.where(batch < 0, batch / 2, 0.0)], dim=1)

        def level(self, audio):
            return Level(0.0, 1.0)

    half = 8 * HOP
    mix = np.full((2, 2 * half), 0.5, np.float32)
    mix[:, half:] = -0.5
    vocals, drums = separate_track(Halves(), mix, "share")
    np.testing.assert_array_equal(vocals[:, : half - HOP], mix[:, : half - HOP])
    np.testing.assert_array_equal(drums[:, : half - HOP], 0.0)
    np.testing.assert_array_equal(drums[:, half + HOP :], mix[:, half + HOP :])
    # In between it passes over, without a step.
    gained = np.abs(np.diff((vocals - np.where(mix > 0, mix / 2, 0))[0, half - HOP : half]))
    assert gained.max() < 0.5 / HOP


@pytest.mark.parametrize("samples", [1, HOP - 1, HOP, HOP + 1, 2 * HOP, 3 * HOP + 5])
@pytest.mark.parametrize("residual", RESIDUALS)
def test_edges(samples, residual):
    mix = music(samples) + np.float32(0.01)
    stems = separate_track(Thirds(), mix, residual)
    assert stems.shape[-1] == samples
    if residual != "drop":
        np.testing.assert_allclose(stems.sum(axis=0), mix, atol=1e-6)


def test_where_all_stems_are_silent_they_share_alike():
    class Silent(Thirds):
        def separate(self, batch):
            return torch.zeros(len(batch), 2, *batch.shape[1:])

        def level(self, audio):
            return Level(0.0, 1.0)

    mix = music(4 * HOP)
    np.testing.assert_allclose(separate_track(Silent(), mix, "share"), np.stack([mix / 2] * 2), atol=1e-7)


@pytest.mark.parametrize("residual", ["accompaniment", "share"])
def test_a_long_track_is_read_once_more_and_comes_out_the_same(monkeypatch, residual):
    """Beyond `WHOLE_SAMPLES` nothing of it is kept on the device."""
    mix = music(40_000)
    expected = separate_track(Thirds(), mix, residual)
    monkeypatch.setattr(device_audio, "WHOLE_SAMPLES", 10_000)
    monkeypatch.setattr(device_audio, "BLOCK_SAMPLES", 5_000)
    spool = Spool.of([mix], 2)
    try:
        np.testing.assert_array_equal(separate_track(Thirds(), spool, residual), expected)
    finally:
        spool.close()


def test_less_than_two_hops_are_held_back_however_long_the_track_is():
    mix = music(40 * HOP)
    remainder = Remainder(("vocals", "drums"), "share", DeviceTrack(ArrayReader(mix), torch.device("cpu")))
    given = settled = 0
    for start in range(0, mix.shape[1], 3000):
        block = torch.from_numpy(mix[:, start : start + 3000] / 3)
        settled += remainder.add(torch.stack([block, block])).shape[-1]
        given += block.shape[-1]
        assert 0 <= given - settled < 2 * HOP


def test_a_track_that_cannot_be_read_again_fails_alone(monkeypatch):
    monkeypatch.setattr(device_audio, "WHOLE_SAMPLES", 1_000)

    class Once(ArrayReader):
        reads = 0

        def read(self, start, stop):
            self.reads += 1
            if self.reads > 1:
                raise OSError("the disk is gone")
            return super().read(start, stop)

    tracks = [Once(music(2_000)), ArrayReader(music(2_000))]
    ended = {p.track: p.error for p in SeparationStream(Thirds(), tracks, "accompaniment") if p.done}
    assert "the disk is gone" in str(ended[0])
    assert ended[1] is None


def test_samples_that_are_too_large_are_an_error_and_no_number():
    mix = np.full((2, 3 * HOP), 3e38, np.float32)
    with pytest.raises(ValueError, match="too large"):
        separate_track(Thirds(), mix, "share")
