"""What each stage is doing at this moment: noted by the driver, read by the progress view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StageState:
    """One stage at one moment.

    Args:
        rows: files that have left it in this pass.
        queued: blocks that wait for it.
        running: blocks that its actors hold.
        actors: of its pool that are up.
    """

    rows: int
    queued: int
    running: int
    actors: int


_newest: dict[str, StageState] = {}


def begin_pass(names: Iterable[str] = ()) -> None:
    """Start anew for a pass.

    Args:
        names: stages that can take work already.
    """
    note_states({name: StageState(0, 0, 0, 1) for name in names})


def note_states(states: Mapping[str, StageState]) -> None:
    """Take a new picture, in the order of the stages."""
    global _newest
    _newest = dict(states)


def stage_states() -> dict[str, StageState]:
    """The newest picture, in the order of the stages; empty before the first."""
    return dict(_newest)
