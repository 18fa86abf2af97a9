from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.songs import by_pipeline, decoders_of, encoded, lag, noise

from pipeline.audio import song_wav, synth
from pipeline.audio.decode import decode
from pipeline.audio.dither import Quantizer, triangular
from pipeline.audio.encode import EncodeError
from pipeline.audio.reader import ArrayReader
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SONG_FORMATS, SongFormat
from pipeline.audio.song_ogg import checksum
from pipeline.audio.song_peak import PeakMeter, encode_below, true_peak_after
from pipeline.audio.song_tags import Picture, SongTags
from pipeline.dsp.true_peak import PEAK_CONTEXT, true_peak

LENGTHS = (1, 575, 1151, 1152, 1153, 44100 * 3 + 17)
MP3_RATES = (8000, 16000, 22050, 32000, 44100, 48000)
METER = PeakMeter(true_peak, PEAK_CONTEXT)
SETTINGS = {
    "mp3": SongFormat("mp3"), "mp3 V2": SongFormat("mp3", quality=2), "mp3 96": SongFormat("mp3", bit_rate=96_000),
    "flac": SongFormat("flac"), "flac 16": SongFormat("flac", bits=16), "ogg": SongFormat("ogg"),
    "opus": SongFormat("opus"), "m4a": SongFormat("m4a"), "wav": SongFormat("wav"),
}  # fmt: skip


def heard(x: np.ndarray, data: bytes, name: str) -> dict[str, tuple[int, int]]:
    """Decoder → (samples too many, lag)."""
    found = {}
    for who, how in decoders_of(name).items():
        y = how(data, name)
        found[who] = (y.shape[1] - x.shape[1], lag(x, y))
    return found


@pytest.mark.parametrize("rate", MP3_RATES)
@pytest.mark.parametrize("samples", LENGTHS)
def test_mp3_keeps_length_and_position(samples, rate):
    x = noise(samples)
    for quality in (None, 2):
        data = encoded(x, rate, SongFormat("mp3", quality=quality))
        found = heard(x, data, "mp3")
        if samples < 47 and rate <= 24000:
            # FFmpeg drops the cut at the beginning where that at the end lies in the same frame.
            assert found.pop("FFmpeg")[0] == 529
        assert set(found.values()) == {(0, 0)}


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("name", ["flac", "flac 16", "wav", "opus", "ogg", "m4a"])
def test_other_formats_keep_length_and_position(name, samples):
    x, form = noise(samples), SETTINGS[name]
    found = heard(x, encoded(x, 48000, form), form.name)
    if name == "ogg" and samples < 4096:
        # One page with the beginning and the end: FFmpeg does not trim it right.
        assert abs(found.pop("FFmpeg")[0]) <= 255
    if name == "m4a" and samples < 1024:
        # Of less than a frame of AAC FFmpeg hands out the whole frame.
        assert set(found.values()) == {(1024 - samples, 0)}
    else:
        assert set(found.values()) == {(0, 0)}


def test_an_m4a_of_unknown_length_says_its_length_and_begins_in_place():
    x = noise(44100)
    data = encoded(x, 44100, SongFormat("m4a"), samples=None)
    y = by_pipeline(data, "m4a")
    assert 0 < y.shape[1] - x.shape[1] < 1024
    assert lag(x, y) == 0
    # The edit list, which players heed: one edit, its duration in the clock of the movie, which is the
    # sample rate here, the priming in that of the track, and the usual speed.
    at = data.index(b"elst")
    assert struct.unpack(">IIII", data[at + 8 : at + 24]) == (1, 44100, 1024, 0x10000)


def test_the_lame_header_says_delay_and_padding():
    for samples, rate, channels in ((44100, 44100, 2), (1153, 44100, 1), (1153, 16000, 2), (577, 8000, 1)):
        data = encoded(noise(samples, channels), rate, SongFormat("mp3"))
        at = max(data.find(b"Info", 0, 64), data.find(b"Xing", 0, 64))
        frames = struct.unpack_from(">I", data, at + 8)[0]
        both = int.from_bytes(data[at + 141 : at + 144], "big")
        assert frames * (1152 if rate >= 32000 else 576) - (both >> 12) - (both & 0xFFF) == samples
        assert both >> 12 == 576


@pytest.mark.parametrize("name", SETTINGS)
def test_same_input_same_bytes_however_it_is_cut(name):
    x = noise(30000)
    whole = encoded(x, 48000, SETTINGS[name])
    out = io.BytesIO()
    with SongEncoder(out, SETTINGS[name], 48000, 2, samples=30000) as encoder:
        encoder.write(x[:, :0])
        for start in range(300):
            encoder.write(x[:, start : start + 1])
        encoder.write(x[:, 300:20001].astype(np.float64))
        encoder.write(x[:, 20001:])
    assert out.getvalue() == whole


@pytest.mark.parametrize("name", ["mp3", "flac", "ogg", "opus", "m4a", "wav"])
def test_mono_and_silence(name):
    for x in (noise(9000, 1), np.zeros((2, 9000), np.float32)):
        y = by_pipeline(encoded(x, 48000, SETTINGS[name]), name)
        assert y.shape == x.shape
        if not x.any():
            assert np.abs(y).max() < 1e-6


@pytest.mark.parametrize(
    ("name", "channels"), [("flac", 8), ("wav", 8), ("opus", 8), ("m4a", 6), ("flac", 3)]
)
def test_surround_stays_in_order(name, channels):
    t = np.arange(24000) / 48000
    x = np.stack([0.5 * np.sin(2 * np.pi * 50 * (n + 1) * t) for n in range(channels)]).astype(np.float32)
    y = by_pipeline(encoded(x, 48000, SongFormat(name)), name)
    tops = np.abs(np.fft.rfft(y[:, :24000], axis=1)).argmax(axis=1) * 2
    # The low-frequency channel of a lossy codec keeps little but its place.
    known = [n for n in range(channels) if n != 3 or channels < 6]
    assert [tops[n] for n in known] == [50 * (n + 1) for n in known]


def test_wav_keeps_every_bit_and_192_khz():
    x = 3.0 * noise(1000)
    data = encoded(x, 192000, SongFormat("wav"))
    np.testing.assert_array_equal(decode(data).samples, x)
    assert soundfile.info(io.BytesIO(data)).subtype == "FLOAT"
    assert soundfile.info(io.BytesIO(encoded(x[:, :0], 44100, SongFormat("wav")))).frames == 0


def test_wav_beyond_4_gib_is_rf64(monkeypatch):
    monkeypatch.setattr(song_wav, "_LARGEST_RIFF", 1000)
    x = noise(1000)
    data = encoded(x, 44100, SongFormat("wav"), tags=SongTags({"title": "long"}))
    assert data[:4] == b"RF64"
    for how in decoders_of("wav").values():
        np.testing.assert_array_equal(how(data, "wav"), x)


def test_flac_is_checked_by_its_own_checksum():
    x = noise(20000)
    data = encoded(x, 44100, SongFormat("flac", bits=24))
    integers, _ = soundfile.read(io.BytesIO(data), dtype="int32")
    packed = (integers >> 8).astype("<i4").reshape(-1).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    assert data[26:42] == hashlib.md5(packed).digest()  # noqa: S324  what FLAC has
    assert np.abs(integers.T / 2.0**31 - x).max() <= 1.5 * 2.0**-23


def test_dither_keeps_what_lies_below_a_step():
    t = np.arange(48000)
    quiet = (0.4 * np.sin(2 * np.pi * t / 48) * 2.0**-15)[None].astype(np.float32)
    y = by_pipeline(encoded(quiet, 48000, SongFormat("flac", bits=16)), "flac")
    # Rounding alone would leave nothing at all of 0.4 steps.
    assert not np.rint(quiet * 2.0**15).any()
    assert 2 * np.mean(y[0] * np.sin(2 * np.pi * t / 48)) * 2.0**15 == pytest.approx(0.4, abs=0.02)
    error = (y - quiet)[quiet != 0] * 2.0**15
    assert abs(error.mean()) < 0.02
    assert np.var(error) == pytest.approx(0.25, abs=0.01)


def test_dither_is_triangular_and_differs_between_channels():
    values = triangular(10**12, 2, 100_000)
    assert np.abs(values).max() <= 1.0
    assert np.abs(values.mean(axis=1)).max() < 0.01
    np.testing.assert_allclose(values.var(axis=1), 1 / 6, atol=0.005)
    assert np.mean(np.abs(values) < 0.5) == pytest.approx(0.75, abs=0.01)
    assert abs(np.corrcoef(values)[0, 1]) < 0.02
    assert abs(np.corrcoef(values[0, 1:], values[0, :-1])[0, 1]) < 0.02


def test_no_dither_where_no_bits_are_lost_and_none_in_silence():
    whole = np.rint(noise(5000) * 2.0**15) / 2.0**15
    np.testing.assert_array_equal(Quantizer(16).integers(whole) / 2.0**15, whole)
    late = np.concatenate([whole, noise(5000), np.zeros((2, 5000))], axis=1)
    found = Quantizer(16).integers(late) / 2.0**15
    np.testing.assert_array_equal(found[:, :5000], whole)
    assert np.abs(found - late)[:, 5000:10000].max() > 2.0**-16
    assert not found[:, 10000:].any()


def test_integers_clip_and_say_how_many():
    x = np.array([[0.5, 1.0, 1.5, -1.0, -2.0]], np.float32)
    with SongEncoder(io.BytesIO(), SongFormat("flac", bits=16), 44100, 1) as encoder:
        encoder.write(x)
    assert encoder.clipped == 2
    assert Quantizer(16).integers(x).tolist() == [[16384, 32767, 32767, -32768, -32768]]


def test_pages_of_ogg_have_their_checksum():
    tags = SongTags({"title": "t"}, (Picture(bytes(range(256)) * 1000, "image/png"),))
    for name, rate in (("ogg", 44100), ("opus", 48000)):
        data, at, number = encoded(noise(rate), rate, SongFormat(name), tags=tags), 0, 0
        while at < len(data):
            lacing = data[at + 27 : at + 27 + data[at + 26]]
            page = data[at : at + 27 + len(lacing) + sum(lacing)]
            assert page[:4] == b"OggS"
            assert struct.unpack_from("<III", page, 14) == (
                1,
                number,
                checksum(page[:22] + bytes(4) + page[26:]),
            )
            at, number = at + len(page), number + 1
        assert number > 5
    assert checksum(b"123456789") == 0x89A1897F  # CRC-32/POSIX without its length and final inversion


@pytest.mark.parametrize(
    ("form", "rate", "channels", "words"),
    [
        ({"name": "mp3"}, 96000, 2, "mp3 does not hold 96000 Hz .*resample to 48000 Hz, or choose flac"),
        ({"name": "mp3"}, 44000, 2, "resample to 44100 Hz"),
        ({"name": "mp3"}, 44100, 6, r"mp3 does not hold 6 channels \(2 at most\): mix down, or choose flac"),
        (
            {"name": "mp3", "bit_rate": 320_000},
            16000,
            2,
            "mp3 at 16000 Hz does not have 320000 bit/s: choose .*160",
        ),
        ({"name": "mp3", "bit_rate": 1, "quality": 1}, 44100, 2, "not both"),
        ({"name": "mp3", "quality": 11}, 44100, 2, "choose 0 to 9.999"),
        ({"name": "opus"}, 44100, 2, "opus does not hold 44100 Hz .only 48000.: resample to 48000 Hz"),
        ({"name": "opus", "bit_rate": 1000}, 48000, 2, "choose 12000 to 512000"),
        ({"name": "m4a"}, 44100, 8, "m4a does not hold 8 channels"),
        ({"name": "flac", "bits": 20}, 44100, 2, "choose 16 or 24"),
        ({"name": "flac", "bit_rate": 1}, 44100, 2, "no bit rate"),
        ({"name": "flac"}, 44100, 9, "choose wav"),
        ({"name": "flac"}, 700_000, 2, "1 to 655350 Hz"),
        ({"name": "aac"}, 44100, 2, "unknown format 'aac': choose one of mp3, flac"),
    ],
)
def test_what_a_format_does_not_hold_is_said_in_one_line(form, rate, channels, words, tmp_path):
    with pytest.raises(EncodeError, match=words) as raised:
        SongEncoder(tmp_path / "song", SongFormat(**form), rate, channels)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_no_song_without_samples_and_no_file_of_a_failure(tmp_path):
    for name in SONG_FORMATS:
        path = tmp_path / f"song.{name}"
        if name != "wav":
            with pytest.raises(EncodeError, match="cannot hold a song without samples: choose wav"):
                SongEncoder(path, SongFormat(name), 48000, 2).close()
        with pytest.raises(EncodeError, match="10 samples were announced, and 3 came"):
            encode_path(path, name, np.zeros((2, 3)), samples=10)
        with pytest.raises(EncodeError, match="NaN or infinity"):
            encode_path(path, name, np.full((2, 3), np.nan))
        with pytest.raises(EncodeError, match=r"float \[2, n\], not float32 \[1, 3\]"):
            encode_path(path, name, noise(3, 1))
        with pytest.raises(ZeroDivisionError):
            break_off(path, name)
        assert not path.exists()


def encode_path(path: Path, name: str, x: np.ndarray, samples: int | None = None) -> None:
    with SongEncoder(path, SongFormat(name), 48000, 2, samples=samples) as encoder:
        encoder.write(x)


def break_off(path: Path, name: str) -> None:
    with SongEncoder(path, SongFormat(name), 48000, 2) as encoder:
        encoder.write(noise(100_000))
        raise ZeroDivisionError


def test_nothing_is_written_in_front_of_where_the_file_stands():
    x, tags = noise(5000), SongTags({"title": "t"})
    for name in SONG_FORMATS:
        out = io.BytesIO(b"12345")
        out.seek(5)
        with SongEncoder(out, SongFormat(name), 48000, 2, samples=5000, tags=tags) as encoder:
            encoder.write(x)
        assert out.getvalue() == b"12345" + encoded(x, 48000, SongFormat(name), tags=tags)


@pytest.fixture(scope="module")
def loud() -> np.ndarray:
    parts = [
        (synth.chord_progression("C", "major", 4, 44100), 0.5, 0.0),
        (synth.drum_pattern(120, 4, 44100), 0.9, 0.2),
    ]
    return synth.mixture(parts, drive=4)


@pytest.mark.parametrize("name", ["mp3", "flac", "ogg", "m4a"])
def test_a_loud_song_is_below_the_ceiling_after_decoding(name, loud, tmp_path):
    path = tmp_path / f"song.{name}"
    finished = encode_below(ArrayReader(loud), path, SongFormat(name), 44100, meter=METER)
    y = decode(path.read_bytes()).samples
    assert y.shape == loud.shape
    assert finished.below
    assert finished.true_peak_dbtp == pytest.approx(20 * np.log10(true_peak(y, 44100)), abs=1e-6)
    assert -2.5 < finished.true_peak_dbtp <= -1.0
    assert 1 < finished.rounds <= 3
    # The whole song became quieter by that gain.
    assert 10 * np.log10(np.mean(y**2) / np.mean(loud**2)) == pytest.approx(finished.gain_db, abs=0.2)


def test_a_song_that_clips_by_far_needs_no_more_rounds(tmp_path, loud):
    finished = encode_below(
        ArrayReader(4 * loud), tmp_path / "x.flac", SongFormat("flac"), 44100, meter=METER
    )
    assert (finished.rounds, finished.below) == (2, True)
    assert finished.true_peak_dbtp == pytest.approx(-1.05, abs=0.01)


def test_a_quiet_song_and_a_silent_one_are_left_alone(tmp_path):
    quiet = encode_below(ArrayReader(noise(9000)), tmp_path / "x.mp3", SongFormat("mp3"), 44100, meter=METER)
    assert (quiet.gain_db, quiet.rounds, quiet.below) == (0.0, 1, True)
    silent = np.zeros((2, 9000), np.float32)
    finished = encode_below(ArrayReader(silent), tmp_path / "x.mp3", SongFormat("mp3"), 44100, meter=METER)
    assert (finished.gain_db, finished.true_peak_dbtp, finished.below) == (0.0, None, True)


def test_one_round_says_that_it_was_too_loud(tmp_path, loud):
    finished = encode_below(
        ArrayReader(loud), tmp_path / "x.ogg", SongFormat("ogg"), 44100, meter=METER, rounds=1
    )
    assert (finished.gain_db, finished.rounds, finished.below) == (0.0, 1, False)
    assert finished.true_peak_dbtp > -1.0


def test_a_peak_between_two_blocks_is_seen():
    # Half-sample sines at a quarter of the rate: the peak lies between samples, here only around a block's border.
    x = np.zeros((1, 1 << 15), np.float32)
    edge = np.arange((1 << 14) - 40, (1 << 14) + 40)
    x[0, edge] = 0.9 * np.sin(np.pi / 2 * edge + np.pi / 4) * np.hanning(80)
    whole = 20 * np.log10(true_peak(x, 48000))
    data = encoded(x, 48000, SongFormat("wav"))
    assert true_peak_after(data, METER) == pytest.approx(whole, abs=1e-4)
    assert whole > 20 * np.log10(np.abs(x).max()) + 1
