from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.signals import resampled
from scipy.signal import correlate

from pipeline.audio.metrics import si_sdr
from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.separation.separation_stream import separate_track
from pipeline.models.speech.base import BackendUnavailable, Denoiser
from pipeline.models.speech.denoise import deepfilternet, dtln, stems
from pipeline.models.speech.denoise.choose import load_backend
from pipeline.models.speech.denoise.streams import FrameStream, LimitedStream, denoised

# No package has weights of demucs: what is its own is in test_denoise_choose.py.
NEEDS = {"deepfilternet": "deepfilternet3", "dtln": "dtln", "spleeter": "spleeter-2stems"}


def fetched(name: str) -> Path:
    """The real weights, fetched once if they are not in the store."""
    path = weights.find(name)
    if path is not None:
        return path
    try:
        return weights.fetch(name)
    except UserError as error:
        pytest.skip(f"no {name} weights: {error}")


@pytest.fixture(scope="module", params=NEEDS)
def real(request) -> Denoiser:
    fetched(NEEDS[request.param])
    return load_backend(request.param)


@pytest.fixture(scope="module")
def deepfilter() -> Denoiser:
    fetched("deepfilternet3")
    return load_backend("deepfilternet")


@pytest.fixture(scope="module")
def noisy(shared_audio):
    """``noisy(rate)``: 3 s of each of two real voices, and the same in white noise 10 dB softer."""
    voices = []
    for folder in sorted((shared_audio / "speech").iterdir())[:2]:
        audio, rate = soundfile.read(sorted(folder.glob("*.wav"))[3], dtype="float32")
        assert rate == 8000
        voices.append(audio[: 3 * rate])

    def build(rate: int) -> tuple[np.ndarray, np.ndarray]:
        clean = resampled(np.concatenate(voices), 8000, rate)
        noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
        return clean, clean + noise * np.float32(clean.std() * 10**-0.5)

    return build


def in_pieces(stream, samples: np.ndarray, sizes: list[int]) -> np.ndarray:
    """What comes out when pieces of these sizes go in, in turn, and one by one what it was in the end."""
    done, start = [], 0
    while start < len(samples):
        for size in sizes:
            done.append(stream.push(samples[start : start + size]))
            start += size
    return np.concatenate([*done, stream.finish()])


def lag(result: np.ndarray, clean: np.ndarray) -> int:
    return int(correlate(result, clean, method="fft").argmax()) - len(clean) + 1


# Every backend with its real weights


def test_takes_noise_away_in_step_with_the_recording(real, noisy):
    clean, mix = noisy(real.sample_rate)
    result = denoised(real.stream(), mix)
    assert result.dtype == np.float32
    assert result.shape == mix.shape
    assert lag(result, clean) == 0
    # Spleeter was made for music: white noise is no more than half of the mix to it.
    assert si_sdr(result, clean) > si_sdr(mix, clean) + (1 if real.name == "spleeter" else 4)


def test_how_a_recording_is_cut_changes_nothing(real, noisy):
    mix = noisy(real.sample_rate)[1][: real.sample_rate + 77]
    whole = denoised(real.stream(), mix)
    for sizes in ([1, 479, 480, 0, 481], [127, 128, 129, 4097]):
        np.testing.assert_array_equal(in_pieces(real.stream(), mix, sizes), whole)


@pytest.mark.parametrize("length", [0, 1, 128, 480, 1441])
def test_short_recordings_come_back_as_long(real, length):
    samples = np.full(length, 0.1, np.float32)
    result = denoised(real.stream(), samples)
    assert len(result) == length
    assert np.isfinite(result).all()


def test_silence_stays_silence(real):
    assert not denoised(real.stream(), np.zeros(2 * real.sample_rate, np.float32)).any()


def test_silence_in_between_moves_nothing(real, noisy):
    clean, mix = (samples[: 2 * real.sample_rate] for samples in noisy(real.sample_rate))
    quiet = np.zeros(real.sample_rate, np.float32)
    result = denoised(real.stream(), np.concatenate([mix, quiet, mix]))
    assert lag(result[len(mix) + len(quiet) :], clean) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_no_number(real, bad):
    stream = real.stream(limit_db=12)
    stream.push(np.zeros(5000, np.float32))
    samples = np.zeros(5000, np.float32)
    samples[700] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        stream.push(samples)


def test_refuses_what_is_not_mono(real):
    with pytest.raises(ValueError, match="not float32 \\[2, 10\\]"):
        real.stream().push(np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match="not int16"):
        real.stream().push(np.zeros(10, np.int16))


def test_a_limit_mixes_with_the_recording(real, noisy):
    mix = noisy(real.sample_rate)[1][: real.sample_rate]
    full = denoised(real.stream(), mix)
    kept = 10 ** (-12 / 20)
    limited = denoised(real.stream(limit_db=12), mix, piece=1000)
    np.testing.assert_allclose(limited, kept * mix + (1 - kept) * full, atol=2e-6)
    np.testing.assert_array_equal(denoised(real.stream(limit_db=100), mix), full)


@pytest.mark.parametrize("limit", [0, -3, 0.05, np.nan])
def test_a_limit_that_takes_nothing_away_is_refused(real, limit):
    with pytest.raises(ValueError, match="at least 0.1 dB"):
        real.stream(limit_db=limit)


def test_recordings_at_the_same_time_keep_apart(real, noisy):
    mix = noisy(real.sample_rate)[1][: real.sample_rate]
    other = mix[::-1].copy()
    alone = [denoised(real.stream(), samples) for samples in (mix, other)]
    streams, done = [real.stream(), real.stream()], ([], [])
    for start in range(0, len(mix), 5000):
        for place, samples in enumerate((mix, other)):
            done[place].append(streams[place].push(samples[start : start + 5000]))
    for place in (0, 1):
        np.testing.assert_array_equal(np.concatenate([*done[place], streams[place].finish()]), alone[place])


def test_a_stream_ends_once(real):
    stream = real.stream()
    stream.finish()
    with pytest.raises(ValueError, match="has ended"):
        stream.push(np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="has ended"):
        stream.finish()


def test_says_what_it_is(real):
    name, digest = real.model_id().split(":")
    assert name == NEEDS[real.name]
    assert len(digest) == 12
    assert real.version
    assert real.sample_rate == {"deepfilternet": 48000, "dtln": 16000, "spleeter": 44100}[real.name]


def test_sections_of_a_real_network_come_close_to_the_whole(monkeypatch, noisy):
    fetched("spleeter-2stems")
    monkeypatch.setattr(stems, "SECTION", 4 * 44100)
    monkeypatch.setattr(stems, "FADE", 44100)
    denoiser = load_backend("spleeter")
    mix = noisy(44100)[1]
    whole = separate_track(denoiser._separator, np.stack([mix, mix]), "share")[0].mean(axis=0)
    assert si_sdr(denoised(denoiser.stream(), mix), whole) > 15


# Frames


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 11, 12, 100])
@pytest.mark.parametrize("delay", [0, 3, 8])
def test_a_delay_is_cut(length, delay):
    late = np.zeros(delay, np.float32)

    def process(samples: np.ndarray) -> np.ndarray:
        nonlocal late
        joined = np.concatenate([late, samples])
        late = joined[len(samples) :]
        return joined[: len(samples)]

    samples = np.arange(1, length + 1, dtype=np.float32)
    closed = []
    stream = FrameStream(process, 4, delay, lambda: closed.append(True))
    np.testing.assert_array_equal(in_pieces(stream, samples, [1, 2, 7]), samples)
    assert closed == [True]


def test_what_overflows_is_refused():
    stream = FrameStream(lambda samples: samples * np.float32(np.inf), 4, 0)
    with pytest.raises(ValueError, match="too large"):
        stream.push(np.ones(4, np.float32))


def test_a_limit_keeps_no_more_than_what_is_late():
    stream = LimitedStream(FrameStream(np.zeros_like, 4, 0), 20.0)
    for _ in range(100):
        done = stream.push(np.ones(5, np.float32))
        assert len(stream._dry) < 4
    np.testing.assert_allclose(done, 0.1, rtol=1e-6)


def test_dtln_equals_its_networks_run_over_the_whole_recording(noisy):
    import onnxruntime

    folder = fetched("dtln").parent
    samples = noisy(16000)[1][: 16000 + 50]
    networks = [onnxruntime.InferenceSession(str(folder / name)) for name in dtln.FILES]
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in networks]
    padded = np.concatenate([np.zeros(384), samples, np.zeros(1024)]).astype(np.float32)
    result = np.zeros(len(padded))
    for start in range(0, len(padded) - 512 + 1, 128):
        spectrum = np.fft.rfft(padded[start : start + 512])
        magnitude = np.abs(spectrum).astype(np.float32)[None, None]
        mask, states[0] = networks[0].run(None, {"input_2": magnitude, "input_3": states[0]})
        frame = np.fft.irfft(spectrum * mask[0, 0]).astype(np.float32)[None, None]
        frame, states[1] = networks[1].run(None, {"input_4": frame, "input_5": states[1]})
        result[start : start + 512] += frame[0, 0]
    expected = result[384 : 384 + len(samples)]
    np.testing.assert_allclose(denoised(load_backend("dtln").stream(), samples), expected, atol=1e-5)


# The native library


def test_a_recording_that_is_given_up_gives_its_memory_back(deepfilter):
    stream = deepfilter.stream()
    stream.push(np.zeros(1000, np.float32))
    close = stream._close
    assert close.alive
    del stream
    gc.collect()
    assert not close.alive


def test_large_samples_do_not_end_the_process(deepfilter):
    samples = np.random.default_rng(0).uniform(-1, 1, 9600).astype(np.float32)
    result = denoised(deepfilter.stream(), samples * np.float32(2**31))
    assert np.abs(result).max() < 2**32
    with pytest.raises(ValueError, match="too large"):
        denoised(deepfilter.stream(), samples * np.float32(1e38))


def test_a_library_that_is_none_is_said(tmp_path):
    path = tmp_path / "libdeepfilter.so"
    path.write_text("no library")
    with pytest.raises(BackendUnavailable, match="cannot be used here"):
        deepfilternet.load_library(path)


def test_a_library_without_the_functions_is_said():
    import _ctypes

    with pytest.raises(BackendUnavailable, match="df_create"):
        deepfilternet.load_library(Path(_ctypes.__file__))


def test_a_model_that_goes_away_is_said(deepfilter):
    gone = deepfilternet.DeepFilterNet(deepfilter._library, Path("nowhere.tar.gz"))
    with pytest.raises(BackendUnavailable, match="is gone"):
        gone.stream()
