"""report.html of an output once more: for old outputs, and with all that is in the tables now.

Writes it into the folder of the newest run that measured something, and prints where.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import keyvalue

from pipeline.dataset.output import Output
from pipeline.errors import UserError

EXAMPLES = """examples:
  python jobs/report.py output.uri=out/tables
  python jobs/report.py output.uri=s3://bucket/tables 'output.storage_options={endpoint: "http://host:9000"}'

Exit codes: 0 written; 2 the command is wrong, or no run here measured anything.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = keyvalue.parse(keyvalue.OfAnOutput, given, __doc__, EXAMPLES)
        from pipeline.workflows import report  # after the command line: it loads the extractors

        print(report.run(Output(options.uri, options.storage_options)))
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
