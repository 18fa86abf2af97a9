"""The same voice in all recordings of prepared speech: one name for each, in the table voices.

What diarize.link=true does at the end of a run, for an output that is there. Nothing is listened to again.
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
  python jobs/voices.py output.uri=out/calls
  python jobs/voices.py output.uri=out/calls threshold=0.7

Exit codes: 0 done; 2 the command is wrong, this is no output of python jobs/prepare_speech.py, or a job writes there.
"""


@dataclass
class Options(keyvalue.OfAnOutput):
    """What this job is told."""

    threshold: str = field(
        default="",
        metadata={
            "key": "threshold",
            "help": "the least similarity (cosine) of voices of one person; 0.65 where nothing is said, of "
            "voices that campplus told apart",
        },
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = keyvalue.parse(Options, given, __doc__, EXAMPLES)
        from pipeline.workflows import voices  # after the command line, which may be wrong

        try:
            least = float(options.threshold) if options.threshold else None
        except ValueError:
            raise UserError(
                f"threshold={options.threshold} must be a number within -1..1", do="threshold=0.65"
            ) from None
        print(voices.run(Output(options.uri, options.storage_options), least).text())
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
