"""Commands in the documents: their keys exist, their files are there. Integration tests run them all."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.documents import DOCUMENTS, all_commands

REPO = Path(__file__).resolve().parents[1]
JOB = re.compile(r"(?:^|[ /])(jobs|benchmarks)/(\w+)\.py$")


def commands() -> list[tuple[str, str]]:
    """(document, command) of every command that names a job or a benchmark."""
    return [(c.document, c.line) for c in all_commands() if re.search(r"(jobs|benchmarks)/\w+\.py", c.line)]


def arguments(line: str) -> tuple[str, str, list[str]]:
    """Folder and name of the script, and what it is given."""
    words = shlex.split(line.removesuffix("; done"))
    at = next(number for number, word in enumerate(words) if JOB.search(word))
    folder, name = JOB.search(words[at]).groups()
    return folder, name, [word for word in words[at + 1 :] if word not in ("…", "[key=value", "...]")]


@pytest.fixture(scope="module")
def compose():
    sys.path.insert(0, str(REPO / "jobs"))
    import compose

    compose.register()
    return compose


@pytest.mark.parametrize(("document", "line"), sorted(set(commands())))
def test_a_command_of_the_documents_is_accepted_by_its_job(compose, document, line):
    folder, name, given = arguments(line)
    assert (REPO / folder / f"{name}.py").exists(), line
    given = [word.replace("$n", "000").replace("=…", "=here") for word in given]
    if folder == "jobs" and name in ("extract_features", "plan"):
        sweep = "--multirun" in given
        overrides = [word for word in given if "=" in word]
        compose.check_keys(overrides, sweep)
        if not sweep:
            here = [] if any("source." in word for word in overrides) else ["source.uri=here"]
            compose.load(
                [*here, "output.uri=out", *overrides] if "output.uri" not in line else [*here, *overrides]
            )
    elif folder == "jobs" and name in ("failures", "verify"):
        import keyvalue

        module = __import__(name)
        keyvalue.parse(module.Options, given, "", "")


def test_there_are_commands_to_look_at():
    assert len(commands()) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_links_to_is_there(document):
    for target in re.findall(r"\]\(([^)#][^)]*)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target.partition("#")[0]).exists(), target
