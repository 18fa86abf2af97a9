"""What the beat tracker's networks hear, and what they say, against plain numpy with the published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.music_weights import beatnet  # noqa: F401  a fixture

from pipeline.audio.reader import ArrayReader
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.beats.checkpoint import checked_files, model_id
from pipeline.models.beats.front_end import BANDS, FRAME, HOP, INPUTS, FrontEnd, filterbank, frame_count
from pipeline.models.beats.names import SAMPLE_RATE, WEIGHTS
from pipeline.models.beats.network import BeatNetwork, Ensemble, load_ensemble, network_from
from pipeline.models.beats.tracker import BeatTracker


@pytest.fixture(scope="module")
def ensemble(beatnet) -> Ensemble:  # noqa: F811
    """The published networks."""
    return load_ensemble()


def song(seconds: float, seed: int = 0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Noise whose level goes up and down twice a second, float32 ``[1, samples]``."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.1 * noise * np.exp(-8 * (time % 0.5)))[None].astype(np.float32)


def plain_features(samples: np.ndarray) -> np.ndarray:
    """The same inputs in float64, frame by frame, the bands by their definition."""
    tones = 440 * 2 ** (np.arange(-200, 200) / 24)
    tones = tones[(tones >= 30) & (tones <= 17000)]
    # The bins of a transform of 1410 samples are those that the networks know.
    bins = np.arange(705) * 22050 / 1410
    centres = sorted({int(np.argmin(np.abs(bins - tone))) for tone in tones})
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1411) / 1410)
    padded = np.concatenate([np.zeros(705), samples.astype(np.float64), np.zeros(1411)])
    rows = []
    for frame in range(-(-len(samples) // 441)):
        magnitude = np.abs(np.fft.fft(padded[frame * 441 : frame * 441 + 1411] * window))[:705]
        row = []
        for low, centre, high in zip(centres, centres[1:], centres[2:], strict=False):
            if high - low < 2:
                row.append(magnitude[low])
                continue
            at = np.arange(low, high)
            weight = np.where(at < centre, (at - low) / max(1, centre - low), (high - at) / (high - centre))
            row.append((weight * magnitude[low:high]).sum() / weight.sum())
        rows.append(np.log10(1 + np.array(row)))
    bands = np.array(rows)
    risen = np.maximum(np.diff(bands, axis=0, prepend=bands[:1]), 0)
    return np.concatenate([bands, risen], axis=1)


def plain_odds(inputs: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """One network by its equations, float64: ``[frames, INPUTS]`` → ``[frames, 3]``."""

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    hidden, cell, odds = np.zeros((2, 150)), np.zeros((2, 150)), []
    for row in inputs.astype(np.float64):
        x = []
        for kernel, bias in zip(tensors["conv1.weight"][:, 0], tensors["conv1.bias"], strict=True):
            heard = np.maximum(np.correlate(row, kernel, "valid") + bias, 0)
            x.append(heard[: len(heard) // 2 * 2].reshape(-1, 2).max(axis=1))
        x = tensors["linear0.weight"] @ np.concatenate(x) + tensors["linear0.bias"]
        for layer in range(2):
            gates = tensors[f"lstm.weight_ih_l{layer}"] @ x + tensors[f"lstm.bias_ih_l{layer}"]
            gates += tensors[f"lstm.weight_hh_l{layer}"] @ hidden[layer] + tensors[f"lstm.bias_hh_l{layer}"]
            enter, forget, new, leave = np.split(gates, 4)
            cell[layer] = sigmoid(forget) * cell[layer] + sigmoid(enter) * np.tanh(new)
            x = hidden[layer] = sigmoid(leave) * np.tanh(cell[layer])
        exponent = tensors["linear.weight"] @ x + tensors["linear.bias"]
        odds.append(np.exp(exponent) / np.exp(exponent).sum())
    return np.array(odds)


def test_the_front_end_is_what_its_definition_says():
    samples = song(1.0)
    found = FrontEnd().features(ArrayReader(samples), 0, frame_count(samples.shape[1])).numpy()
    assert found.shape == (50, INPUTS)
    np.testing.assert_allclose(found, plain_features(samples[0]), atol=2e-5)


def test_bands_sum_to_one_and_blocks_are_parts_of_the_whole():
    assert filterbank().shape == (705, BANDS)
    np.testing.assert_allclose(filterbank().sum(axis=0), 1, atol=1e-6)
    samples, front_end = song(1.5), FrontEnd()
    whole = front_end.features(ArrayReader(samples), 0, 75)
    parts = [
        front_end.features(ArrayReader(samples), *part) for part in ((0, 1), (1, 20), (20, 70), (70, 75))
    ]
    np.testing.assert_allclose(torch.cat(parts), whole, atol=1e-6)


@pytest.mark.parametrize("samples", [1, HOP, HOP + 1, FRAME])
def test_the_shortest_tracks_have_frames(samples):
    audio = ArrayReader(np.full((1, samples), 0.5, np.float32))
    found = FrontEnd().features(audio, 0, frame_count(samples))
    assert found.shape == (-(-samples // HOP), INPUTS)
    assert torch.isfinite(found).all()


def test_each_network_is_its_equations(ensemble):
    inputs = FrontEnd().features(ArrayReader(song(2.0)), 0, 100)
    for path, network in zip(checked_files(), ensemble.networks, strict=True):
        tensors = {k: v.double().numpy() for k, v in torch.load(path, weights_only=True).items()}
        with torch.inference_mode():
            found = network(inputs[None])[0][0].numpy()
        np.testing.assert_allclose(found, plain_odds(inputs.numpy(), tensors), atol=1e-4)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


def test_the_ensemble_is_the_mean_and_the_state_carries_on(ensemble):
    inputs = FrontEnd().features(ArrayReader(song(3.0)), 0, 150)[None]
    start = ensemble.start(1)
    whole, _ = ensemble(inputs, start)
    with torch.inference_mode():
        each = [network(inputs, state)[0] for network, state in zip(ensemble.networks, start, strict=True)]
    torch.testing.assert_close(whole, torch.stack(each).mean(dim=0)[..., :2])
    first, states = ensemble(inputs[:, :40], start)
    second, _ = ensemble(inputs[:, 40:], states)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-5, rtol=0)


def test_a_track_gets_the_same_alone_in_company_and_in_blocks(ensemble, monkeypatch):
    tracks = [ArrayReader(song(seconds, seed)) for seed, seconds in enumerate((1.0, 2.5, 0.3, 0.0, 1.7))]
    alone = [BeatTracker(ensemble).hear([track])[0] for track in tracks]
    monkeypatch.setattr("pipeline.models.beats.tracker.BLOCK_FRAMES", 30)
    together = BeatTracker(ensemble, batch_tracks=3).hear(tracks)
    assert [len(heard.odds) for heard in together] == [50, 125, 15, 0, 85]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.odds, other.odds, atol=1e-5)
        np.testing.assert_allclose(one.rises, other.rises, atol=1e-6)
        assert one.level == pytest.approx(other.level, rel=1e-5)


def test_silence_before_a_track_is_no_beat(ensemble):
    [heard] = BeatTracker(ensemble).hear([ArrayReader(np.zeros((1, SAMPLE_RATE), np.float32))])
    assert heard.odds.sum(axis=1).max() < 0.05
    assert heard.unrest == 0.0


def test_values_that_do_not_fit_are_refused():
    tensors = BeatNetwork().state_dict()
    assert isinstance(network_from(tensors), BeatNetwork)
    with pytest.raises(ValueError, match="linear.bias holds NaN"):
        network_from({**tensors, "linear.bias": torch.full((3,), torch.nan)})
    with pytest.raises(ValueError, match="linear0"):
        network_from({name: value for name, value in tensors.items() if name != "linear0.bias"})
    with pytest.raises(ValueError, match="size mismatch for linear.bias"):
        network_from({**tensors, "linear.bias": torch.zeros(4)})


def test_files_are_those_of_the_catalogue(ensemble, tmp_path, monkeypatch):
    assert ensemble.model_id == model_id()
    assert model_id().startswith("beatnet:")
    entry = weights.entry(WEIGHTS)
    assert (entry.licence[:9], "Heydari" in entry.attribution) == ("CC-BY-4.0", True)
    assert entry.size_bytes == sum(path.stat().st_size for path in checked_files())
    folder = tmp_path / WEIGHTS
    folder.mkdir()
    for path in checked_files():
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    (folder / "model_2_weights.pt").write_bytes(b"another")
    with pytest.raises(UserError, match=r"model_2_weights\.pt is not the file it should be.*fetch beatnet"):
        load_ensemble()
    (folder / "model_3_weights.pt").unlink()
    with pytest.raises(UserError, match="fetch beatnet"):
        load_ensemble()
