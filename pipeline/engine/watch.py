"""What each stage is doing at this moment, by Ray Data's own count.

Ray calls `WatchStages` from its scheduling thread. It notes at most one picture a second, so a run pays nothing for it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.data._internal.execution.execution_callback import ExecutionCallback

from pipeline.engine.stage_state import StageState, begin_pass, note_states

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

EVERY_S = 1.0


class WatchStages(ExecutionCallback):
    """Notes the newest `StageState` of every stage.

    Ray makes one of these per execution and sends the class to its workers with the context, so what was seen lies in
    a module, not in the object.
    """

    def on_execution_step(self, executor: StreamingExecutor) -> None:
        """Take a picture, if the last one is a second old."""
        if time.monotonic() - _watched.at < EVERY_S:
            return
        _watched.at = time.monotonic()
        note_states(
            {
                name: StageState(
                    rows=int(operator.metrics.rows_task_outputs_generated),
                    queued=int(state.total_enqueued_input_blocks()),
                    running=int(operator.num_active_tasks()),
                    actors=int(operator.metrics.num_alive_actors or 0),
                )
                for operator, state in executor._topology.items()
                for name in _watched.names
                if f"({_watched.names[name]})" in operator.name
            }
        )


class _Watched:
    names: dict[str, str]
    at: float = 0.0


_watched = _Watched()
_watched.names = {}


def watch(names: dict[str, str]) -> None:
    """Start anew for a pass: stage → name of the class that Ray's operators are called after."""
    _watched.names, _watched.at = dict(names), 0.0
    begin_pass()
