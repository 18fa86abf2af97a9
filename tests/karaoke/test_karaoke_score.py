"""The karaoke score on mixtures whose stems are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.signal

from pipeline.audio import synth
from pipeline.audio.metrics import si_sdr
from pipeline.audio.reader import ArrayReader
from pipeline.errors import UserError
from pipeline.karaoke import evidence
from pipeline.karaoke.calibration import NO_JUDGE, calibration, from_json, to_json
from pipeline.karaoke.decomposition import decompose
from pipeline.karaoke.evidence import Judge, excerpts, gather
from pipeline.karaoke.score import Score, in_marks, score
from pipeline.karaoke.spectra import GROUP, blocks, group_count
from pipeline.models import weights
from pipeline.models.separation import Separator, load_backend, separate_track
from pipeline.models.separation.spleeter import WEIGHTS

RATE = 44100
PREDICTED = [field.name for field in dataclasses.fields(Score)][:7]
COMMON = [field.name for field in dataclasses.fields(Score)][7:]


@pytest.fixture(scope="module")
def stems() -> tuple[np.ndarray, np.ndarray]:
    """A wide backing of drums and chords, and a sung voice in its centre, equally loud: float32 ``[2, samples]``."""
    seconds = 8.0
    drums = synth.drum_pattern(110, seconds, RATE, 1)
    left, right = (synth.chord_progression("C", "major", seconds, RATE, seed=seed) for seed in (1, 2))
    right = np.roll(right, 700)
    count = min(map(len, (drums, left, right)))
    backing = np.stack([left[:count] + 0.4 * drums[:count], right[:count] + 0.3 * drums[:count]])
    sung = synth.voice(seconds, RATE, [220.0, 247.0, 294.0, 330.0], seed=3)[:count]
    voice = np.stack([sung, sung]) * np.sqrt(np.mean(backing**2) / np.mean(sung**2))
    return 0.2 * backing.astype(np.float32), 0.2 * voice.astype(np.float32)


class FakeJudge:
    """Finds what is left of a voice it knows, by projecting the mid on it band by band; no separator at all."""

    def __init__(self, voice: np.ndarray) -> None:
        self.asked = 0
        filters = [scipy.signal.butter(2, hz, "lowpass", fs=RATE, output="sos") for hz in (500, 1500)]
        low = scipy.signal.sosfilt(filters[0], voice)
        middle = scipy.signal.sosfilt(filters[1], voice) - low
        self.bands = [low, middle, voice - low - middle]

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        self.asked += 1
        count = samples.shape[1]
        # The excerpt begins one hop before the track and ends after it.
        shift = [np.pad(band, ((0, 0), (2048, count)))[:, :count] for band in self.bands]
        basis = np.stack([band.ravel() for band in shift], axis=1)
        gains = np.linalg.lstsq(basis, samples.ravel(), rcond=None)[0]
        return (basis @ gains).reshape(samples.shape).astype(np.float32)


@pytest.fixture(scope="module")
def judged(stems):
    """The fake judge, and the calibration with Spleeter's numbers under the fake's name."""
    numbers = calibration()
    models = {**numbers.models, "fake": numbers.models["spleeter"]}
    return Judge("fake", FakeJudge(stems[1])), dataclasses.replace(numbers, models=models)


@pytest.fixture(params=["judge", "no judge"])
def told(request, judged):
    """``(mix, instrumental) → Score``, with the fake judge and without any."""
    judge, numbers = judged
    return lambda mix, y: score(mix, y, judge if request.param == "judge" else None, numbers=numbers)


def test_do_nothing_and_silence_rank_below_a_good_output(stems, told):
    backing, voice = stems
    mix = backing + voice
    good = told(mix, backing + 0.1 * voice)
    nothing, silence = told(mix, mix), told(mix, np.zeros_like(mix))
    assert good.karaoke_score > nothing.karaoke_score > silence.karaoke_score
    assert good.karaoke_predicted_sdr_db > nothing.karaoke_predicted_sdr_db + 5
    # The formula in common use has it the other way round.
    assert nothing.karaoke_score_common > good.karaoke_score_common


def leaking(stems: tuple[np.ndarray, np.ndarray], *leaks_db: float) -> list[np.ndarray]:
    """The backing with so much of the voice."""
    return [stems[0] + 10 ** (leak / 20) * stems[1] for leak in leaks_db]


def test_more_voice_left_is_a_lower_prediction(stems, judged):
    judge, numbers = judged
    found = [score(sum(stems), y, judge, numbers=numbers) for y in leaking(stems, 0, -4, -8, -14)]
    values = [one.karaoke_predicted_sdr_db for one in found]
    assert values == sorted(values)
    assert len(set(values)) == len(values)
    residual = [one.karaoke_residual_vocal_db for one in found]
    assert residual == sorted(residual, reverse=True)


def test_without_a_judge_much_more_voice_is_a_lower_prediction(stems):
    """Steps of 4 dB it does not tell apart."""
    much, little = (score(sum(stems), y).karaoke_predicted_sdr_db for y in leaking(stems, 0, -14))
    assert little > much + 3


def test_columns_are_within_their_ranges(stems, told):
    backing, voice = stems
    mix = backing + voice
    low = scipy.signal.sosfilt(scipy.signal.butter(4, 300, fs=RATE, output="sos"), mix).astype(np.float32)
    for instrumental in (mix, backing, low, -mix, mix[::-1].copy(), 0.01 * mix, 3 * mix, backing - voice):
        one = told(mix, instrumental)
        assert (
            one.karaoke_predicted_sdr_db_low
            <= one.karaoke_predicted_sdr_db
            <= one.karaoke_predicted_sdr_db_high
        )
        assert one.karaoke_predicted_sdr_db_low >= -20
        assert one.karaoke_predicted_sdr_db_high <= 20
        assert -40 <= one.karaoke_residual_vocal_db <= 6
        assert -40 <= one.karaoke_damage_db <= 6
        assert one.karaoke_score == in_marks(one.karaoke_predicted_sdr_db)
        assert one.karaoke_calibration == calibration().version


def test_silence_left_is_the_bottom_of_the_scale(stems, told):
    mix = sum(stems)
    one = told(mix, np.zeros_like(mix))
    bounds = (
        one.karaoke_predicted_sdr_db_low,
        one.karaoke_predicted_sdr_db,
        one.karaoke_predicted_sdr_db_high,
    )
    assert bounds == (-20, -20, -20)
    assert (one.karaoke_residual_vocal_db, one.karaoke_damage_db) == (-40, 0)
    assert one.karaoke_rms_change_db is one.karaoke_spectral_similarity is one.karaoke_score_common is None
    assert one.karaoke_snr_db == pytest.approx(0)


@pytest.mark.parametrize("samples", [0, 1, 100, 2048, 30_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_silent_and_short_mixes(samples, channels):
    silent = np.zeros((channels, samples), np.float32)
    assert score(silent, silent) == Score()
    loud = silent + 0.1
    one = score(loud, loud)
    assert (one.karaoke_score_common is None) == (samples == 0)
    assert all(np.isfinite(value) for value in dataclasses.astuple(one) if isinstance(value, float))


def test_identical_in_and_out(stems):
    mix = sum(stems)
    one = score(mix, mix)
    assert (one.karaoke_snr_db, one.karaoke_rms_change_db) == (100, 0)
    assert one.karaoke_spectral_similarity == pytest.approx(1)
    assert one.karaoke_score_common == pytest.approx(1)


def test_by_name_measures_of_half_the_level(stems):
    mix = sum(stems)
    one = score(mix, 0.5 * mix)
    assert one.karaoke_snr_db == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert one.karaoke_rms_change_db == pytest.approx(-20 * np.log10(2), abs=1e-4)
    assert one.karaoke_spectral_similarity == pytest.approx(1)
    assert one.karaoke_score_common == pytest.approx(0.7 * 20 * np.log10(2) / 30 + 0.3, abs=1e-4)


def test_spectral_similarity_is_that_of_scipys_spectra(stems):
    backing, voice = stems
    one = score(backing + voice, backing)
    spectra = [
        scipy.signal.stft(np.pad(y, ((0, 0), (0, 4096))), nperseg=4096, noverlap=2048, padded=False)[2]
        for y in (backing + voice, backing)
    ]
    x, y = (np.sqrt((np.abs(one) ** 2).sum(0)) for one in spectra)
    expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
    assert one.karaoke_spectral_similarity == pytest.approx(expected, abs=1e-5)


def test_mono_is_null_for_midside_only(stems):
    mix, backing = sum(stems)[:1], stems[0][:1]
    null = score(mix, backing, method="midside")
    assert all(getattr(null, name) is None for name in PREDICTED)
    assert all(getattr(null, name) is not None for name in COMMON)
    assert score(mix, backing, method="spleeter").karaoke_predicted_sdr_db is not None
    assert score(sum(stems), stems[0], method="midside").karaoke_predicted_sdr_db is not None


@pytest.mark.parametrize(("kept", "snr_db"), [(1.0, 100), (0.0, 0)])
def test_null_where_the_judge_finds_no_voice_whatever_is_left(stems, judged, kept, snr_db):
    backing, _ = stems
    deaf = Judge("fake", lambda samples: 1e-3 * samples)
    one = score(backing, kept * backing, deaf, numbers=judged[1])
    assert all(getattr(one, name) is None for name in PREDICTED)
    assert one.karaoke_snr_db == pytest.approx(snr_db)


def test_the_same_twice_and_whatever_the_blocks(stems, judged):
    mix, instrumental = ArrayReader(sum(stems)), ArrayReader(stems[0] + 0.3 * stems[1])
    first = gather(mix, instrumental, judged[0])
    assert first == gather(mix, instrumental, judged[0])
    for groups in (1, 3, 100):
        other = gather(mix, instrumental, judged[0], groups)
        assert other.signs == pytest.approx(first.signs, abs=1e-3)
        assert other.common.karaoke_spectral_similarity == pytest.approx(
            first.common.karaoke_spectral_similarity, abs=1e-6
        )


def test_a_long_track_is_judged_in_excerpts_and_read_in_pieces(stems, monkeypatch):
    class Long:
        """The stems' sum over and over; tells the most that was read at once."""

        channels, samples, most = 2, 160 * RATE, 0

        def read(self, start: int, stop: int) -> np.ndarray:
            Long.most = max(Long.most, stop - start)
            return mix[:, np.arange(start, stop) % mix.shape[1]]

    monkeypatch.setattr(evidence, "SECONDS_PER_EXCERPT", 20.0)
    mix = sum(stems)
    judge = Judge("fake", FakeJudge(stems[1]))
    found = gather(Long(), Long(), judge)
    assert judge.vocals.asked == 8, "four excerpts of the mix and of the instrumental"
    assert Long.most < 12 * RATE
    assert found.common.karaoke_snr_db == 100


def test_excerpts_are_the_most_vocal_ones():
    vocal = np.zeros(1000)
    vocal[100:131], vocal[700:731] = 1.0, 2.0
    assert excerpts(vocal, 60.0) == [700]
    assert excerpts(vocal, 400.0) == [100, 700]
    assert excerpts(vocal[:10], 4.0) == [0]


def test_what_is_refused(stems):
    mix = sum(stems)
    with pytest.raises(ValueError, match="differ"):
        score(mix, mix[:, :-1])
    with pytest.raises(ValueError, match="8 channels"):
        score(np.zeros((8, 100), np.float32), np.zeros((8, 100), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        score(mix, np.full_like(mix, np.nan))
    with pytest.raises(ValueError, match="no judge somebody"):
        score(mix, mix, Judge("somebody", lambda samples: samples))
    with pytest.raises(ValueError, match="answered"):
        gather(ArrayReader(mix), ArrayReader(mix), Judge("short", lambda samples: samples[:, :-1]))


def test_parts_of_an_instrumental_are_told_apart(stems):
    backing, voice = stems
    for gain, harm in ((0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (0.3, 0.2)):
        noise = harm * np.random.default_rng(0).standard_normal(backing.shape).astype(np.float32)
        readers = [ArrayReader(one) for one in (backing + gain * voice + noise, backing, voice)]
        groups = group_count(backing.shape[1])
        (y, b), (_, v) = (next(blocks(readers[0], other, groups)) for other in readers[1:])
        assert y.shape[1] == groups * GROUP
        parts = decompose(y, b, v)
        assert np.sqrt(parts.left / parts.voice) == pytest.approx(gain, abs=0.05 + harm)
        true = np.sum(noise.astype(np.float64) ** 2) / np.sum(backing.astype(np.float64) ** 2)
        assert parts.damage / parts.backing == pytest.approx(true, abs=3e-3, rel=0.2)


def test_calibration_is_what_was_written():
    numbers = calibration()
    assert set(numbers.models) == {"spleeter", NO_JUDGE}
    assert from_json(to_json(numbers.models, numbers.trained_on)) == numbers
    with pytest.raises(ValueError, match="by hand"):
        from_json(to_json(numbers.models, numbers.trained_on).replace('"trained_on": "', '"trained_on": "!'))


@pytest.fixture(scope="module")
def spleeter() -> Separator:
    """With its real weights, fetched once if they are not in the store."""
    if weights.find(WEIGHTS) is None:
        try:
            weights.fetch(WEIGHTS)
        except UserError as error:
            pytest.skip(f"no Spleeter weights: {error}")
    return load_backend("spleeter")


def test_judged_by_spleeter(stems, spleeter):
    backing, voice = stems
    mix = backing + voice
    judge = Judge("spleeter", lambda samples: separate_track(spleeter, samples)[0])
    outputs = {
        "good": backing + 0.1 * voice, "midside": mix - separate_track(load_backend("midside"), mix)[0],
        "nothing": mix, "silence": np.zeros_like(mix),
    }  # fmt: skip
    found = {name: score(mix, y, judge).karaoke_predicted_sdr_db for name, y in outputs.items()}
    assert found["good"] > found["nothing"] > found["silence"]
    assert abs(found["nothing"] - si_sdr(mix, backing)) < 3
