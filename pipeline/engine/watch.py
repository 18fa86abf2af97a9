"""What each stage is doing at this moment, by Ray Data's own count; read by the progress view.

Ray calls `WatchStages` from its scheduling thread. It notes at most one picture a second, so a run pays nothing for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

EVERY_S = 1.0


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


class WatchStages(ExecutionCallback):
    """Keeps the newest `StageState` of every stage.

    Ray makes one of these per execution and sends the class to its workers with the context, so what was seen lies in
    the module, not in the object.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Take a picture, if the last one is a second old."""
        if time.monotonic() - _seen.at < EVERY_S:
            return
        _seen.at = time.monotonic()
        _seen.stages = {
            name: StageState(
                rows=int(operator.metrics.rows_task_outputs_generated),
                queued=int(state.total_enqueued_input_blocks()),
                running=int(operator.num_active_tasks()),
                actors=int(operator.metrics.num_alive_actors or 0),
            )
            for operator, state in executor._topology.items()
            for name in _seen.names
            if f"({_seen.names[name]})" in operator.name
        }


class _Seen:
    names: dict[str, str]
    stages: dict[str, StageState]
    at: float = 0.0


_seen = _Seen()
_seen.names, _seen.stages = {}, {}


def watch(names: dict[str, str]) -> None:
    """Start anew for a pass: stage → name of the class that Ray's operators are called after."""
    _seen.names, _seen.stages, _seen.at = dict(names), {}, 0.0


def stage_states() -> dict[str, StageState]:
    """The newest picture, in the order of the stages; empty before the first."""
    return dict(_seen.stages)
