"""Asked first by every job: a Python that cannot run it, or one without its packages, is said in three lines.

Runs on any Python 3: no syntax of later versions, no import that could fail.
"""

import importlib.util
import os
import signal
import sys
import time

# When the command began, Unix time, but for the start of the interpreter itself.
BEGAN = time.time()
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
    if missing and "SOUNDMILL_COMMAND" in os.environ:
        return (
            "error: this Python ({0}) has no {1}\n"
            "why:   Soundmill was installed without what it needs\n"
            "type:  {0} -m pip install -c constraints.txt . in the folder of its source".format(
                sys.executable, ", ".join(missing)
            )
        )
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


def only_looks():
    """Whether the command only prints something about itself."""
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    return bool({"-h", "--help", "--cfg", "-c", "--info", "-i", "--hydra-help"}.intersection(given))


def say(text):
    """A line on standard error, as the log of a run has them. Nothing where the command only prints."""
    if not only_looks():
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()


def speak_utf8():
    """Begin again in UTF-8 where the locale says otherwise: Ray and Arrow take the names of files for nothing else."""
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or not hasattr(sys, "orig_argv"):
        return
    os.environ["PYTHONUTF8"] = "1"  # of the processes that this one starts
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def no_job(about, command):
    """Of a module that jobs share: say what it is, and the command that uses it. Asked for help, that was all."""
    sys.stdout.write(about.strip() + "\n\nIt is no job of its own. Type: " + command + "\n")
    sys.exit(0 if {"-h", "--help"}.intersection(sys.argv[1:]) else 2)


def check():
    """Leave with exit code 2 where a job cannot run."""
    speak_utf8()
    if only_looks():
        end_with_the_reader()
    found = problem(sys.version_info[:2])
    if found:
        sys.stderr.write(found + "\n")
        sys.exit(2)


if __name__ == "__main__":
    no_job(__doc__, "python jobs/extract_features.py --help")
