"""What every floor may say: a mistake the user can mend, and a fallback that was taken."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.commands import as_typed


class UserError(Exception):
    """A mistake its reader can mend. The jobs print `explained` without a traceback and exit with code 2.

    Args:
        what: is wrong, in words of the command line.
        why: it is wrong, where that is not plain.
        do: what to type instead.

    ``str()`` is all of it on one line, for logs and tables. A ``python jobs/….py`` in it becomes what is typed here.
    """

    def __init__(self, what: str, why: str = "", do: str = "") -> None:
        what, why, do = as_typed(what), as_typed(why), as_typed(do)
        super().__init__(what, why, do)
        self.what, self.why, self.do = what, why, do

    def __str__(self) -> str:
        because = f" ({self.why})" if self.why else ""
        return f"{self.what}{because}: {self.do}" if self.do else f"{self.what}{because}"

    def explained(self) -> str:
        """What, why and what to type, a line each; one line where the first says it all."""
        rest = (("why", self.why), ("type", self.do))
        return "\n".join([f"error: {self.what}", *(f"{name + ':':6} {text}" for name, text in rest if text)])


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
