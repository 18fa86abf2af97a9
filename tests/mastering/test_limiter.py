"""The limiter: true peaks on the hardest material, clean tones, an independent formula, and pieces of any length."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.signals import music  # noqa: F401  a fixture

from pipeline.dsp.true_peak import interpolator
from pipeline.mastering import peak_envelope as module
from pipeline.mastering.limiter import Limiter, Limiting, Windows, gain_curve
from pipeline.mastering.peak_envelope import (
    LOWEST_LEVEL_DB,
    PeakEnvelope,
    block_size,
    level_db,
    sliding_extreme,
)

RATE = 44100
LIMITING = Limiting()


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    """Noise that comes in bursts, most of it far below the loudest, float32."""
    generator = np.random.default_rng(seed)
    level = 10.0 ** generator.uniform(-3.0, 0.3, samples // 700 + 1).repeat(700)[:samples]
    return (generator.standard_normal((channels, samples)) * level).astype(np.float32)


def pieces_of(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[:, start : start + size] for start in range(0, samples.shape[1], size)]


def limited(
    samples: np.ndarray, gain_db: float = 0.0, rate: int = RATE, size: int = 1 << 30, **kwargs
) -> np.ndarray:
    limiter = Limiter(kwargs.pop("limiting", LIMITING), gain_db, rate, len(samples), **kwargs)
    return np.concatenate([*map(limiter.push, pieces_of(samples, size)), limiter.finish()], axis=1)


def oversampled(row: np.ndarray) -> np.ndarray:
    """All phases of the 8x interpolation of one channel between zeros: ``[8, n]``, by whole convolutions, float64."""
    padded = np.pad(row.astype(np.float64), 64)
    phases = [np.convolve(padded, taps[::-1], "valid") for taps in interpolator(8, 64, 8.0).double().numpy()]
    return np.stack([row, *(phase[1 : 1 + len(row)] for phase in phases)])


def true_peak_db(samples: np.ndarray) -> float:
    return 20.0 * np.log10(max(np.abs(oversampled(row)).max() for row in samples))


def reduced(
    limiting: Limiting = LIMITING, rate: int = RATE, gain_db: float = 0.0, *, samples: np.ndarray
) -> Limiter:
    limiter = Limiter(limiting, gain_db, rate, len(samples))
    limiter.push(samples)
    limiter.finish()
    return limiter


def hard_signals() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    samples = RATE // 2
    time = np.arange(samples) / RATE
    impulses, bursts, short = np.zeros((3, samples))
    impulses[[0, 5000, 5001, 12000, 12100, samples - 1]] = [1, 1, -1, 0.9, 1, -1]
    for number, frequency in enumerate((0.35, 0.45, 0.49, 0.4999)):
        start = 1000 + 5000 * number
        wave = np.cos(2 * np.pi * frequency * np.arange(3000) + number)
        bursts[start : start + 3000], short[start : start + 60] = wave, wave[:60]
    onset = np.where(time > 0.2, 1.0, 0.01)
    found = {
        "bass square": np.sign(np.sin(2 * np.pi * 40 * time)),
        "square": np.sign(np.sin(2 * np.pi * 997 * time)),
        "impulses": impulses,
        "bursts near Nyquist": bursts,
        "a few samples near Nyquist": short,
        "dense noise": generator.standard_normal(samples) * 0.5,
        "random signs": generator.choice([-1.0, 1.0], samples),
        "step": np.where(time > 0.25, -1.0, 0.05),
        "onset at 15 kHz": onset * np.sin(2 * np.pi * 15000 * time),
        "onset at 20 kHz": onset * np.sin(2 * np.pi * 20000 * time),
        "beats at 18 kHz": np.sin(2 * np.pi * 18000 * time) * (1.0 + np.sin(2 * np.pi * 30 * time)) ** 3,
    }
    return {name: wave[None].astype(np.float32) for name, wave in found.items()}


@pytest.mark.parametrize(("name", "samples"), hard_signals().items())
def test_true_peak_is_met_on_the_hardest_material(name, samples):
    for gain_db in (3.0, 12.0):
        found = true_peak_db(limited(samples, gain_db))
        assert found <= -1.0 + 0.002
        # And nothing is given away: the highest peak comes to the ceiling.
        assert found >= -1.0 - 0.02


def test_true_peak_next_to_half_the_rate_is_that_of_the_spectrum():
    # Clipped songs are full of what lies there, and filters that are too short miss a part of it.
    generator = np.random.default_rng(8)
    clipped = np.zeros(RATE)
    clipped[3000:-3000] = np.clip(generator.standard_normal(RATE - 6000) * 2.0, -0.7, 0.7)
    spectrum = np.fft.rfft(clipped)
    spectrum[20800:] = 0.0
    made = limited(np.fft.irfft(spectrum)[None].astype(np.float32), 6.0)[0].astype(np.float64)
    # Of what repeats itself the spectrum knows all that is between the samples.
    dense = np.fft.irfft(np.pad(np.fft.rfft(made), (0, 7 * RATE // 2)), 8 * RATE) * 8
    assert 20.0 * np.log10(np.abs(dense[RATE:-RATE]).max()) == pytest.approx(-1.0, abs=0.05)


def test_true_peak_is_met_on_music(music):  # noqa: F811
    for name, song in music.items():
        stretch = song[:, 10 * RATE : 14 * RATE]
        assert true_peak_db(limited(stretch, 12.0)) == pytest.approx(-1.0, abs=0.02), name


@pytest.mark.parametrize("rate", [8000, 44100, 192000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_pieces_equal_the_whole_bit_for_bit(rate, channels):
    samples = noise(channels, int(rate * (1.2 if rate == 8000 else 0.6)), seed=channels)
    whole = limited(samples, 6.0, rate)
    assert whole.shape == samples.shape
    assert whole.dtype == np.float32
    for size in (997, 4096, rate // 3):
        np.testing.assert_array_equal(limited(samples, 6.0, rate, size), whole, err_msg=f"{size}")


def test_pieces_of_a_song_longer_than_what_is_analysed_at_once(monkeypatch):
    samples = noise(2, RATE)
    whole, levels = limited(samples, 6.0), measured(samples)
    assert RATE < module._QUANTUM * 32
    for quantum in (40, 313):
        monkeypatch.setattr(module, "_QUANTUM", quantum)
        np.testing.assert_array_equal(measured(samples), levels)
        np.testing.assert_array_equal(limited(samples, 6.0, size=9999), whole)


@pytest.mark.parametrize("origin", [1, 20000, 30016, 33333])
def test_rendering_may_begin_anywhere_with_its_context(origin):
    samples = noise(2, RATE)
    whole = limited(samples, 9.0)
    context = Limiter(LIMITING, 9.0, RATE, 2).context
    assert context <= RATE
    begin = max(0, origin - context)
    found = limited(samples[:, begin:], 9.0, origin=begin)
    np.testing.assert_array_equal(found[:, origin - begin :], whole[:, origin:])


@pytest.mark.parametrize("origin", [0, 1, 20000, 33333])
def test_with_the_levels_of_the_song_no_context_is_needed(origin):
    samples = noise(2, RATE)
    levels = measured(samples)
    assert Limiter(LIMITING, 9.0, RATE, 2, levels=levels).context == 0
    found = limited(samples[:, origin:], 9.0, origin=origin, levels=levels, size=5000)
    np.testing.assert_array_equal(found, limited(samples, 9.0)[:, origin:])


def test_levels_of_a_shorter_song_are_refused():
    samples = noise(1, 2000)
    with pytest.raises(ValueError, match="shorter song"):
        limited(samples, levels=measured(samples[:, :1900]))


def measured(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    windows = Windows.of(LIMITING, rate)
    meter = PeakEnvelope(windows.block, windows.hold, len(samples))
    return np.concatenate([meter.push(samples), meter.finish()])


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 192000])
def test_levels_are_those_of_whole_convolutions(rate):
    windows = Windows.of(LIMITING, rate)
    samples = noise(2, 400 * windows.block - 3, seed=rate)
    peaks = np.max([np.abs(oversampled(row)).max(axis=0) for row in samples], axis=0)
    expected = 20.0 * np.log10(np.pad(peaks, (0, 3)).reshape(-1, windows.block).max(axis=1))
    found = level_db(measured(samples, rate))
    assert len(found) == 400
    # None too high, but for the rounding upwards; and the highest of a hold is none too low, but for the ringing of
    # what lies beyond its ends.
    assert (found <= expected + 1.001 / 256).all()
    ringing = -(-module.PEAK_REACH // windows.block)
    held = sliding_extreme(np.maximum, found, windows.hold)
    inner = sliding_extreme(np.maximum, expected[ringing:-ringing], windows.hold - 2 * ringing)
    assert (held >= inner - 1e-5).all()


def test_few_blocks_of_music_are_oversampled(music, monkeypatch):  # noqa: F811
    song = music[min(music)][:, 10 * RATE : 15 * RATE]
    counts = []
    whole = module._true_peaks
    monkeypatch.setattr(module, "_true_peaks", lambda *args: counts.append(len(args[1])) or whole(*args))
    measured(song)
    assert 0 < sum(counts) < song.size / 32 / 4


def test_without_a_compiler_levels_are_the_same(monkeypatch):
    samples = noise(2, 20000)
    expected = measured(samples)
    monkeypatch.setattr(module, "_compiled_peaks", lambda block, taps: None)
    # Sums are rounded otherwise, which may carry a level over the next step.
    assert np.abs(measured(samples).astype(int) - expected).max() <= 1


def by_definition(levels: np.ndarray, windows: Windows, threshold_db: float) -> np.ndarray:
    """The curve, border by border, from the words of the docstrings; float64 ``[n + 1]``."""
    needed = np.minimum(0.0, threshold_db - level_db(levels))
    longest, ahead = max(windows.releases), windows.ahead

    def held(border: int) -> float:
        first, stop = border - (windows.hold - ahead), border + ahead
        return min(needed[max(0, first) : max(0, stop)], default=0.0)

    lead = longest + ahead
    steps = np.array([held(border) for border in range(-lead, len(levels) + 1)])
    released = steps.copy()
    for place in range(longest, len(steps)):
        averages = [steps[place - window + 1 : place + 1].mean() for window in windows.releases]
        released[place] = min(steps[place], *averages)
    shape = np.ones(1)
    for window in windows.smoothing:
        shape = np.convolve(shape, np.full(window, 1.0 / window))
    assert len(shape) == ahead
    return np.array(
        [released[lead + border - ahead + 1 : lead + border + 1] @ shape for border in range(len(levels) + 1)]
    )


@pytest.mark.parametrize(
    "limiting", [LIMITING, Limiting(-2.0, 2.0, 10.0, 0.0, 0.0), Limiting(-0.1, 10.0, 40.0, 80.0, 80.0)]
)
def test_curve_is_that_of_its_definition(limiting):
    windows = Windows.of(limiting, 8000)
    levels = measured(noise(1, 8000), 8000)
    found = gain_curve(levels, windows, -7.0)
    np.testing.assert_allclose(found, by_definition(levels, windows, -7.0), atol=1e-10)
    # On both sides of a border the gain is low enough for the block.
    needed = np.minimum(0.0, -7.0 - level_db(levels))
    assert (found[:-1] <= needed + 1e-9).all()
    assert (found[1:] <= needed + 1e-9).all()
    assert found.min() == pytest.approx(needed.min(), abs=1e-9)
    assert found.max() > needed.min() + 1.0


def test_curve_of_a_stretch_is_that_of_the_song_bit_for_bit():
    windows = Windows.of(LIMITING, RATE)
    levels = measured(noise(1, 2 * RATE))
    whole = gain_curve(levels, windows, -10.0)
    for first, last in ((300, 301), (700, 1500)):
        behind = first - windows.before
        stretch = gain_curve(levels[max(0, behind) : last + windows.ahead], windows, -10.0)
        np.testing.assert_array_equal(
            stretch[first - max(0, behind) :][: last - first + 1], whole[first : last + 1]
        )


def test_look_ahead_hold_and_release_take_the_stated_time():
    limiting = Limiting(lookahead_ms=5.0, hold_ms=25.0, release_ms=40.0, sustained_release_ms=150.0)
    ms = RATE / 1000.0 / block_size(RATE)
    loud = round(-LOWEST_LEVEL_DB) * 256

    def curve(blocks: int) -> np.ndarray:
        levels = np.zeros(2000, np.uint16)
        levels[500 : 500 + blocks] = loud
        return gain_curve(levels, Windows.of(limiting, RATE), -6.0)

    short, sustained = curve(1), curve(700)
    assert short[500] == short[501] == pytest.approx(-6.0)
    assert sustained[500:1201] == pytest.approx(-6.0, abs=1e-9)
    for found in (short, sustained):
        assert not found[: int(500 - 5.0 * ms) - 1].any()
        assert found[int(500 - 5.0 * ms) + 2] < 0.0
    # The gain is held, then comes back, a short reduction far sooner than a long one.
    back = [int(np.flatnonzero(found < -1e-9)[-1]) for found in (short, sustained)]
    half = [int(np.flatnonzero(found < -3.0)[-1]) for found in (short, sustained)]
    assert short[int(500 + 15 * ms)] < -5.0
    assert (half[0] - 500) / ms < 60.0
    assert (half[1] - 1200) / ms == pytest.approx(20.0 + 75.0, abs=6.0)
    assert (back[1] - 1200) / ms == pytest.approx(20.0 + 150.0, abs=8.0)
    # What a short one leaves behind for as long as a sustained one is little.
    assert short[int(500 + 90 * ms)] > -1.6


@pytest.mark.parametrize("frequency", [40, 60, 100, 1000, 5000])
def test_tones_stay_clean_at_6_db_of_reduction(frequency):
    time = np.arange(2 * RATE) / RATE
    samples = (10 ** (-1 / 20) * np.sin(2 * np.pi * frequency * time))[None].astype(np.float32)
    tone, rest = fitted(limited(samples, 6.0)[0, RATE // 2 : RATE * 3 // 2], [frequency])
    assert 10 * np.log10(np.mean(rest**2) / np.mean(tone**2)) < -125.0
    assert 20 * np.log10(np.abs(tone).max()) == pytest.approx(-1.0, abs=0.03)


def test_intermodulation_of_60_hz_and_7_khz():
    time = np.arange(2 * RATE) / RATE
    wave = 0.8 * np.sin(2 * np.pi * 60 * time) + 0.2 * np.sin(2 * np.pi * 7000 * time)
    whole = limited(wave[None].astype(np.float32), 5.0)[0, RATE // 2 : RATE * 3 // 2]
    _, rest = fitted(whole, [60, 7000])
    assert 10 * np.log10(np.mean(rest**2) / np.mean(fitted(whole, [7000])[0] ** 2)) < -100.0


def fitted(wave: np.ndarray, frequencies: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The tones in ``wave``, and what is left without them."""
    time = 2 * np.pi * np.arange(len(wave)) / RATE
    basis = np.stack([shape(f * time) for f in frequencies for shape in (np.sin, np.cos)], axis=1)
    wave = wave.astype(np.float64)
    tones = basis @ np.linalg.lstsq(basis, wave, rcond=None)[0]
    return tones, wave - tones


@pytest.mark.parametrize("channels", [1, 3])
def test_what_stays_below_the_ceiling_goes_through_bit_for_bit(channels):
    samples = noise(channels, RATE // 2)
    samples *= np.float32(10 ** (-1.02 / 20)) / np.float32(10 ** (true_peak_db(samples) / 20))
    np.testing.assert_array_equal(limited(samples), samples)
    assert reduced(samples=samples).max_gain_reduction_db == 0.0
    np.testing.assert_array_equal(limited(samples, -20.0), samples * np.float32(0.1))
    # A tenth of a decibel more, and it does not.
    assert reduced(samples=samples, gain_db=0.1).max_gain_reduction_db == pytest.approx(0.085, abs=0.01)


def test_gain_before_the_limiter_is_gain_of_its_input():
    samples = noise(2, RATE // 2)
    louder = (samples * np.float32(2.0)).astype(np.float32)
    np.testing.assert_allclose(limited(samples, 20 * np.log10(2.0)), limited(louder), atol=1e-3)
    assert np.abs(limited(samples) - limited(louder)).max() > 0.05


def test_all_channels_have_the_same_gain():
    samples = noise(1, RATE // 2)
    both = np.concatenate([samples, 0.25 * samples, np.zeros_like(samples)]).astype(np.float32)
    found = limited(both, 12.0)
    np.testing.assert_array_equal(found[0], limited(samples, 12.0)[0])
    np.testing.assert_array_equal(found[1], 0.25 * found[0])
    assert not found[2].any()


@pytest.mark.parametrize("samples", [0, 1, 2, 31, 33])
@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_few_samples(samples, rate):
    found = limited(np.full((2, samples), 3.0, np.float32), 6.0, rate)
    assert found.shape == (2, samples)
    if samples:
        assert true_peak_db(found) == pytest.approx(-1.0, abs=0.02)
    assert not limited(np.zeros((2, samples), np.float32), 60.0, rate).any()


def test_caller_may_write_over_its_pieces():
    samples = noise(2, RATE // 2)
    limiter, whole = Limiter(LIMITING, 6.0, RATE, 2), limited(samples, 6.0)
    buffer, found = np.empty((2, 3000), np.float32), []
    for piece in pieces_of(samples, 3000):
        buffer[:, : piece.shape[1]] = piece
        found.append(limiter.push(buffer[:, : piece.shape[1]]))
        buffer[:] = np.nan
    np.testing.assert_array_equal(np.concatenate([*found, limiter.finish()], axis=1), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value):
    samples = noise(2, 2000)
    samples[1, 1000] = value
    with pytest.raises(ValueError, match="finite"):
        limited(samples)
    # So large that their squares are none: these are numbers.
    assert np.isfinite(limited(np.full((1, 100), 1e30, np.float32))).all()


def test_reduction_is_reported_for_each_100_ms():
    samples = np.zeros((1, RATE), np.float32)
    samples[0, [RATE // 4, RATE * 3 // 4]] = [10 ** (5 / 20), 10 ** (2 / 20)]
    for size in (1 << 30, 777):
        limiter = Limiter(LIMITING, 0.0, RATE, 1)
        for piece in pieces_of(samples, size):
            limiter.push(piece)
        limiter.finish()
        found = limiter.reduction_db()
        assert limiter.max_gain_reduction_db == pytest.approx(6.005, abs=0.005)
        assert found[2] == pytest.approx(6.005, abs=0.005)
        assert found[7] == pytest.approx(3.005, abs=0.005)
        assert not found[[0, 1, 6]].any()
        assert len(found) in (10, 11)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ceiling_dbtp": np.nan},
        {"lookahead_ms": 0.0},
        {"lookahead_ms": 20.0},
        {"hold_ms": 1000.0},
        {"release_ms": -1.0},
        {"release_ms": 200.0},
        {"sustained_release_ms": 3000.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="look-ahead|" + "|".join(wrong)):
        Limiting(**wrong)
    with pytest.raises(ValueError, match="gain"):
        Limiter(LIMITING, np.inf, RATE, 1)
