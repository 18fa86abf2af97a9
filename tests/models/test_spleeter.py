from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file

from pipeline.audio.metrics import si_sdr
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.separation.base import BackendUnavailable
from pipeline.models.separation.separation_stream import separate_track, stream_track
from pipeline.models.separation.spleeter import WEIGHTS, Spleeter, UNet, unet_from_tensorflow

RATE = 44100
SMALL = (3, 4)


@pytest.fixture(scope="session")
def spleeter_weights() -> Path:
    """The real weights, fetched once if they are not in the store."""
    path = weights.find(WEIGHTS)
    if path is not None:
        return path
    try:
        return weights.fetch(WEIGHTS)
    except UserError as error:
        pytest.skip(f"no Spleeter weights: {error}")


@pytest.fixture(scope="module")
def real(spleeter_weights) -> Spleeter:
    return Spleeter.load()


def random_variables(filters: tuple[int, ...] = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Variables of two U-Nets under TensorFlow's names and in its layout."""
    rng, variables = np.random.default_rng(seed), {}
    levels, outputs = len(filters), [*reversed(filters[:-1]), 1]

    def add(name: str, *shape: int, positive: bool = False) -> None:
        value = rng.standard_normal(shape) * (1 / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.3)
        variables[name] = torch.from_numpy((np.abs(value) + 0.5 if positive else value).astype(np.float32))

    def numbered(layer: str, index: int) -> str:
        return f"{layer}_{index}" if index else layer

    for stem in range(2):
        for i, (inputs, out) in enumerate(zip([2, *filters[:-1], 1], [*filters, 2], strict=True)):
            name, size = numbered("conv2d", stem * (levels + 1) + i), 4 if i == levels else 5
            add(f"{name}/kernel", size, size, inputs, out)
            add(f"{name}/bias", out)
        inputs = [filters[-1], *(2 * channels for channels in outputs[:-1])]
        for i, (channels, out) in enumerate(zip(inputs, outputs, strict=True)):
            name = numbered("conv2d_transpose", stem * levels + i)
            add(f"{name}/kernel", 5, 5, out, channels)
            add(f"{name}/bias", out)
        for i, channels in enumerate([*filters, *outputs]):
            name = numbered("batch_normalization", stem * 2 * levels + i)
            add(f"{name}/gamma", channels, positive=True)
            add(f"{name}/beta", channels)
            add(f"{name}/moving_mean", channels)
            add(f"{name}/moving_variance", channels, positive=True)
    return variables


class TensorFlowReference:
    """The published graph in numpy, from the definitions of TensorFlow's layers; maps are ``[h, w, c]``."""

    def __init__(self, variables: dict[str, torch.Tensor], stem: int, levels: int) -> None:
        self.variables = {name: value.double().numpy() for name, value in variables.items()}
        self.stem, self.levels = stem, levels

    def _get(self, layer: str, index: int, *names: str) -> list[np.ndarray]:
        prefix = f"{layer}_{index}" if index else layer
        return [self.variables[f"{prefix}/{name}"] for name in names]

    def conv(self, x: np.ndarray, i: int, stride: int = 2, dilation: int = 1) -> np.ndarray:
        kernel, bias = self._get("conv2d", self.stem * (self.levels + 1) + i, "kernel", "bias")
        reach = dilation * (len(kernel) - 1) + 1
        out_size = rows, columns = [-(-size // stride) for size in x.shape[:2]]
        missing = [
            max(0, (n - 1) * stride + reach - size) for n, size in zip(out_size, x.shape[:2], strict=True)
        ]
        x = np.pad(x, [*((m // 2, m - m // 2) for m in missing), (0, 0)])
        out = np.zeros((rows, columns, kernel.shape[3])) + bias
        for dy, dx in np.ndindex(kernel.shape[:2]):
            y0, x0 = dy * dilation, dx * dilation
            taps = x[y0 : y0 + stride * rows : stride, x0 : x0 + stride * columns : stride]
            out += taps[:rows, :columns] @ kernel[dy, dx]
        return out

    def transposed(self, x: np.ndarray, i: int) -> np.ndarray:
        """The gradient of the convolution that halves an input of twice the size."""
        kernel, bias = self._get("conv2d_transpose", self.stem * self.levels + i, "kernel", "bias")
        rows, columns = x.shape[:2]
        out = np.zeros((2 * rows + 3, 2 * columns + 3, kernel.shape[2]))
        for dy, dx in np.ndindex(kernel.shape[:2]):
            out[dy : dy + 2 * rows : 2, dx : dx + 2 * columns : 2] += x @ kernel[dy, dx].T
        return out[1 : 1 + 2 * rows, 1 : 1 + 2 * columns] + bias

    def norm(self, x: np.ndarray, i: int) -> np.ndarray:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = self._get(
            "batch_normalization", self.stem * 2 * self.levels + i, *names
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta

    def __call__(self, mix: np.ndarray) -> np.ndarray:
        convolved, x = [], mix
        for i in range(self.levels):
            convolved.append(self.conv(x, i))
            x = self.norm(convolved[-1], i)
            x = np.where(x > 0, x, 0.2 * x)
        x = convolved.pop()
        for i in range(self.levels):
            x = self.norm(np.maximum(self.transposed(x, i), 0), self.levels + i)
            if convolved:
                x = np.concatenate([convolved.pop(), x], axis=-1)
        return mix / (1 + np.exp(-self.conv(x, self.levels, stride=1, dilation=2)))


@pytest.mark.parametrize("stem", [0, 1])
@pytest.mark.parametrize("filters", [(3, 4), (2, 3, 5)])
def test_network_is_the_published_graph(stem, filters):
    variables = random_variables(filters)
    mix = np.abs(np.random.default_rng(1).standard_normal((16, 24, 2)))
    expected = TensorFlowReference(variables, stem, len(filters))(mix)
    unet = unet_from_tensorflow(variables, stem, filters)
    with torch.no_grad():
        found = unet(torch.from_numpy(mix).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 0.1


def test_real_weights_fill_the_published_graph(spleeter_weights, real):
    variables = load_file(spleeter_weights)
    mix = np.abs(np.random.default_rng(1).standard_normal((64, 64, 2))) * 10
    for stem, unet in enumerate(real.unets):
        expected = TensorFlowReference(variables, stem, 6)(mix)
        with torch.no_grad():
            found = unet(torch.from_numpy(mix).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.fixture(scope="module")
def small() -> list[UNet]:
    variables = random_variables()
    return [unet_from_tensorflow(variables, stem, SMALL) for stem in range(2)]


def low_passed_noise(samples: int) -> np.ndarray:
    """White noise below 10 kHz, faded in and out: a hard cut has energy above."""
    spectrum = np.fft.rfft(np.random.default_rng(5).standard_normal((2, samples)))
    spectrum[:, np.fft.rfftfreq(samples, 1 / RATE) > 10_000] = 0
    fade = scipy.signal.windows.tukey(samples, 0.1)
    return (np.fft.irfft(spectrum, samples) * fade).astype(np.float32) * 0.1


@pytest.mark.parametrize("batch_items", [2, 5])
def test_batches_do_not_change_the_result(small, batch_items):
    audio = low_passed_noise(45 * RATE)
    one, grouped = Spleeter(small), Spleeter(small)
    grouped.batch_items = batch_items
    assert one.batch_items == 1
    np.testing.assert_allclose(separate_track(grouped, audio), separate_track(one, audio), atol=1e-5)


@pytest.mark.parametrize("samples", [0, 1, 1024, 4096, 520_192, 520_193])
def test_length_is_kept(small, samples):
    blocks = list(stream_track(Spleeter(small), np.full((2, samples), 0.1, np.float32)))
    assert sum(block.shape[2] for block in blocks) == samples
    assert all(block.shape[:2] == (2, 2) and block.shape[2] and block.dtype == np.float32 for block in blocks)


def test_stems_sum_to_the_mix_below_11_khz(small):
    audio = low_passed_noise(13 * RATE)
    np.testing.assert_allclose(separate_track(Spleeter(small), audio).sum(axis=0), audio, atol=1e-4)


def test_nothing_is_left_above_11_khz(small):
    tone = np.sin(2 * np.pi * 15_000 * np.arange(RATE) / RATE).astype(np.float32)
    assert np.abs(separate_track(Spleeter(small), np.stack([tone, tone]))[..., 4096:-4096]).max() < 1e-4


def test_silence_stays_silent(small):
    np.testing.assert_array_equal(separate_track(Spleeter(small), np.zeros((2, 5000), np.float32)), 0)


def test_what_is_refused(small):
    backend = Spleeter(small)
    assert backend.refuses(1, 0) is None
    with pytest.raises(ValueError, match="needs stereo"):
        separate_track(backend, np.zeros((1, 100), np.float32))
    with pytest.raises(ValueError, match="NaN or infinity"):
        separate_track(backend, np.full((2, 100), np.nan, np.float32))
    with pytest.raises(ValueError, match="too large"):
        separate_track(backend, np.full((2, 100), 1e36, np.float32))


def test_missing_and_damaged_weights_say_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path))
    with pytest.raises(BackendUnavailable) as caught:
        Spleeter.load()
    assert str(caught.value) == f"{WEIGHTS} weights are missing: python jobs/models.py fetch {WEIGHTS}"
    path = tmp_path / WEIGHTS / "spleeter-2stems.safetensors"
    path.parent.mkdir()
    for damage in (b"not safetensors", b"\xff" * 64):
        path.write_bytes(damage)
        (path.parent / "weights.json").unlink(missing_ok=True)
        with pytest.raises(BackendUnavailable, match=f"damaged.*fetch {WEIGHTS}"):
            Spleeter.load()
    save_file(random_variables(), path)
    with pytest.raises(BackendUnavailable, match="recorded|records"):
        Spleeter.load()
    (path.parent / "weights.json").unlink()
    with pytest.raises(BackendUnavailable, match="conv2d/kernel has shape"):
        Spleeter.load()


def test_weights_that_are_incomplete_or_not_finite_are_refused():
    variables = random_variables()
    with pytest.raises(ValueError, match="conv2d_5/bias is missing"):
        unet_from_tensorflow({k: v for k, v in variables.items() if k != "conv2d_5/bias"}, 1, SMALL)
    variables["conv2d/bias"][0] = torch.nan
    with pytest.raises(ValueError, match="conv2d/bias holds NaN"):
        unet_from_tensorflow(variables, 0, SMALL)


def test_model_id_carries_the_hash(spleeter_weights, real):
    record = json.loads((spleeter_weights.parent / "weights.json").read_text())
    assert real.model_id() == f"spleeter-2stems:{record['sha256'][:12]}"


def test_speech_is_taken_out_of_music(real, shared_audio):
    seconds = 15
    prompts = sorted((shared_audio / "speech").glob("*/*.wav"))[::7]
    speech = np.concatenate([soxr.resample(*soundfile.read(p), RATE) for p in prompts])[: seconds * RATE]
    speech = np.stack([speech, speech]).astype(np.float32)
    song = shared_audio / "music" / "feelings" / "song.ogg"
    music = soundfile.read(song, start=60 * RATE, frames=seconds * RATE, dtype="float32")[0].T
    music = music * np.sqrt(np.mean(speech**2) / np.mean(music**2))
    vocals, accompaniment = separate_track(real, speech + music)
    assert si_sdr(vocals, speech) > si_sdr(speech + music, speech) + 6
    assert si_sdr(accompaniment, music) > si_sdr(speech + music, music) + 6


def test_padding_is_what_fills_the_last_block():
    backend = Spleeter([], weights_hash="none")
    block = 512 * 1024
    assert backend.padding_fraction(0) == 0
    # 8 s are some 348 of 512 frames; ten minutes fill all blocks but the last.
    assert 0.2 < backend.padding_fraction(8 * 44100) < 0.4
    assert backend.padding_fraction(600 * 44100) < 0.02
    assert all(0 <= backend.padding_fraction(n) < 1 for n in (1, block - 4096, block, block + 1))
