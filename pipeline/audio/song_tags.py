"""All that a file says of its song, whole and in any script, with its cover: to be written into another file.

`pipeline.audio.tags` reads short texts for columns of a table; here they are for listeners. FFmpeg reads the tags, and
names them: ID3v1 and ID3v2 (in MP3, WAV, AIFF), Vorbis comments (FLAC, Ogg, Opus), MP4 atoms, RIFF INFO, Matroska;
APEv2 behind an MP3, which it does not, is read beside it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import av
from av.stream import Disposition

from pipeline.audio.ape_tags import ape_pictures, ape_tags
from pipeline.audio.containers import ffmpeg_reason
from pipeline.audio.song_dialects import FRONT_COVER, Picture
from pipeline.audio.stream import SeekableBytes, recognise
from pipeline.audio.validate import EmptyAudio

TEXT_BYTES = 1 << 16
"""A longer text is cut, at the end of a character. Counted in UTF-8."""

TEXTS = 256
"""Most texts of a file; those behind are left out."""

PICTURE_BYTES = 1 << 24
"""All pictures of a file together; the first that goes beyond is left out."""

PICTURES = 16

METHOD = "soundmill"
"""The tag that says by what a file was made: ``TXXX:soundmill``, ``SOUNDMILL=``, a free atom of that name in MP4."""

# Other names of the same, among those that FFmpeg leaves as they are.
_SAME = {
    "tbpm": "bpm", "tmpo": "bpm", "tkey": "initialkey", "initial_key": "initialkey", "tsrc": "isrc", "tit1": "grouping",
    "text": "lyricist", "tit3": "subtitle", "tcmp": "compilation", "albumartist": "album_artist",
    "tracknumber": "track", "discnumber": "disc", "year": "date", "unsyncedlyrics": "lyrics", "description": "comment",
    "encodedby": "encoded_by", "sort_name": "title-sort", "titlesort": "title-sort", "sort_album": "album-sort",
    "albumsort": "album-sort",
    "sort_artist": "artist-sort", "artistsort": "artist-sort", "tso2": "album_artist-sort",
    "sort_album_artist": "album_artist-sort", "albumartistsort": "album_artist-sort", "tsoc": "composer-sort",
    "sort_composer": "composer-sort", "composersort": "composer-sort",
}  # fmt: skip
_LYRICS = re.compile(r"lyrics-.{0,64}", re.DOTALL)
_DROPPED: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), why)
    for pattern, why in (
        (r"replaygain_.*|r128_.*|itunnorm|mp3gain_.*|rgad", "a gain for the sound of the other file"),
        (r"itunsmpb|itunpgap|lavf.*|gapless.*", "the encoder delay of the other file"),
        (r"encoder|tsse|encoder_?settings|encoding_tool|isft", "the encoder of the other file"),
        (r"acoustid_(id|fingerprint)", "a fingerprint of the other file's sound"),
        (
            r"tlen|tsiz|tmed|tflt|length|duration|number_of_(bytes|frames)|bps|_statistics_.*",
            "a measure of the other file",
        ),
        (
            r"major_brand|minor_version|compatible_brands|handler_name|vendor_id|creation_time|timecode",
            "part of the other container",
        ),
        (r"id3v2_priv\..*|metadata_block_picture|cover ?art.*|accurateripresult|accuraterip.*", "no text"),
    )
)
_KINDS = (
    "Other", "32x32 pixels 'file icon'", "Other file icon", "Cover (front)", "Cover (back)", "Leaflet page",
    "Media (e.g. label side of CD)", "Lead artist/lead performer/soloist", "Artist/performer", "Conductor",
    "Band/Orchestra", "Composer", "Lyricist/text writer", "Recording Location", "During recording",
    "During performance", "Movie/video screen capture", "A bright coloured fish", "Illustration",
    "Band/artist logotype", "Publisher/Studio logotype",
)  # fmt: skip
_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"), (b"GIF8", "image/gif"), (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"), (b"MM\0*", "image/tiff"),
)  # fmt: skip


@dataclass(frozen=True)
class SongTags:
    """What a file says of its song.

    Args:
        texts: name → text, names in lower case as FFmpeg has them: ``title``, ``artist``, ``album``, ``album_artist``,
            ``track`` (``3`` or ``3/12``), ``disc``, ``date``, ``genre``, ``composer``, ``comment``, ``lyrics``, ...
        pictures: the front cover and others.
        dropped: name → why, of what the file has and these tags have not.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    pictures: tuple[Picture, ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)


NO_TAGS = SongTags()


def read_song_tags(source: bytes | str | Path) -> SongTags:
    """All texts and pictures of a file, but for those that would be untrue of other sound.

    Dropped, each with its reason in ``dropped``: gains (ReplayGain, R128, Sound Check), encoder and encoder delay,
    fingerprints of the sound, length and size, what belongs to the container. Where FFmpeg cannot open the file,
    there are no tags, and ``dropped`` has the reason under ``""``.

    Args:
        source: the bytes of a file, or where it lies.

    Raises:
        DecodeError: no audio file at all, as `pipeline.audio.stream.recognise` says.
        OSError: the path cannot be read.
    """
    if isinstance(source, bytes):
        return _read(source, lambda: SeekableBytes(source))
    path = Path(source)
    if not path.stat().st_size:
        raise EmptyAudio("the file has 0 bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _read(data, lambda: path.open("rb"))


def made_by(tags: SongTags, method: str) -> SongTags:
    """``tags`` with ``method`` (what made the file, with its version) under `METHOD`.

    An existing comment stays as it is; where there is none, the method is the comment, too, which every player shows.
    """
    texts = {**tags.texts, METHOD: clean(method)}
    texts.setdefault("comment", texts[METHOD])
    return replace(tags, texts=texts)


def clean(text: str) -> str:
    """``text`` without zeros and lone surrogates, at most `TEXT_BYTES` of UTF-8; line breaks stay."""
    text = text[:TEXT_BYTES].replace("\0", "").encode("utf-8", "replace")
    return text[:TEXT_BYTES].decode("utf-8", "ignore").strip()


def _read(data: bytes | mmap.mmap, opened: Callable[[], BinaryIO]) -> SongTags:
    kind = recognise(data)
    try:
        with opened() as file, av.open(file, format=kind.demuxer, metadata_errors="replace") as container:
            said = _said(container, data)
            texts, dropped = _sorted(said)
            pictures, left = _within_limits(_pictures(container, data))
            return SongTags(texts, pictures, {**dropped, **left})
    except (av.FFmpegError, UnicodeError, ValueError) as error:
        words = ffmpeg_reason(error) if isinstance(error, av.FFmpegError) else str(error)
        return SongTags(dropped={"": f"FFmpeg: {words}"})


def _said(container: av.container.InputContainer, data: bytes | mmap.mmap) -> list[tuple[str, str]]:
    """Names in lower case and texts, the most trusted first."""
    said = list(container.metadata.items())
    if container.format.name == "ogg" and container.streams.audio:
        # Ogg keeps the tags of the file with its stream; elsewhere those of a stream are the container's own.
        said += container.streams.audio[0].metadata.items()
    if container.format.name == "mp3":
        said += ape_tags(data, TEXT_BYTES + 1).items()
    return [(name.lower(), text) for name, text in said]


def _sorted(said: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    texts: dict[str, str] = {}
    dropped: dict[str, str] = {}
    for said_name, text in said:
        name = _SAME.get(said_name, said_name)
        name = "lyrics" if _LYRICS.fullmatch(name) else name
        why = next((why for pattern, why in _DROPPED if pattern.fullmatch(name)), None)
        kept = clean(text)
        if why is None and name not in texts and len(texts) >= TEXTS:
            why = f"more than {TEXTS} texts"
        if why is not None:
            dropped[name[:256]] = why
        elif kept and name not in texts and len(name) <= 256:
            texts[name] = kept
            if len(text.encode("utf-8", "replace")) > TEXT_BYTES:
                dropped[name] = f"only its first {TEXT_BYTES} bytes are kept"
    return texts, dropped


def _within_limits(pictures: Iterable[Picture]) -> tuple[tuple[Picture, ...], dict[str, str]]:
    """The first pictures up to the limits, and what was left out; what lies behind them is not read."""
    size, left = 0, {}
    kept: list[Picture] = []
    for picture in pictures:
        size += len(picture.data)
        if size > PICTURE_BYTES or len(kept) == PICTURES:
            left["picture"] = f"more than {PICTURES} pictures, or {PICTURE_BYTES} bytes of them"
            break
        kept.append(picture)
    return tuple(kept), left


def _pictures(container: av.container.InputContainer, data: bytes | mmap.mmap) -> Iterator[Picture]:
    """Those of the container, and behind an MP3 those of its APEv2 tag that are of another kind: a cover that stands in
    both is one."""
    kinds = set()
    for picture in _attached(container):
        kinds.add(picture.kind)
        yield picture
    if container.format.name == "mp3":
        for found in ape_pictures(data):
            if found.kind not in kinds:
                yield Picture(found.data, _mime(found.data), found.kind, clean(found.title)[:256])


def _attached(container: av.container.InputContainer) -> Iterator[Picture]:
    """The pictures that FFmpeg finds, in the order of their streams."""
    streams = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
    wanted = {stream.index for stream in streams}
    # FFmpeg hands them out in that order, in front of all sound.
    for packet in container.demux(streams) if streams else ():
        if not packet.size:
            break
        yield _picture(bytes(packet), packet.stream)
        wanted.discard(packet.stream_index)
        if not wanted:
            break


def _picture(data: bytes, stream: av.VideoStream) -> Picture:
    said = {name.lower(): text for name, text in stream.metadata.items()}
    kind = said.get("comment", "")
    number = _KINDS.index(kind) if kind in _KINDS else FRONT_COVER
    return Picture(data, _mime(data), number, clean(said.get("title", ""))[:256])


def _mime(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), "application/octet-stream")
