"""The run's progress on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.dataset.run_folder import RunFolder
from pipeline.engine.progress import Progress
from pipeline.engine.stage_state import stage_states
from pipeline.report.live import ProgressView, terminal


@contextmanager
def shown(progress: Progress, folder: RunFolder) -> Iterator[None]:
    """Show ``progress`` within it, and the log's lines above it; nothing where the folder is quiet."""
    if folder.quiet:
        yield
        return
    before = folder.say
    with ProgressView(
        progress, stage_states, terminal(), lambda text, fields: folder.log("progress", text, **fields)
    ) as view:
        folder.say = view.say
        try:
            yield
        finally:
            folder.say = before
