"""What speech preparation found, as other software reads it: lhotse, NeMo, a Hugging Face audio folder, one RTTM.

Writes manifests/ below the output, and metadata.jsonl beside its clips. Run it again after new recordings.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import keyvalue

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.errors import UserError

EXAMPLES = """examples:
  python jobs/manifests.py output.uri=out/calls
  python jobs/manifests.py output.uri=s3://bucket/calls 'output.storage_options={endpoint: "http://host:9000"}'

Exit codes: 0 written; 2 the command is wrong, or this is no output of python jobs/prepare_speech.py.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the job and return the exit code."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        options = keyvalue.parse(keyvalue.OfAnOutput, given, __doc__, EXAMPLES)
        from pipeline.workflows import manifests  # after the command line, which may be wrong

        for file, lines in manifests.run(Output(options.uri, options.storage_options)).items():
            print(f"{options.uri}/{file}: {plural(lines, 'line')}")
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
