"""Odd but legal files on their real way: bytes, decoder, views, every extractor. No Ray is needed for it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from pipeline.audio.views import View
from pipeline.dataset.sources.listing import SourceItem
from pipeline.engine.batch import collect
from pipeline.engine.packing import pack, planned
from pipeline.features import REGISTRY
from pipeline.stages.decode.worker import DecodeWorker
from pipeline.stages.features.worker import FeaturesWorker

DSP_RATE = 22050
VIEWS = [View("native", None, None), View("mono", DSP_RATE, 1)]


# Undefined by definition, see the columns' own descriptions.
OF_A_PAIR = {"quality_stereo_width", "quality_phase_correlation"}
OF_TIME = {"tempo_bpm", "tempo_confidence", "tempo_beats_s", "onset_rate_hz", "loudness_range_lu"}


def music(channels: int, rate: int, seconds: float = 4.0) -> np.ndarray:
    """A chord, clicks twice a second and soft noise: all extractors have something to say."""
    time = np.arange(round(seconds * rate)) / rate
    chord = sum(np.sin(2 * np.pi * f * time) for f in (261.6, 329.6, 392.0)) / 3
    noise = np.random.default_rng(0).standard_normal((channels, len(time)))
    clicks = np.where(time % 0.5 < 0.02, 1.0, 0.05)
    return (0.2 * chord + 0.1 * clicks * noise).astype(np.float32)


@pytest.fixture(scope="module")
def decode():
    """The decode stage; its process starts once for all tests."""
    return DecodeWorker(VIEWS)


@pytest.fixture
def extract(tmp_path, decode):
    """``extract(samples, rate)``: the row of a float WAV after decoding and all extractors."""

    def run(samples: np.ndarray, rate: int) -> dict:
        path = tmp_path / "track.wav"
        soundfile.write(path, np.atleast_2d(samples).T, rate, subtype="FLOAT")
        [block] = pack(planned([SourceItem(str(path), path.stat().st_size)]), 300.0, 8)
        decoded = decode(block)
        features = FeaturesWorker([e() for e in REGISTRY.values()], DSP_RATE, blob_names=("mel", "chroma"))
        table = features(decoded)
        [row] = table.drop([n for n in table.column_names if n.startswith("pcm@")]).to_pylist()
        for kind in ("failures", "fallbacks"):
            [row[kind]] = collect(table, kind)
        return row

    return run


def columns(row: dict) -> dict:
    names = [f.name for e in REGISTRY.values() for f in e().columns()]
    return {name: row[name] for name in names if not name.endswith(("_blob", "_inline", "_shape"))}


def undefined(row: dict) -> set[str]:
    return {name for name, value in columns(row).items() if value is None}


def assert_finite(row: dict) -> None:
    for name, value in row.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, float):
                assert np.isfinite(item), name


def fallbacks(row: dict) -> list[tuple[str, str]]:
    return [(f["stage"], f["wanted"]) for f in row["fallbacks"]]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_no_number_is_reported_replaced_and_kept_out_of_every_column(poison, extract):
    clean = music(2, 44100)
    where = np.random.default_rng(1).integers(0, clean.size, 40)
    bad, mended = clean.copy(), clean.copy()
    bad.flat[where], mended.flat[where] = poison, 0.0
    found, expected = extract(bad, 44100), extract(mended, 44100)
    assert found["failures"] == []
    reported = [f for f in found["fallbacks"] if f["stage"] == "decode"]
    assert [(f["wanted"], f["used"]) for f in reported] == [("finite samples", "0 in their place")]
    assert reported[0]["reason"].startswith(f"{len(set(where))} ")
    assert_finite(found)
    assert undefined(found) == set()
    assert columns(found) == columns(expected)
    assert found["mel_inline"] == expected["mel_inline"]


def test_a_file_of_nothing_but_nan_fails_and_is_no_silence(extract):
    row = extract(np.full((2, 44100), np.nan), 44100)
    [failure] = row["failures"]
    assert failure["error_class"] == "CorruptAudio"
    assert "88200 of 88200 samples" in failure["message"]
    assert row["quality_silence_ratio"] is None
    assert_finite(row)


def test_a_file_with_some_nan_has_0_in_their_place_and_says_so(extract):
    samples = music(2, 44100).copy()
    samples[:, 1000:3000] = np.nan
    row = extract(samples, 44100)
    assert row["failures"] == []
    assert "4000 samples NaN" in row["fallbacks"][0]["reason"].replace("\u202f", "")
    assert_finite(row)


@pytest.mark.parametrize(
    ("channels", "rate", "missing"),
    [
        (1, 8000, OF_A_PAIR),
        (2, 8000, set()),
        (1, 192000, OF_A_PAIR),
        (2, 192000, set()),
        (8, 48000, set()),
        (8, 192000, set()),
    ],
)
def test_rates_and_channels_are_inputs_and_not_errors(channels, rate, missing, extract):
    row = extract(music(channels, rate), rate)
    assert (row["channels"], row["sample_rate"]) == (channels, rate)
    assert row["failures"] == []
    assert fallbacks(row) == []
    assert undefined(row) == missing
    assert_finite(row)
    assert all(row[f"key@{name}"] for name in REGISTRY)


def test_the_same_music_reads_alike_at_every_rate(extract):
    rows = [extract(music_at(rate), rate) for rate in (8000, 48000, 192000)]
    for name, tolerance in {
        "loudness_integrated_lufs": 0.1,
        "loudness_rms_dbfs": 0.1,
        "chroma_tuning": 0.02,
        "quality_stereo_width": 0.01,
        "hpss_harmonic_share": 0.02,
    }.items():
        values = [row[name] for row in rows]
        assert max(values) - min(values) < tolerance, f"{name}: {values}"
    assert len({(row["key_name"], row["key_mode"]) for row in rows}) == 1


def music_at(rate: int) -> np.ndarray:
    """A chord below 4 kHz with a slow swell, in two channels: the same at every rate."""
    time = np.arange(4 * rate) / rate
    swell = 1 + 0.5 * np.sin(2 * np.pi * 2 * time)
    left, right = (
        sum(a * np.sin(2 * np.pi * f * time) for f, a in zip((261.6, 329.6, 392.0), levels, strict=True))
        for levels in ((0.2, 0.1, 0.1), (0.1, 0.1, 0.2))
    )
    return (0.3 * swell * np.stack([left, right])).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("rate", [8000, 44100, 192000])
def test_one_sample_has_a_level_and_little_else(channels, rate, extract):
    row = extract(np.full((channels, 1), 0.5), rate)
    assert row["failures"] == []
    assert_finite(row)
    assert row["loudness_sample_peak_dbfs"] == pytest.approx(-6.02, abs=0.01)
    assert undefined(row) >= OF_TIME | {"loudness_integrated_lufs", "quality_bandwidth_hz"}


@pytest.mark.parametrize(("channels", "rate"), [(1, 8000), (2, 44100), (8, 192000)])
def test_silence_is_null_and_never_minus_infinity(channels, rate, extract):
    row = extract(np.zeros((channels, 2 * rate)), rate)
    assert row["failures"] == []
    assert fallbacks(row) == []
    assert row["quality_silence_ratio"] == 1.0
    assert row["quality_clipping_ratio"] == row["quality_dc_offset"] == 0.0
    levels = {name for name in columns(row) if name.startswith("loudness_")}
    assert undefined(row) >= levels | OF_TIME | {"key_name", "hpss_harmonic_share", "band_energy_share"}
    assert_finite(row)
