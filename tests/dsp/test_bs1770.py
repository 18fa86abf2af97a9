"""The loudness meter: EBU Tech 3341 and 3342 signals, BS.1770-4 coefficients, libavfilter's ebur128."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import sosfreqz

from pipeline.dsp import bs1770
from pipeline.dsp.true_peak import true_peak

RATE = 48000


def tone(levels: list[tuple[float, float]], rate: int = RATE, hz: float = 1000.0) -> np.ndarray:
    """A sine with peaks at ``(dBFS, seconds)`` one after the other, float32 ``[samples]``."""
    gains = np.concatenate([np.full(round(s * rate), 10 ** (db / 20)) for db, s in levels])
    return (gains * np.sin(2 * np.pi * hz * np.arange(len(gains)) / rate)).astype(np.float32)


def stereo(levels: list[tuple[float, float]], rate: int = RATE) -> np.ndarray:
    return np.stack([tone(levels, rate)] * 2)


def steps_of(samples: np.ndarray, rate: int = RATE) -> bs1770.Steps:
    return bs1770.measure_steps(iter([samples.astype(np.float64)]), len(samples), rate)


def test_coefficients_at_48_khz_are_those_of_the_standard():
    shelf, high_pass = bs1770.k_weighting(48000)
    np.testing.assert_allclose(shelf[:3], [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-8)
    np.testing.assert_allclose(shelf[4:], [-1.69065929318241, 0.73248077421585], atol=1e-8)
    np.testing.assert_allclose(high_pass[:3], [1.0, -2.0, 1.0])
    np.testing.assert_allclose(high_pass[4:], [-1.99004745483398, 0.99007225036621], atol=1e-8)


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 16000, 22050, 24000, 44100, 96000, 192000])
def test_the_response_is_that_of_48_khz_at_every_rate(rate):
    hz = np.linspace(20, 0.49 * min(rate, 48000), 500)
    found, standard = (sosfreqz(bs1770.k_weighting(r), hz, fs=r)[1] for r in (rate, 48000))
    error = 20 * np.log10(np.abs(found / standard))
    in_band = hz < 10000  # above, the rates beyond 48 kHz follow the analogue shelf, up to 0.2 dB away
    assert np.abs(error[in_band]).max() < (0.4 if rate == 4000 else 0.05)
    assert np.abs(error).max() < 0.4


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 96000, 192000])
def test_a_997_hz_sine_at_full_scale_reads_minus_3_01(rate):
    steps = steps_of(tone([(0.0, 3.0)], rate, hz=997.0)[None], rate)
    assert bs1770.integrated_loudness(steps) == pytest.approx(-3.01, abs=0.03)


def test_rates_below_the_shelf_are_refused():
    with pytest.raises(ValueError, match="at least 4000 Hz, not 3000"):
        bs1770.k_weighting(3000)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize(
    ("case", "levels", "expected"),
    [
        (1, [(-23, 20)], -23.0),
        (2, [(-33, 20)], -33.0),
        (3, [(-36, 10), (-23, 60), (-36, 10)], -23.0),
        (4, [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
        (5, [(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
    ],
)
def test_tech_3341_programme_loudness(rate, case, levels, expected):
    loudness = bs1770.integrated_loudness(steps_of(stereo(levels, rate), rate))
    assert loudness == pytest.approx(expected, abs=0.1), f"case {case}"


def test_tech_3341_case_6_weighs_the_surrounds():
    five = np.stack([tone([(db, 20)]) for db in (-28, -28, -24, -30, -30)])
    assert bs1770.integrated_loudness(steps_of(five)) == pytest.approx(-23.0, abs=0.1)
    lfe = tone([(-3, 20)], hz=60.0)
    assert bs1770.integrated_loudness(steps_of(np.insert(five, 3, lfe, axis=0))) == pytest.approx(
        -23.0, abs=0.1
    )


def test_channel_weights_of_seven_point_one():
    weights = bs1770.channel_weights(8)
    assert weights.tolist() == [1, 1, 1, 0, 1, 1, 1.41, 1.41]
    assert bs1770.channel_weights(12).tolist() == [1.0] * 12
    side = np.zeros((8, RATE), dtype=np.float32)
    side[6] = tone([(-20, 1)])
    back = side[[0, 1, 2, 3, 6, 5, 4, 7]]
    gain = bs1770.integrated_loudness(steps_of(side)) - bs1770.integrated_loudness(steps_of(back))
    assert gain == pytest.approx(10 * np.log10(1.41), abs=1e-6)


@pytest.mark.parametrize(
    ("case", "levels", "expected"),
    [
        (1, [(-20, 20), (-30, 20)], 10.0),
        (2, [(-20, 20), (-15, 20)], 5.0),
        (3, [(-40, 20), (-20, 20)], 20.0),
        (4, [(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)], 15.0),
    ],
)
def test_tech_3342_loudness_range(case, levels, expected):
    # The standard allows 1 LU.
    assert bs1770.loudness_range(steps_of(stereo(levels))) == pytest.approx(expected, abs=0.2), f"case {case}"


@pytest.mark.parametrize("rate", [11025, 44100])
def test_chunks_do_not_change_the_steps(rate):
    generator = np.random.default_rng(3)
    noise = generator.standard_normal((2, 5 * rate))
    whole = steps_of(noise, rate)
    cuts = np.sort(generator.integers(0, noise.shape[1], 40))
    pieces = bs1770.measure_steps(iter(np.split(noise, cuts, axis=1)), 2, rate)
    np.testing.assert_allclose(pieces.energy, whole.energy, rtol=1e-6)
    np.testing.assert_array_equal(pieces.samples, whole.samples)
    assert len(whole.energy) == 50
    assert set(whole.samples) <= {rate // 10, rate // 10 + 1}


def test_what_is_too_short_or_too_quiet_is_undefined():
    assert bs1770.integrated_loudness(steps_of(tone([(-20, 0.399)])[None])) is None
    assert bs1770.integrated_loudness(steps_of(tone([(-20, 0.4)])[None])) is not None
    assert bs1770.loudness_range(steps_of(tone([(-20, 2.99)])[None])) is None
    assert bs1770.loudness_range(steps_of(tone([(-20, 3.0)])[None])) == 0.0
    quiet = steps_of(tone([(-75, 5)])[None])
    assert bs1770.integrated_loudness(quiet) is None
    assert bs1770.loudness_range(quiet) is None


def ebur128(samples: np.ndarray, rate: int, layout: str) -> tuple[float, float, float]:
    """Integrated loudness, loudness range and true peak (dBTP) by FFmpeg's ``ebur128=peak=true``."""
    av = pytest.importorskip("av")
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, layout=layout, format="fltp")
    meter, sink = graph.add("ebur128", "metadata=1:peak=true"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    graph.push(frame)
    graph.push(None)
    last = {}
    while True:
        try:
            last = graph.pull().metadata or last
        except (av.BlockingIOError, av.EOFError):
            break
    peak = 20 * np.log10(float(last["lavfi.r128.true_peak"]))
    return float(last["lavfi.r128.I"]), float(last["lavfi.r128.LRA"]), peak


@pytest.mark.parametrize(("channels", "layout"), [(1, "mono"), (2, "stereo"), (5, "5.0"), (6, "5.1")])
def test_agrees_with_ffmpeg_on_bursts_of_noise(channels, layout):
    generator = np.random.default_rng(channels)
    envelope = np.repeat(10 ** (generator.uniform(-45, -15, 240) / 20), RATE // 4)
    noise = (generator.standard_normal((channels, len(envelope))) * envelope).astype(np.float32)
    loudness, range_, peak = ebur128(noise, RATE, layout)
    steps = steps_of(noise)
    assert bs1770.integrated_loudness(steps) == pytest.approx(loudness, abs=0.1)
    assert bs1770.loudness_range(steps) == pytest.approx(range_, abs=0.3)
    assert 20 * np.log10(true_peak(noise, RATE)) == pytest.approx(peak, abs=0.3)


def test_agrees_with_ffmpeg_on_real_music(music):
    for name, song in music.items():
        loudness, range_, peak = ebur128(song, 44100, "stereo")
        steps = steps_of(song, 44100)
        assert bs1770.integrated_loudness(steps) == pytest.approx(loudness, abs=0.1), name
        assert bs1770.loudness_range(steps) == pytest.approx(range_, abs=0.2), name
        assert 20 * np.log10(true_peak(song, 44100)) == pytest.approx(peak, abs=0.1), name
