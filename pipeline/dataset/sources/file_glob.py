"""Which files of a folder are wanted: those with the suffix of an audio file, or those that a pattern matches."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable

SUFFIXES = frozenset(
    f".{suffix}"
    for line in (
        "wav wave w64 flac ogg oga opus mp2 mp3 aif aiff aifc au caf wv ape",
        "m4a m4b aac ac3 eac3 ec3 amr wma mp4 m4v mov mkv mka webm",
    )
    for suffix in line.split()
)


# Folders of systems: what they hold are copies, thumbnails and versions of what lies beside them.
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")
APPLE_DOUBLE = "._"


def passed_over(name: str, folder: bool) -> str | None:
    """What an entry is, in words for the log, that is taken only by a pattern with its dot or name in it."""
    if folder:
        if name in SYSTEM_FOLDERS:
            return f"{name} folder"
        return "hidden folder" if name.startswith(".") else None
    return "macOS ._ file" if name.startswith(APPLE_DOUBLE) else None


def takes_hidden(glob: str | None) -> bool:
    """Whether a pattern names what `passed_over` is about."""
    return glob is not None and re.search(rf"(^|/)\.|{'|'.join(SYSTEM_FOLDERS)}", glob) is not None


def matcher(glob: str | None) -> Callable[[str], bool]:
    """Tells of a path below the source's root whether it is wanted: by ``glob``, or by its suffix."""
    if glob is None:
        return sounds_like_audio
    # fnmatch's "*" crosses "/"; a shell's does not.
    pattern = re.compile(_glob_to_regex(glob))
    return lambda relative: pattern.fullmatch(relative) is not None


def sounds_like_audio(path: str) -> bool:
    """Whether the suffix is that of an audio file: `PurePosixPath.suffix`, made for a hundred thousand names."""
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SUFFIXES


def _glob_to_regex(glob: str) -> str:
    out, i = "", 0
    while i < len(glob):
        if glob.startswith("**/", i):
            out, i = out + r"(?:[^/]+/)*", i + 3
        elif glob.startswith("**", i):
            out, i = out + r".*", i + 2
        elif glob[i] == "*":
            out, i = out + r"[^/]*", i + 1
        elif glob[i] == "?":
            out, i = out + r"[^/]", i + 1
        elif glob[i] == "[" and "]" in glob[i + 1 :]:
            end = glob.index("]", i + 1) + 1
            out, i = out + fnmatch.translate(glob[i:end])[4:-3], end
        else:
            out, i = out + re.escape(glob[i]), i + 1
    return out
