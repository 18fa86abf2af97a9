"""RTTM, the format of who speaks when: a line per turn, written and read.

The fields are those of NIST's Rich Transcription evaluations: ``SPEAKER file channel start duration <NA> <NA> name
confidence <NA>``, apart by blanks. A name can hold none, and no other character that a reader takes for one or for a
comment: each is written as ``%`` and two hexadecimal digits per byte, as in addresses, which ``read_rttm`` undoes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from urllib.parse import unquote

from pipeline.speech.segments import Turn, in_order

NOTHING = "<NA>"
# What parts fields, begins a comment or a quoted field, is the escape itself, or is no text at all.
_UNSAFE = re.compile(r"[\s%;\"#\x00-\x1f\x7f\ufeff]")
# Readers take these whole names for "no value".
_NO_VALUE = frozenset(
    ("<na>", "na", "n/a", "#n/a", "#n/a n/a", "#na", "-1.#ind", "-1.#qnan", "-nan", "1.#ind", "1.#qnan", "nan",
     "null", "none")
)  # fmt: skip


def escaped(name: str) -> str:
    """A name as one field that every reader takes for text. What names mostly are stays as it is."""
    if not name:
        return "%"  # an empty name has no byte to be escaped: a lone escape says so
    # Of a name that means "no value" the first character is enough.
    first = _as_bytes(name[0]) if name.lower() in _NO_VALUE else _UNSAFE.sub(_found_as_bytes, name[0])
    return first + _UNSAFE.sub(_found_as_bytes, name[1:])


def _as_bytes(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def _found_as_bytes(found: re.Match[str]) -> str:
    return _as_bytes(found[0])


def unescaped(field: str) -> str:
    """The name that ``escaped`` made a field of."""
    return "" if field == "%" else unquote(field)


def write_rttm(turns: Iterable[Turn], name: str, *, channel: int = 1) -> str:
    """The RTTM of one recording: a line per turn, in order of time; no text at all where there are none.

    Args:
        turns: in any order. Times are written to the microsecond; a turn that is shorter is left out, as a duration of
            nothing is no turn.
        name: of the recording.
        channel: counted from 1.
    """
    lines = []
    for turn in in_order(turns):
        start = round(turn.start_s, 6)
        duration = round(turn.end_s - start, 6)
        if duration <= 0:
            continue
        confidence = NOTHING if turn.confidence is None else f"{turn.confidence:.6f}"
        lines.append(
            f"SPEAKER {escaped(name)} {channel} {start:.6f} {duration:.6f} {NOTHING} {NOTHING} "
            f"{escaped(turn.speaker)} {confidence} {NOTHING}\n"
        )
    return "".join(lines)


def read_rttm(text: str) -> dict[str, list[Turn]]:
    """The turns of each recording in an RTTM, in order of time. Lines of other types, and comments, say no turns.

    Raises:
        ValueError: a line that is no RTTM, with its number.
    """
    turns = defaultdict(list)
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        fields = line.split()
        if not fields or fields[0].startswith(";") or fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise ValueError(
                f"line {number} of the RTTM has {len(fields)} fields, and 8 at least are needed: {line!r}"
            )
        try:
            start, duration = float(fields[3]), float(fields[4])
            confidence = None if len(fields) < 9 or fields[8] == NOTHING else float(fields[8])
            turn = Turn(start, start + duration, unescaped(fields[7]), confidence)
        except ValueError as error:
            raise ValueError(f"line {number} of the RTTM: {error}: {line!r}") from error
        turns[unescaped(fields[1])].append(turn)
    return {name: in_order(theirs) for name, theirs in turns.items()}
