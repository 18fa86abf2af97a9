"""Counts in sentences: one of a thing is not "1 files"."""

import re

import pytest

from pipeline.counting import plural

NOUNS = r"file|row|block|track|window|actor|thread|node|part|problem|header|segment|shard|copy|copie|CPU|GPU"
# A bare number before a noun in the plural. One that is "12 of" something, or never one, is told apart by its words.
BARE = re.compile(rf"\{{[^{{}}]*\}} (?:{NOUNS})s\b|(?<= )(?:{NOUNS})\(s\)")
NEVER_ONE = {
    "committed twice",  # of an error in the program
    "needs the loudness of at least",
    "of the first",
    "is a local path and the cluster has",
}


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 files"),
        (1, "1 file"),
        (1.0, "1 file"),
        (2, "2 files"),
        (1.5, "1.5 files"),
        (12000, "12\u202f000 files"),
    ],
)
def test_a_count(number, said):
    assert plural(number, "file") == said


def test_a_noun_with_a_plural_of_its_own():
    assert plural(1, "copy", "copies") == "1 copy"
    assert plural(2, "copy", "copies") == "2 copies"


def test_nothing_that_is_said_puts_a_bare_number_before_files(repo):
    found = []
    for path in [*(repo / "pipeline").rglob("*.py"), *(repo / "jobs").glob("*.py")]:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if BARE.search(line) and not any(words in line for words in NEVER_ONE):
                found.append(f"{path.relative_to(repo)}:{number}: {line.strip()}")
    assert not found, "pipeline.counting.plural says it right"
