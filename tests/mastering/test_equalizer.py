"""The equaliser: its response, its phase, its place on the grid, and what must come out bit for bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy.signal import fftconvolve

from pipeline.mastering.curves import flat, high_shelf, low_shelf, tilt, width
from pipeline.mastering.equalizer import Equalizer, design

SHAPED = (
    tilt(-0.8)
    .added(low_shelf(90.0, 3.0))
    .added(high_shelf(9000.0, 2.0))
    .added(width(3.0, mono_below_hz=90.0))
)
GENTLE = tilt(0.7).added(width(1.5))


def rendered(samples, filters, piece=None, origin=0):
    equalizer = Equalizer(filters, len(samples), origin)
    count = piece or max(1, samples.shape[1])
    parts = [equalizer.push(samples[:, at : at + count]) for at in range(0, samples.shape[1], count)]
    return np.concatenate([*parts, equalizer.finish()], axis=1)


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def click(channels: int, samples: int, at: int) -> np.ndarray:
    samples = np.zeros((channels, samples), np.float32)
    samples[0, at] = 1.0
    return samples


def magnitude(response: np.ndarray, hz: np.ndarray, rate: int) -> np.ndarray:
    return np.abs(np.exp(-2j * np.pi / rate * np.outer(hz, np.arange(len(response)))) @ response)


@pytest.mark.parametrize("phase", ["linear", "minimum"])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_the_response_is_the_curve(rate, phase):
    filters = design(SHAPED, rate, phase)
    length = 4 * filters.taps
    left, right = rendered(click(2, length, length // 2), filters).astype(np.float64)
    hz = np.array([f for f in SHAPED.frequencies_hz if 40.0 <= f <= 0.45 * rate])
    for row, (response, wanted) in enumerate(zip((left + right, left - right), SHAPED.at(hz), strict=True)):
        heard = wanted > -40.0
        found = 20 * np.log10(magnitude(response, hz[heard], rate))
        np.testing.assert_allclose(
            found, wanted[heard], atol=0.3 if rate == 192000 else 0.1, err_msg=str(row)
        )
        assert (magnitude(response, hz[~heard], rate) < 0.0125).all()
    assert filters.error_db < (0.3 if rate == 192000 else 0.1)


def test_linear_phase_is_symmetric_about_the_sample():
    filters = design(SHAPED, 44100)
    assert np.array_equal(filters.mid, filters.mid[::-1])
    assert np.array_equal(filters.side, filters.side[::-1])
    at = 30000
    left = rendered(click(2, 60001, at), filters)[0]
    np.testing.assert_allclose(left, left[::-1], atol=2e-7)
    assert np.argmax(np.abs(left)) == at


def test_minimum_phase_has_nothing_before_its_cause():
    filters, linear = design(GENTLE, 44100, "minimum"), design(GENTLE, 44100)
    at = 30000
    response = rendered(click(2, 60000, at), filters)
    assert not response[:, :at].any()
    assert np.argmax(np.abs(response[0])) == at
    hz = np.geomspace(40.0, 19000.0, 50)
    for one, other in ((filters.mid, linear.mid), (filters.side, linear.side)):
        off = 20 * np.log10(magnitude(one, hz, 44100) / magnitude(other, hz, 44100))
        assert np.abs(off).max() < 0.15
        # Of all filters of that magnitude it is the earliest.
        for count in (1, 10, 100):
            assert np.square(one[:count]).sum() >= np.square(other[:count]).sum()


@pytest.mark.parametrize(("channels", "phase"), [(1, "linear"), (2, "linear"), (2, "minimum"), (5, "linear")])
def test_it_is_the_convolution(channels, phase):
    filters = design(SHAPED, 44100, phase)
    samples = noise(channels, 70001)
    wide = samples.astype(np.float64)
    cut = slice(filters.delay, filters.delay + samples.shape[1])
    if channels == 2:
        mid = fftconvolve((wide[0] + wide[1]) / 2, filters.mid)[cut]
        side = fftconvolve((wide[0] - wide[1]) / 2, filters.side)[cut]
        expected = np.stack([mid + side, mid - side])
    else:
        expected = np.stack([fftconvolve(row, filters.mid)[cut] for row in wide])
    assert np.abs(rendered(samples, filters) - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("phase", ["linear", "minimum"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2), (44100, 8), (48000, 3), (192000, 2)])
def test_pieces_change_no_bit(rate, channels, phase):
    filters = design(GENTLE, rate, phase)
    samples = noise(channels, 5 * Equalizer(filters, channels).context // 2)
    whole = rendered(samples, filters)
    assert whole.dtype == np.float32
    assert whole.shape == samples.shape
    for piece in (997, 65536):
        assert np.array_equal(rendered(samples, filters, piece), whole)


@pytest.mark.parametrize("phase", ["linear", "minimum"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_song_begun_inside_is_the_whole_song_after_its_context(channels, phase):
    filters = design(GENTLE, 44100, phase)
    context = Equalizer(filters, channels).context
    samples = noise(channels, 4 * context)
    whole = rendered(samples, filters)
    for wanted in (context, context + 12345, 2 * context + 1):
        origin = wanted - context
        assert np.array_equal(
            rendered(samples[:, origin:], filters, 5000, origin)[:, context:], whole[:, wanted:]
        )
        # With the taps alone it is the same but for rounding.
        origin = wanted - filters.taps
        late = rendered(samples[:, origin:], filters, 5000, origin)[:, filters.taps :]
        np.testing.assert_allclose(late, whole[:, wanted:], atol=1e-6)


def test_a_flat_curve_gives_back_what_came_in():
    samples = noise(2, 5000)
    for curve in (flat(), GENTLE.scaled(0.0)):
        filters = design(curve, 44100)
        assert Equalizer(filters, 2).context == 0
        assert np.array_equal(rendered(samples, filters, 777), samples)


def test_mono_stays_mono_and_side_alone_stays_side():
    one = noise(1, 50000)[0]
    left, right = rendered(np.stack([one, one]), design(SHAPED, 44100))
    assert np.array_equal(left, right)
    assert not np.array_equal(left, one)
    left, right = rendered(np.stack([one, -one]), design(SHAPED, 44100))
    assert np.array_equal(left, -right)
    # The curve of side is none of mid's business.
    gentle, wide = GENTLE, GENTLE.added(width(-4.0))
    equal = np.stack([one, one])
    assert design(gentle, 44100).taps == design(wide, 44100).taps
    assert np.abs(rendered(equal, design(gentle, 44100)) - rendered(equal, design(wide, 44100))).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_silence_is_exactly_zero(channels):
    filters = design(GENTLE, 44100)
    assert not rendered(np.zeros((channels, 60000), np.float32), filters).any()
    samples = noise(channels, 120000)
    samples[:, :20000] = 0.0
    samples[:, 60000:80000] = 0.0
    found, reach = rendered(samples, filters), filters.taps // 2
    assert not found[:, : 20000 - reach].any()
    assert not found[:, 60000 + reach : 80000 - reach].any()
    for part in (found[:, 20000:60000], found[:, 80000:]):
        assert np.count_nonzero(part) > 0.99 * part.size


@pytest.mark.parametrize("phase", ["linear", "minimum"])
@pytest.mark.parametrize("samples", [0, 1, 2, 1000])
def test_short_songs(samples, phase):
    filters = design(GENTLE, 44100, phase)
    given = np.full((2, samples), 0.5, np.float32)
    found = rendered(given, filters)
    assert found.shape == given.shape
    if samples == 1:
        assert found[:, 0] == pytest.approx(0.5 * filters.mid[filters.delay], rel=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    samples = noise(2, 1000)
    samples[0, 500] = bad
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="NaN or infinity"):
        rendered(samples, design(GENTLE, 44100))


def test_gain_commutes():
    samples, filters = noise(2, 50000), design(GENTLE, 44100)
    assert np.array_equal(
        rendered(samples * np.float32(0.25), filters), rendered(samples, filters) * np.float32(0.25)
    )


def test_filters_are_as_short_as_they_can_be_and_kept():
    assert design(GENTLE, 44100).taps < design(SHAPED, 44100).taps <= 8191
    assert design(tilt(0.7), 44100) is design(tilt(0.7), 44100)
    assert not design(SHAPED, 44100).mid.flags.writeable
    assert design.cache_info().maxsize == 64
    with pytest.raises(ValueError, match="phase is linear or minimum"):
        design(GENTLE, 44100, "maximum")


def test_threads_may_share_filters():
    samples, filters = noise(2, 60000), design(GENTLE.scaled(0.9), 44100)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(rendered(samples, filters, 7000))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(one, rendered(samples, filters)) for one in found)
