from __future__ import annotations

import io

import numpy as np
import pytest
from helpers.ape import BINARY, ape
from helpers.songs import encoded, noise
from PIL import Image

from pipeline.audio.ape_tags import ape_pictures, ape_tags
from pipeline.audio.encode import encode
from pipeline.audio.song_formats import SongFormat
from pipeline.audio.song_tags import Picture, SongTags, read_song_tags

RATE = 44100


def image(kind: str, seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 30, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


FRONT, BACK = image("JPEG", 1), image("PNG", 2)
MP3 = encode(noise(RATE // 2), RATE, "mp3")


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_damaged_tag_says_what_it_can(cut):
    tag = ape(("Artist", b"A", 0), ("Title", b"B", 0))
    broken = tag[:cut] + b"\xff\xff\xff\xff" + tag[cut + 4 :]
    found = ape_tags(bytes(1000) + broken, 4096)
    assert len(found) <= 2
    assert all(len(text) <= len(tag) for text in found.values())
    assert ape_tags(tag[-(cut + 1) :], 4096) in ({}, {"artist": "A", "title": "B"})


def test_a_long_text_is_cut():
    assert ape_tags(ape(("Lyrics", b"l" * 100, 0)), 7) == {"lyrics": "l" * 7}


@pytest.mark.parametrize("behind", [b"", b"TAG" + bytes(124) + b"\xff"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_pictures_go_into_the_tags_of_the_song(behind, on_disk, tmp_path):
    tag = ape(
        ("Title", b"of the tag", 0),
        ("Cover Art (Back)", b"r\xc3\xbcck.png\0" + BACK, BINARY),
        ("Cover Art (Front)", b"front.jpg\0" + FRONT, BINARY),
        ("Cover Art (strange)", b"\0" + FRONT, BINARY),
    )
    path = tmp_path / "song.mp3"
    path.write_bytes(MP3 + tag + behind)
    found = read_song_tags(path if on_disk else path.read_bytes())
    assert found.texts["title"] == "of the tag"
    assert found.pictures == (
        Picture(BACK, "image/png", 4, "rück.png"),
        Picture(FRONT, "image/jpeg", 3, "front.jpg"),
        Picture(FRONT, "image/jpeg", 0, ""),
    )
    assert "cover art" in found.dropped


def test_a_cover_that_id3_has_too_is_one():
    cover = Picture(FRONT, "image/jpeg", 3, "of ID3")
    song = encoded(noise(RATE // 2), RATE, SongFormat("mp3"), tags=SongTags({}, (cover,)))
    tag = ape(("Cover Art (Front)", b"a\0" + BACK, BINARY), ("Cover Art (Back)", b"b\0" + BACK, BINARY))
    assert read_song_tags(song + tag).pictures == (cover, Picture(BACK, "image/png", 4, "b"))


@pytest.mark.parametrize("value", [b"", b"name only", b"name\0"])
def test_what_holds_no_picture_is_none(value):
    assert list(ape_pictures(ape(("Cover Art (Front)", value, BINARY)))) == []
    assert read_song_tags(MP3 + ape(("Cover Art (Front)", value, BINARY))).pictures == ()


def test_pictures_are_bounded_and_it_is_said():
    tag = ape(*((f"Cover Art ({name})", b"\0" + FRONT, BINARY) for name in range(17)))
    found = read_song_tags(MP3 + tag)
    assert len(found.pictures) == 16
    assert "16 pictures" in found.dropped["picture"]
