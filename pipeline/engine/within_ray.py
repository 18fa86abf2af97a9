"""How far stages are within long files, under Ray: an actor hears it, and a thread beside the run asks the actor.

Workers send without waiting for an answer. An actor that is lost is missed by nobody: the run only shows whole files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa

from pipeline.engine.within import BOARD, EVERY_S, Board, Part

LONG_S = 300.0
"""Of a run whose files are all shorter each is done soon, and an actor, which is a process, would be for nothing."""

_ANSWER_S = 2.0


def start_board(blocks: Sequence[pa.Table]) -> Any:
    """The actor's handle; None where no file is long, or there can be none."""
    import ray

    longest = max((_longest_s(block) for block in blocks), default=0.0)
    if longest < LONG_S:
        return None
    with suppress(Exception):  # the work goes on without
        return ray.remote(Board).options(num_cpus=0, max_restarts=0, max_task_retries=0).remote()
    return None


def teller(board: Any) -> Callable[[Part], None] | None:
    """What `pipeline.engine.within.listen` takes in a worker."""
    if board is None:
        return None

    def told(part: Part) -> None:
        board.note.remote(part)

    return told


@contextmanager
def followed(board: Any) -> Iterator[None]:
    """Bring what the actor hears to this process's `BOARD`, once a second, within the context; and end the actor."""
    if board is None:
        yield
        return
    import ray

    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(board, ended), name="within", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # No thread may be in Ray when it is left.
        thread.join()
        BOARD.take(())
        with suppress(Exception):
            ray.kill(board)


def _follow(board: Any, ended: threading.Event) -> None:
    import ray

    while not ended.wait(EVERY_S):
        try:
            BOARD.take(ray.get(board.parts.remote(), timeout=_ANSWER_S))
        except ray.exceptions.GetTimeoutError:  # it starts, or its machine is busy
            continue
        except Exception:  # noqa: BLE001  it is lost
            BOARD.take(())
            return


def _longest_s(block: pa.Table) -> float:
    if "estimated_s" not in block.column_names:
        return 0.0
    return max(block["estimated_s"].to_pylist(), default=0.0)
