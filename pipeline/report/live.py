"""Progress while a run goes on: one live view on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.engine.progress import Progress
from pipeline.engine.stage_state import StageState
from pipeline.engine.within import Part
from pipeline.report.formatting import clock, plural

PLAIN_EVERY_S = 30.0
PARTS_EVERY_S = 10.0
# Throughput is of so many seconds back: long enough for a few blocks, short enough to show a stage that stalls.
WINDOW_S = 30.0
NARROW = 70
MOST_PARTS = 6
"""Files in work that are shown at once, those of which most is left."""


class Rates:
    """Files per second that left each stage lately, from counts that only grow."""

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, now: float, rows: Mapping[str, int]) -> None:
        """Note the counts at ``now``, seconds. Counts that fell begin anew: a further pass has started."""
        if self._seen and any(rows.get(name, 0) < count for name, count in self._seen[-1][1].items()):
            self._seen.clear()
        self._seen.append((now, dict(rows)))
        while len(self._seen) > 2 and now - self._seen[0][0] > self.window_s:
            self._seen.popleft()

    def per_second(self, name: str) -> float | None:
        """Files per second; None before two pictures."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return None
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after.get(name, 0) - before.get(name, 0)) / (last - first)


class ProgressView:
    """Shows a run's progress until it is closed, from a thread of its own, so that a stall can be seen, too.

    Args:
        progress: of the run.
        states: the stages at this moment, see `pipeline.engine.stage_state.stage_states`.
        console: where to; a live view if it is a terminal, else a line every ``PLAIN_EVERY_S``.
        note: called for every progress line of the log, with its text and fields.
        note_part: called for each file in work every ``parts_every_s``, with its line and fields.
    """

    def __init__(
        self,
        progress: Progress,
        states: Callable[[], Mapping[str, StageState]],
        console: Console,
        note: Callable[[str, dict[str, Any]], None] = lambda text, fields: None,
        plain_every_s: float = PLAIN_EVERY_S,
        *,
        note_part: Callable[[str, dict[str, Any]], None] = lambda text, fields: None,
        parts_every_s: float = PARTS_EVERY_S,
    ) -> None:
        self.progress, self.states, self.console = progress, states, console
        self._note, self._plain_every_s = note, plain_every_s
        self._note_part, self._parts_every_s = note_part, parts_every_s
        self._rates = Rates()
        self._ended = threading.Event()
        self._states: dict[str, StageState] = {}
        self._thread = threading.Thread(target=self._work, name="progress", daemon=True)
        self._live = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)

    def __enter__(self) -> ProgressView:
        if self._live:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._live:
            # Of a short run no picture was drawn since its first files were committed.
            with suppress(Exception):  # Ray may be gone
                self._states = dict(self.states())
            self._live.update(self.picture(self._states), refresh=True)
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of the log: above the live view, or as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _work(self) -> None:
        last = noted = time.monotonic()
        while not self._ended.wait(0.5):
            if time.monotonic() - noted >= self._parts_every_s:
                noted = time.monotonic()
                for part in parts_shown(self.progress)[0]:
                    self._note_part(part.line, {"stage": part.stage, "share": round(part.share, 4)})
            states = self._states = dict(self.states())
            self._rates.add(time.monotonic(), {name: state.rows for name, state in states.items()})
            if self._live:
                self._live.update(self.picture(states), refresh=True)
            elif time.monotonic() - last >= self._plain_every_s:
                last = time.monotonic()
                fields = self.progress.fields()
                self._note(f"{progress_text(fields)}{stages_text(states)}", fields)

    def picture(self, states: Mapping[str, StageState]) -> Group:
        """The live view as it is now."""
        fields = self.progress.fields()
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=fields["share_done"], width=30)
        head.add_row(bar, f"{fields['share_done']:.0%}", Text(progress_text(fields), overflow="fold"))
        if not states:
            return Group(head, Text("waiting for the workers to start", style="dim"))
        narrow = self.console.width < NARROW
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("stage")
        for name in (
            "files",
            "audio-s/s",
            *(() if narrow else ("waiting", "running", "actors", "GPU memory")),
        ):
            table.add_column(name, justify="right")
        mean_s = mean_audio_s(self.progress)
        for name, state in states.items():
            rate = self._rates.per_second(name)
            row = [name, str(state.rows), number(None if rate is None or mean_s is None else rate * mean_s)]
            if not narrow:
                row += [str(state.queued), str(state.running), str(state.actors)]
                row.append(memory(self.progress.gpu_peak_bytes(name)))
            table.add_row(*row)
        parts, more = parts_shown(self.progress)
        lines = [part.line for part in parts] + ([f"and {plural(more, 'file')} more in work"] if more else [])
        return Group(head, table, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def parts_shown(progress: Progress) -> tuple[Sequence[Part], int]:
    """The files in work that are shown, and how many others there are."""
    parts = sorted(progress.in_work(), key=lambda part: part.share)
    return parts[:MOST_PARTS], max(0, len(parts) - MOST_PARTS)


def mean_audio_s(progress: Progress) -> float | None:
    """Seconds of audio per file, of those that are committed; None before the first."""
    done = len(progress.committed)
    return progress.audio_s / done if done and progress.audio_s else None


def number(value: float | None) -> str:
    """Three digits or so; ``–`` for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def memory(value: int) -> str:
    """Bytes as GiB; ``–`` for none."""
    return f"{value / 2**30:.1f} GiB" if value else "–"


def progress_text(fields: Mapping[str, Any]) -> str:
    """``12/40 files, 0.42 h of audio, 9.1× real time, 0 failed, ETA 3 min 05 s``."""
    return (
        f"{fields['files_done']}/{plural(fields['files'], 'file')}, {fields['audio_hours']:.2f} h of audio, "
        f"{fields['real_time_factor'] or 0:.1f}× real time, "
        + (f"{plural(fields['copies'], 'copy', 'copies')}, " if fields.get("copies") else "")
        + f"{fields['failed']} failed, "
        f"ETA {clock(fields['eta_s'])}"
    )


def stages_text(states: Mapping[str, StageState]) -> str:
    """`` (decode 40, features 32, write 20 files)``; empty before anything is known."""
    if not states:
        return ""
    return " (" + ", ".join(f"{name} {state.rows}" for name, state in states.items()) + " files)"


def terminal() -> Console:
    """The console that the log's lines go to: standard error."""
    return Console(file=sys.stderr, highlight=False)
