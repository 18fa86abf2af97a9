"""Settings of a service from a file ``.env`` beside which it is started: what the environment has already wins."""

import sys
from pathlib import Path

FILE = Path(".env")


def load(file: Path = FILE) -> None:
    """Put what the file says into the environment; nothing happens where there is no file, or no python-dotenv."""
    if not file.is_file():
        return
    try:
        from dotenv import load_dotenv
    except ImportError:
        from pipeline.optional import extra

        note = f"note: {file} is not read, python-dotenv is not installed: type {extra('service')}"
        print(note, file=sys.stderr)
        return
    load_dotenv(file, override=False)


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/karaoke_service.py --help")
