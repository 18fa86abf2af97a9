"""The files that the pins are of: short synthetic ones, which lie beside the pins, and excerpts of real ones.

The synthetic ones are committed, because what writes lossy files rounds otherwise on other machines. The real ones may
not be committed and are cut anew each time; where that is possible, bytes are moved and nothing is computed.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile

SYNTHETIC = Path(__file__).parent / "source"
SECONDS = 2.5
SONGS = ("feelings", "escape_from_chaosland")
_PAGE = 27  # bytes of an Ogg page's header before its lacing values
_CONTINUED, _LAST = 1, 4


def write_synthetic(folder: Path) -> None:
    """Copy the committed files into ``folder``."""
    folder.mkdir(parents=True)
    for path in sorted(SYNTHETIC.iterdir()):
        shutil.copyfile(path, folder / path.name)


def write_real(folder: Path, shared: Path) -> None:
    """Write ten excerpts of the songs and the speech in ``shared`` into ``folder``."""
    folder.mkdir(parents=True)
    for song in SONGS:
        for part in ("song", "guitar"):
            data = (shared / "music" / song / f"{part}.ogg").read_bytes()
            (folder / f"{song}_{part}.ogg").write_bytes(cut_ogg(data, 60.0, SECONDS))
    (folder / f"{SONGS[1]}_guitar.ogg").unlink()  # its sound is in the mix
    band = _pcm(shared / "music" / SONGS[0] / "song.ogg", 90.0)
    mix = _pcm(shared / "music" / SONGS[1] / "song.ogg", 75.0) // 2
    mix += _pcm(shared / "music" / SONGS[1] / "guitar.ogg", 75.0) // 2
    soundfile.write(folder / "mix.wav", mix, 44100, subtype="PCM_24")
    soundfile.write(folder / "mono.flac", mix[::2, 0], 22050, compression_level=0.0)
    # As floats: of whole numbers libsndfile 1.2 makes other bytes each time.
    soundfile.write(folder / "band.mp3", band / 32768, 44100)
    allison, june, carlo = (
        _pcm(shared / "speech" / voice / "vm-intro.wav", 0.5)
        for voice in ("en_US_f_Allison", "fr_CA_f_June", "it_IT_m_Carlo")
    )
    soundfile.write(folder / "allison.wav", allison, 8000)
    # Of level 0 the predictors are whole numbers.
    soundfile.write(folder / "june.flac", june, 8000, compression_level=0.0)
    soundfile.write(folder / "carlo.aiff", carlo, 8000)
    soundfile.write(folder / "two_speakers.wav", np.stack([allison, carlo], axis=1), 8000)


def _pcm(path: Path, start_s: float) -> np.ndarray:
    rate = soundfile.info(path).samplerate
    return soundfile.read(path, round(SECONDS * rate), round(start_s * rate), dtype="int16")[0]


def cut_ogg(data: bytes, start_s: float, seconds: float, rate: int = 44100) -> bytes:
    """Whole pages of an Ogg Vorbis file: its headers and those from ``start_s`` on; nothing is encoded again."""
    pages = list(_pages(data))
    headers = [page for page in pages if _granule(page) == 0]
    ends = [_granule(page) for page in pages]
    first = next(
        i
        for i, page in enumerate(pages)
        if ends[i] > start_s * rate and not page[5] & _CONTINUED and i > len(headers)
    )
    base = ends[first - 1]
    # A page whose last lacing value is 255 ends within a packet.
    last = next(
        i
        for i in range(first, len(pages))
        if ends[i] - base >= seconds * rate and pages[i][_PAGE + pages[i][26] - 1] < 255
    )
    kept = [*headers, *pages[first : last + 1]]
    return b"".join(
        _renumbered(page, number, 0 if number < len(headers) else base, number == len(kept) - 1)
        for number, page in enumerate(kept)
    )


def _pages(data: bytes):
    place = 0
    while place < len(data):
        assert data[place : place + 4] == b"OggS"
        lacing = data[place + _PAGE : place + _PAGE + data[place + 26]]
        size = _PAGE + len(lacing) + sum(lacing)
        yield data[place : place + size]
        place += size


def _granule(page: bytes) -> int:
    """Samples that have ended with this page."""
    return int.from_bytes(page[6:14], "little", signed=True)


def _renumbered(page: bytes, number: int, base: int, last: bool) -> bytes:
    changed = bytearray(page)
    changed[5] = changed[5] & ~_LAST | (_LAST if last else 0)
    changed[6:14] = (_granule(page) - base).to_bytes(8, "little", signed=True)
    changed[18:22] = number.to_bytes(4, "little")
    changed[22:26] = bytes(4)
    changed[22:26] = _crc(changed).to_bytes(4, "little")
    return bytes(changed)


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        table.append(crc & 0xFFFFFFFF)
    return table


_TABLE = _crc_table()


def _crc(data: bytes) -> int:
    """The checksum of RFC 3533."""
    crc = 0
    for byte in data:
        crc = (crc << 8) & 0xFFFFFFFF ^ _TABLE[(crc >> 24) ^ byte]
    return crc


def make_synthetic(folder: Path) -> None:
    """How the committed files were made; `renew.py` does it anew where there are none."""
    from pin_seams import write_demo

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for seconds, name in (
            (2.0, "band_g_major_100.mp3"),
            (2.0, "chords_a_minor.ogg"),
            (1.0, "song_b_minor_128.m4a"),
        ):
            write_demo(Path(scratch), seconds)
            shutil.copyfile(Path(scratch) / name, folder / name)
    time = np.arange(33075) / 22050
    sweep = 0.4 * np.sin(2 * np.pi * 55 * 1.5 / np.log(100) * (100 ** (time / 1.5) - 1))
    soundfile.write(folder / "sweep.flac", sweep, 22050)
    random = np.random.RandomState(3)
    soundfile.write(folder / "noise.wav", random.uniform(-0.5, 0.5, 8000), 8000, subtype="PCM_U8")
    soundfile.write(folder / "silence.flac", np.zeros((44100, 2)), 44100)
    soundfile.write(folder / "one_sample.wav", np.array([0.5]), 44100)
    short = np.arange(4000) / 8000
    eight = [0.2 * np.sin(2 * np.pi * 110 * (n + 1) * short) for n in range(8)]
    soundfile.write(folder / "eight_channels.flac", np.stack(eight, axis=1), 8000)
    (folder / "text.mp3").write_text("this is no music\n")
    whole = folder / "whole.flac"
    soundfile.write(whole, sweep[:11025], 22050)
    (folder / "truncated.flac").write_bytes(whole.read_bytes()[:3000])
    whole.unlink()
