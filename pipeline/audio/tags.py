"""What a file says of itself beside its sound: tags, streams, bit rate; bounded, and never a reason to fail.

FFmpeg reads the tags, of files that libsndfile decodes, too: ID3v1 and ID3v2 (in MP3, WAV, AIFF), Vorbis comments
(FLAC, Ogg, Opus), MP4 atoms, RIFF INFO, Matroska tags, APEv2 in WavPack and Monkey's Audio. It passes over APEv2 behind
MP3, where mp3gain and foobar2000 write it; `pipeline.audio.ape_tags` reads that.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import av
from av.stream import Disposition

from pipeline.audio.ape_tags import ape_tags

TEXT_BYTES = 512
"""A longer text is cut, at the end of a character. Counted in UTF-8."""

GAIN_DB = 100.0
"""A replay gain beyond that is none."""

# Column without its prefix → FFmpeg's names for it, the best first.
TEXTS: dict[str, tuple[str, ...]] = {
    "artist": ("artist",),
    "title": ("title",),
    "album": ("album",),
    "track": ("track", "tracknumber", "part_number"),
    "date": ("date", "year", "date_released"),
    "genre": ("genre",),
    "encoder": ("encoder", "encoded_by"),
}
GAINS = ("replaygain_track_gain", "replaygain_album_gain")
_R128 = {"replaygain_track_gain": "r128_track_gain", "replaygain_album_gain": "r128_album_gain"}
_GAIN = re.compile(r"\s*([+-]?\d{1,4}(?:[.,]\d{1,9})?)\s*(?:dB)?\s*", re.IGNORECASE)
# Tags stand in front of a stream; nothing has to be decoded to find them.
_HEADERS_ONLY = {"analyzeduration": "1", "probesize": "32"}


@dataclass(frozen=True)
class FileFacts:
    """What is known of a decoded file beside its samples.

    Args:
        audio_streams: how many sound tracks it has.
        audio_stream: which of them was decoded, from 0.
        bit_rate: of that track on average, bit/s; None where it is not known.
        bits_per_sample: of lossless audio; None for a lossy codec.
        tags: name → text of at most `TEXT_BYTES`, of those in `TEXTS` that are there; ``has_cover`` → bool where the
            tags could be read; those in `GAINS` → dB.
    """

    audio_streams: int = 1
    audio_stream: int = 0
    bit_rate: int | None = None
    bits_per_sample: int | None = None
    tags: dict[str, str | bool | float] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """Under the names that `tracks` has for them; what the file does not say is None."""
        found = {name: value for name, value in asdict(self).items() if name != "tags"}
        found |= {f"tag_{name}": self.tags.get(name) for name in (*TEXTS, "has_cover")}
        return found | {f"tag_{name}_db": self.tags.get(name) for name in GAINS}


NOTHING_SAID = FileFacts()


def facts_from(values: Mapping[str, Any]) -> FileFacts:
    """`FileFacts` that came as a dict from a process that is not trusted. Raises `ValueError` and `TypeError`."""
    facts = FileFacts(**values)
    numbers = (
        (facts.audio_streams, 1, 1 << 16), (facts.audio_stream, 0, facts.audio_streams - 1),
        (facts.bit_rate, 1, 1 << 40), (facts.bits_per_sample, 1, 64),
    )  # fmt: skip
    for value, low, high in numbers:
        if value is not None and (type(value) is not int or not low <= value <= high):
            raise ValueError(f"{value!r:.40} is no number from {low} to {high}")
    if facts.audio_streams is None or facts.audio_stream is None or type(facts.tags) is not dict:
        raise ValueError("the streams or the tags are not told")
    for name, value in facts.tags.items():
        known = (
            (name in TEXTS and isinstance(value, str) and value == clean_text(value))
            or (name == "has_cover" and type(value) is bool)
            or (name in GAINS and type(value) is float and abs(value) <= GAIN_DB)
        )
        if not known:
            raise ValueError(f"{name!r:.40} is no tag, or {value!r:.40} no value of it")
    return facts


def facts_of(columns: Mapping[str, Any]) -> FileFacts:
    """The way back from `FileFacts.columns`. Raises as `facts_from`."""
    told = {name.removeprefix("tag_"): value for name, value in columns.items() if name.startswith("tag_")}
    tags = {name.removesuffix("_db"): value for name, value in told.items() if value is not None}
    rest = {name: value for name, value in columns.items() if not name.startswith("tag_")}
    return facts_from({**rest, "tags": tags})


def clean_text(text: str) -> str:
    """``text`` as one line: no control characters, no lone surrogates, at most `TEXT_BYTES` of UTF-8."""
    text = text[: 4 * TEXT_BYTES].encode("utf-8", "replace").decode()
    text = " ".join("".join(c if _is_text(c) else " " for c in text.replace("\0", "")).split())
    return text.encode()[:TEXT_BYTES].decode("utf-8", "ignore").rstrip()


def _is_text(c: str) -> bool:
    # Joiners are part of many scripts, and what this Python's tables do not know yet may be a letter.
    return c.isprintable() or c in "\u200c\u200d" or unicodedata.category(c) == "Cn"


def gain_db(text: str) -> float | None:
    """The decibels in a text such as ``-6.48 dB``; None where there are none, or more than `GAIN_DB`."""
    match = _GAIN.fullmatch(text[:64])
    value = float(match[1].replace(",", ".")) if match else math.nan
    return value if abs(value) <= GAIN_DB else None


def container_tags(
    container: av.container.InputContainer, stream: av.AudioStream, data: bytes = b""
) -> dict[str, Any]:
    """The tags of an open container; ``stream`` is the track that is decoded, ``data`` the file."""
    said = {name.lower(): value for name, value in container.metadata.items()}
    own = {name.lower(): value for name, value in stream.metadata.items()}
    # Ogg keeps the tags of the file with its stream; elsewhere a stream's title is that of the stream.
    shared = own if container.format.name == "ogg" else {k: own[k] for k in ("encoder", *GAINS) if k in own}
    behind = ape_tags(data, 8 * TEXT_BYTES) if container.format.name == "mp3" else {}
    cover = "cover art" in behind or any(map(_is_cover, container.streams.video))
    return tags_of({**shared, **behind, **said}, cover)


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def tags_of(said: Mapping[str, str], has_cover: bool) -> dict[str, Any]:
    """Tags under our names, of those under FFmpeg's (in lower case)."""
    found: dict[str, Any] = {"has_cover": has_cover}
    for name, names in TEXTS.items():
        texts = (clean_text(said[n]) for n in names if n in said)
        text = next(filter(None, texts), None)
        if text is not None:
            found[name] = text
    for name in GAINS:
        gain = gain_db(said.get(name, ""))
        if gain is None:
            gain = _r128_db(said.get(_R128[name], ""))
        if gain is not None:
            found[name] = gain
    return found


def _r128_db(text: str) -> float | None:
    """Opus's own tag (RFC 7845, 5.2.1): 1/256 dB to -23 LUFS; replay gain goes to -18 LUFS."""
    try:
        value = int(text[:16]) / 256 + 5.0
    except ValueError:
        return None
    return value if abs(value) <= GAIN_DB else None


def read_tags(opened: Callable[[], BinaryIO], demuxer: str, data: bytes = b"") -> dict[str, Any]:
    """The tags of a file that something else decodes; nothing where they cannot be read.

    Args:
        opened: the file, anew.
        demuxer: FFmpeg's, for this kind of file.
        data: as `container_tags`.
    """
    try:
        with (
            opened() as file,
            av.open(file, format=demuxer, metadata_errors="replace", options=_HEADERS_ONLY) as container,
        ):
            return container_tags(container, container.streams.audio[0], data)
    except Exception:  # noqa: BLE001  whatever is wrong with tags, the sound is there
        return {}
