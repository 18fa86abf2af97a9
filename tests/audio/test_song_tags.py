from __future__ import annotations

import io

import numpy as np
import pytest
from helpers.songs import by_pipeline, encoded, lag, noise
from PIL import Image

from pipeline.audio.decode import DecodeError
from pipeline.audio.encode import encode
from pipeline.audio.song_formats import SONG_FORMATS, SongFormat
from pipeline.audio.song_tags import METHOD, TEXT_BYTES, TEXTS, Picture, SongTags, made_by, read_song_tags

RATE = 48000
TITLE = "Ünïcödé – 日本語 🎤"
ALL = {
    "title": TITLE, "artist": "Ärtist & Co", "album": "Älbum", "album_artist": "Various", "track": "3/12",
    "disc": "1/2", "date": "2019-05-03", "genre": "Schlager", "composer": "Čomposer",
    "comment": "a cömment of before",
    "lyrics": "erste Zeile\nzweite 🎤 Zeile", "isrc": "DEABC1900001", "bpm": "120", "title-sort": "Unicode",
    "album_artist-sort": "various", "mood": "frœhlich", "musicbrainz_trackid": "9d5e8a2c",
    "notes": "日" * 15000,
}  # fmt: skip


def image(kind: str, size: int = 40) -> bytes:
    pixels = np.random.default_rng(size).integers(0, 255, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


COVER = Picture(image("JPEG"), "image/jpeg", 3, "Vörderseite")
BACK = Picture(image("PNG", 400), "image/png", 4, "back")


@pytest.mark.parametrize("name", SONG_FORMATS)
def test_every_tag_and_cover_comes_back(name):
    x = noise(RATE)
    data = encoded(x, RATE, SongFormat(name), tags=SongTags(ALL, (COVER, BACK)))
    found = read_song_tags(data)
    assert dict(found.texts) == ALL
    assert [(p.data, p.mime) for p in found.pictures] == [(p.data, p.mime) for p in (COVER, BACK)]
    if name != "m4a":  # has no place for what a picture shows
        assert found.pictures == (COVER, BACK)
    y = by_pipeline(data, name)
    assert (y.shape, lag(x, y)) == (x.shape, 0)


@pytest.mark.parametrize("source", SONG_FORMATS)
@pytest.mark.parametrize("target", SONG_FORMATS)
def test_tags_go_from_any_format_to_any_other(source, target, tmp_path):
    path = tmp_path / "song"
    path.write_bytes(encoded(noise(2000), RATE, SongFormat(source), tags=SongTags(ALL, (COVER,))))
    once = read_song_tags(path)
    twice = read_song_tags(encoded(noise(2000), RATE, SongFormat(target), tags=once))
    assert dict(twice.texts) == ALL
    assert [p.data for p in twice.pictures] == [COVER.data]


def test_the_tables_read_the_same_tags():
    from pipeline.audio.stream import open_bytes

    for name in SONG_FORMATS:
        with open_bytes(encoded(noise(9000), RATE, SongFormat(name), tags=SongTags(ALL, (COVER,)))) as stream:
            for _ in stream:
                pass
            tags = stream.facts().tags
        assert (tags["title"], tags["artist"], tags["track"], tags["has_cover"]) == (
            TITLE,
            "Ärtist & Co",
            "3/12",
            True,
        )


@pytest.mark.parametrize("name", SONG_FORMATS)
def test_the_method_has_a_tag_of_its_own(name):
    kept = made_by(SongTags({"comment": "mine"}), "karaoke 1.2")
    assert dict(kept.texts) == {"comment": "mine", METHOD: "karaoke 1.2"}
    assert dict(made_by(SongTags(), "karaoke 1.2").texts) == {"comment": "karaoke 1.2", METHOD: "karaoke 1.2"}
    assert dict(made_by(made_by(SongTags(), "a"), "b").texts)[METHOD] == "b"
    assert dict(read_song_tags(encoded(noise(999), RATE, SongFormat(name), tags=kept)).texts) == dict(
        kept.texts
    )


@pytest.mark.parametrize("name", SONG_FORMATS)
def test_what_is_untrue_of_other_sound_is_dropped_with_a_reason(name):
    untrue = {
        "replaygain_track_gain": "-6.48 dB", "REPLAYGAIN_ALBUM_PEAK": "0.99", "r128_track_gain": "-500",
        "iTunNORM": "00000001", "acoustid_fingerprint": "AQAD", "encoder": "LAME3.100",
    }  # fmt: skip
    data = encoded(noise(999), RATE, SongFormat(name), tags=SongTags({"title": "t", **untrue}))
    found = read_song_tags(data)
    assert dict(found.texts) == {"title": "t"}
    assert {name.lower() for name in untrue} <= found.dropped.keys()
    assert "gain" in found.dropped["replaygain_track_gain"]


def test_texts_are_bounded_and_it_is_said():
    # A character of three bytes does not end where the limit is.
    texts = {"lyrics": "日" * TEXT_BYTES, **{f"key{n}": "x" for n in range(TEXTS + 9)}}
    found = read_song_tags(encoded(noise(999), RATE, SongFormat("flac"), tags=SongTags(texts)))
    assert len(found.texts) == TEXTS
    assert found.texts["lyrics"] == "日" * (TEXT_BYTES // 3)
    assert "only its first" in found.dropped["lyrics"]
    assert sum("more than" in why for why in found.dropped.values()) == 10


def test_pictures_are_bounded_and_it_is_said():
    big = Picture(image("PNG") + bytes(9 << 20), "image/png")
    found = read_song_tags(encoded(noise(999), RATE, SongFormat("mp3"), tags=SongTags({}, (big, big, COVER))))
    assert [p.data for p in found.pictures] == [big.data]
    assert "16777216 bytes" in found.dropped["picture"]


def test_what_a_format_cannot_hold_is_said(tmp_path):
    from pipeline.audio.song_encoder import SongEncoder

    odd = SongTags({}, (Picture(image("GIF"), "image/gif"), COVER))
    with SongEncoder(tmp_path / "x.m4a", SongFormat("m4a"), RATE, 1, tags=odd) as encoder:
        encoder.write(noise(2000, 1))
    assert encoder.left_out == ["picture of image/gif: m4a holds image/jpeg, image/png, image/bmp"]
    assert [p.data for p in read_song_tags(tmp_path / "x.m4a").pictures] == [COVER.data]
    large = SongTags({"title": "t"}, (Picture(bytes(1 << 24), "image/png"),))
    with SongEncoder(tmp_path / "x.flac", SongFormat("flac"), RATE, 1, tags=large) as encoder:
        encoder.write(noise(2000, 1))
    assert len(encoder.left_out) == 1
    assert dict(read_song_tags(tmp_path / "x.flac").texts) == {"title": "t"}


def test_other_names_and_numbers():
    odd = {"track": "B7", "date": "Spring 1969", "a=b": "c", "compilation": "1"}
    for name in ("mp3", "m4a", "opus", "wav"):
        found = dict(read_song_tags(encoded(noise(999), RATE, SongFormat(name), tags=SongTags(odd))).texts)
        assert (found["track"], found["date"], found["compilation"]) == ("B7", "Spring 1969", "1")
        assert found["a_b" if name == "opus" else "a=b"] == "c"


def test_a_file_without_tags_and_one_that_is_none():
    assert read_song_tags(encode(noise(999), RATE, "wav")).texts == {}
    with pytest.raises(DecodeError):
        read_song_tags(b"no audio at all")
    with pytest.raises(DecodeError, match="0 bytes"):
        read_song_tags(b"")


def test_a_file_whose_tags_cannot_be_read_says_why():
    data = encoded(noise(999), RATE, SongFormat("m4a"), tags=SongTags({"title": "t"}))
    found = read_song_tags(data[: len(data) // 2])
    assert not found.texts
    assert found.dropped[""].startswith("FFmpeg: ")
