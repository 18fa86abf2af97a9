"""How often a master is rendered until what decoders make of it stays below, and which of them is the file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.signal

from pipeline.audio.reader import ArrayReader
from pipeline.audio.song_formats import SongFormat
from pipeline.mastering import delivery
from pipeline.mastering.delivery import ROUNDS, Delivery
from pipeline.mastering.delivery_check import Check, measured, on_trial
from pipeline.mastering.presets import Preset
from pipeline.mastering.song import Mastering
from pipeline.mastering.wish import Wish

RATE = 44100
PLAIN = Preset(lufs=-9.0, balance=0.0, ratio=1.0, max_compression_db=0.0, max_gr_db=24.0)


@pytest.fixture(scope="module")
def song() -> np.ndarray:
    """Noise with bursts, float32 ``[2, 3 s]``, that a limiter has to work on."""
    noise = np.random.default_rng(0).standard_normal((2, 3 * RATE))
    noise = scipy.signal.sosfilt(scipy.signal.butter(4, 4000, fs=RATE, output="sos"), noise)
    bursts = 1.0 + 3.0 * (np.arange(3 * RATE) % (RATE // 2) < RATE // 20)
    return (0.1 * noise * bursts).astype(np.float32)


@pytest.fixture
def delivered(song, tmp_path, monkeypatch):
    """``codec → (delivered, true peaks that were tried, that of the file)``: a codec makes its peaks, dBTP, of those of
    a file."""

    def deliver(codec):
        tried = []

        def trial(master, samples, sample_rate, channels, names):
            peak = measured(tmp_path / "master.flac", spectrum=False)
            tried.append(peak.levels.true_peak_dbtp)
            levels = replace(peak.levels, true_peak_dbtp=codec(tried[-1]))
            return [Check(0.0, replace(peak, levels=levels), False)]

        monkeypatch.setattr(delivery, "on_trial", trial)
        with Mastering(ArrayReader(song), RATE, Wish(PLAIN, ceiling_dbtp=-1.0)) as mastering:
            (tmp_path / "between").mkdir()
            made = Delivery(mastering, SongFormat("flac"), encodes=["mp3"]).to(
                tmp_path / "master.flac", tmp_path / "between"
            )
        return made, tried, measured(tmp_path / "master.flac").levels.true_peak_dbtp

    return deliver


def test_a_codec_that_stays_below_is_asked_once(delivered):
    made, tried, _ = delivered(lambda peak: peak + 0.5)
    assert (made.rounds, made.below, made.limited_by, len(tried)) == (1, True, None, 1)


def test_a_codec_that_overshoots_lowers_the_ceiling(delivered):
    made, tried, peak = delivered(lambda peak: peak + 1.8)
    assert made.below
    assert made.encoded_tp_dbtp == pytest.approx(peak + 1.8)
    assert -0.3 <= made.encoded_tp_dbtp <= 0.0
    assert len(tried) == made.rounds == 2
    assert made.plan.limiting.ceiling_dbtp < -1.5


def test_what_fell_too_low_is_raised_again(delivered):
    """A leap: above -1.7 dBTP the codec overshoots by 2 dB, and by none below."""
    made, tried, peak = delivered(lambda peak: peak + 2.0 if peak > -1.7 else peak)
    assert made.below
    assert made.rounds > 2
    assert made.rounds == len(tried)
    assert peak == max(one for one in tried if one <= -1.7)
    assert min(tried) < peak
    assert made.encoded_tp_dbtp == pytest.approx(peak)
    # The loudness is met all the same.
    assert made.limited_by is None
    assert made.after.levels.lufs == pytest.approx(-9.0, abs=0.05)


def test_a_codec_that_is_always_above_ends_after_some_rounds_and_says_so(delivered):
    made, tried, peak = delivered(lambda peak: 0.2)
    assert (made.below, made.rounds, len(tried)) == (False, ROUNDS, ROUNDS)
    assert made.encoded_tp_dbtp == pytest.approx(0.2)
    assert peak == tried[-1] == min(tried)


def test_all_formats_are_tried_on_all_grids(song):
    checks = on_trial(iter([song[:, :RATE], song[:, RATE:]]), song.shape[1], RATE, 2, ["mp3", "m4a", "opus"])
    assert len(checks) == 6
    own = measured_array(song)
    for check in checks:
        assert check.levels.lufs == pytest.approx(own, abs=0.5)
        assert check.excess_db == check.levels.true_peak_dbtp
    peaks = [check.levels.true_peak_dbtp for check in checks]
    assert peaks[0] != peaks[1]
    assert peaks[2] != peaks[3]


def test_surround_is_folded_and_an_odd_rate_converted():
    noise = 0.1 * np.random.default_rng(1).standard_normal((6, 2 * 96000)).astype(np.float32)
    (check, _) = on_trial(iter([noise]), noise.shape[1], 96000, 6, ["mp3"])
    assert check.levels.lufs is not None


def measured_array(samples: np.ndarray) -> float:
    from pipeline.mastering.song import listen

    return listen(ArrayReader(samples), RATE).levels.lufs
