"""Composing a job's config: the only module besides the entry points that knows Hydra.

The command line is composed once before Hydra's own run, so that whatever is wrong with it becomes one line
that names the key and the nearest valid one, and exit code 2.
"""

from __future__ import annotations

import argparse
import atexit
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, NoReturn

import interactive
import yaml
from commandline import CONF, check_keys, options_of
from explaining import explain
from hydra import compose, version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from schema import CURRENT
from sweep import Sweep

from pipeline.commands import as_typed, program
from pipeline.errors import UserError
from pipeline.workflows.job import Job
from pipeline.workflows.known_stages import stages_of_all
from pipeline.workflows.outcome import EXIT_USAGE
from pipeline.workflows.run_config import RunConfig
from pipeline.workflows.stopping import EXIT_STOPPED

# Of every run of this process: a multirun has several, and ends with the worst.
EXIT_CODES: list[int] = []
# The overrides as they were typed.
GIVEN: list[str] = []
# When the first run of this process got where, Unix time; `pipeline.workflows.jobs.extract.run` adds to it.
MOMENTS: dict[str, float] = {}


def register() -> None:
    """Give Hydra the typed schema that the job's file in ``conf/`` is checked against."""
    ConfigStore.instance().store(name=f"{CURRENT.name}_schema", node=CURRENT.config)


@dataclass(frozen=True)
class Primary:
    """The config that a job begins with.

    Args:
        name: of its file, without a suffix.
        folder: where it is looked for, and the groups of keys.
        more: a folder of one's own, ``--config-dir``, which is looked into as well.
    """

    name: str = field(default_factory=lambda: CURRENT.name)
    folder: Path = CONF
    more: Path | None = None

    def folders(self) -> list[Path]:
        """Where configs and groups are looked for."""
        return [self.folder, *([self.more] if self.more else [])]

    @contextmanager
    def found(self) -> Iterator[None]:
        """Within it Hydra composes from the folders, as its own run will."""
        GlobalHydra.instance().clear()
        version.setbase("1.3")
        search = create_config_search_path(str(self.folder))
        if self.more:
            search.prepend("command-line", f"file://{self.more}", SearchPathQuery(provider="schema"))
        Hydra.create_main_hydra2("app", search)
        try:
            yield
        finally:
            GlobalHydra.instance().clear()


def typed(config: Any, check: bool = True, overrides: Sequence[str] = GIVEN) -> RunConfig:
    """A composed config as the job's dataclass, every interpolation resolved and, with ``check``, every value checked.

    A config that is not built on `extract`, such as what ``--cfg job`` printed, gets the defaults of what it lacks.

    Raises:
        UserError: a value of the wrong type (an environment variable's too), or an impossible one.
    """
    try:
        if OmegaConf.get_type(config) is not CURRENT.config:
            config = OmegaConf.merge(OmegaConf.structured(CURRENT.config), config)
        result = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise explain(error) from None
    # What a profile says of other jobs' stages is left out; what was typed of them is refused.
    named = {
        o.partition("=")[0].rpartition(".")[2] for o in overrides if o.lstrip("+").startswith("hardware.")
    }
    result.hardware.of_job(result.pools(), stages_of_all() - named)
    if check:
        result.check()
    return result


def load(
    overrides: Sequence[str], name: str | None = None, check: bool = True, primary: Primary | None = None
) -> RunConfig:
    """Compose ``conf/<name>.yaml``, or another ``primary``, with ``overrides``. Raises `UserError` in one line."""
    primary = primary or (Primary(name) if name else Primary())
    overrides = check_keys(overrides, folders=primary.folders())
    try:
        with primary.found():
            return typed(compose(primary.name, overrides=overrides), check, overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise explain(error, primary.folders(), overrides) from None


def run_job(
    job: Callable[[], None],
    afterwards: Callable[[], None] = lambda: None,
    *,
    asks: bool = False,
    about: str | None = None,
) -> None:
    """Check the command line, run ``job`` once or for every combination, and ``afterwards``.

    The user's mistakes become what, why and what to type, and exit code 2.

    Args:
        asks: for what the command line does not say, on the terminal, and whether to run what comes of it.
        about: the file in ``conf/`` that has the text of ``--help``; None for the job's own.
    """
    register()
    try:
        arguments = _arguments()
        own = arguments.config_path or arguments.config_dir or arguments.config_name
        if arguments.help and not own:
            print(as_typed(help_text(about or CURRENT.name, arguments.overrides)))
            end(0)
        options = [word for word in sys.argv[1:] if word not in arguments.overrides]
        if asks and not arguments.help and not arguments.hydra_help:
            arguments.overrides += _answers(arguments)
        overrides = list(arguments.overrides)
        GIVEN[:] = [*_of_configs(arguments), *overrides]
        if not arguments.help and not arguments.hydra_help:
            primary = _primary(arguments)
            checked = check_keys(overrides, arguments.multirun, primary.folders())
            overrides = [*_quiet(primary, overrides), *checked]
            if not arguments.multirun:
                load(arguments.overrides, check=not (arguments.cfg or arguments.info), primary=primary)
        _require_a_place()
    except UserError as error:
        leave(error)
    with tempfile.TemporaryDirectory(prefix="soundmill-") as scratch:
        # Hydra writes the overrides of a multirun down, secrets included: where nobody else reads, and not for long.
        # The overrides in one piece, and first: an option without its value would take one for it.
        sys.argv[1:] = [*overrides, f"hydra.sweep.dir={scratch}", *options]
        with _help_as_typed() if arguments.help else nullcontext():
            job()
    afterwards()
    end(max(EXIT_CODES, default=0))


def help_text(name: str, overrides: Sequence[str]) -> str:
    """What ``conf/<name>.yaml`` says of itself, with the groups of its keys and the composed config.

    Hydra prints the same, and looks each group of every job up in a copy of all configs, which takes two seconds.

    Raises:
        UserError: an override cannot be composed.
    """
    primary = Primary(name)
    try:
        with primary.found():
            config = compose(name, overrides=list(overrides), return_hydra_config=True)
            template = config.hydra.help.template
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, primary.folders(), overrides) from None
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    options = {str(key): options_of(str(key), primary.folders()) for key in config}
    groups = "".join(f"{key}: {', '.join(options[key])}\n" for key in sorted(options) if options[key])
    return Template(template).substitute(APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(config))


def carry_out(job: Job, config: Any, trials: Sweep) -> None:
    """Run a job on a composed config and keep its exit code, within Hydra's own run."""
    from pipeline.workflows.run import Asked, run_job  # not for --cfg job: it imports what computes

    try:
        settings = trials.own_output(typed(config))
        moments = {**MOMENTS, "config": time.time()}
        MOMENTS.clear()  # those of the first run are not the next one's
        result = run_job(job, settings, Asked(given=GIVEN, moments=moments))
        EXIT_CODES.append(result.exit_code)
        trials.add(result)
    except KeyboardInterrupt:
        leave_stopped()
    except UserError as error:  # here, because Hydra would print a traceback and exit with 1
        leave(error)


@contextmanager
def _help_as_typed() -> Iterator[None]:
    """What Hydra prints of ``conf/*.yaml`` within it names the jobs as they are typed here."""
    kept = io.StringIO()
    try:
        with redirect_stdout(kept):
            yield
    finally:  # it may leave by SystemExit
        print(as_typed(kept.getvalue()), end="")


def _require_a_place() -> None:
    """Raises `UserError` where nothing can be written for a while."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            "there is no folder for temporary files",
            "neither TMPDIR nor /tmp, /var/tmp nor the working directory can be written",
            "TMPDIR=/a/folder before the command",
        ) from None


def _arguments() -> argparse.Namespace:
    """What was typed, overrides before, between and behind options; Hydra by itself takes them in one piece only."""
    parser = get_args_parser()
    parser.prog = program(Path(sys.argv[0]).stem)
    arguments, more = parser.parse_known_args()
    unknown = [word.partition("=")[0] for word in more if word.startswith("-")]
    if unknown:  # and nothing of the rest, which may be a secret
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides = [*arguments.overrides, *more]
    return arguments


def _answers(arguments: argparse.Namespace) -> list[str]:
    """What is answered on the terminal, as overrides; leaves where it is not to be run. Raises `UserError`."""
    interactive.require_terminal()
    if arguments.multirun:
        raise UserError(
            f"{interactive.FLAG} does not go with --multirun",
            "it asks for one value of each key",
            f"the keys with --multirun, or {interactive.FLAG} alone",
        )
    primary = _primary(arguments)
    try:
        answers = interactive.ask(
            arguments.overrides, lambda overrides: load(overrides, check=False, primary=primary)
        )
        runs = interactive.agreed(interactive.as_command([*sys.argv[1:], *answers]))
    except (KeyboardInterrupt, EOFError):
        print(file=sys.stderr)
        leave_stopped()
    if not runs:
        sys.exit(0)
    return answers


def _of_configs(arguments: argparse.Namespace) -> list[str]:
    """The options that name a config of one's own, as they were typed."""
    names = ("config_path", "config_name", "config_dir")
    given = ((f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in names)
    return [f"{option}={value}" for option, value in given if value is not None]


def _primary(arguments: argparse.Namespace) -> Primary:
    """The config that the options name. Raises `UserError` where a folder is not there."""
    folder, more = CONF, None
    if arguments.config_path is not None:
        # As Hydra takes it: relative to the script.
        folder = _folder("--config-path", Path(sys.argv[0]).parent / arguments.config_path)
    if arguments.config_dir is not None:
        more = _folder("--config-dir", Path(arguments.config_dir))
    name = (arguments.config_name or CURRENT.name).removesuffix(".yaml")
    return Primary(name, folder, more)


def _folder(option: str, path: Path) -> Path:
    path = path.resolve()
    if not path.is_dir():
        raise UserError(
            f"{option}={path}: there is no such folder", do=f"{option}=FOLDER, one that has .yaml files"
        )
    return path


def _quiet(primary: Primary, overrides: Sequence[str]) -> list[str]:
    """What ``conf/extract.yaml`` tells Hydra, for a config of one's own: Hydra takes it from the first config only,
    and would else write a folder of logs into the working directory."""
    if primary == Primary(primary.name) and primary.name in (CURRENT.name, "plan_job"):
        return []
    wanted = {
        "hydra/job_logging": "none",
        "hydra/hydra_logging": "none",
        "hydra.output_subdir": "null",
        "hydra.run.dir": ".",
        "hydra.sweep.subdir": ".",
    }
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    return [f"{key}={value}" for key, value in wanted.items() if key not in given]


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


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
