"""Which of several sound tracks is decoded."""

from __future__ import annotations

import pytest
from helpers.av_files import RATE, av_file, loudest_hz, tone

from pipeline.audio.choice import choice_of, same_language
from pipeline.audio.decode import NoSuchAudioStream, probe
from pipeline.audio.encode import encode
from pipeline.audio.isolated import IsolatedDecoder
from pipeline.audio.stream import AudioFile
from pipeline.audio.views import View, Wanted, decode_views

WANTED = Wanted((View("native", None, None),), 200_000_000, 3600.0)
HZ = {"eng": 441.0, "deu": 882.0, "ger": 1323.0}


def several(muxer: str = "matroska", codec: str = "flac") -> bytes:
    return av_file(muxer, codec, [tone(hz) for hz in HZ.values()], languages=list(HZ))


def decoded(data: bytes, choice):
    return decode_views(AudioFile("x.mkv", len(data), data, choice=choice), WANTED)


@pytest.mark.parametrize(("muxer", "codec"), [("matroska", "flac"), ("mp4", "aac"), ("mpegts", "aac")])
@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("default", 0), ("0", 0), ("1", 1), ("2", 2), ("language:eng", 0), ("language:en", 0), ("language:EN", 0),
        ("language:de", 1), ("language:de-CH", 1), ("language:ger", 1),
    ],
)  # fmt: skip
def test_the_track_that_is_asked_for_is_decoded(muxer, codec, text, number):
    found = decoded(several(muxer, codec), choice_of(text))
    assert (found.facts.audio_streams, found.facts.audio_stream) == (3, number)
    assert abs(loudest_hz(found.stored["native"], RATE) - list(HZ.values())[number]) < 3


@pytest.mark.parametrize("where", ["in this process", "in the child", "on disk"])
def test_what_is_not_there_is_an_error_that_says_what_is(where, tmp_path):
    data = several()
    (tmp_path / "x.mkv").write_bytes(data)
    for choice, wanted in ((3, "number 3"), ("fr", "in language fr")):
        if where == "on disk":
            file = AudioFile("x.mkv", len(data), path=tmp_path / "x.mkv", choice=choice)
        else:
            file = AudioFile("x.mkv", len(data), data, choice=choice)
        decoder = IsolatedDecoder(WANTED) if where == "in the child" else None
        with pytest.raises(NoSuchAudioStream) as raised:
            decoder.decode(file) if decoder else decode_views(file, WANTED)
        if decoder:
            decoder.close()
        assert str(raised.value) == f"no audio stream {wanted}: the file has 0 (eng), 1 (deu), 2 (ger)"


def test_the_child_decodes_the_track_that_is_asked_for():
    data = several()
    decoder = IsolatedDecoder(WANTED)
    for number, hz in enumerate(HZ.values()):
        found = decoder.decode(AudioFile("x.mkv", len(data), data, choice=number))
        assert found.facts.audio_stream == number
        assert abs(loudest_hz(found.stored["native"], RATE) - hz) < 3
    decoder.close()


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3", "aiff", "opus"])
def test_a_format_of_one_track_has_number_0_only(container):
    data = encode(tone(440, 0.5, 48000), 48000, container)
    assert decoded(data, 0).facts.audio_streams == 1
    with pytest.raises(NoSuchAudioStream, match=r"number 1: the file has 0 \(no language\)"):
        decoded(data, 1)
    with pytest.raises(NoSuchAudioStream, match=r"in language en: the file has 0"):
        decoded(data, "en")


def test_a_language_in_the_tags_of_a_single_track_counts():
    data = av_file("flac", "flac", [tone(440, 0.5)], tags={"LANGUAGE": "deu"})
    assert decoded(data, "de").samples == RATE // 2
    with pytest.raises(NoSuchAudioStream, match=r"0 \(deu\)"):
        decoded(data, "en")


def test_probe_counts_the_tracks():
    assert probe(several()).audio_streams == 3
    assert probe(encode(tone(440, 0.5), RATE, "wav")).audio_streams == 1


@pytest.mark.parametrize(
    "text", ["", "all", "-1", "1.5", "language:", "language:english", "de", "language:de fr", "٣"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="neither default nor a number nor language:xx"):
        choice_of(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("de", "ger", True), ("deu", "ger", True), ("zh", "chi", True), ("en-US", "eng", True), ("pt_BR", "por", True),
        ("de", "en", False), ("", "en", False), ("ger", "gre", False), ("x", "x", True),
    ],
)  # fmt: skip
def test_codes_of_one_language(one, other, same):
    assert same_language(one, other) is same
    assert same_language(other, one) is same
