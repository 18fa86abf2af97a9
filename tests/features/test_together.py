"""Several tracks at once: the columns of each alone, whoever its neighbours are."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.audio.resample import resample
from pipeline.features import REGISTRY, packed, run, together
from pipeline.features.base import Extraction, Extractor, column
from pipeline.features.chroma import Chroma
from pipeline.features.hpss import Hpss
from pipeline.features.key import Key
from pipeline.features.mel import Mel
from pipeline.features.run import Outcome, TrackAudio, run_extractors
from pipeline.features.spectra import SharedSpectra
from pipeline.features.spectral import Spectral
from pipeline.features.together import SpectraBatch, plan_batches, run_together

RATE = 22050

# Discrete columns: a rounding error leaves them alone, or it turns them into another value altogether.
EXACT = {"key_name", "key_mode", "key_top", "chroma_method", "chroma_tuning", "tempo_beats_s"}

# Some parameters of every extractor off the usual ones, and what is beyond their usual columns.
ODD = [
    Mel(n_fft=1023, hop_length=300, n_mels=40, channels="each"),
    Chroma(method="stft", norm="l2", n_fft=1500),
    Key(n_fft=1024, hop_length=441, beat_sync=True),
    Hpss(kernel_size=16, hop_length=700, mask="hard", waveforms=True, series_rate_hz=0.3),
    Spectral(n_fft=1001, hop_length=333),
]


def music(seconds: float, rate: int, seed: int, channels: int = 1) -> np.ndarray:
    """Chords off A440 by up to half a semitone, a beat, and noise: ``[channels, samples]``."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    detuned = 2 ** (generator.uniform(-0.5, 0.5) / 12)
    chord = sum(np.sin(2 * np.pi * f * detuned * time) for f in (261.6, 329.6, 392.0, 523.3))
    clicks = np.where(time % generator.choice([0.4, 0.5, 0.6]) < 0.03, 1.0, 0.1)
    noise = generator.standard_normal((channels, len(time)))
    return 0.1 * chord + 0.1 * clicks * noise


def audio_of(samples: np.ndarray, rate: int, device: str = "cpu", **options: Any) -> TrackAudio:
    native = np.atleast_2d(samples).astype(np.float32)
    with np.errstate(invalid="ignore"):
        channels = resample(native, rate, RATE)
    mono = channels.mean(axis=0)
    mono.setflags(write=False)
    return TrackAudio(mono, RATE, native, rate, channels, device, **options)


KINDS = {
    "empty": lambda: (np.zeros((1, 0)), 44100),
    "one sample": lambda: (np.full((1, 1), 0.5), RATE),
    "40 ms": lambda: (music(0.04, RATE, 1), RATE),
    "silence": lambda: (np.zeros((2, 3 * RATE)), RATE),
    "an impulse at the end": lambda: (np.eye(1, 2 * RATE, 2 * RATE - 1), RATE),
    # A constant alone has a chroma of rounding errors.
    "an offset": lambda: (0.7 + 0.01 * music(2.0, RATE, 8), RATE),
    "stereo": lambda: (music(2.5, 44100, 2, 2), 44100),
    "8 kHz": lambda: (music(3.0, 8000, 3), 8000),
    "loud": lambda: (1000 * music(2.3, RATE, 4), RATE),
    "5 s": lambda: (music(5.0, RATE, 5), RATE),
    "NaN": lambda: (np.where(np.arange(2 * RATE) == 9000, np.nan, music(2.0, RATE, 6)), RATE),
    **{f"clip {n}": lambda n=n: (music(1.0 + 0.17 * n, RATE, 10 + n), RATE) for n in range(12)},
    "long": lambda: (music(13.0, RATE, 7), RATE),
}


@cache
def track(kind: str) -> TrackAudio:
    return audio_of(*KINDS[kind]())


def fresh(kind: str, device: str = "cpu") -> TrackAudio:
    """The track without what is known of it."""
    known = track(kind)
    return TrackAudio(known.mono, RATE, known.native, known.native_rate, known.every_channel, device)


def every_extractor() -> list[Extractor]:
    return [cls() for _, cls in sorted(REGISTRY.items())]


def run_alone(extractors: list[Extractor], audio: TrackAudio) -> list[Outcome]:
    return run_extractors(extractors, audio.track, audio.blocks)


@cache
def alone(kind: str, odd: bool = False) -> list[Outcome]:
    return run_alone(ODD if odd else every_extractor(), fresh(kind))


def differences(found: Outcome, expected: Outcome, exact: bool = False) -> list[str]:
    """What of an outcome is not that of the track alone; levels within 1e-3 dB, all else within 1e-5."""
    if (found.error is None) != (expected.error is None):
        return [f"{found.extractor.name}: {found.error!r}, not {expected.error!r}"]
    if found.error is not None:
        same = str(found.error) == str(expected.error) and type(found.error) is type(expected.error)
        return [] if same else [f"{found.error!r}, not {expected.error!r}"]
    wrong = [] if found.extraction.fallbacks == expected.extraction.fallbacks else ["fallbacks"]
    here, there = (o.extraction.values | o.extraction.arrays for o in (found, expected))
    units = {f.name.removesuffix("_inline"): f.metadata[b"unit"] for f in found.extractor.columns()}
    assert here.keys() == there.keys()
    for name, value in there.items():
        if value is None or exact or name in EXACT:
            same = here[name] is None if value is None else np.array_equal(here[name], value)
            wrong += [] if same else [f"{name}: {here[name]}, not {value}"]
            continue
        a, b = (np.asarray(x, np.float64) for x in (here[name], value))
        scale = np.abs(b).max(initial=0.0)
        tolerance = 1e-3 if units[name] == b"dB" else 1e-5 * max(scale, 1e-3)
        if a.shape != b.shape or not (np.abs(a - b) <= tolerance).all():
            wrong.append(f"{name}: off by {np.abs(a - b).max() if a.shape == b.shape else a.shape}")
    return wrong


def assert_each_as_alone(
    kinds: list[str], found: list[list[Outcome]], odd: bool = False, exact: bool = False
) -> None:
    assert len(found) == len(kinds)
    for kind, outcomes in zip(kinds, found, strict=True):
        expected = alone(kind, odd)
        assert [o.extractor for o in outcomes] == [o.extractor for o in expected]
        for here, there in zip(outcomes, expected, strict=True):
            assert differences(here, there, exact) == [], kind


def packed_outcomes(
    kinds: list[str], extractors: list[Extractor], device: str = "cpu", seconds: float = 300.0
) -> list[list[Outcome]]:
    return run_together(extractors, [fresh(kind, device) for kind in kinds], seconds, pack=True)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=7), st.sampled_from((6.0, 300.0)))
def test_any_mix_has_the_columns_of_each_track_alone(kinds, seconds):
    assert_each_as_alone(kinds, packed_outcomes(kinds, every_extractor(), seconds=seconds))


def test_twelve_clips_and_a_long_track_in_any_order():
    kinds = [*(f"clip {n}" for n in range(12)), "long"]
    for order, seconds in ((kinds, 12.0), (kinds[::-1], 300.0), ([*kinds[6:], *kinds[:6]], 20.0)):
        assert_each_as_alone(order, packed_outcomes(order, every_extractor(), seconds=seconds))


def test_parameters_off_the_usual_ones():
    kinds = ["stereo", "one sample", "silence", "8 kHz", "5 s", "clip 3", "empty", "40 ms"]
    assert_each_as_alone(kinds, packed_outcomes(kinds, ODD), odd=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_a_gpu_has_the_columns_of_the_cpu():
    kinds = [kind for kind in KINDS if kind != "long"]
    extractors = every_extractor()
    found = run_together(extractors, [fresh(kind, "cuda") for kind in kinds])
    assert any(o.batch_items > 1 for outcomes in found for o in outcomes)
    for kind, outcomes in zip(kinds, found, strict=True):
        for here, there in zip(outcomes, alone(kind), strict=True):
            assert (here.error is None) == (there.error is None), kind
            for name, value in (there.extraction.values if there.extraction else {}).items():
                if value is None or isinstance(value, (str, list)):
                    assert here.extraction.values[name] == value, (kind, name)
                else:
                    np.testing.assert_allclose(here.extraction.values[name], value, rtol=1e-3, atol=1e-3)


def test_on_a_cpu_nothing_is_packed_and_every_bit_is_that_of_the_track_alone(monkeypatch):
    def refused(*_: object) -> None:
        raise AssertionError("packed on a CPU")

    monkeypatch.setattr(together, "SpectraBatch", refused)
    kinds = ["clip 5", "stereo", "NaN", "5 s", "silence"]
    for order in (kinds, kinds[::-1]):
        found = run_together(every_extractor(), [fresh(kind) for kind in order])
        assert_each_as_alone(order, found, exact=True)
        assert {(o.batch_items, o.batch_audio_s) for outcomes in found for o in outcomes} == {(1, None)}


def test_a_track_that_is_no_pcm_fails_alone():
    kinds = ["clip 0", "NaN", "clip 1"]
    found = packed_outcomes(kinds, every_extractor())
    assert_each_as_alone(kinds, found)
    errors = [[o.error is not None for o in outcomes] for outcomes in found]
    assert all(errors[1])
    assert not any(errors[0] + errors[2])
    assert [outcomes[0].batch_items for outcomes in found] == [2, 1, 2]


@dataclass(frozen=True)
class Fussy(Extractor):
    """Fails on loud tracks."""

    name: ClassVar[str] = "fussy"
    error: ClassVar[type[Exception]] = ArithmeticError

    def columns(self) -> tuple[pa.Field, ...]:
        return (column("fussy_mean", pa.float32(), "1", "mean power"),)

    def extract(self, spectra: SharedSpectra) -> Extraction:
        if float(spectra.power(512, 128).max()) > 1e6:
            raise self.error("too loud")
        return Extraction({"fussy_mean": float(spectra.power(512, 128).mean())})


def test_an_extractor_that_fails_on_one_track_stops_neither_the_others_nor_the_other_tracks():
    kinds = ["clip 0", "loud", "5 s"]
    found = packed_outcomes(kinds, [Fussy(), Mel()])
    assert [type(outcomes[0].error) for outcomes in found] == [type(None), ArithmeticError, type(None)]
    assert [outcomes[1].error for outcomes in found] == [None] * 3
    for kind, outcomes in zip(kinds, found, strict=True):
        mel = next(o for o in alone(kind) if o.extractor.name == "mel")
        assert differences(outcomes[1], mel) == []


def test_a_lost_gpu_ends_the_batch_and_is_not_one_tracks_failure(monkeypatch):
    class Lost(Fussy):
        error = torch.AcceleratorError

    with pytest.raises(torch.AcceleratorError):
        packed_outcomes(["clip 0", "loud"], [Lost()])

    def lost(*_: object) -> None:
        raise torch.AcceleratorError("the GPU fell off the bus")

    monkeypatch.setattr(together, "packed_power", lost)
    with pytest.raises(torch.AcceleratorError):
        packed_outcomes(["clip 0", "clip 1"], [Mel()])


@pytest.mark.parametrize("step", ["packed_power", "packed_chroma_cqt", "packed_rises"])
def test_a_batch_that_fails_as_a_whole_is_worked_on_track_by_track_and_says_so(step, monkeypatch):
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(together, step, fail)
    kinds = ["clip 6", "5 s"]
    found = packed_outcomes(kinds, every_extractor())
    for outcomes in found:
        fallbacks = [f for o in outcomes for f in o.extraction.fallbacks if "batch" in f.wanted]
        assert [(f.wanted, f.used) for f in fallbacks] == [("a batch of 2 tracks", "each track alone")]
        assert "OutOfMemoryError: no memory left" in fallbacks[0].reason
        for outcome in outcomes:
            outcome.extraction.fallbacks[:] = [f for f in outcome.extraction.fallbacks if f not in fallbacks]
    assert_each_as_alone(kinds, found)


def test_each_intermediate_is_computed_once_for_the_whole_batch():
    extractors = [*every_extractor(), Mel(n_mels=64), Spectral(silence_dbfs=-50.0), Hpss(floor_db=-80.0)]
    batch = SpectraBatch([fresh(kind) for kind in ("stereo", "40 ms", "5 s", "silence", "clip 2")])
    batch.run([*extractors, *reversed(extractors)])
    assert set(batch.counts.values()) == {1}
    assert {key[0] for key in batch.counts} == {"each", "power", "mel_bank", "mel"}
    of_each = {key[1] for key in batch.counts if key[0] == "each"}
    assert of_each == {"power", "mel_bank", "mel", "rises", "peaks", "chroma_cqt", "spectral", "hpss"}
    assert [key for key in batch.counts if key[0] == "power"] == [("power", 2048, 512)]
    for member in batch.members:
        assert set(member.counts.values()) == {1}
        assert ("waveform",) not in member.counts
        assert not member._cache


def test_a_batch_lets_go_of_its_spectra_at_once(monkeypatch):
    made = []

    def noted(*arguments: Any) -> torch.Tensor:
        power = packed.packed_power(*arguments)
        made.append(weakref.ref(power))
        return power

    monkeypatch.setattr(together, "packed_power", noted)
    gc.disable()
    try:
        packed_outcomes(["clip 1", "5 s"], every_extractor())
        assert [power() for power in made] == [None]
    finally:
        gc.enable()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 3 * RATE), st.sampled_from((RATE, 16000))), max_size=30),
    st.floats(0.1, 4.0),
)
def test_batches_hold_each_track_once_and_no_more_seconds_than_allowed(forms, limit):
    silence = np.zeros((1, 3 * RATE), dtype=np.float32)
    tracks = [TrackAudio(silence[0, :n], rate, silence[:, :n], rate) for n, rate in forms]
    batches = plan_batches(tracks, limit, pack=True)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tracks)))
    for batch in batches:
        seconds = [tracks[index].track.seconds for index in batch]
        assert len({tracks[index].sample_rate for index in batch}) == 1
        if len(batch) > 1:
            assert sum(seconds) <= limit
            assert min(seconds) > 0
    assert plan_batches(tracks, limit) == [[index] for index in range(len(tracks))]


def test_tracks_in_blocks_are_not_packed():
    tracks = [audio_of(music(3.0, RATE, n), RATE, block_seconds=1.0) for n in range(2)]
    assert plan_batches(tracks, pack=True) == [[0], [1]]


@dataclass
class CountedCalls(TorchDispatchMode):
    """Calls of torch's operators, and the largest first dimension of a Fourier transform."""

    calls: Counter[str] = field(default_factory=Counter)
    most_frames: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        if name == "_fft_r2c":
            self.most_frames = max(self.most_frames, args[0].shape[0])
        return func(*args, **(kwargs or {}))


def test_a_packed_call_has_no_more_frames_than_its_limit(monkeypatch):
    monkeypatch.setattr(packed, "SAMPLES_PER_CALL", 50 * 2048)
    kinds = ["5 s", "clip 3", "40 ms", "clip 4"]
    with CountedCalls() as counted:
        found = packed_outcomes(kinds, [Mel()])
    frames = sum(1 + len(track(kind).mono) // 512 for kind in kinds)
    assert counted.most_frames == 50
    assert counted.calls["_fft_r2c"] == -(-frames // 50)
    for kind, (mel,) in zip(kinds, found, strict=True):
        assert differences(mel, next(o for o in alone(kind) if o.extractor.name == "mel")) == []


def test_many_clips_take_the_calls_of_a_few():
    """A proxy of what a GPU gains: calls of the operators that it would launch as kernels."""
    clips = [audio_of(music(5.0, RATE, n), RATE) for n in range(32)]
    extractors = [e for e in every_extractor() if e.views == ("mono",)]
    calls = []
    for pack in (False, True):
        tracks = [TrackAudio(c.mono, RATE, c.native, RATE) for c in clips]
        with CountedCalls() as counted:
            run_together(extractors, tracks, pack=pack)
        products = sum(counted.calls[name] for name in ("mm", "bmm", "addmm_", "addmm"))
        calls.append((counted.calls["_fft_r2c"], products))
    (single_fft, single_products), (packed_fft, packed_products) = calls
    assert (single_fft, packed_fft) == (32 * 4, 1)
    assert packed_products < single_products / 4
    print(f"FFT calls {single_fft} and {packed_fft}, products {single_products} and {packed_products}")


class Clock:
    """A clock that stands still but for what is meant to take time."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_the_time_of_a_batch_is_split_by_audio_seconds_and_none_is_lost(monkeypatch):
    clock = Clock()
    for module in (together, run):
        monkeypatch.setattr(module, "time", clock)

    def slow(compute, seconds):
        def computed(*arguments):
            clock.now += seconds
            return compute(*arguments)

        return computed

    monkeypatch.setattr(together, "packed_power", slow(together.packed_power, 8.0))
    monkeypatch.setattr(together, "packed_rises", slow(together.packed_rises, 4.0))
    own = slow(lambda spectra: Extraction({}), 0.5)
    monkeypatch.setattr(Fussy, "extract", lambda self, spectra: own(spectra))
    tracks = [audio_of(music(seconds, RATE, 1), RATE) for seconds in (3.0, 1.0)]
    extractors = [Fussy(), Mel(), REGISTRY["tempo"](), Hpss()]
    found = run_together(extractors, tracks, pack=True)
    seconds = [[o.seconds for o in outcomes] for outcomes in found]
    # The mel spectrogram asks for the power first, the tempo for the rises; a clip of 1 s has no tempo, but
    # its rises were computed with the others.
    assert seconds == [[0.5, 6.0, 3.0, 0.0], [0.5, 2.0, 1.0, 0.0]]
    assert sum(map(sum, seconds)) == clock.now
    assert {(o.batch_items, o.batch_audio_s) for outcomes in found for o in outcomes} == {(2, 4.0)}
