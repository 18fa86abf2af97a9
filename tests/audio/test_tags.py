"""Tags, bit rates and pictures of files as several writers leave them, and of files that mean harm."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from helpers.ape import ape
from helpers.av_files import RATE, av_file, tone

from pipeline.audio.encode import encode
from pipeline.audio.stream import AudioFile
from pipeline.audio.tags import TEXT_BYTES, FileFacts, clean_text, facts_of, gain_db, tags_of
from pipeline.audio.views import View, Wanted, decode_views

SAID = {
    "artist": "Ärtist 名",
    "title": "A title",
    "album": "An album",
    "track": "3/9",
    "date": "1999",
    "genre": "Jazz",
    "REPLAYGAIN_TRACK_GAIN": "-6.48 dB",
    "REPLAYGAIN_ALBUM_GAIN": "+1.50 dB",
}
TEXTS = {name: text for name, text in SAID.items() if name.islower()}
GAINS = {"replaygain_track_gain": -6.48, "replaygain_album_gain": 1.5}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)
WANTED = Wanted((View("mono", 8000, 1),), 200_000_000, 3600.0)


def facts(data: bytes) -> FileFacts:
    return decode_views(AudioFile("x", len(data), data), WANTED).facts


def tagged(muxer: str, codec: str, rate: int = RATE, options=None, **said) -> bytes:
    return av_file(muxer, codec, [tone(440, 0.5, rate)], rate=rate, tags=said or SAID, options=options)


@pytest.mark.parametrize(
    ("muxer", "codec", "rate", "gains", "options"),
    [
        ("mp3", "libmp3lame", RATE, True, None),
        ("flac", "flac", RATE, True, None),
        ("ogg", "flac", RATE, True, None),
        ("ogg", "vorbis", RATE, True, None),
        ("ogg", "libopus", 48000, True, None),
        ("ipod", "aac", RATE, False, None),
        ("mp4", "aac", RATE, False, None),
        ("ipod", "alac", RATE, False, None),
        ("wav", "pcm_s16le", RATE, False, None),
        ("aiff", "pcm_s16be", RATE, True, {"write_id3v2": "1"}),
        ("matroska", "pcm_s24le", RATE, True, None),
        ("webm", "libopus", 48000, True, None),
        ("wv", "wavpack", RATE, True, None),
    ],
)
def test_tags_are_read_from_every_format(muxer, codec, rate, gains, options):
    tags = facts(tagged(muxer, codec, rate, options)).tags
    encoder = tags.pop("encoder", "Lavf")
    assert encoder.startswith("Lavf")
    assert tags == {**TEXTS, "has_cover": False, **(GAINS if gains else {})}


def test_aiff_without_id3_has_its_title():
    assert facts(tagged("aiff", "pcm_s16be")).tags == {"title": "A title", "has_cover": False}


def synchsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def id3(*frames: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + synchsafe(len(text)) + b"\0\0" + text for name, text in frames)
    return b"ID3\4\0\0" + synchsafe(len(body)) + body


def with_chunk(wav: bytes, name: bytes, body: bytes) -> bytes:
    data = wav + name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]


PICTURE = (b"APIC", b"\0image/png\0\3\0" + PNG)


@pytest.mark.parametrize("chunk", [b"id3 ", b"ID3 "])
def test_id3_in_a_wav_file_with_a_cover(chunk):
    tag = id3((b"TPE1", b"\3" + "Ünï".encode()), (b"TXXX", b"\3replaygain_track_gain\0-3.00 dB"), PICTURE)
    tags = facts(with_chunk(encode(tone(440, 0.5), RATE, "wav"), chunk, tag)).tags
    assert tags == {"artist": "Ünï", "replaygain_track_gain": -3.0, "has_cover": True}


@pytest.mark.parametrize("container", ["mp3", "aac"])
def test_a_cover_in_front_of_a_stream(container):
    assert facts(id3(PICTURE) + encode(tone(440, 0.5), RATE, container)).tags["has_cover"] is True


def test_id3v1_behind_an_mp3():
    v1 = (
        b"TAG"
        + b"Old title".ljust(30)
        + b"Old artist".ljust(30, b"\0")
        + bytes(30)
        + b"1987"
        + bytes(30)
        + b"\x11"
    )
    tags = facts(encode(tone(440, 0.5), RATE, "mp3") + v1).tags
    assert (tags["title"], tags["artist"], tags["date"]) == ("Old title", "Old artist", "1987")


@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(124) + b"\xff"])
def test_ape_tags_behind_an_mp3(behind):
    tag = ape(
        ("Artist", "Äpe".encode() + b"\0and one more", 0),
        ("REPLAYGAIN_TRACK_GAIN", b"-2.00 dB", 0),
        ("Cover Art (front)", b"front.png\0" + PNG, 2),
        ("Year", b"2001", 0),
    )
    tags = facts(encode(tone(440, 0.5), RATE, "mp3") + tag + behind).tags
    tags.pop("encoder", None)
    assert tags == {
        "artist": "Äpe; and one more",
        "date": "2001",
        "replaygain_track_gain": -2.0,
        "has_cover": True,
    }


def test_texts_are_one_line_without_control_characters_and_bounded():
    said = {
        "artist": "a\0b\r\n\tc\x1b[31m\u202e d",
        "title": "é" * 1000,
        "album": "\0 \n",
        "genre": "x\ud800y",
    }
    tags = tags_of(said, False)
    assert tags["artist"] == "ab c [31m d"
    assert tags["title"] == "é" * (TEXT_BYTES // 2)
    assert "album" not in tags, "nothing is left of it"
    assert tags["genre"] == "x?y"


@pytest.mark.parametrize(
    "text", ["\0", "a" * 5000, "日" * 400, "👩‍🚀" * 200, "\ud800", "\ue000\x7f\x80", " a  b "]
)
def test_a_cleaned_text_is_clean_and_stays_so(text):
    clean = clean_text(text)
    assert len(clean.encode()) <= TEXT_BYTES
    assert clean_text(clean) == clean


def test_what_is_no_utf8_is_replaced():
    wav = with_chunk(
        encode(tone(440, 0.5), RATE, "wav"), b"LIST", b"INFOIART" + struct.pack("<I", 4) + b"\xe9\xff\xfeA"
    )
    artist = facts(wav).tags["artist"]
    assert "\ufffd" in artist
    assert artist.endswith("A")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-6.48 dB", -6.48), ("+1.5", 1.5), (" 3,25 DB ", 3.25), ("0.00 dB", 0.0), ("loud", None), ("", None),
        ("nan dB", None), ("inf", None), ("1e9", None), ("-1000 dB", None), ("9" * 300, None),
    ],
)  # fmt: skip
def test_replay_gain_is_a_number_of_decibels_or_nothing(text, value):
    assert gain_db(text) == value


def test_opus_gain_is_taken_to_the_same_reference():
    assert tags_of({"r128_track_gain": "-1280"}, False)["replaygain_track_gain"] == 0.0
    assert "replaygain_track_gain" not in tags_of({"r128_track_gain": "no number"}, False)


@pytest.mark.parametrize(
    ("make", "bits", "bit_rate"),
    [
        (lambda x: encode(x, RATE, "wav"), 16, 2 * 16 * RATE),
        (lambda x: encode(x, RATE, "wav", subtype="PCM_24"), 24, 2 * 24 * RATE),
        (lambda x: encode(x, RATE, "wav", subtype="FLOAT"), 32, 2 * 32 * RATE),
        (lambda x: encode(x, RATE, "aiff", subtype="PCM_24"), 24, 2 * 24 * RATE),
        (lambda x: encode(x, RATE, "flac", subtype="PCM_24"), 24, None),
        (lambda x: av_file("matroska", "flac", [x], form="s16"), 16, None),
        (lambda x: av_file("ogg", "flac", [x], form="s16"), 16, None),
        (lambda x: av_file("mov", "alac", [x], form="s16p"), 16, None),
        (lambda x: av_file("mov", "alac", [x], form="s32p"), 24, None),
        (lambda x: av_file("tta", "tta", [x], form="s16"), 16, None),
        (lambda x: av_file("wv", "wavpack", [x], form="s16p"), 16, None),
        (lambda x: av_file("wv", "wavpack", [x], form="s32p"), None, None),
        (lambda x: av_file("matroska", "pcm_s16le", [x]), 16, 2 * 16 * RATE),
        (lambda x: encode(x, RATE, "m4a", bit_rate=96_000), None, 96_000),
        (lambda x: av_file("mp3", "libmp3lame", [x]), None, 128_000),
        (lambda x: encode(x, RATE, "ogg"), None, None),
    ],
)
def test_bit_depth_and_bit_rate(make, bits, bit_rate):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 5 * RATE)).astype(np.float32)
    data = make(noise)
    found = facts(data)
    assert found.bits_per_sample == bits
    if bit_rate is None:
        assert 0.9 * 8 * len(data) / 5 < found.bit_rate <= 8 * len(data) / 4.9
    elif bits is not None:
        assert found.bit_rate == bit_rate
    else:
        assert 0.95 * bit_rate < found.bit_rate < 1.1 * bit_rate


@pytest.mark.parametrize("container", ["flac", "mp3"])
def test_a_large_picture_is_no_part_of_the_bit_rate(container):
    data = encode(tone(440, 2.0), RATE, container)
    padded = id3((b"APIC", b"\0image/png\0\3\0" + PNG + bytes(300_000)))
    assert abs(facts(padded + data).bit_rate / facts(data).bit_rate - 1) < 0.02


def test_tags_are_never_a_reason_to_fail():
    wav = encode(tone(440, 0.5), RATE, "wav")
    junk = np.random.default_rng(1)
    for size in (1, 7, 100, 5000):
        body = junk.bytes(size)
        for chunk in (b"id3 ", b"LIST", b"bext", b"iXML"):
            prefix = b"ID3\4\0\xff\x7f\x7f\x7f\x7f" if chunk == b"id3 " else b"INFO"
            found = decode_views(*file_of(with_chunk(wav, chunk, prefix + body)))
            assert found.samples == RATE // 2
            assert (found.facts.audio_streams, found.facts.bits_per_sample) == (1, 16)


def file_of(data: bytes) -> tuple[AudioFile, Wanted]:
    return AudioFile("x.wav", len(data), data), WANTED


def test_columns_and_back():
    known = FileFacts(3, 2, 1000, 24, {"artist": "A", "has_cover": True, "replaygain_album_gain": -1.0})
    columns = known.columns()
    assert columns["tag_artist"] == "A"
    assert columns["tag_title"] is None
    assert columns["tag_replaygain_album_gain_db"] == -1.0
    assert facts_of(columns) == known
    with pytest.raises(ValueError, match="no value"):
        facts_of({**columns, "tag_artist": "a\nb"})
