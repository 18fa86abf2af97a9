"""What failed, by stage and error class, with examples; and running just those files again."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import keyvalue

from pipeline.dataset.output import Output
from pipeline.errors import UserError

EXAMPLES = """examples:
  python jobs/failures.py output.uri=out/tables                              counts and three examples each
  python jobs/failures.py output.uri=out/tables "where=stage = 'decode'"     only these
  python jobs/failures.py output.uri=out/tables "where=worker_died" limit=20
  python jobs/failures.py output.uri=out/tables "where=stage = 'clap'" retry=true

where is a SQL condition over asset_id, uri, stage, error_class, message, attempts, worker_died, first_seen, run_id.
Exit codes: 0 done, 1 the retry failed, 2 the command is wrong.
"""


@dataclass
class Options(keyvalue.OfAnOutput):
    """The command line."""

    where: str | None = field(
        default=None, metadata={"key": "where", "help": "SQL condition: only the failures that meet it"}
    )
    retry: bool = field(
        default=False,
        metadata={
            "key": "retry",
            "kind": bool,
            "help": "true: run these files again, with the last run's config",
        },
    )
    limit: int = field(
        default=3, metadata={"key": "limit", "kind": int, "help": "examples per error class (3)"}
    )
    source_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "key": "source.storage_options",
            "kind": dict,
            "help": "of the source, for retry=true: a run's secrets are not written down",
        },
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = keyvalue.parse(Options, given, __doc__, EXAMPLES)
        from pipeline.workflows import retry  # after the command line: it loads the extractors

        output = Output(options.uri, options.storage_options)
        print(retry.show(output, options.where, options.limit))
        return retry.retry(output, options.where, options.source_options) if options.retry else 0
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
