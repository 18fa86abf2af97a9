"""The compressor: pieces, places, silence and bypass to the bit; its curve and its times against what was set."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pipeline.mastering.dynamics import Compression, Compressor, Reduction
from pipeline.mastering.processor import run

HARD = Compression(threshold_db=-30.0, ratio=4.0, attack_ms=3.0, release_ms=60.0)
BANDS = dataclasses.replace(HARD, crossovers_hz=(150.0, 2000.0), threshold_db=(-30.0, -36.0, -40.0))
BOTH = pytest.mark.parametrize("setting", [HARD, BANDS], ids=["one band", "three bands"])


def render(
    setting: Compression, samples: np.ndarray, rate: int, piece: int = 10**9, origin: int = 0
) -> tuple[np.ndarray, Reduction]:
    """All of ``samples`` compressed, and what was taken away."""
    compressor = Compressor(setting, rate, samples.shape[0], origin)
    pieces = (samples[:, i : i + piece] for i in range(0, samples.shape[1], piece))
    return np.concatenate(list(run([compressor], pieces)), axis=1), compressor.reduction()


def music_like(channels: int, count: int, rate: int) -> np.ndarray:
    """Noise that swells four times a second and stops for a while, every channel with its own."""
    time = np.arange(count) / rate
    swell = np.exp(3.0 * np.sin(2 * np.pi * 4.0 * time) - 4.0) * (np.abs(time - 0.4 * time[-1]) > 0.05)
    own = np.random.default_rng(channels).standard_normal((channels, count))
    return (swell * (own + 2.0 * np.sin(2 * np.pi * 90.0 * time))).astype(np.float32)


def sine(rate: int, hz: float, peak_db: float, seconds: float) -> np.ndarray:
    time = np.arange(int(rate * seconds)) / rate
    return (10.0 ** (peak_db / 20.0) * np.sin(2 * np.pi * hz * time)).astype(np.float32)[None]


def reduction_of(before: np.ndarray, after: np.ndarray, envelope: np.ndarray | float) -> np.ndarray:
    """Gain reduction in dB over time, read where the wave is not near zero and drawn straight between."""
    clear = np.flatnonzero(np.abs(before) > 0.3 * envelope)
    taken = -20.0 * np.log10(after[clear].astype(np.float64) / before[clear])
    return np.interp(np.arange(len(before)), clear, taken)


def crossing(values: np.ndarray, level: float, first: int) -> float:
    """Where ``values`` pass ``level`` for the first time from ``first`` on, between samples."""
    above = values[first] < level
    place = first + int(np.argmax(values[first:] >= level if above else values[first:] <= level))
    return place - 1 + (level - values[place - 1]) / (values[place] - values[place - 1])


def times(
    setting: Compression, rate: int, quiet_db: float, loud_db: float, phase: float = 0.0
) -> tuple[float, float]:
    """Attack and release in ms, as a burst of 1 kHz shows them: to 63 % of the step."""
    attack, release = (
        value[0] / 1000.0 for value in (setting.per_band("attack_ms"), setting.per_band("release_ms"))
    )
    on = int(0.25 * rate) + 3
    off = on + int(rate * max(6.0 * release, 9.0 * attack))
    length = off + int(rate * 8.0 * release)
    envelope = np.full(length, 10.0 ** (quiet_db / 20.0))
    envelope[on:off] = 10.0 ** (loud_db / 20.0)
    burst = (envelope * np.sin(2 * np.pi * 1000.0 * (np.arange(length) - on) / rate + phase)).astype(
        np.float32
    )
    taken = reduction_of(burst, render(setting, burst[None], rate)[0][0], envelope)
    before, full, after = taken[on - rate // 10], taken[off - rate // 100], taken[-rate // 100]
    share = 1.0 - np.exp(-1.0)
    begun = crossing(taken, before + share * (full - before), on - rate // 50) - on
    ended = crossing(taken, full + share * (after - full), off - rate // 200) - off
    return 1000.0 * begun / rate, 1000.0 * ended / rate


def curve(level_db: float, threshold_db: float, ratio: float, knee_db: float) -> float:
    """Level out for a level in, dB: equation 4 of Giannoulis, Massberg and Reiss (2012)."""
    over = level_db - threshold_db
    if 2 * over < -knee_db:
        return level_db
    if 2 * abs(over) <= knee_db:
        return level_db + (1 / ratio - 1) * (over + knee_db / 2) ** 2 / (2 * knee_db)
    return threshold_db + over / ratio


@BOTH
@pytest.mark.parametrize(("rate", "channels"), [(8000, 8), (11025, 1), (44100, 2), (96000, 3), (192000, 1)])
def test_pieces_make_no_difference(setting, rate, channels):
    samples = music_like(channels, int(0.7 * rate) + 13, rate)
    whole, report = render(setting, samples, rate)
    assert whole.shape == samples.shape
    assert whole.dtype == np.float32
    assert max(report.max_db) > 6.0, "or else nothing is tested"
    for piece in (171, 4096, rate // 2):
        found, its_report = render(setting, samples, rate, piece)
        assert found.tobytes() == whole.tobytes()
        assert its_report.curve_db.tobytes() == report.curve_db.tobytes()
        assert (its_report.max_db, its_report.mean_db) == (report.max_db, report.mean_db)


@BOTH
@pytest.mark.parametrize("origin", [44100, 61_237, 70_001])
def test_begun_inside_a_song_it_is_the_same_after_its_context(setting, origin):
    samples = music_like(2, 44100 * 5, 44100)
    whole, report = render(setting, samples, 44100)
    context = Compressor(setting, 44100, 2).context
    assert context >= 44100
    inside, its_report = render(setting, samples[:, origin:], 44100, 10_000, origin)
    assert inside.shape[1] == samples.shape[1] - origin
    difference = np.abs(inside - whole[:, origin:])
    assert difference[:, context:].max() <= 1e-6
    first = (origin + context) * 10 // 44100 + 1
    skipped = origin * 10 // 44100
    np.testing.assert_allclose(
        its_report.curve_db[:, first - skipped :], report.curve_db[:, first:], atol=1e-5
    )
    # In time, too: the same settings a few samples beside would differ all over.
    beside, _ = render(setting, samples[:, origin + 5 :], 44100, 10_000, origin)
    assert np.abs(beside - whole[:, origin + 5 :])[:, context:].max() > 1e-5


@pytest.mark.parametrize("origin", [0, 3, 7, 63])
def test_a_cut_into_a_loud_passage_does_not_begin_too_loud(origin):
    setting = dataclasses.replace(HARD, max_reduction_db=40.0)
    found, _ = render(setting, np.full((1, 20_000), 0.5, np.float32), 44100, origin=origin)
    beyond = 20.0 * np.log10(found[0, 0] / found[0, 10_000])
    # The first short block is believed up to half its power, as it may be the crest of a slow wave.
    assert 0.0 <= beyond < 0.75 * 3.1


@pytest.mark.parametrize(
    "change",
    [{"ratio": 1.0}, {"mix": 0.0}, {"max_reduction_db": 0.0}, {"threshold_db": 20.0}],
    ids=lambda change: next(iter(change)),
)
@BOTH
def test_bypass_is_exact(setting, change):
    samples = music_like(2, 30_000, 44100)
    samples[0, 100:200] = -0.0
    found, report = render(dataclasses.replace(setting, **change), samples, 44100, 7000)
    assert found.tobytes() == samples.tobytes()
    assert set(report.max_db) == {0.0}
    assert report.curve_db.shape == (setting.bands, 7)


@BOTH
def test_silence_stays_silent(setting):
    silence = np.zeros((2, 50_000), np.float32)
    assert not render(setting, silence, 44100, 9000)[0].any()
    samples = silence.copy()
    samples[:, 20_000:30_000] = music_like(2, 10_000, 44100)
    found, _ = render(setting, samples, 44100)
    # What several bands ring is below 16 bits after 30 ms, and over after 150.
    assert np.abs(found[:, 31_500:]).max() < 1e-5
    assert not found[:, 37_000:].any()
    if setting is HARD:
        assert not found[:, :20_000].any()
        assert not found[:, 30_000:].any()


@BOTH
@pytest.mark.parametrize("count", [0, 1, 7, 65])
def test_hardly_any_samples(setting, count):
    samples = np.full((2, count), 0.5, np.float32)
    found, report = render(setting, samples, 44100, 3, origin=1001)
    assert found.shape == (2, count)
    assert np.isfinite(found).all()
    assert report.curve_db.shape == (setting.bands, min(count, 1))


@BOTH
def test_gain_commutes(setting):
    samples = music_like(2, 44100, 44100)
    raised = tuple(db + 20.0 * np.log10(0.3) for db in setting.per_band("threshold_db"))
    scaled, _ = render(dataclasses.replace(setting, threshold_db=raised), np.float32(0.3) * samples, 44100)
    expected = 0.3 * render(setting, samples, 44100)[0].astype(np.float64)
    np.testing.assert_allclose(scaled, expected, rtol=2e-6, atol=1e-8)


@BOTH
def test_channels_are_linked(setting):
    left = music_like(1, 44100, 44100)[0]
    found, _ = render(setting, np.stack([left, 0.25 * left, -left]), 44100)
    # In silence several bands ring down to 1e-20, where each is cut off.
    np.testing.assert_allclose(found[1], 0.25 * found[0], rtol=0.0, atol=1e-18)
    np.testing.assert_array_equal(found[2], -found[0])


def test_the_louder_channel_turns_both_down():
    samples = np.concatenate([sine(44100, 1000.0, -6.0, 0.5), sine(44100, 300.0, -60.0, 0.5)])
    found, _ = render(dataclasses.replace(HARD, max_reduction_db=40.0), samples, 44100)
    kept = found[:, 15_000:].astype(np.float64).std(axis=1) / samples[:, 15_000:].std(axis=1)
    # One of two channels at -9 dBFS is -12 dBFS, all in all.
    assert kept == pytest.approx(10.0 ** (-0.75 * 18.0 / 20.0), rel=2e-3)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 192000])
@pytest.mark.parametrize(("attack", "release"), [(1.0, 30.0), (3.0, 200.0), (10.0, 100.0), (100.0, 60.0)])
def test_attack_and_release_last_as_long_as_they_say(rate, attack, release):
    setting = Compression(-25.0, 4.0, 6.0, attack, release, max_reduction_db=40.0)
    assert times(setting, rate, -50.0, -10.0) == pytest.approx((attack, release), rel=0.1)


@pytest.mark.parametrize("attack", [1.0, 10.0, 30.0])
@pytest.mark.parametrize(("quiet", "phase"), [(-20.0, 0.3), (-13.0, 1.5)])
def test_a_step_above_the_threshold_takes_as_long(attack, quiet, phase):
    setting = Compression(-40.0, 4.0, 6.0, attack, 100.0, max_reduction_db=40.0)
    assert times(setting, 44100, quiet, -10.0, phase) == pytest.approx((attack, 100.0), rel=0.1)


def test_times_hold_in_a_band_of_several():
    setting = Compression(-20.0, 4.0, 0.0, (80.0, 20.0, 1.0), (50.0, 150.0, 400.0), (20.0, 20_000.0), 40.0)
    middle = dataclasses.replace(setting, attack_ms=20.0, release_ms=150.0)
    assert times(middle, 48000, -25.0, -5.0) == pytest.approx((20.0, 150.0), rel=0.1)
    burst = sine(48000, 1000.0, -5.0, 0.5)
    own, same = (render(s, burst, 48000)[1].curve_db for s in (setting, middle))
    np.testing.assert_array_equal(own[1], same[1], "the middle band has its own times")


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
@pytest.mark.parametrize("hz", [50.0, 100.0, 1000.0, 3000.0])
@pytest.mark.parametrize(("ratio", "knee", "attack"), [(3.0, 8.0, 1.0), (20.0, 0.0, 10.0)])
def test_sines_follow_the_curve(rate, hz, ratio, knee, attack):
    setting = Compression(-21.0, ratio, knee, attack, 40.0, max_reduction_db=40.0)
    for level in (-40.0, -25.5, -22.0, -18.5, -10.0, -3.0103):
        tone = sine(rate, hz, level + 3.0103, 0.6)
        found, report = render(setting, tone, rate)
        settled = slice(int(0.4 * rate), int(0.5 * rate))
        power = np.square(found[0, settled].astype(np.float64)).mean()
        # Of the wave of 50 Hz, the window lets through just enough to see.
        error = 0.1 if hz == 50.0 else 0.01
        assert 10.0 * np.log10(power) == pytest.approx(curve(level, -21.0, ratio, knee), abs=error)
        taken = level - curve(level, -21.0, ratio, knee)
        assert report.curve_db[0, 4] == pytest.approx(taken, abs=error)
        assert report.max_db[0] == pytest.approx(taken, abs=0.1)


def test_the_end_of_a_short_peak_is_soon_forgotten():
    rate, release = 44100, 200.0
    taken_after = {}
    for share in (0.25, 1.0):
        for length in (0.02, 1.5):
            setting = Compression(-30.0, 4.0, 0.0, 2.0, release, max_reduction_db=40.0, peak_release=share)
            envelope = np.full(int(rate * (length + 0.5)), 1e-3)
            envelope[: int(rate * length)] = 0.3
            envelope = np.concatenate([np.full(rate // 5, 1e-3), envelope])
            tone = (envelope * np.sin(2 * np.pi * 1000.0 * np.arange(len(envelope)) / rate)).astype(
                np.float32
            )
            taken = reduction_of(tone, render(setting, tone[None], rate)[0][0], envelope)
            end = rate // 5 + int(rate * length)
            taken_after[share, length] = taken[end + int(rate * release / 4000.0)] / taken[end]
    # A quarter of the release time behind the end.
    assert taken_after[1.0, 0.02] == pytest.approx(np.exp(-0.25), rel=0.02)
    assert taken_after[1.0, 1.5] == pytest.approx(np.exp(-0.25), rel=0.02)
    assert taken_after[0.25, 1.5] == pytest.approx(np.exp(-0.25), rel=0.02)
    assert np.exp(-1.0) < taken_after[0.25, 0.02] < 0.6


def test_no_more_is_taken_than_allowed():
    setting = dataclasses.replace(HARD, max_reduction_db=5.0)
    tone = sine(44100, 500.0, 0.0, 0.5)
    found, report = render(setting, tone, 44100)
    assert report.max_db[0] == pytest.approx(5.0, abs=1e-6)
    assert np.abs(found[0, -5000:]).max() == pytest.approx(10.0 ** (-5.0 / 20.0), rel=1e-4)


@BOTH
def test_parallel_compression_is_a_sum(setting):
    samples = music_like(2, 44100, 44100)
    wet, _ = render(setting, samples, 44100)
    mixed, report = render(dataclasses.replace(setting, mix=0.3), samples, 44100)
    np.testing.assert_allclose(mixed, 0.7 * samples + 0.3 * wet, atol=2e-7 * np.abs(samples).max())
    most = render(setting, samples, 44100)[1].max_db
    expected = [-20.0 * np.log10(0.7 + 0.3 * 10.0 ** (-db / 20.0)) for db in most]
    np.testing.assert_allclose(report.max_db, expected, rtol=1e-6)


def test_a_band_is_compressed_by_itself():
    bass, treble = sine(44100, 60.0, -6.0, 1.0), sine(44100, 6000.0, -30.0, 1.0)
    setting = dataclasses.replace(BANDS, threshold_db=(-25.0, -40.0, -20.0))
    found, report = render(setting, bass + treble, 44100)
    spectrum = np.abs(np.fft.rfft(found[0, 22_050:].astype(np.float64))) / 11_025
    # At 60 Hz the lowest band holds 1 / (1 + 0.4^4) of the tone, and what is left lies in the middle one, below -40.
    share = 1.0 / (1.0 + 0.4**4)
    taken = 0.75 * (-9.01 + 20.0 * np.log10(share) + 25.0)
    assert report.curve_db[0, 7] == pytest.approx(taken, abs=0.02)
    expected = 10.0 ** (-6.0 / 20.0) * (share * 10.0 ** (-taken / 20.0) + 1.0 - share)
    assert spectrum[30] == pytest.approx(expected, rel=0.003)
    assert spectrum[3000] == pytest.approx(10.0 ** (-30.0 / 20.0), rel=1e-3), "treble passes"
    assert report.max_db[2] == 0.0


def test_crossovers_beyond_the_rate_are_left_out():
    samples = music_like(1, 20_000, 8000)
    found, report = render(BANDS, samples, 4000)
    low = dataclasses.replace(BANDS, crossovers_hz=(150.0,), threshold_db=(-30.0, -36.0))
    assert found.tobytes() == render(low, samples, 4000)[0].tobytes()
    assert len(report.max_db) == 2


@BOTH
def test_a_bass_note_stays_clean(setting):
    setting = dataclasses.replace(setting, attack_ms=10.0, release_ms=100.0)
    found, report = render(setting, sine(44100, 100.0, -18.0, 2.5), 44100)
    assert max(report.max_db) > 5.0
    spectrum = np.abs(np.fft.rfft(found[0, 44100:88200].astype(np.float64)))
    rest = np.sqrt(np.square(np.delete(spectrum, 100)).sum())
    assert 20.0 * np.log10(rest / spectrum[100]) < -100.0


@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(setting, value):
    samples = music_like(2, 20_000, 44100)
    samples[1, 15_000] = value
    with pytest.raises(ValueError, match="not finite"):
        render(setting, samples, 44100, 5000)


@pytest.mark.parametrize("shape", [(3, 10), (10,), (1, 10)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\[2, n\] samples"):
        Compressor(HARD, 44100, 2).push(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ratio": 0.5}, "ratio is 0.5"),
        ({"threshold_db": float("nan")}, "threshold_db is nan"),
        ({"attack_ms": 0.0}, "attack_ms is 0,"),
        ({"release_ms": (100.0, 100.0)}, "release_ms has 2 values, not 1"),
        ({"knee_db": -1.0}, "knee_db"),
        ({"knee_db": (1.0, 2.0)}, "knee_db has 2 values, not 1"),
        ({"mix": 1.5}, "mix"),
        ({"max_reduction_db": 100.0}, "max_reduction_db"),
        ({"peak_release": 0.0}, "peak_release"),
        ({"crossovers_hz": (500.0, 100.0)}, "ascend"),
    ],
)
def test_settings_that_cannot_be(change, words):
    setting = dataclasses.replace(HARD, **change)
    with pytest.raises(ValueError, match=words) as raised:
        setting.check()
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=words):
        Compressor(setting, 44100, 2)


@pytest.mark.parametrize("setting", [HARD, BANDS, Compression()])
def test_a_setting_survives_json(setting):
    setting.check()
    assert Compression(**json.loads(json.dumps(dataclasses.asdict(setting)))) == setting
