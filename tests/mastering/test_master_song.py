"""A song and its master: true to the loudness, without seams, the same in pieces, as JSON and at once."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pyloudnorm
import pytest
from scipy.signal import resample_poly

from pipeline.audio import synth
from pipeline.audio.reader import ArrayReader
from pipeline.mastering import song as song_module
from pipeline.mastering.plan import Plan
from pipeline.mastering.presets import Preset
from pipeline.mastering.processor import run
from pipeline.mastering.song import Mastering, chain, listen, reference, shaping
from pipeline.mastering.spectrum import spectral_distance_db
from pipeline.mastering.wish import VERSION, Wish

RATE = 44100
EVERYTHING = Preset(
    lufs=-11.0, tilt_db_per_octave=0.4, low_shelf_db=2.0, high_shelf_db=1.0, width_db=1.0, mono_below_hz=100.0,
    ratio=2.5, max_compression_db=4.0, crossovers_hz=(200.0, 3000.0), max_gr_db=20.0,
)  # fmt: skip


def song(
    seconds: float = 12.0, rate: int = RATE, channels: int = 2, gain: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Chords, other ones in each channel, and a beat: float32 ``[channels, samples]``."""
    rows = [
        synth.chord_progression("C", "major", seconds, rate, seed=seed + number) for number in range(channels)
    ]
    beat = np.zeros(len(rows[0]))
    for start in range(0, len(beat), rate // 2):
        tail = np.arange(min(rate // 10, len(beat) - start))
        beat[start : start + len(tail)] += np.sin(2 * np.pi * 80 * tail / rate) * np.exp(
            -tail / (0.02 * rate)
        )
    return (gain * (np.stack(rows) + 4.0 * beat)).astype(np.float32)


def mastered(samples: np.ndarray, wish: Wish, rate: int = RATE, **options) -> tuple[Plan, np.ndarray]:
    with Mastering(ArrayReader(samples), rate, wish, **options) as mastering:
        plan = mastering.settle()
        return plan, np.concatenate(list(mastering.rendered(plan)), axis=1)


def in_pieces(samples: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    cuts = list(
        itertools.takewhile(lambda at: at < samples.shape[1], itertools.accumulate(itertools.cycle(sizes)))
    )
    return np.split(samples, cuts, axis=1)


def true_peak_db(samples: np.ndarray) -> float:
    return 20.0 * np.log10(np.abs(resample_poly(samples, 8, 1, axis=1)).max())


@pytest.fixture(scope="module")
def everything() -> tuple[np.ndarray, Plan, np.ndarray]:
    """A song, the plan that does everything to it, and the master."""
    samples = song()
    plan, master = mastered(samples, Wish(EVERYTHING))
    assert plan.curve is not None
    assert plan.compression is not None
    return samples, plan, master


@pytest.mark.parametrize("rate", [8000, 22050, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_loudness_is_what_was_promised_and_the_peak_below_the_ceiling(rate, channels):
    samples = song(6.0, rate, channels)
    plan, master = mastered(samples, Wish(replace(EVERYTHING, lufs=-14.0)), rate)
    assert master.shape == samples.shape
    assert plan.limited_by is None
    assert plan.lufs == pytest.approx(-14.0, abs=0.02)
    assert listen(ArrayReader(master), rate).levels.lufs == pytest.approx(-14.0, abs=0.05)
    assert true_peak_db(master) <= -1.0 + 0.05


@pytest.mark.parametrize("lufs", [-23.0, -16.0, -10.0])
def test_an_independent_meter_reads_the_same(lufs):
    _, master = mastered(song(), Wish(replace(EVERYTHING, lufs=lufs)))
    meter = pyloudnorm.Meter(RATE, filter_class="DeMan")
    assert meter.integrated_loudness(master.T.astype(np.float64)) == pytest.approx(lufs, abs=0.1)


@pytest.mark.parametrize("sizes", [[4410], [1, 7, 100_000], [65536], [333_333]])
def test_pieces_give_the_very_bits_of_the_whole(everything, sizes):
    samples, plan, master = everything
    assert np.array_equal(np.concatenate(list(run(chain(plan), in_pieces(samples, sizes))), axis=1), master)


@pytest.mark.parametrize("start", [5 * RATE + 17, 9 * RATE])
def test_a_stretch_is_that_of_the_whole(everything, start):
    samples, plan, master = everything
    context = sum(processor.context for processor in chain(plan))
    origin = max(0, start - context)
    rendered = np.concatenate(list(run(chain(plan, origin), [samples[:, origin:]])), axis=1)
    assert np.abs(rendered[:, start - origin :] - master[:, start:]).max() <= 1e-6


def test_stretches_of_the_settled_song_are_its_very_bits(everything):
    samples, plan, master = everything
    with Mastering(ArrayReader(samples), RATE, Wish(EVERYTHING)) as mastering:
        mastering.settle()
        parts = {}
        for start in (300_000, 0, 123_456):  # in any order
            parts[start] = np.concatenate(list(mastering.rendered(plan, start, start + 50_000)), axis=1)
    for start, part in parts.items():
        assert np.array_equal(part, master[:, start : start + 50_000])


def test_a_plan_is_the_same_as_json(everything):
    samples, plan, master = everything
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert np.array_equal(np.concatenate(list(run(chain(again), [samples])), axis=1), master)
    with pytest.raises(ValueError, match="version"):
        Plan.from_json(plan.to_json().replace(f'"version": {VERSION}', '"version": 0'))
    with pytest.raises(ValueError, match="no plan"):
        Plan.from_json("[]")


def test_the_same_song_has_the_same_plan(everything):
    samples, plan, _ = everything
    assert mastered(samples, Wish(EVERYTHING))[0].to_json() == plan.to_json()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [0, 1, 100, RATE])
def test_silence_stays_silence_and_says_so(channels, samples):
    plan, master = mastered(np.zeros((channels, samples), np.float32), Wish(EVERYTHING))
    assert master.shape == (channels, samples)
    assert not master.any()
    assert plan.limited_by in ("silence", "no loudness")
    assert plan.target_lufs is None
    json.loads(plan.to_json())


def test_silence_within_a_song_stays_silent_and_nothing_bursts_behind_it():
    loud = song(6.0)
    gap = np.zeros((2, 4 * RATE), np.float32)
    plan, master = mastered(np.concatenate([loud, gap, loud], axis=1), Wish(EVERYTHING))
    start, stop = loud.shape[1], loud.shape[1] + gap.shape[1]
    assert not master[:, start + RATE : stop - RATE].any()
    assert true_peak_db(master[:, stop:]) <= plan.limiting.ceiling_dbtp + 0.05


def test_no_amount_changes_nothing():
    samples = song(gain=0.03)
    plan, master = mastered(samples, Wish(EVERYTHING, amount=0.0))
    assert (plan.curve, plan.compression) == (None, None)
    assert abs(plan.gain_db) < 0.01
    assert np.allclose(master, samples * 10 ** (plan.gain_db / 20), atol=1e-7)


def test_half_the_amount_is_half_of_the_way():
    samples = song()
    before = listen(ArrayReader(samples), RATE).levels.lufs
    plan, _ = mastered(samples, Wish(EVERYTHING, amount=0.5))
    whole, _ = mastered(samples, Wish(EVERYTHING))
    assert plan.target_lufs == pytest.approx((before + EVERYTHING.lufs) / 2)
    assert plan.curve.mid_db == pytest.approx([gain / 2 for gain in whole.curve.mid_db])


def test_what_the_limiter_may_not_take_is_given_up():
    plan, master = mastered(song(), Wish(replace(EVERYTHING, lufs=-5.0, max_gr_db=3.0, ratio=1.0)))
    assert plan.limited_by == "max_gr_db"
    assert listen(ArrayReader(master), RATE).levels.lufs == pytest.approx(plan.lufs, abs=0.05)
    assert plan.lufs < -5.5


def test_a_master_is_like_its_reference():
    samples, other = song(), song(seed=7, gain=0.3)
    # Darker, narrower and louder.
    mid, side = other.mean(axis=0), (other[0] - other[1]) / 2
    dark = np.stack(
        [np.convolve(row, np.ones(6) / 6, "same") for row in (mid + 0.4 * side, mid - 0.4 * side)]
    )
    like = reference(ArrayReader(dark.astype(np.float32)), RATE, "r" * 64)
    wish = Wish(Preset(balance=0.0), mode="reference")
    plan, master = mastered(samples, wish, references=[like])
    before = spectral_distance_db(listen(ArrayReader(samples), RATE).spectrum, like.spectrum)
    after = spectral_distance_db(listen(ArrayReader(master), RATE).spectrum, like.spectrum)
    assert after.mid_db < 0.6 * before.mid_db
    assert plan.target_lufs == pytest.approx(like.levels.lufs)
    assert plan.references == ("r" * 64,)


def test_a_hybrid_lies_between_and_an_asked_for_loudness_counts_more():
    samples = song()
    like = reference(ArrayReader(song(seed=7, gain=0.3)), RATE, "r" * 64)
    half = Wish(EVERYTHING, mode="hybrid", reference_weight=0.5)
    plan, _ = mastered(samples, half, references=[like])
    assert plan.target_lufs == pytest.approx((like.levels.lufs + EVERYTHING.lufs) / 2)
    own, _ = mastered(samples, replace(half, own=("lufs",)), references=[like])
    assert own.target_lufs == EVERYTHING.lufs


def test_a_mode_without_its_reference_is_refused():
    with pytest.raises(ValueError, match="needs a reference"):
        mastered(song(2.0), Wish(mode="reference"))


def test_beside_a_reference_of_the_preset_only_what_was_typed_is_done():
    samples = song()
    like = reference(ArrayReader(song(seed=7, gain=0.3)), RATE, "r" * 64)
    plain = Wish(EVERYTHING, mode="reference")

    def planned(wish: Wish) -> Plan:
        return mastered(samples, wish, references=[like])[0]

    bare, typed = planned(plain), planned(replace(plain, own=("mono_below_hz",)))
    lowest = typed.curve.at([30.0])[1] - bare.curve.at([30.0])[1]
    assert lowest < -60.0
    assert typed.curve.at([3000.0])[0] == pytest.approx(bare.curve.at([3000.0])[0], abs=0.05)
    narrow = planned(replace(plain, preset=replace(EVERYTHING, max_db=1.0), own=("max_db",)))
    assert max(map(abs, narrow.curve.mid_db)) <= 1.0 + 1e-6
    assert max(map(abs, bare.curve.mid_db)) > 1.5


def test_what_has_no_loudness_is_left_as_it_is():
    short = song(0.3)
    plan, master = mastered(short, Wish(EVERYTHING))
    assert (plan.limited_by, plan.curve, plan.compression) == ("no loudness", None, None)
    assert np.array_equal(master, short)


def test_samples_of_integers_in_floats_are_a_song():
    samples = song(4.0) * np.float32(20000.0)
    plan, master = mastered(samples, Wish(EVERYTHING))
    assert Plan.from_json(plan.to_json()) == plan
    assert true_peak_db(master) <= -0.95


def test_a_reference_beyond_all_presets_makes_a_plan_that_can_be_read():
    like = reference(ArrayReader(song(gain=0.005)), RATE, "r" * 64)
    assert like.levels.lufs < -40.0
    plan, _ = mastered(song(), Wish(mode="reference"), references=[like])
    assert Plan.from_json(plan.to_json()) == plan


def test_what_was_reduced_of_a_stretch_begins_with_it():
    told: list[float] = []
    with Mastering(ArrayReader(song()), RATE, Wish(EVERYTHING)) as mastering:
        plan = mastering.settle()
        whole = mastering.render(plan, lambda block: None, reduced=told.append)
        part = mastering.render(plan, lambda block: None, 5 * RATE, 8 * RATE)
    assert part.gain_reduction_db[:3] == pytest.approx(whole.gain_reduction_db[5:8], abs=0.2)
    assert max(told) == pytest.approx(whole.max_gain_reduction_db)


def test_what_is_warmed_up_reaches_every_part(monkeypatch):
    used: list[str] = []
    for name in ("Equalizer", "Compressor", "Limiter", "Meter"):
        kind = getattr(song_module, name)
        monkeypatch.setattr(
            song_module,
            name,
            lambda *args, _kind=kind, **rest: used.append(_kind.__name__) or _kind(*args, **rest),
        )
    monkeypatch.setattr(song_module, "isinstance", lambda one, kind: False, raising=False)
    song_module.warm.__wrapped__()
    assert {"Equalizer", "Compressor", "Limiter", "Meter"} <= set(used)


def test_the_loudest_stretch_is_found():
    quiet, loud = song(8.0, gain=0.01), song(8.0, gain=0.2)
    with Mastering(ArrayReader(np.concatenate([quiet, loud, quiet], axis=1)), RATE, Wish()) as mastering:
        start, stop = mastering.stretch(5.0)
        assert mastering.stretch(0.0) == (0, 24 * RATE)
        assert mastering.stretch(100.0) == (0, 24 * RATE)
    assert stop - start == 5 * RATE
    assert start >= 8 * RATE
    assert stop <= 16 * RATE


def test_what_is_no_number_is_refused():
    samples = song(2.0)
    samples[0, 1000] = np.nan
    with pytest.raises(ValueError, match="NaN|number|finite"):
        mastered(samples, Wish())


def test_progress_is_told_of_each_part():
    told: list[tuple[str, float]] = []
    with Mastering(
        ArrayReader(song(8.0)),
        RATE,
        Wish(EVERYTHING),
        progress=lambda part, share: told.append((part, share)),
    ) as mastering:
        mastering.render(mastering.settle(), lambda block: None)
    parts = [part for part, _ in itertools.groupby(told, key=lambda one: one[0])]
    assert parts == ["analysis", "plan", "render"]
    assert all(share == pytest.approx(1.0) for part, share in dict(told).items())


def test_mono_bass_is_alike_in_both_channels():
    rng = np.random.default_rng(0)
    samples = (0.05 * rng.standard_normal((2, 4 * RATE))).astype(np.float32)
    plan, _ = mastered(samples, Wish(Preset(balance=0.0, mono_below_hz=150.0, ratio=1.0)))
    shaped = np.concatenate(list(run(shaping(plan), [samples])), axis=1)
    side = np.abs(np.fft.rfft((shaped[0] - shaped[1]) * np.hanning(shaped.shape[1])))
    hz = np.fft.rfftfreq(shaped.shape[1], 1 / RATE)
    assert 20 * np.log10(side[(hz > 30) & (hz < 70)].mean() / side[(hz > 500) & (hz < 5000)].mean()) < -50
