"""How jobs are called here: ``python jobs/verify.py`` in a checkout, ``soundmill verify`` where it is installed.

Hints are written as for a checkout. What prints or keeps them passes them through `as_typed`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SCRIPTS = {
    "extract": "extract_features",
    "karaoke": "karaoke",
    "karaoke-service": "karaoke_service",
    "karaoke-request": "karaoke_request",
    "speech": "prepare_speech",
    "master": "master",
    "master-service": "master_service",
    "plan": "plan",
    "verify": "verify",
    "failures": "failures",
    "report": "report",
    "manifests": "manifests",
    "voices": "voices",
    "models": "models",
    "demo": "demo",
    "columns": "columns",
}
"""Subcommand → the file of ``jobs/`` that it runs."""
BY_NAME = "SOUNDMILL_COMMAND"
"""Environment variable that the command ``soundmill`` sets for the processes of its job."""

_SUBCOMMANDS = {script: name for name, script in SCRIPTS.items()}
_JOB = re.compile(rf"(?<![\w/.-])(?:(?:\.venv/bin/)?python )?jobs/({'|'.join(_SUBCOMMANDS)})\.py\b")
_GAP = re.compile(r"(?<=\S)  +(?=\S)")


def by_name() -> bool:
    """Whether people type ``soundmill`` here: it was typed just now, or ``jobs/`` is not beside the library."""
    beside = Path(__file__).resolve().parents[1] / "jobs" / f"{SCRIPTS['extract']}.py"
    return BY_NAME in os.environ or not beside.is_file()


def as_typed(text: str) -> str:
    """``text`` with each ``python jobs/verify.py`` as it is typed here; columns of a help text stay where they are."""
    if "jobs/" not in text or not by_name():
        return text
    return "\n".join(map(_renamed, text.split("\n")))


def program(script: str) -> str:
    """What a job is called in its usage line: ``soundmill models``, or ``models.py`` in a checkout."""
    return f"soundmill {_SUBCOMMANDS[script]}" if by_name() else f"{script}.py"


def _renamed(line: str) -> str:
    first = _JOB.search(line)
    if first is None:
        return line
    head, rest = line[: first.start()], line[first.start() :]
    made = _JOB.sub(lambda found: f"soundmill {_SUBCOMMANDS[found[1]]}", rest)
    lost = max(0, len(rest) - len(made))
    return head + _GAP.sub(lambda gap: gap[0] + " " * lost, made, count=1)
