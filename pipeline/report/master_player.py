"""Original and master to be heard in the page, one after the other at the same place and equally loud."""

from __future__ import annotations

import base64
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.dataset.output import Output
from pipeline.dataset.storage import is_local, local_path, public_uri
from pipeline.dataset.verify.files import is_ours
from pipeline.report.formatting import decimal
from pipeline.report.master_excerpt import KIND, MOST_BYTES, Excerpt, excerpt

SOUND_BYTES, ALL_SOUND_BYTES = 1_500_000, 3_000_000
"""Largest file that the page holds, and all of them together."""

TO_ROOT = "../../"
"""From the folder of the report, that of a run, to the output."""

_TYPES = {
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".wav": "audio/wav",
}
_WEB = ("http://", "https://")
_LONGEST_LINK = 2_000


class Room:
    """The bytes of sound that the page may still take."""

    def __init__(self) -> None:
        self.left = ALL_SOUND_BYTES

    def has(self, size: int) -> bool:
        """Whether a file of so many bytes may go into the page."""
        return 0 < size <= min(SOUND_BYTES, self.left)

    def take(self, sound: bytes, kind: str) -> str:
        """The sound as a ``data:`` URL."""
        self.left -= len(sound)
        return f"data:{kind};base64,{base64.b64encode(sound).decode()}"


@dataclass
class Player:
    """What the template makes a player of.

    Args:
        master, original: what ``<audio>`` loads; empty where it cannot.
        path: of the master, below the output root.
        volume_master, volume_original: 0 to 1, with which both are equally loud.
        from_s: where the master begins in the original.
        said: what is heard, and what is not and why, a sentence each.
    """

    master: str
    original: str
    path: str
    volume_master: float
    volume_original: float
    from_s: float
    said: list[str]


def player(output: Output, row: dict[str, Any], louder_lu: float | None, room: Room) -> Player:
    """The player of a song.

    Args:
        output: where its master lies.
        row: of `tracks`.
        louder_lu: what the master is louder than the original by, LU; None where that is not known.
        room: what the page may still take; what is put into it is taken away.
    """
    path = row.get("master_file") or ""
    part = _excerpt(output, row, room)
    if part is not None:
        master, original = room.take(part.master, KIND), room.take(part.original, KIND)
        louder_lu = part.louder_lu
        said, from_s = [part.said, _matched(louder_lu)], 0.0
    else:
        master, why_not_master = _master(output, path, room)
        original, why_not_original = _original(row, room) if master else ("", "")
        said = [why_not_master, why_not_original, _matched(louder_lu) if original else ""]
        from_s = float(row.get("master_from_s") or 0.0)
    louder = (louder_lu or 0.0) if original else 0.0
    return Player(
        master=master,
        original=original,
        path=path,
        volume_master=_volume(louder),
        volume_original=_volume(-louder),
        from_s=from_s,
        said=[sentence for sentence in said if sentence],
    )


def _excerpt(output: Output, row: dict[str, Any], room: Room) -> Excerpt | None:
    """A stretch of master and original, where both are files here, and the page cannot have one of them whole."""
    path, uri = row.get("master_file") or "", row.get("uri") or ""
    if not (path and is_ours(path, output.folders()) and is_local(output.uri) and uri and is_local(uri)):
        return None
    master, original = Path(local_path(output.path(path))), Path(local_path(uri))
    try:
        sizes = [_size(master), _size(original)]
        why = _why_not_whole(sizes, original, room)
        if not why or not 0 < min(sizes) <= max(sizes) <= MOST_BYTES:
            return None
        if not _is_master(output, path, master) or _sha256(original) != row.get("asset_id"):
            return None
    except (OSError, ValueError):
        return None
    found = excerpt(row, master, original, why)
    if found is None or max(len(found.master), len(found.original)) > SOUND_BYTES:
        return None
    return found if len(found.master) + len(found.original) <= room.left else None


def _why_not_whole(sizes: list[int], original: Path, room: Room) -> str:
    """Why not both files are in the page as they are; empty where they can be."""
    if max(sizes) > SOUND_BYTES:
        return "the files are too large"
    if original.suffix.lower() not in _TYPES:
        return "not every browser plays the format of the original"
    return "" if sum(sizes) <= room.left else "the page has no room left for the whole files"


def _is_master(output: Output, path: str, master: Path) -> bool:
    """Whether a file is what the job wrote: no link that leads out of the output, and of the master's format."""
    if not master.resolve().is_relative_to(Path(local_path(output.uri)).resolve()):
        return False
    magic = _magic(output, path)
    with master.open("rb") as file:
        return file.read(len(magic)) == magic


def _magic(output: Output, path: str) -> bytes:
    """What all files begin with that lie where this one does."""
    return output.contents.artifacts[path.partition("/")[0]].magic


def _size(path: Path) -> int:
    """Bytes of a file; 0 of what is none."""
    found = path.stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _volume(louder_lu: float) -> float:
    """What something is turned down by that is so much louder than the other."""
    return round(10.0 ** (-max(0.0, louder_lu) / 20.0), 6)


def _matched(louder_lu: float | None) -> str:
    if louder_lu is None:
        return "Both are played as they are: there is no loudness to match."
    if abs(louder_lu) < 0.05:
        return "Both are equally loud as they are."
    which = "master" if louder_lu > 0 else "original"
    return f"The {which} is turned down by {decimal(abs(louder_lu))} dB, so that both are equally loud."


def _master(output: Output, path: str, room: Room) -> tuple[str, str]:
    """What plays the master, or why nothing does."""
    if not path or not is_ours(path, output.folders()):
        return "", "There is no file of the master."
    try:
        size = int(output.fs.size(output.path(path)) or 0)
        sound = output.read(path) if room.has(size) else b""
    except OSError:
        return "", "The file of the master is not there."
    kind = _TYPES.get(Path(path).suffix)
    if sound and kind and sound.startswith(_magic(output, path)) and room.has(len(sound)):
        return room.take(sound, kind), ""
    if is_local(output.uri):
        return TO_ROOT + quote(path), ""
    return "", "The master is too large for this page, and lies where a page cannot link to."


def _original(row: dict[str, Any], room: Room) -> tuple[str, str]:
    """What plays the original, or why only the master is heard."""
    uri = row.get("uri") or ""
    if not uri or len(uri) > _LONGEST_LINK:
        return "", "The master only: it is not known where the original is."
    if is_local(uri):
        return _local(local_path(uri), row.get("asset_id") or "", room)
    if uri.lower().startswith(_WEB) and public_uri(uri) == uri:
        return uri, ""
    return "", "The master only: the original lies where a page cannot link to."


def _local(path: str, asset_id: str, room: Room) -> tuple[str, str]:
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            return "", "The master only: the original is no file."
        kind = _TYPES.get(Path(path).suffix.lower())
        sound = Path(path).read_bytes() if kind and room.has(found.st_size) else b""
    except (OSError, ValueError):
        return "", "The master only: the original is not where it was."
    # A page is passed on more easily than a file: nothing goes into it but what was mastered.
    if sound and kind and room.has(len(sound)) and hashlib.sha256(sound).hexdigest() == asset_id:
        return room.take(sound, kind), ""
    return f"file://{quote(path)}", ""
