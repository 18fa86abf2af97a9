"""Asked first by every job: a Python that cannot run it, or one without its packages, is said in three lines.

Runs on any Python 3: no syntax of later versions, no import that could fail.
"""

import importlib.util
import signal
import sys

OLDEST, NEWEST = (3, 10), (3, 12)
# One package of every kind that `make` installs.
NEEDED = ("hydra", "ray", "torch", "pyarrow", "soundfile")


def problem(version, has=lambda name: importlib.util.find_spec(name) is not None):
    """What keeps this interpreter from running a job, in three lines; None if nothing does."""
    own = "{}.{}".format(*version)
    if not OLDEST <= tuple(version) <= NEWEST:
        return (
            f"error: this is Python {own}, and Soundmill runs on 3.10 to 3.12\n"
            f"why:   its packages (torch, ray, laion-clap) have no build for {own}\n"
            f"type:  make PYTHON=/path/to/python3.11 demo, then .venv/bin/python {sys.argv[0]}"
        )
    missing = [name for name in NEEDED if not has(name)]
    if missing:
        return (
            "error: this Python ({}) has no {}\n"
            "why:   Soundmill is installed in .venv, or nowhere yet\n"
            "type:  make demo, once, and .venv/bin/python {} from then on".format(
                sys.executable, ", ".join(missing), sys.argv[0]
            )
        )
    return None


def end_with_the_reader():
    """What only prints may end silently when `head` has read enough; a run must not."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def check():
    """Leave with exit code 2 where a job cannot run."""
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    if {"-h", "--help", "--cfg", "-c", "--info", "--hydra-help"}.intersection(given):
        end_with_the_reader()
    found = problem(sys.version_info[:2])
    if found:
        sys.stderr.write(found + "\n")
        sys.exit(2)
