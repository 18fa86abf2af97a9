"""What waits for one video: its updates in order of time, without those that a later one makes pointless."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One update.

    Args:
        at: when it was handed over, nanoseconds since 1970; later ones of the same video have greater numbers.
        document: that is merged over what the index has.
    """

    at: int
    document: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """The updates of one video, the oldest first.

    They stay apart: of two updates one of which sets an object to null and the other fills it again, no single one
    says the same.
    """

    video_id: str
    steps: tuple[Step, ...]

    @classmethod
    def parsed(cls, content: bytes) -> Entry:
        """The entry in a file.

        Raises:
            ValueError: there is none in it.
        """
        found = json.loads(content)
        try:
            steps = tuple(Step(step["at"], step["document"]) for step in found["steps"])
            entry = cls(found["video_id"], steps)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no update: {type(error).__name__}: {error}") from None
        sound = all(isinstance(step.at, int) and isinstance(step.document, dict) for step in steps)
        if not isinstance(entry.video_id, str) or not steps or not sound:
            raise ValueError("no update")
        return entry

    def written(self) -> bytes:
        """As it stands in a file.

        Raises:
            TypeError, ValueError: a document is no JSON.
        """
        steps = [{"at": step.at, "document": step.document} for step in self.steps]
        return json.dumps({"video_id": self.video_id, "steps": steps}, allow_nan=False).encode()

    def followed_by(self, document: dict[str, Any]) -> Entry:
        """With one more update, which is the latest whatever the clock says."""
        last = max((step.at for step in self.steps), default=0)
        return _without_the_pointless(
            self.video_id, (*self.steps, Step(max(time.time_ns(), last + 1), document))
        )


def combined(one: Entry, other: Entry) -> Entry:
    """The updates of two entries of one video, in order of time."""
    return _without_the_pointless(one.video_id, (*one.steps, *other.steps))


def _without_the_pointless(video_id: str, steps: tuple[Step, ...]) -> Entry:
    ordered = sorted(steps, key=lambda step: step.at)
    kept = [
        step
        for number, step in enumerate(ordered)
        if not any(covers(later.document, step.document) for later in ordered[number + 1 :])
    ]
    return Entry(video_id, tuple(kept))


def covers(newer: dict[str, Any], older: dict[str, Any]) -> bool:
    """Whether ``newer``, merged over anything, comes to the same with and without ``older`` before it.

    The index merges objects into objects and replaces everything else.
    """
    for name, before in older.items():
        if name not in newer:
            return False
        after = newer[name]
        if isinstance(after, dict) and not (isinstance(before, dict) and covers(after, before)):
            return False
    return True
