"""Tracks in blocks: the same columns as of the whole, whatever the blocks."""

from __future__ import annotations

import dataclasses
import tracemalloc
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.audio.resample import resample
from pipeline.dsp.masks import separate
from pipeline.features import REGISTRY
from pipeline.features.base import Extraction, Extractor, Running, column
from pipeline.features.extraction import TrackAudio, block_axis, run_extractors
from pipeline.features.hpss import Hpss
from pipeline.features.mel import Mel
from pipeline.features.spectra import SharedSpectra
from pipeline.features.track import TrackInfo

RATE = 22050


def audio_of(samples: np.ndarray, rate: int, **options) -> TrackAudio:
    native = np.atleast_2d(samples).astype(np.float32)
    channels = resample(native, rate, RATE)
    return TrackAudio(channels.mean(axis=0), RATE, native, rate, channels, **options)


def columns_of(audio: TrackAudio, extractors: list[Extractor]) -> dict[str, Extraction]:
    context = max(e.context_seconds(RATE) for e in extractors)
    audio = dataclasses.replace(audio, context_seconds=context)
    outcomes = run_extractors(extractors, audio.track, audio.blocks)
    for outcome in outcomes:
        assert outcome.error is None, outcome
        assert outcome.seconds > 0
    return {o.extractor.name: o.extraction for o in outcomes}


def every_extractor(**chosen: Extractor) -> list[Extractor]:
    return [chosen.get(name) or cls() for name, cls in sorted(REGISTRY.items())]


def assert_alike(part: Extraction, whole: Extraction, name: str) -> None:
    assert part.fallbacks == whole.fallbacks
    assert part.values.keys() == whole.values.keys()
    for key, expected in whole.values.items():
        value = part.values[key]
        if expected is None or isinstance(expected, (str, list)):
            assert value == expected, key
        elif key == "tempo_beats_s":
            assert np.array_equal(value, expected), key
        else:
            np.testing.assert_allclose(value, expected, rtol=2e-5, atol=2e-4, err_msg=f"{name} {key}")
    assert part.arrays.keys() == whole.arrays.keys()
    for key, expected in whole.arrays.items():
        np.testing.assert_allclose(part.arrays[key], expected, rtol=1e-4, atol=2e-3, err_msg=key)


@pytest.mark.parametrize("block_seconds", [3.0, 7.3, 19.0])
def test_blocks_equal_the_whole_on_real_music(block_seconds, music):
    for song in music.values():
        extractors = every_extractor(mel=Mel(channels="each"), hpss=Hpss(waveforms=True))
        whole = columns_of(audio_of(song, 44100, block_seconds=1000), extractors)
        audio = audio_of(song, 44100, block_seconds=block_seconds)
        assert not audio.track.one_block
        parts = columns_of(audio, extractors)
        for name in whole:
            assert_alike(parts[name], whole[name], name)


@pytest.mark.parametrize("rate", [8000, 11025, 48000])
def test_blocks_equal_the_whole_at_other_rates_and_channels(rate):
    generator = np.random.default_rng(3)
    time = np.arange(20 * rate) / rate
    beat = np.where(time % 0.5 < 0.06, 0.4, 0.03)
    samples = beat * generator.standard_normal((6, len(time))) + 0.1 * np.sin(2 * np.pi * 440 * time)
    samples[:, 9 * rate : 11 * rate] = 0.0
    samples[1, 6 * rate : 14 * rate] = 1.0  # one clipped run over several blocks
    whole = columns_of(audio_of(samples, rate, block_seconds=1000), every_extractor())
    parts = columns_of(audio_of(samples, rate, block_seconds=2.9), every_extractor())
    for name in whole:
        assert_alike(parts[name], whole[name], name)
    assert whole["quality"].values["quality_clipping_ratio"] == pytest.approx(8 / 20 / 6)


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_parameters_off_the_grid_of_the_blocks(name, music):
    cls = REGISTRY[name]
    names = {f.name for f in dataclasses.fields(cls)}
    odd = {"n_fft": 1500, "hop_length": 441, "frame_seconds": 0.37, "kernel_size": 17, "norm": "none"}
    extractor = cls(**{key: value for key, value in odd.items() if key in names})
    song = music["feelings"][:, : 15 * 44100]
    whole = columns_of(audio_of(song, 44100, block_seconds=1000), [extractor])[name]
    part = columns_of(audio_of(song, 44100, block_seconds=4.0), [extractor])[name]
    assert_alike(part, whole, name)


def test_mel_of_each_channel_is_that_of_the_channel_alone(music):
    song = music["feelings"][:, : 6 * 44100]
    both = columns_of(audio_of(song, 44100), [Mel(channels="each")])["mel"]
    for number, channel in enumerate(song):
        alone = columns_of(audio_of(channel, 44100), [Mel()])["mel"]
        for name, value in alone.values.items():
            np.testing.assert_allclose(both.values[name][128 * number :][:128], value, atol=1e-4)
        np.testing.assert_allclose(both.arrays["mel"][number], alone.arrays["mel"], atol=1e-4)


def test_hpss_waveforms_are_those_of_the_whole(music):
    audio = audio_of(music["feelings"][:, : 6 * 44100], 44100, block_seconds=2.0)
    found = columns_of(audio, [Hpss(waveforms=True)])["hpss"]
    expected = separate(torch.from_numpy(audio.mono))
    for part, waveform in zip(("harmonic", "percussive"), expected, strict=True):
        name = f"hpss_{part}_waveform"
        np.testing.assert_allclose(found.arrays[name], waveform, atol=1e-5)
        assert name in found.full_precision
    with pytest.raises(ValueError, match="waveforms=true needs"):
        Hpss(waveforms=True, hop_length=1025).check()


def test_silence_in_blocks(spectra_of):
    samples = np.zeros((2, 10 * RATE))
    parts = columns_of(audio_of(samples, RATE, block_seconds=3.0), every_extractor())
    for name, cls in REGISTRY.items():
        assert_alike(parts[name], cls().extract(spectra_of(samples, RATE)), name)


def test_a_tail_of_a_few_samples_is_a_block_of_its_own():
    audio = audio_of(np.random.default_rng(0).standard_normal((1, 8 * 4096 + 3)), RATE, block_seconds=0.7)
    blocks = list(audio.blocks())
    assert [b.axis.stop - b.axis.start for b in blocks][-1] == 3
    assert sum(len(b.axis.frames(512)) for b in blocks) == 1 + audio.mono.size // 512
    assert all(b.axis.origin % 4096 == 0 for b in blocks)


def test_block_axes_cover_a_track_once():
    axes = [block_axis(i, 4, 8192, 30000, 5000) for i in range(4)]
    assert [(a.start, a.stop, a.last) for a in axes] == [
        (0, 8192, False),
        (8192, 16384, False),
        (16384, 24576, False),
        (24576, 30000, True),
    ]
    assert [a.origin for a in axes] == [0, 0, 8192, 16384]


def test_what_a_track_of_several_blocks_cannot_have_is_on_record(music):
    song = music["feelings"][:, : 12 * 44100]
    key = REGISTRY["key"](backend="essentia", beat_sync=True)
    found = columns_of(audio_of(song, 44100, block_seconds=4.0), [key])["key"]
    assert [f.wanted for f in found.fallbacks] == ["key.backend=essentia", "key.beat_sync=true"]
    assert found.values["key_scores"] is not None


@dataclass(frozen=True)
class Simple(Extractor):
    name: ClassVar[str] = "simple"

    def columns(self) -> tuple[pa.Field, ...]:
        return (column("simple_peak", pa.float32(), "1", "largest sample"),)

    def extract(self, spectra: SharedSpectra) -> Extraction:
        return Extraction({"simple_peak": float(np.abs(spectra.mono).max())})


class Broken(Simple):
    name: ClassVar[str] = "broken"

    def extract(self, spectra: SharedSpectra) -> Extraction:
        raise ArithmeticError("as planned")


def test_an_extractor_of_whole_tracks_refuses_blocks_and_costs_no_other():
    noise = np.random.default_rng(0).standard_normal((1, 5 * RATE))
    for seconds, refused in ((10.0, False), (1.0, True)):
        audio = audio_of(noise, RATE, block_seconds=seconds)
        simple, broken, mel = run_extractors([Simple(), Broken(), Mel()], audio.track, audio.blocks)
        assert type(simple.error).__name__ == ("TrackTooLong" if refused else "NoneType")
        assert type(broken.error).__name__ == ("TrackTooLong" if refused else "ArithmeticError")
        assert mel.error is None
        assert (mel.extraction.values["mel_mean"] < 50).all()


def test_an_extractor_that_never_has_its_facts_is_given_up():
    class Hungry(Simple):
        def start(self, track):
            class Never(Running):
                asked = 0

                def add(self, block):
                    keys = len(track._facts)
                    track.fact(keys, block.number, lambda: 0, max)

            return Never()

    audio = audio_of(np.random.default_rng(0).standard_normal((1, 5 * RATE)), RATE, block_seconds=1.0)
    (outcome,) = run_extractors([Hungry()], audio.track, audio.blocks)
    assert "fact" in str(outcome.error)


def test_memory_does_not_grow_with_the_track():
    """Blocks of ever the same noise: what is allocated beside them stays the same for 2 and for 20 of them."""

    step, context = 11 * 4096, 2 * RATE
    noise = np.random.default_rng(0).standard_normal((2, step + 3 * context)).astype(np.float32)

    def peak(count: int) -> int:
        length = count * step

        def blocks():
            for number in range(count):
                axis = block_axis(number, count, step, length, context)
                stop = axis.stop if axis.last else axis.stop + context
                audio = noise[:, : stop - axis.origin]
                yield SharedSpectra(
                    audio[0], RATE, audio, RATE, place=(axis, axis), track=track, number=number
                )

        track = TrackInfo(RATE, RATE, 2, samples=length, native_samples=length, one_block=False)
        tracemalloc.start()
        outcomes = run_extractors(every_extractor(), track, blocks)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [o.error for o in outcomes] == [None] * len(outcomes)
        return found

    peak(2)
    assert peak(20) < 1.3 * peak(2)
