"""Where a Ray that starts here keeps its session, whose sockets take no long path."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import UserError

# Linux takes 107 bytes for the address of a socket; Ray's longest ends in this, with the number of the driver.
LONGEST = 107 - len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
INSTEAD = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  Ray makes a folder of its own there


def ray_folder(instead: tuple[str, ...] = INSTEAD) -> tuple[str | None, str]:
    """A folder for Ray's session where the one it would take does not do, and why; None and "" where it does.

    Ray takes ``RAY_TMPDIR``, then ``TMPDIR``, then ``/tmp``. What the user has set for Ray alone is obeyed or refused.

    Raises:
        UserError: ``RAY_TMPDIR`` does not do, or nothing does.
    """
    asked = os.environ.get("RAY_TMPDIR")
    wanted = asked or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
    wrong = unfit(wanted)
    if not wrong:
        return None, ""
    other = next((folder for folder in instead if not unfit(folder)), None)
    name = next(
        (name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "the folder for temporary files"
    )
    if asked or other is None:
        raise UserError(
            f"{name}={wanted}: {wrong}",
            f"Ray keeps its sockets there, and Linux takes {LONGEST} bytes of it at most",
            f"RAY_TMPDIR={other or '/a/short/folder'} before the command",
        )
    return f"{other}/ray", f"Ray's session is in {other}/ray: {name}={wanted} {wrong}"


def unfit(folder: str) -> str:
    """Why Ray cannot keep its session in ``folder``; empty where it can."""
    size = len(os.fsencode(folder.rstrip("/")))
    if size > LONGEST:
        return f"has {size} bytes, more than the {LONGEST} that leave room for the names of sockets"
    if not Path(folder).is_dir():
        return "is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "cannot be written"
    return ""
