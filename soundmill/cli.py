"""One command for all jobs: ``soundmill extract …`` runs what ``python jobs/extract_features.py …`` runs."""

from __future__ import annotations

import difflib
import os
import runpy
import signal
import sys
from importlib import metadata
from pathlib import Path

from pipeline.commands import BY_NAME, SCRIPTS
from pipeline.errors import UserError

ABOUT = {
    "extract": "audio files in, Parquet tables out: descriptors, CLAP embeddings, source separation",
    "karaoke": "songs in, songs without their vocals out, and how good each is",
    "karaoke-service": "the same for songs that are asked for by message, one at a time, through Kafka",
    "karaoke-request": "ask that service for a song by hand, see what it answers, send dead letters again",
    "speech": "recordings in, who says what when out: words, speakers, clips, denoised audio",
    "master": "songs in, masters out, true to their loudness, and what was done to each",
    "master-service": "masters that are listened to before they are done, on a page of this machine",
    "plan": "what that would take: files, hours, memory, time, cost and problems to expect",
    "verify": "whether an output holds what it promises; repair=true mends it",
    "failures": "what failed and why; retry=true runs just those files again",
    "report": "report.html of an output, once more",
    "manifests": "prepared speech as lhotse, NeMo and Hugging Face read it, and one RTTM of all",
    "voices": "the same voice in all recordings of prepared speech: one name for each",
    "models": "weights of the networks: list, fetch, path",
    "demo": "the whole on a dozen synthetic tracks whose key, tempo and loudness are known",
    "columns": "every column of the tables: type, unit, definition, source",
}
"""Subcommand → what it does, on one line."""
HELP = """Soundmill turns a folder or bucket of audio files into Parquet tables.

  soundmill SUBCOMMAND [key=value ...]

subcommands:
{subcommands}

examples:
  soundmill extract source.uri=music output.uri=out/music
  soundmill verify output.uri=out/music

`soundmill SUBCOMMAND --help` explains one of them, `soundmill --version` says which Soundmill this is.
"""
_EXIT_USAGE = 2


def folder_of_jobs() -> Path:
    """Where the jobs are: inside this package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    return next(folder for folder in (here / "jobs", here.parent / "jobs") if folder.is_dir())


def help_text() -> str:
    """What ``soundmill --help`` prints."""
    width = max(map(len, ABOUT)) + 2
    return HELP.format(subcommands="\n".join(f"  {name:<{width}}{about}" for name, about in ABOUT.items()))


def main(arguments: list[str] | None = None) -> int:
    """Run the subcommand that is named first, in this process; it may end the process itself.

    Args:
        arguments: of the command line, by default those of this process.

    Returns:
        the exit code: 2 where there is no such subcommand.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given and given[0] in ("-h", "--help", "help"):
        if hasattr(signal, "SIGPIPE"):  # `head` may have read enough
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        print(help_text(), end="")
        return 0
    if given and given[0] in ("-V", "--version"):
        print(f"soundmill {metadata.version('soundmill')}")
        return 0
    if not given or given[0] not in SCRIPTS:
        print(_no_subcommand(given).explained(), file=sys.stderr)
        return _EXIT_USAGE
    return _run(given[0], given[1:])


def _run(name: str, arguments: list[str]) -> int:
    """The job as ``python jobs/….py`` runs it: as the main module, under its own name, which Hydra looks at."""
    script = folder_of_jobs() / f"{SCRIPTS[name]}.py"
    os.environ[BY_NAME] = name
    sys.argv[:] = [str(script), *arguments]
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _no_subcommand(given: list[str]) -> UserError:
    if not given:
        return UserError("no subcommand is given", f"there are {', '.join(SCRIPTS)}", "soundmill --help")
    word = given[0]
    # The names of the files are known to those who have worked in a checkout.
    names = {**{name: name for name in SCRIPTS}, **{script: name for name, script in SCRIPTS.items()}}
    near = difflib.get_close_matches(word.lower().removesuffix(".py"), names, n=1, cutoff=0.5)
    if near:
        best = names[near[0]]
        return UserError(f"{word} is not a subcommand; did you mean {best}?", do=f"soundmill {best} --help")
    if "=" in word or word.startswith("-"):
        return UserError(
            f"{word.partition('=')[0]} is not a subcommand",
            "the subcommand comes first, its keys and options follow",
            f"soundmill {next(iter(SCRIPTS))} key=value ..., or soundmill --help",
        )
    return UserError(f"{word} is not a subcommand", f"there are {', '.join(SCRIPTS)}", "soundmill --help")
