"""The plain report of a recording: who spoke for how long, and what was said, turn by turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.speech.segments import Turn, Word, checked_length, in_order, overlaps, total_s, union
from pipeline.speech.words import runs_of_speakers, text_of

NOBODY = "(unknown)"
PAUSE_S = 2.0


def text_report(
    name: str,
    duration_s: float,
    turns: Iterable[Turn] = (),
    words: Iterable[Word] = (),
    *,
    language: str | None = None,
) -> str:
    """The report of one recording as text.

    Args:
        name: of the recording.
        duration_s: of it, in seconds.
        turns: in any order.
        words: in any order, with their speakers. Without any, turns are listed without text.
        language: that is spoken.

    Raises:
        ValueError: a duration that is negative or not finite.
    """
    turns, words = in_order(turns), in_order(words)
    lines = [name, "=" * max(len(name), 1), ""]
    lines += [f"Length:    {clock(checked_length(duration_s, 'duration_s'))}"]
    if language:
        lines += [f"Language:  {language}"]
    speech = total_s(turns) if turns else total_s(words)
    lines += [f"Speech:    {clock(speech)} ({_percent(speech, duration_s)})"]
    common = total_s(overlaps(turns))
    if common:
        lines += [f"At once:   {clock(common)} ({_percent(common, duration_s)})"]
    lines += ["", *_speakers(turns, words), ""]
    transcript = (
        _transcript(words)
        if words
        else [_line(turn.start_s, turn.speaker, clock(turn.duration_s)) for turn in turns]
    )
    return "\n".join([*lines, *transcript]).rstrip("\n") + "\n"


def clock(seconds: float) -> str:
    """Hours, minutes, seconds and their tenths, such as ``0:01:02.5``."""
    tenths = round(max(seconds, 0.0) * 10)
    minutes, tenths = divmod(tenths, 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{tenths // 10:02d}.{tenths % 10}"


def _speakers(turns: Sequence[Turn], words: Sequence[Word]) -> list[str]:
    """A line per speaker: their time, their part of the time of all, their turns and their words."""
    spans = {
        name: [turn for turn in turns if turn.speaker == name] for name in {turn.speaker for turn in turns}
    }
    runs = runs_of_speakers(words, pause_s=PAUSE_S)
    counts = Counter(word.speaker for word in words)
    for name in counts:
        if name not in spans and (name is not None or not turns):
            spans[name] = [word for word in words if word.speaker == name]
    if not spans:
        return ["Nobody speaks."]
    seconds = {name: total_s(theirs) for name, theirs in spans.items()}
    everybody = sum(seconds.values())
    rows = [("Speaker", "Time", "Part", "Turns", "Words")]
    for name in sorted(spans, key=lambda name: (-seconds[name], name or "")):
        has_turns = isinstance(spans[name][0], Turn)
        count = len(union(spans[name])) if has_turns else sum(run[0].speaker == name for run in runs)
        share = _percent(seconds[name], everybody)
        rows.append((name or NOBODY, clock(seconds[name]), share, str(count), str(counts[name])))
    if turns and counts[None]:
        rows.append((NOBODY, "", "", "", str(counts[None])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    ]


def _transcript(words: Sequence[Word]) -> list[str]:
    runs = runs_of_speakers((word for word in words if word.word.strip()), pause_s=PAUSE_S)
    return [_line(run[0].start_s, run[0].speaker, text_of(run)) for run in runs]


def _line(start_s: float, speaker: str | None, text: str) -> str:
    return f"[{clock(start_s)}] {speaker or NOBODY}: {text}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "0 %"
