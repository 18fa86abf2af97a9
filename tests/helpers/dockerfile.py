"""A Dockerfile taken apart."""

from __future__ import annotations

import re
from pathlib import Path


def stages(file: Path) -> list[list[tuple[str, str]]]:
    """For each ``FROM``, and with it: (instruction, arguments), with continued lines joined."""
    text = re.sub(r"\\\n", " ", file.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found: list[list[tuple[str, str]]] = []
    for name, _, arguments in (line.partition(" ") for line in lines):
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def pip_install(command: str) -> list[str]:
    """The arguments of ``pip install`` in a line of shell, without those that only change what it prints or keeps."""
    found = re.search(r"pip install (.*?)(?:&&|$)", command)
    assert found, command
    quiet = {"-q", "--no-cache-dir", "--disable-pip-version-check"}
    return [word for word in found[1].split() if word not in quiet]
