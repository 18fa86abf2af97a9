"""Codecs in containers that are not the usual ones, and a real file for every suffix that a listing takes."""

from __future__ import annotations

import struct

import av
import numpy as np
import pytest
from helpers.av_files import RATE, av_file, loudest_hz, tone

from pipeline.audio.decode import CorruptAudio, TruncatedAudio, UnrecognizedFormat, decode, probe
from pipeline.audio.encode import encode
from pipeline.dataset.sources.listing import SUFFIXES

HZ = 441.0


def encoded(
    muxer: str, codec: str, seconds: float = 1.0, rate: int = RATE, channels: int = 2, **more
) -> bytes:
    return av_file(muxer, codec, [tone(HZ, seconds, rate, channels)], rate=rate, **more)


def check(data: bytes, container: str, codec: str, seconds: float, slack: float) -> None:
    """It decodes to the tone, whole, up to the padding of its codec."""
    found = decode(data)
    assert (found.container, found.codec) == (container, codec)
    assert seconds - 0.001 <= found.duration_s <= seconds + slack
    assert abs(loudest_hz(found.samples, found.sample_rate) - HZ) < 3


# Codec and container of the file, FFmpeg's encoder and muxer, rate, and what the codec may add, seconds.
ODD_PAIRS = [
    ("mp3", "wav", "libmp3lame", "wav", RATE, 0.08),
    ("mp3", "wav", "libmp3lame", "wav", 16000, 0.1),
    ("mp3", "w64", "libmp3lame", "w64", RATE, 0.08),
    ("mp3", "matroska", "libmp3lame", "matroska", RATE, 0.05),
    ("mp3", "mp4", "libmp3lame", "mp4", RATE, 0.05),
    ("mp3", "avi", "libmp3lame", "avi", RATE, 0.08),
    ("mp2", "wav", "mp2", "wav", RATE, 0.05),
    ("aac", "mov", "aac", "mov", RATE, 0.05),
    ("aac", "matroska", "aac", "matroska", RATE, 0.05),
    ("aac", "mpegts", "aac", "mpegts", RATE, 0.05),
    ("opus", "webm", "libopus", "webm", 48000, 0.03),
    ("opus", "matroska", "libopus", "matroska", 48000, 0.03),
    ("opus", "mp4", "libopus", "mp4", 48000, 0.03),
    ("vorbis", "matroska", "vorbis", "matroska", RATE, 0.05),
    ("vorbis", "webm", "vorbis", "webm", RATE, 0.05),
    ("ac3", "wav", "ac3", "wav", RATE, 0.07),
    ("ac3", "matroska", "ac3", "matroska", RATE, 0.07),
    ("adpcm_ima_wav", "wav", "adpcm_ima_wav", "wav", RATE, 0.03),
    ("adpcm_ms", "wav", "adpcm_ms", "wav", RATE, 0.03),
    ("adpcm_yamaha", "wav", "adpcm_yamaha", "wav", RATE, 0.03),
    ("flac", "matroska", "flac", "matroska", RATE, 0.0),
    ("flac", "mp4", "flac", "mp4", RATE, 0.0),
    ("flac", "ogg", "flac", "ogg", RATE, 0.0),
    ("alac", "caf", "alac", "caf", RATE, 0.0),
]


@pytest.mark.parametrize("seconds", [0.3, 20.0])
@pytest.mark.parametrize(("codec", "container", "encoder", "muxer", "rate", "slack"), ODD_PAIRS)
def test_a_codec_in_another_container_is_read_whole(codec, container, encoder, muxer, rate, slack, seconds):
    check(encoded(muxer, encoder, seconds, rate), container, codec, seconds, slack)


def test_mp3_in_wav_is_whole_whatever_its_first_frame_says_of_the_others():
    """libsndfile guesses the length from the first frame: of a variable bit rate, far from it."""
    quiet, loud = (
        np.zeros((2, 5 * RATE), np.float32),
        np.random.default_rng(0).uniform(-0.9, 0.9, (2, 5 * RATE)),
    )
    vbr = encode(np.concatenate([quiet, loud], axis=1), RATE, "mp3")
    body = vbr[vbr.find(b"\xff\xfb") :]
    fmt = struct.pack("<HHIIHHHHIHHH", 0x55, 2, RATE, 16000, 1, 0, 12, 1, 2, 417, 1, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(body)) + body
    found = decode(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert found.codec == "mp3"
    assert 10.0 <= found.duration_s < 10.1


@pytest.mark.parametrize(
    ("muxer", "codec"), [("wav", "libmp3lame"), ("wav", "adpcm_ms"), ("w64", "libmp3lame")]
)
def test_compressed_wav_that_is_cut_short_says_so(muxer, codec):
    whole = encoded(muxer, codec, 5.0)
    with pytest.raises(TruncatedAudio, match="declares"):
        decode(whole[: len(whole) // 2])


def test_mp3_that_has_lost_its_end_in_a_framed_container_says_so():
    whole = encoded("matroska", "libmp3lame", 5.0)
    with pytest.raises((TruncatedAudio, CorruptAudio)):
        decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
@pytest.mark.parametrize("codec", ["ac3", "eac3"])
def test_bare_ac3_is_recognised_by_its_frames(codec, rate):
    whole = encoded(codec, codec, 2.0, rate)
    check(whole, codec, codec, 2.0, 0.1)
    assert probe(whole).codec == codec
    with pytest.raises(TruncatedAudio):
        decode(whole[:-300])


@pytest.mark.parametrize("data", [b"\x0b\x77" + bytes(500), b"\x0bw" + b"\xff" * 5000, b"\x0bw\x01"])
def test_a_syncword_alone_is_no_ac3(data):
    with pytest.raises(UnrecognizedFormat):
        decode(data)


# Suffix → (muxer, encoder, rate, channels) of a real file of that kind.
MADE = {
    ".wav": ("wav", "pcm_s16le", RATE, 2),
    ".wave": ("wav", "pcm_s24le", RATE, 2),
    ".w64": ("w64", "pcm_s16le", RATE, 2),
    ".flac": ("flac", "flac", RATE, 2),
    ".ogg": ("ogg", "vorbis", RATE, 2),
    ".oga": ("oga", "flac", RATE, 2),
    ".opus": ("opus", "libopus", 48000, 2),
    ".mp2": ("mp2", "mp2", RATE, 2),
    ".mp3": ("mp3", "libmp3lame", RATE, 2),
    ".aif": ("aiff", "pcm_s16be", RATE, 2),
    ".aiff": ("aiff", "pcm_s24be", RATE, 2),
    ".aifc": ("aiff", "pcm_s16le", RATE, 2),
    ".au": ("au", "pcm_s16be", RATE, 2),
    ".caf": ("caf", "pcm_s16le", RATE, 2),
    ".wv": ("wv", "wavpack", RATE, 2),
    ".m4a": ("ipod", "aac", RATE, 2),
    ".m4b": ("ipod", "alac", RATE, 2),
    ".aac": ("adts", "aac", RATE, 2),
    ".ac3": ("ac3", "ac3", RATE, 2),
    ".eac3": ("eac3", "eac3", RATE, 2),
    ".ec3": ("eac3", "eac3", 48000, 2),
    ".amr": ("amr", "libopencore_amrnb", 8000, 1),
    ".mp4": ("mp4", "aac", RATE, 2),
    ".m4v": ("ipod", "aac", RATE, 2),
    ".mov": ("mov", "pcm_s16le", RATE, 2),
    ".mkv": ("matroska", "libopus", 48000, 2),
    ".mka": ("matroska", "flac", RATE, 2),
    ".webm": ("webm", "libopus", 48000, 2),
}
# FFmpeg has no encoder for Monkey's Audio; WMA is made by our own `encode`, which asks for a bit rate.
OTHERS = {".ape", ".wma"}


def test_every_suffix_that_a_listing_takes_is_tried():
    assert MADE.keys() | OTHERS == SUFFIXES
    assert not MADE.keys() & OTHERS


@pytest.mark.parametrize("suffix", sorted(MADE))
def test_a_real_file_of_every_suffix_decodes(suffix):
    muxer, codec, rate, channels = MADE[suffix]
    found = decode(encoded(muxer, codec, 1.0, rate, channels), f"x{suffix}")
    assert 0.99 <= found.duration_s <= 1.1
    assert found.channels == channels
    assert abs(loudest_hz(found.samples, found.sample_rate) - HZ) < 3


def test_wma_decodes():
    found = decode(encode(tone(HZ), RATE, "wma"), "x.wma")
    assert found.codec == "wmav2"
    assert abs(loudest_hz(found.samples, RATE) - HZ) < 3


def test_a_decoder_for_monkeys_audio_is_there():
    assert av.codec.Codec("ape", "r").name == "ape"
