"""The data dictionary: every column of the tables with type, unit, definition and source, as Markdown."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

from pipeline.commands import as_typed

EXAMPLES = """  python jobs/columns.py [JOB]

  JOB    extract (feature extraction) unless another one is named: karaoke, speech, master

examples:
  python jobs/columns.py                      on the terminal
  python jobs/columns.py karaoke              of another job
  python jobs/columns.py > docs/columns.md    after a change of the schemas
"""


def main(arguments: list[str] | None = None) -> int:
    """Print the dictionary and return the exit code: 0, or 2 where the command is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ("-h", "--help"):
        print(as_typed(f"{__doc__}\n\n{EXAMPLES.rstrip()}"))
        return 0
    # After the command line: the declarations load every extractor's module.
    from pipeline.dataset.tables.dictionary import dictionary
    from pipeline.workflows.known_jobs import JOBS, known_contents

    job = given[0] if given else "extract"
    if job not in JOBS or len(given) > 1:
        print(f"error: {given[-1]} is no job: it takes one of {', '.join(JOBS)}", file=sys.stderr)
        return 2
    preflight.end_with_the_reader()
    print(dictionary(known_contents(job)).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
