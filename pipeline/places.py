"""Folders of the user's, which may not be there, may belong to somebody else, or may be no folders at all.

A container that runs as another user than the one it was built for has a HOME that cannot be entered, or none. What
would lie there counts as not there: nothing below raises an `OSError`.
"""

from __future__ import annotations

import os
from pathlib import Path

NOWHERE = Path("/nonexistent")
"""The home of who has none, as Debian's password file has it."""


def home() -> Path:
    """The user's home: ``$HOME``, or what the password file says; `NOWHERE` where neither knows."""
    try:
        return Path.home()
    except RuntimeError:
        return NOWHERE


def expanded(path: str | Path) -> Path:
    """``path`` with a leading ``~`` replaced; as it is where nobody knows that home."""
    text = str(path)
    if text == "~" or text.startswith("~/"):
        return home() / text[2:]
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def soundmill_cache(name: str) -> Path:
    """``~/.cache/soundmill/<name>``; it may not exist, and not be possible either."""
    return home() / ".cache" / "soundmill" / name


def has_file(path: Path) -> bool:
    """Whether there is a file at ``path`` that this process may read."""
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except OSError:
        return False


def problem(folder: Path) -> str:
    """Why nothing in ``folder`` can be read, such as ``Permission denied``; empty where it can, or where it is merely
    not there."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if os.access(folder, os.X_OK) else os.strerror(13)


def may_write(folder: Path) -> bool:
    """Whether this process may put a file into ``folder``, or make it where it is not there."""
    for place in (folder, *folder.parents):
        try:
            place.lstat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False
