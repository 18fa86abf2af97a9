"""``--interactive``: a job's settings are asked for, one by one, and become the command that says the same.

Which are asked is the job's config to say, see `pipeline.workflows.run_config.RunConfig.questions`.
"""

from __future__ import annotations

import copy
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from commandline import CONF, kind_and_default, options_of, takes_a_list
from schema import CURRENT, Schema

from pipeline.commands import as_typed, by_name, program
from pipeline.dataset.storage import public_uri
from pipeline.errors import UserError
from pipeline.workflows.run_config import PUBLIC_OPTIONS, RunConfig

FLAG = "--interactive"
HIDDEN = "***"
"""In the place of what may be a secret."""
HOW = "Enter takes what is in brackets, ? explains, Ctrl-C leaves and nothing is done."
_LONGEST = 60
"""Characters of a default that a question shows; ``?`` shows the whole."""
_WORDS = re.compile(r"\[?\s*([\w.+-]+(?:[\s,]+[\w.+-]+)*)?\s*\]?")
Load = Callable[[Sequence[str]], RunConfig]
Read = Callable[[str], str]


def take_flag(words: list[str]) -> bool:
    """Take ``--interactive`` out of a command line, which Hydra must not see; whether it was there."""
    found = FLAG in words
    words[:] = [word for word in words if word != FLAG]
    return found


def require_terminal() -> None:
    """Raises `UserError` where nobody can be asked."""
    if sys.stdin is None or not sys.stdin.isatty():
        places = ["source.uri=FOLDER", "output.uri=FOLDER"]
        raise UserError(f"{FLAG} asks on a terminal, and there is none: type {as_command(places)}")


def read_line(prompt: str) -> str:
    """A line that is typed on the terminal. Raises `EOFError` for Ctrl-D."""
    with suppress(ImportError):  # editing with the arrows, and names of files with Tab
        import readline

        readline.set_completer_delims("\n")
        readline.parse_and_bind("tab: complete")
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)  # it would end up in the file that the output goes to
    return input()


def say(text: str) -> None:
    """Show something between two questions."""
    print(text, file=sys.stderr, flush=True)


def ask(given: Sequence[str], load: Load, read: Read = read_line) -> list[str]:
    """Ask what the job's config says is worth asking, but for what was typed.

    An answer that the config refuses is asked for again, and what is refused is said in the config's own words.

    Args:
        given: overrides as they were typed.
        load: composes overrides into the job's config, unchecked. Raises `UserError`.
        read: shows a question and gives the answer.

    Returns:
        the answers as overrides. Of those that were Enter there is none.

    Raises:
        UserError: what was typed is wrong.
        EOFError, KeyboardInterrupt: whoever is asked wants to leave.
    """
    typed = {override.partition("=")[0].lstrip("+~") for override in given}
    answers: list[str] = []
    asked: set[str] = set()
    loaded = cache(load)  # after Enter it is the config of before

    def due(config: RunConfig) -> list[str]:
        return [k for k in config.questions() if k not in asked and not _is_typed(k, typed)]

    def checked(key: str, more: Sequence[str]) -> RunConfig:
        config = loaded((*given, *answers, *more))
        _with_places(config, [k for k in due(config) if k != key]).check()
        return config

    config = checked("", ())
    if due(config):
        say(HOW)
    while keys := due(config):
        override, config = _answer(keys[0], config, partial(checked, keys[0]), read)
        answers += override
        asked.add(keys[0])
    return answers


def agreed(command: str, read: Read = read_line) -> bool:
    """Print the command that does the same without a question, and ask whether it is to be run now."""
    say("")
    print(command, flush=True)
    if HIDDEN in command:
        say(f"({HIDDEN} stands for what you typed and is not shown)")
    say("")
    while True:
        word = read("run it? [Y/n] ").strip().lower()
        if word in ("", "y", "yes", "n", "no"):
            return word not in ("n", "no")


def as_command(words: Sequence[str]) -> str:
    """A command line of this process's job for bash, begun as this one was; without what may be a secret.

    Args:
        words: what follows the job's name.
    """
    script = Path(sys.argv[0])
    begun = program(script.stem).split() if by_name() else [sys.orig_argv[0], sys.argv[0]]
    # jobs/plan.py takes the name of the job that it plans.
    of = [] if script.name == CURRENT.script or Schema() == CURRENT else [CURRENT.name]
    return shlex.join([*begun, *of, *map(_public, words)])


def explained(key: str, config: RunConfig) -> str:
    """What ``?`` shows of a key: the comment that its file in ``conf/`` has on it, else what its class says."""
    section, _, name = key.rpartition(".")
    options = options_of(key, (CONF,))
    if options:
        text = "\n".join(f"{option}: {_first_comment(CONF / key / f'{option}.yaml')}" for option in options)
    else:
        file = CONF / section / "default.yaml" if section else CONF / f"{CURRENT.name}.yaml"
        text = _comment(name, file) or _docstring(section)
    return as_typed("\n".join(line for line in (text, f"now: {key}={_text(_value(config, key))}") if line))


def _answer(
    key: str, config: RunConfig, checked: Callable[[Sequence[str]], RunConfig], read: Read
) -> tuple[list[str], RunConfig]:
    """The override that answers a question, none where it was Enter, and the config with it."""
    prompt = f"{key}{_brackets(key, config)}: "
    while True:
        said = read(prompt).strip()
        if said == "?":
            say(explained(key, config))
            continue
        override = [f"{key}={_as_value(key, said)}"] if said else []
        try:
            return override, checked(override)
        except UserError as error:
            say(error.explained())


def _is_typed(key: str, typed: set[str]) -> bool:
    """Whether a key, or the group that it is in, was given."""
    return any(key == name or key.startswith(f"{name}.") for name in typed)


def _with_places(config: RunConfig, keys: Sequence[str]) -> RunConfig:
    """The config with a place where one is still to be asked for: the check of the others must not end there."""
    config = copy.deepcopy(config)
    for key in keys:
        section, _, name = key.rpartition(".")
        if name == "uri" and _value(config, key) is None:
            setattr(getattr(config, section), name, f"/{section}")
    return config


def _as_value(key: str, said: str) -> str:
    """An answer as the value of an override: what is told to be typed has the key, and lists may have spaces."""
    value = said.removeprefix(f"{key}=").strip()
    if takes_a_list(key) and (words := _WORDS.fullmatch(value)):
        return "[" + re.sub(r"[\s,]+", ",", words[1] or "") + "]"
    return value


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name)
    return getattr(config, "name", config) if is_dataclass(config) else config


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _brackets(key: str, config: RunConfig) -> str:
    """The default, in brackets; nothing where there is none, and the job needs one."""
    value = _value(config, key)
    if value is None and key.endswith(".uri"):
        return ""
    text = _text(value).removeprefix("[").removesuffix("]")
    if len(text) > _LONGEST and isinstance(value, list):
        text = f"{text[:_LONGEST].rpartition(',')[0]},… {len(value)} in all"
    return f" [{text}]"


def _comment(name: str, file: Path) -> str:
    """The comment of a key in a file of YAML: behind it, else above it. Empty for none."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    number = next((n for n, line in enumerate(lines) if line.startswith(f"{name}:")), None)
    if number is None:
        return ""
    if behind := re.search(r"\s#\s*(.*)", lines[number]):
        return behind[1]
    above: list[str] = []
    while number > 0 and lines[number - 1].startswith("#"):
        number -= 1
        above.insert(0, lines[number].lstrip("# "))
    return "\n".join(above)


def _first_comment(file: Path) -> str:
    """What a file of an option begins with, where that is a comment."""
    first = file.read_text(encoding="utf-8").partition("\n")[0] if file.is_file() else ""
    return first.lstrip("# ") if first.startswith("#") else f"as conf/{file.parent.name}/{file.name} has it"


def _docstring(section: str) -> str:
    """What the class of a section says of it; empty where Python made that up, or there is none."""
    found = kind_and_default(section) if section else None
    kind = type(found[1]) if found else CURRENT.config
    text = " ".join((kind.__doc__ or "").split())
    return "" if text.startswith(f"{kind.__name__}(") else textwrap.fill(text.replace("``", ""), 100)


def _public(word: str) -> str:
    """An override without what may be a secret: values of storage options, but for harmless ones, and of URLs."""
    key, equals, value = word.partition("=")
    if equals and "storage_options" in key:
        leaf = key.rpartition(".")[2]
        return word if leaf in PUBLIC_OPTIONS else f"{key}={HIDDEN}"
    before, chained, place = value.rpartition("::")
    shown = public_uri(place) if "://" in place else place
    return word if shown == place else f"{key}={before}{chained}{shown}?{HIDDEN}"


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
