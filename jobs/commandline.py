"""What is typed on a command line, made into what Hydra takes, or refused with what to type instead."""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from schema import CURRENT

from pipeline.errors import UserError
from pipeline.workflows.config_checks import nearest, nearest_of

CONF = Path(__file__).resolve().parents[1] / "conf"

# Values of these keys are plain text: names with spaces, commas, quotes or umlauts need no quoting by the user.
TEXT_KEYS = (
    "source.uri",
    "source.glob",
    "source.manifest",
    "output.uri",
    "cache.uri",
    "clap.checkpoint",
    "clap.tokenizer",
    "separation.demucs_model",
    "separation.demucs_repo",
    "separation.openunmix_model",
    "karaoke.demucs_model",
    "karaoke.demucs_repo",
    "karaoke.openunmix_model",
    "transcribe.model",
    "service.kafka",
    "service.output_uri",
    "service.state_dir",
    "service.search_url",
    "service.search_api_key",
    "service.search_user",
    "service.search_password",
    "service.search_ca_certs",
    "listening.token",
    "listening.folder",
)
SECRET_LEAVES = ("key", "secret", "token", "password")
# What is meant where a value is given to a whole group of keys.
MAIN_KEYS = {
    "source": "source.uri",
    "output": "output.uri",
    "features": "features.enabled",
    "blobs": "blobs.names",
    "ray": "ray.address",
    "perf": "perf.threads",
    "karaoke": "karaoke.method",
    "service": "service.kafka",
    "speech": "speech.steps",
    "master": "master.preset",
    "listening": "listening.roots",
    "diarize": "diarize.num_speakers",
    "transcribe": "transcribe.model",
    "plan": "plan.sample",
}
OFF = (None, False, "off", "no", "none", "null", "disabled")


def look() -> str:
    """What to type to see every key of the job and its value."""
    return f"python jobs/{CURRENT.script} --cfg job, for all keys and their values"


def known_keys(config: Any = None, prefix: str = "") -> Iterator[str]:
    """Every key that can be overridden, with dots; those of free-form mappings end in ``.*``."""
    config = CURRENT.config() if config is None else config
    for f in fields(config):
        value = getattr(config, f.name)
        yield prefix + f.name
        if is_dataclass(value):
            yield from known_keys(value, f"{prefix}{f.name}.")
        elif isinstance(value, dict):
            yield f"{prefix}{f.name}.*"
            yield from (f"{prefix}{f.name}.{key}" for key in value)


def kind_and_default(key: str) -> tuple[Any, Any] | None:
    """The type of a key as the config of the job has it, and its default; None where there is no such key."""
    kind, value = CURRENT.config, CURRENT.config()
    for name in key.split("."):
        if is_dataclass(value):
            if name not in {f.name for f in fields(value)}:
                return None
            kind, value = typing.get_type_hints(type(value))[name], getattr(value, name)
        elif isinstance(value, dict) and name in value:
            kind, value = type(value[name]), value[name]
        else:
            return None
    return kind, value


def takes_a_list(key: str) -> bool:
    """Whether the values of ``key`` are lists, or null."""
    kind, _ = kind_and_default(key) or (None, None)
    return any(typing.get_origin(one) is list for one in (kind, *typing.get_args(kind)))


def suggestion(key: str) -> str:
    """What can be typed for ``key``: its default, both values of a flag, or a key of a group; empty for none known."""
    found = kind_and_default(key)
    if found is None:
        return ""
    kind, default = found
    if key == "hardware":
        return "hardware=cpu"
    if is_dataclass(default):
        return suggestion(_main_key(key, default))
    if kind is bool:
        return f"{key}=true or {key}=false"
    if default is None and key.endswith(".uri"):
        return f"{key}=FOLDER"
    return _shell(f"{key}={_hydra(default)}")


def in_a_file(key: str) -> str:
    """The same for a file of one's own, as YAML on one line."""
    found = kind_and_default(key)
    if found is None or is_dataclass(found[1]):
        return ""
    text = str(found[1]).lower() if isinstance(found[1], bool) else _hydra(found[1])
    for name in reversed(key.split(".")):
        text = f"{{{name}: {text}}}"
    return text[1:-1]


def as_text(override: str) -> str:
    """``override`` with its value quoted for Hydra, where the key takes plain text."""
    name, equals, value = override.partition("=")
    key = name.lstrip("+~")
    secret = "storage_options." in key and key.rsplit(".", 1)[-1] in SECRET_LEAVES
    if not equals or not value or not (key in TEXT_KEYS or secret):
        return override
    if value[0] in "'\"" or value == "null" or value.startswith("${"):
        return override
    # Hydra takes a backslash for itself, unless a quotation mark follows.
    quoted = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return f"{name}='" + re.sub(r"(\\+)$", r"\1\1", quoted) + "'"


def check_keys(overrides: Sequence[str], sweep: bool = False, folders: Sequence[Path] = (CONF,)) -> list[str]:
    """Refuse a misspelt key, naming the nearest; let free-form mappings take new keys, and lists single words.

    Args:
        overrides: as typed.
        sweep: commas separate the values of a multirun.
        folders: where there are groups of keys: each has a folder per group and a file per option.

    Returns:
        the overrides for Hydra, which wants ``++`` before a key that a mapping, or a config of one's own, does not
        have yet. ``~separation`` has become ``separation.enabled=false``.

    Raises:
        UserError: the key does not exist, a group of keys is given a value, or the override cannot be parsed.
    """
    keys = set(known_keys())
    return [_checked(_parse(o if sweep else as_text(o)), keys, sweep, folders) for o in overrides]


def options_of(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a group of keys: the files of that name in ``folders``."""
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _checked(override: Override, keys: set[str], sweep: bool, folders: Sequence[Path]) -> str:
    key, line = override.key_or_group, override.input_line
    if re.match(r"hydra[./]", key):
        return line
    free = tuple(name[:-2] for name in keys if name.endswith(".*"))
    within = key.startswith(tuple(f"{name}." for name in free))
    if key not in keys and not within and not options_of(key, folders):
        raise UserError(
            f"{key} is not a config key{nearest(key, [k for k in keys if not k.endswith('*')])}",
            do=look(),
        )
    if override.is_delete():
        return line if within else _switched_off(key)
    if override.is_sweep_override() and not sweep and not takes_a_list(key):
        first = line.lstrip("+").partition(",")[0]
        raise UserError(
            f"{key} is given several values",
            "a comma separates the values of --multirun, which makes a run of each",
            f"{_shell(first)}, or --multirun {_shell(line.lstrip('+'))}",
        )
    if key in {f.name for f in fields(CURRENT.config)} and "." not in key:
        default = getattr(CURRENT.config(), key)
        if is_dataclass(default):
            _check_option(override, folders)
            return line
    if options_of(key, folders):
        return line
    if takes_a_list(key):
        line = _with_lists(override, sweep)
    return line if line[0] in "+~" and within else f"++{line.lstrip('+')}"


def _switched_off(key: str) -> str:
    """What ``~key`` means: a stage is switched off. Hydra would only drop the file that sets its defaults."""
    _, default = kind_and_default(key) or (None, None)
    if is_dataclass(default) and hasattr(default, "enabled"):
        return f"++{key}.enabled=" + ("[]" if takes_a_list(f"{key}.enabled") else "false")
    raise UserError(
        f"~{key}: {key} cannot be taken out",
        "a run needs it" if is_dataclass(default) else "a key always has a value",
        suggestion(key) or look(),
    )


def _check_option(override: Override, folders: Sequence[Path]) -> None:
    """Refuse what is no option of a group of keys, with the key that was meant."""
    group, given = override.key_or_group, override.value()
    options = options_of(group, folders)
    if isinstance(given, dict):
        return
    for value in given.list if isinstance(given, ChoiceSweep) else [given]:
        words = value if isinstance(value, list) else [value]
        if not all(isinstance(word, str) and str(word) in options for word in words):
            raise no_option(group, value, options)


def no_option(group: str, value: Any, options: Sequence[str]) -> UserError:
    """What to say of ``group=value``, where the group has other options.

    Args:
        value: as Hydra parsed it.
    """
    said = _hydra(value)
    if not options:
        return UserError(f"{group}={said}: there is no such config", "no folder of configs has it", look())
    if list(options) != ["default"]:
        close = nearest_of(said, options)
        group_or_new = group if kind_and_default(group) else f"+{group}"
        return UserError(
            f"{group}={said} is not one of {', '.join(options)}{nearest(said, options)}",
            f"each is a file of conf/{group}, or of {group}/ in the folder of --config-dir",
            f"{group_or_new}={close}" if close else suggestion(group) or f"{group_or_new}={options[0]}",
        )
    key = _main_key(group, getattr(CURRENT.config(), group))
    kind, _ = kind_and_default(key)
    if kind is bool:
        do = f"{key}={'false' if value in OFF else 'true'}"
    elif value is None or (kind is int and not isinstance(value, int)):
        do = suggestion(key)
    elif takes_a_list(key):
        do = f"{key}={said if isinstance(value, list) else f'[{said}]'}"
    else:
        do = f"{key}={value}"
    return UserError(
        f"{group}={said}: {group} is a group of keys", "the value belongs to one of them", _shell(do)
    )


def _main_key(key: str, section: Any) -> str:
    if key in MAIN_KEYS:
        return MAIN_KEYS[key]
    first = "enabled" if hasattr(section, "enabled") else fields(section)[0].name
    return f"{key}.{first}"


def _with_lists(override: Override, sweep: bool) -> str:
    """The override with a list where there was a word, or, without a sweep, several with commas between."""
    value = override.value()
    text = Override._get_value_element_as_str
    interpolated = isinstance(value, str) and value.startswith("${")
    if isinstance(value, ChoiceSweep) and not sweep:
        made = text(list(value.list))
    elif isinstance(value, ChoiceSweep):
        made = ",".join(text(one if one is None or isinstance(one, list) else [one]) for one in value.list)
    elif value is None or interpolated or isinstance(value, (list, dict)) or override.is_sweep_override():
        return override.input_line
    else:
        made = text([value])
    return f"{override.input_line.partition('=')[0]}={made}"


def _parse(override: str) -> Override:
    key, equals, value = override.partition("=")
    key = key.lstrip("+~")
    if not key:
        raise UserError("an override has no key", "a key has a value: key=value", look())
    if not equals and not override.startswith("~"):
        found = suggestion(key)
        if not found:
            raise UserError(
                f"{key} is neither a key nor an option{nearest(key, known_keys())}",
                "a key has a value: key=value",
                look(),
            )
        raise UserError(f"{key} has no value", do=found)
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        # Hydra's message repeats the value, which may be a secret.
        text = "…" if "storage_options" in key else value.replace("\\", "\\\\").replace('"', '\\"')
        raise UserError(
            f"{key}: its value cannot be parsed",
            "Hydra reads brackets, braces, colons and quotes in it",
            _shell(f'{key}="{text}"'),
        ) from None


def _hydra(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}: {_hydra(inner)}" for name, inner in value.items()) + "}"
    return str(value)


def _shell(override: str) -> str:
    """``override`` for a shell. Square brackets stay as they are: README has them so, and no file is called so."""
    plain = re.fullmatch(r"[\w@%+=:,./\[\]-]*", override)
    return override if plain else shlex.quote(override)


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
