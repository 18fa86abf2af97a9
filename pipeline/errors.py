"""What every floor may say: a mistake the user can mend, and a fallback that was taken."""

from __future__ import annotations

from dataclasses import dataclass


class UserError(Exception):
    """A mistake its reader can mend. ``str()`` is one line: what is wrong and what to type.

    The jobs print it without a traceback and exit with code 2.
    """


@dataclass(frozen=True)
class Fallback:
    """One step away from what was asked for. Every one is a struct in ``tracks.fallbacks``.

    Args:
        stage: the stage that took it (``decode``, ``features``, ``clap``, ``separation``).
        wanted: what the configuration asked for.
        used: what was done instead; ``none`` where nothing was.
        reason: why, in words a reader can act on.
    """

    stage: str
    wanted: str
    used: str
    reason: str
