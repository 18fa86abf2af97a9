"""The karaoke service with embedded servers: whose songs it takes then, and what to type beside it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.commands import by_name, program
from pipeline.dataset.sources.file_glob import sounds_like_audio
from pipeline.service.embedded import KAFKA_PORT, port_of
from pipeline.workflows.service_config import ServiceConfig

SCRIPT = "karaoke_request"
NO_SONG = "SONG.mp3"


def roots_of(service: ServiceConfig) -> list[str]:
    """The working folder before the default, which no stranger has; where others are given, those."""
    given = list(service.roots)
    return [str(Path.cwd()), *given] if given == ServiceConfig().roots else given


def what_to_type(kafka: str, service: ServiceConfig) -> str:
    """Two commands that ask for a song and show the answers, to be copied as they are.

    Args:
        kafka: ``HOST:PORT`` of the embedded broker.
    """
    song = _a_song(service.roots, service.file_name)
    # Without --kafka it is the environment's, which the other terminal may have.
    usual = port_of(kafka) == KAFKA_PORT and "KAFKA_BOOTSTRAP_SERVERS" not in os.environ
    words = [*_program(), *([] if usual else ["--kafka", kafka])]
    send, show = shlex.join([*words, "send", song]), shlex.join([*words, "answers"])
    return f"\nIn another terminal, in the folder {Path.cwd()}:\n  {send}\n  {show}\n"


def _program() -> list[str]:
    """This Python and the script, by names that are right in the working folder."""
    if by_name():
        return program(SCRIPT).split()
    script = Path(__file__).resolve().parents[2] / "jobs" / f"{SCRIPT}.py"
    return [_shortest(Path(sys.executable)), _shortest(script)]


def _a_song(roots: Sequence[str], result: str) -> str:
    """A song of the first root, or what to put in its place."""
    folder = Path(roots[0].removeprefix("file://"))
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError:  # an object store, or not there
        names = []
    songs = [name for name in names if sounds_like_audio(name) and name != result]
    found = songs[0] if songs else NO_SONG
    return f"{roots[0].rstrip('/')}/{found}" if "://" in roots[0] else _shortest(folder / found)


def _shortest(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
