"""Composing a job's config: the only module besides the entry points that knows Hydra.

The command line is composed once before Hydra's own run, so that whatever is wrong with it becomes one line
that names the key and the nearest valid one, and exit code 2.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.config_checks import nearest
from pipeline.workflows.outcome import EXIT_USAGE
from pipeline.workflows.stopping import EXIT_STOPPED

CONF = Path(__file__).resolve().parents[1] / "conf"

LOOK = f"python {sys.argv[0]} --cfg job, for all keys and their values"
# Of every run of this process: a multirun has several, and ends with the worst.
EXIT_CODES: list[int] = []
# The overrides as they were typed.
GIVEN: list[str] = []
# When the first run of this process got where, Unix time; `pipeline.workflows.features.run` adds to it.
MOMENTS: dict[str, float] = {}


def register() -> None:
    """Give Hydra the typed schema that ``conf/extract.yaml`` is checked against."""
    ConfigStore.instance().store(name="extract_schema", node=ExtractConfig)


def typed(config: Any, check: bool = True) -> ExtractConfig:
    """A composed config as `ExtractConfig`, every interpolation resolved and, with ``check``, every value checked.

    Raises:
        UserError: a value of the wrong type (an environment variable's too), or an impossible one.
    """
    try:
        result = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    if check:
        result.check()
    return result


def load(overrides: Sequence[str], name: str = "extract", check: bool = True) -> ExtractConfig:
    """Compose ``conf/<name>.yaml`` with ``overrides``. Raises `UserError` in one line."""
    overrides = check_keys(overrides)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return typed(compose(name, overrides=overrides), check)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None


def known_keys(config: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key that can be overridden, with dots; those of free-form mappings end in ``.*``."""
    config = ExtractConfig() if config is None else config
    for f in fields(config):
        value = getattr(config, f.name)
        yield prefix + f.name
        if is_dataclass(value):
            yield from known_keys(value, f"{prefix}{f.name}.")
        elif isinstance(value, dict):
            yield f"{prefix}{f.name}.*"
            yield from (f"{prefix}{f.name}.{key}" for key in value)


# Values of these keys are plain text: names with spaces, commas, quotes or umlauts need no quoting by the user.
TEXT_KEYS = (
    "source.uri",
    "source.glob",
    "source.manifest",
    "output.uri",
    "clap.checkpoint",
    "separation.demucs_model",
    "separation.demucs_repo",
    "separation.openunmix_model",
)
SECRET_LEAVES = ("key", "secret", "token", "password")


def as_text(override: str) -> str:
    """``override`` with its value quoted for Hydra, where the key takes plain text."""
    name, equals, value = override.partition("=")
    key = name.lstrip("+~")
    secret = "storage_options." in key and key.rsplit(".", 1)[-1] in SECRET_LEAVES
    if not equals or not value or not (key in TEXT_KEYS or secret):
        return override
    if value[0] in "'\"" or value == "null" or value.startswith("${"):
        return override
    return name + "='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def check_keys(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Refuse a misspelt key, naming the nearest; let free-form mappings take new keys.

    Args:
        overrides: as typed.
        sweep: commas separate the values of a multirun.

    Returns:
        the overrides for Hydra, which wants ``++`` before a key that a mapping does not have yet.

    Raises:
        UserError: the key does not exist, or the override cannot be parsed.
    """
    keys = set(known_keys())
    free = tuple(key[:-2] for key in keys if key.endswith(".*"))
    overrides = list(overrides) if sweep else [as_text(override) for override in overrides]
    parsed = [_parse(override) for override in overrides]
    result = []
    for override in parsed:
        key, line = override.key_or_group, override.input_line
        if key in free or key.startswith(tuple(f"{name}." for name in free)):
            line = line if line[0] in "+~" else f"++{line}"
        elif key not in keys and not re.match(r"hydra[./]", key):
            raise UserError(
                f"{key} is not a config key{nearest(key, [k for k in keys if not k.endswith('*')])}",
                do=LOOK,
            )
        result.append(line)
    return result


def _parse(override: str) -> Override:
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        # Hydra's message repeats the value, which may be a secret.
        key = override.partition("=")[0].lstrip("+~")
        hint = f"type key=value, and quote special characters: '{key}=\"...\"'" if key else "type key=value"
        raise UserError(f"{key or 'an override'}: its value cannot be parsed; {hint}") from None


def explain(error: BaseException) -> UserError:
    """The first sentence of a Hydra or OmegaConf error, with the key it is about, and what to type."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    key = getattr(cause, "full_key", None) or next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), ""
    )
    text = re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
    options = re.search(r"Could not find '([^']+)'", text)
    if options:
        group, _, option = options.group(1).rpartition("/")
        choices = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        close = difflib.get_close_matches(option, choices, n=1) or choices
        return UserError(
            f"{group}={option} is not one of {', '.join(choices)}{nearest(option, choices)}",
            f"each is a file of conf/{group}",
            f"{group}={close[0]}" if close else "",
        )
    return UserError(f"{key}: {text}" if key and key not in text else text, do=LOOK)


def run_job(job: Callable[[], None], afterwards: Callable[[], None] = lambda: None) -> None:
    """Check the command line, run ``job`` once or for every combination, and ``afterwards``.

    The user's mistakes become what, why and what to type, and exit code 2.
    """
    register()
    try:
        arguments = _arguments()
        options = [word for word in sys.argv[1:] if word not in arguments.overrides]
        overrides = GIVEN[:] = list(arguments.overrides)
        if not arguments.help and not arguments.hydra_help:
            overrides = check_keys(overrides, arguments.multirun)
            if not arguments.multirun:
                load(arguments.overrides, check=not (arguments.cfg or arguments.info))
                GlobalHydra.instance().clear()
    except UserError as error:
        leave(error)
    with tempfile.TemporaryDirectory(prefix="soundmill-") as scratch:
        # Hydra writes the overrides of a multirun down, secrets included: where nobody else reads, and not for long.
        # The overrides in one piece, and first: an option without its value would take one for it.
        sys.argv[1:] = [*overrides, f"hydra.sweep.dir={scratch}", *options]
        job()
    afterwards()
    end(max(EXIT_CODES, default=0))


def _arguments() -> argparse.Namespace:
    """What was typed, overrides before, between and behind options; Hydra by itself takes them in one piece only."""
    parser = get_args_parser()
    arguments, more = parser.parse_known_args()
    unknown = [word.partition("=")[0] for word in more if word.startswith("-")]
    if unknown:  # and nothing of the rest, which may be a secret
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides = [*arguments.overrides, *more]
    return arguments


def end(code: int) -> NoReturn:
    """Exit without taking apart what the process holds: for torch, Ray and pandas that is a second at the prompt."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads on
            stream.flush()
    atexit._run_exitfuncs()
    os._exit(code)


def leave_stopped() -> NoReturn:
    """Say that nothing was computed yet, and exit as a shell does after Ctrl-C."""
    print("stopped before anything was computed; what was there already stays", file=sys.stderr)
    sys.exit(EXIT_STOPPED)


def leave(error: UserError) -> NoReturn:
    """Say what is wrong in one line and exit with code 2."""
    print(error.explained(), file=sys.stderr)
    sys.exit(EXIT_USAGE)
