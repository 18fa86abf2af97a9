"""What the documents tell people to type: every command, and every piece of Python."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
_PROGRAM = r"(?:\.venv/bin/)?python|make|ray|pip|docker|kubectl|soundmill|export|for"
_COMMAND = re.compile(rf"(?:{_PROGRAM}) ")
_INLINE = re.compile(
    r"`((?:(?:\.venv/bin/)?python jobs/|ray [a-z]|make [a-z]|pip install|docker |kubectl |soundmill [a-z-])[^`]+)`"
)


@dataclass(frozen=True, order=True)
class Found:
    """A command, on one line and without its comment, and the document that has it."""

    document: str
    line: str


def blocks(language: str, documents: list[Path] | None = None) -> list[tuple[Path, str]]:
    """The fenced blocks of one language ('' for none), each with its document."""
    return [
        (document, text)
        for document in documents or DOCUMENTS
        for kind, text in _BLOCK.findall(document.read_text())
        if kind == language
    ]


def commands(text: str) -> list[str]:
    """The commands of a block, a loop being one; nothing of a block that shows output."""
    lines, whole = [], re.sub(r" *\\\n *", " ", text)
    loops = re.compile(r"^for .*?^done$", re.MULTILINE | re.DOTALL)
    for loop in loops.findall(whole):
        lines.append(re.sub(r"\s*\n\s*", " ", re.sub(r"do\n\s*", "do ", loop)).replace(" done", "; done"))
    for line in loops.sub("", whole).splitlines():
        lines.append(re.sub(r"\s+(#|☁).*", "", line).strip())
    return [line for line in lines if _COMMAND.match(line)]


def all_commands() -> list[Found]:
    """Every command of every document, in blocks and in the text, once for each document."""
    shell = [*blocks(""), *blocks("bash"), *blocks("sh")]
    found = {Found(document.name, line): None for document, text in shell for line in commands(text)}
    for document in DOCUMENTS:
        plain = _BLOCK.sub("", document.read_text())
        for line in _INLINE.findall(plain):
            found[Found(document.name, " ".join(line.split()))] = None
    return list(found)
