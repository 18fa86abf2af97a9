"""The report's section on speech: who speaks when, how long and how good clips are, which were dropped, a few to hear.

It does not grow with the dataset: turns of a few recordings, counts of clips, and sounds up to a limit.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.verify.files import is_ours
from pipeline.report.details import Track, tracks
from pipeline.report.formatting import clock, count, plural
from pipeline.report.overview import Overview
from pipeline.report.speech_figures import UNSURE, languages, moment, named, of_clips, speakers, timeline
from pipeline.report.speech_rows import CLIPS, RECORDINGS, TURNS, Clips, Kind, gather

TO_HEAR = 5
"""Clips of each kind that are listed."""

SOUND_BYTES, ALL_SOUND_BYTES = 150_000, 3_000_000
"""Largest file of a clip that the page holds, and all of them together."""

TEXT = 300
"""Characters that are shown of what is said in a clip."""

MEANINGS = {
    "short": "shorter than clips.min_seconds",
    "long": "longer than clips.max_seconds",
    "overlap": "somebody else speaks, too: clips.max_overlap_ratio",
    "no_speaker": "it is not sure who speaks",
    "no_speech": "too little speech: clips.min_speech_ratio, clips.max_no_speech_prob",
    "few_words": "fewer words than clips.min_words",
    "low_confidence": "the words are not sure: clips.min_word_probability, clips.min_avg_logprob",
    "repetitive": "the text repeats itself: clips.max_compression_ratio",
}
"""Drop reason → what it means, with the keys that decide."""


@dataclass
class Section:
    """All that the template shows.

    Args:
        said: what it is, and its sums.
        charts: those of clips and languages, then those of `turns`: name → title, figure, caption, empty.
        counted, turns: names of those, in their order.
        turns_said: which recordings they are.
        speakers: name in ``turns`` → speaker, turns, seconds, as texts.
        languages: the language with its recordings.
        reasons: drop reason, meaning, clips, seconds; None where the output declares no clips.
        kinds: of clips, each with a few to hear.
    """

    said: str
    charts: dict[str, dict[str, Any]]
    counted: list[str]
    turns: list[str]
    turns_said: str
    speakers: dict[str, list[tuple[str, int, float]]]
    languages: list[tuple[str, int]]
    reasons: list[tuple[str, str, int, float]] | None
    kinds: list[dict[str, Any]]


def section(output: Output, found: Overview) -> Section | None:
    """The section of an output; None where it holds neither turns nor clips."""
    speech = gather(output, found)
    if speech is None:
        return None
    clips, recordings = speech.clips, speech.recordings or []
    heard = _kinds(clips) if clips is not None else []
    rows = [row for kind in heard for _, row in kind["rows"]]
    ids = {row["identity"] for row in rows} | {r.identity for r in recordings}
    known = tracks(output, found, ids)
    charts = of_clips(clips) if clips is not None else {}
    spoken: list[tuple[str, int]] = []
    if speech.languages is not None:
        spoken = sorted(speech.languages.items(), key=lambda item: (not item[0], -item[1], item[0]))
        charts["speech-languages"] = languages(spoken)
    counted = list(charts)
    drawn = {f"speech-turns-{n}": r for n, r in enumerate(recordings) if r.identity in known}
    charts |= {name: timeline(recording, known[recording.identity].name) for name, recording in drawn.items()}
    return Section(
        said=_said(clips),
        charts=charts,
        counted=counted,
        turns=list(drawn),
        turns_said=_turns_said(len(drawn)) if speech.recordings is not None else "",
        speakers={name: speakers(recording) for name, recording in drawn.items()},
        languages=[(name or UNSURE, n) for name, n in spoken],
        reasons=None
        if clips is None
        else [(name, MEANINGS.get(name, ""), kind.count, kind.seconds) for name, kind in clips.dropped],
        kinds=_to_hear(output, heard, known),
    )


def _said(clips: Clips | None) -> str:
    if clips is None:
        return f"From {TURNS}, whichever run wrote it."
    kept, dropped = clips.kept, [kind for _, kind in clips.dropped]
    total = kept.count + sum(kind.count for kind in dropped)
    if not total:
        return f"No clip was cut: {CLIPS} has no rows."
    lost = sum(kind.seconds for kind in dropped)
    return (
        f"{count(kept.count)} of {plural(total, 'clip')} kept, {clock(kept.seconds)} of speech; "
        f"{clock(lost)} dropped. All times are those of the source."
    )


def _turns_said(drawn: int) -> str:
    if not drawn:
        return "Nobody speaks in any recording, or nobody looked who does."
    which = f"{drawn} recordings" if drawn > 1 else "the one recording"
    first = (
        f", the {RECORDINGS} with the most speakers and of equals the longest" if drawn == RECORDINGS else ""
    )
    return (
        f"Who speaks when in {which}{first}: a row is a speaker, a bar a turn, and bars above one another are speech "
        "at the same time. Pauses too short to be seen are filled."
    )


def _kinds(clips: Clips) -> list[dict[str, Any]]:
    kinds: list[tuple[str, str, Kind]] = [
        ("kept", "passed every threshold", clips.kept),
        *((name, MEANINGS.get(name, ""), kind) for name, kind in clips.dropped),
    ]
    return [
        {"title": title, "meaning": meaning, "total": kind.count, "rows": kind.some}
        for title, meaning, kind in kinds
        if kind.count
    ]


def _to_hear(output: Output, kinds: list[dict[str, Any]], known: dict[int, Track]) -> list[dict[str, Any]]:
    """The kinds with a few clips each, those first whose sound fits; the first of every kind are given room first."""
    shown = []
    for kind in kinds:
        rows = [row for _, row in kind["rows"] if row["identity"] in known]
        shown.append({**kind, "shown": _few(output, rows)})
    room = ALL_SOUND_BYTES
    for place in range(TO_HEAR):
        for kind in shown:
            if place < len(kind["shown"]):
                row, size = kind["shown"][place]
                sound = _sound(output, row.get("path")) if 0 < size <= room else b""
                room -= len(sound)
                kind["shown"][place] = _clip(row, known[row["identity"]], sound)
    return shown


def _few(output: Output, rows: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], int]]:
    """`TO_HEAR` clips with the bytes of their files, those first that fit into the page; 0 for others."""
    fitting, others = [], []
    for row in rows:
        size = _size(output, row)
        (fitting if size else others).append((row, size))
        if len(fitting) == TO_HEAR:
            break
    return [*fitting, *others][:TO_HEAR]


def withheld(row: dict[str, Any]) -> bool:
    """Whether something was understood in a clip and its text is not told."""
    return row.get("text") is None and row.get("avg_logprob") is not None


def _size(output: Output, row: dict[str, Any]) -> int:
    """Bytes of the file of a clip; 0 where it is none of ours, not there, or not to be in the page.

    A page is passed on more easily than a folder: where the words are withheld, it has no sound either.
    """
    if not row.get("path") or withheld(row) or not is_ours(row.get("path"), output.folders()):
        return 0
    try:
        size = int(output.fs.size(output.path(row.get("path"))) or 0)
    except OSError:
        return 0
    return size if size <= SOUND_BYTES else 0


def _sound(output: Output, path: str) -> bytes:
    try:
        sound = output.read(path)
    except OSError:
        return b""
    return sound if sound.startswith(b"fLaC") and len(sound) <= SOUND_BYTES else b""


def _clip(row: dict[str, Any], track: Track, sound: bytes) -> dict[str, Any]:
    text = row.get("text") or ""
    return {
        "track": track,
        "speaker": named(row.get("speaker") or ""),
        "when": f"{moment(row['start_s'], 2)} – {moment(row['end_s'], 2)}",
        "text": text if len(text) <= TEXT else f"{text[:TEXT]} …",
        "withheld": withheld(row),
        "path": row.get("path") or "",
        "sound": f"data:audio/flac;base64,{base64.b64encode(sound).decode()}" if sound else "",
    }
