"""The run's progress on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    before, console = folder.say, terminal()
    show = not console.is_terminal or console.is_dumb_terminal  # else the live view shows it

    def part(text: str, fields: dict[str, Any]) -> None:
        folder.log("within", text, show=show, **fields)

    with ProgressView(
        progress,
        stage_states,
        console,
        lambda text, fields: folder.log("progress", text, **fields),
        note_part=part,
    ) as view:
        folder.say = view.say
        try:
            yield
        finally:
            folder.say = before
