"""Does an output hold what it promises? Finds what interrupted runs and lost files leave, and mends it if asked.

Changes nothing without repair=true. Run it while no job writes there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import keyvalue

from pipeline.dataset.output import Output
from pipeline.errors import UserError

EXAMPLES = """examples:
  python jobs/verify.py output.uri=out/tables                      what is wrong, if anything
  python jobs/verify.py output.uri=out/tables repair=true          mend it, then look again
  python jobs/verify.py output.uri=out/tables report=verify.json   every finding as JSON
  python jobs/verify.py output.uri=s3://bucket/tables 'output.storage_options={endpoint: "http://host:9000"}'

Exit codes: 0 clean, or all of it mended; 1 problems remain; 2 the command is wrong.
"""


@dataclass
class Options(keyvalue.OfAnOutput):
    """The command line."""

    repair: bool = field(
        default=False,
        metadata={
            "key": "repair",
            "kind": bool,
            "help": "true: mend what can be mended, and say what was done",
        },
    )
    deep: bool = field(
        default=False,
        metadata={
            "key": "deep",
            "kind": bool,
            "help": "true: read arrays and stems, too, and compare them with what was written",
        },
    )
    prune: bool = field(
        default=False,
        metadata={
            "key": "prune",
            "kind": bool,
            "help": "true: repair, and remove the rows of files that are gone with their arrays and stems",
        },
    )
    report: str | None = field(
        default=None, metadata={"key": "report", "help": "local file for all findings as JSON"}
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = keyvalue.parse(Options, given, __doc__, EXAMPLES)
        from pipeline.workflows import verify  # after the command line: it loads the extractors

        output = Output(options.uri, options.storage_options)
        return verify.run(
            output, options.repair, options.report, prune=options.prune, deep=options.deep
        ).exit_code
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
