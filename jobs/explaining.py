"""What Hydra and OmegaConf say of a config, as what is wrong, why, and what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from commandline import CONF, in_a_file, known_keys, look, no_option, options_of, suggestion
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import UserError
from pipeline.workflows.config_checks import nearest, nearest_of


def explain(error: BaseException, folders: Sequence[Path] = (CONF,), given: Sequence[str] = ()) -> UserError:
    """The first sentence of a Hydra or OmegaConf error, with the key it is about, and what to type.

    Args:
        folders: where configs were looked for.
        given: the overrides.
    """
    if isinstance(error, yaml.YAMLError):
        return _no_yaml(error)
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    file = ""
    if len(lines) > 1 and (inside := re.match(r"In '(.*)': \w+ raised while composing config:", lines[0])):
        del lines[0]
        file = inside[1]
    text = re.sub(r"\s+", " ", lines[0]) if lines else type(error).__name__
    key = getattr(cause, "full_key", None) or next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), ""
    )
    if not key:
        named = re.match(r"field '([\w.]+)'", text)
        key = named[1] if named else ""
    return (
        _about_files(text, " ".join(lines), folders, given)
        or _about_an_interpolation(text, key)
        or _about_a_value(text, key, file)
    )


def _about_files(text: str, whole: str, folders: Sequence[Path], given: Sequence[str]) -> UserError | None:
    """What is not found among the files of configs, or is there twice."""
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        name = found[1].removesuffix(".yaml")
        there = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        return UserError(
            f"--config-name {name}: there is no {name}.yaml{nearest(name, there)}",
            f"looked for in {', '.join(map(str, folders))}",
            "--config-dir FOLDER --config-name NAME, where FOLDER has a NAME.yaml",
        )
    if found := re.search(r"Could not find '([^']+)'", text):
        group, _, option = found[1].rpartition("/")
        return no_option(group, option, options_of(group, folders))
    if found := re.search(r"Could not override '([^']+)'.*?\+(\S+=\S+)", whole):
        return UserError(
            f"{found[2]}: this config names no {found[1]} among its defaults",
            "it has the values of one written out",
            f"+{found[2]}",
        )
    if found := re.search(r"(\S+) appears more than once in the final|Multiple values for (\S+)\.", text):
        group = found[1] or found[2]
        again = [o for o in given if o.startswith(f"+{group}=")]
        return UserError(
            f"{group} is there already, and + is for what is not", do=again[0][1:] if again else look()
        )
    return None


def _about_an_interpolation(text: str, key: str) -> UserError | None:
    if found := re.search(r"Environment variable '([^']+)' not found", text):
        name = found[1]
        return UserError(
            f"{key}: the environment variable {name} is not set",
            f"the value is ${{oc.env:{name}}}",
            f"{name}=VALUE before the command, or '{key}=${{oc.env:{name},DEFAULT}}'",
        )
    if found := re.search(r"Interpolation key '([^']+)' not found", text):
        keys = [k for k in known_keys() if not k.endswith("*")]
        close = nearest_of(found[1], keys)
        return UserError(
            f"{key}: {found[1]} is not a config key{nearest(found[1], keys)}",
            f"the value is ${{{found[1]}}}",
            f"'{key}=${{{close}}}'" if close else suggestion(key) or look(),
        )
    return None


def _about_a_value(text: str, key: str, file: str) -> UserError:
    if found := re.search(r"Key '([^']+)' (?:is )?not in ", text):
        keys = [k for k in known_keys() if not k.endswith("*")]
        name = key or found[1]
        return UserError(f"{name} is not a config key{nearest(name, keys)}", do=look())
    do = suggestion(key)
    if file:  # what is wrong there is refused before an override is looked at
        do = f"{in_a_file(key)} in {file}.yaml" if in_a_file(key) else ""
    if text.endswith("is not Optional"):
        return UserError(f"{key}=null: {key} has no null", "it always has a value", do or look())
    if "is not a ListConfig" in text:
        return UserError(f"{key} is a list", "it was given something else", do or look())
    return UserError(f"{key}: {text}" if key and key not in text else text, do=do or look())


def _no_yaml(error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name.removeprefix('file://')}, line {mark.line + 1}" if mark else "a config"
    problem = getattr(error, "problem", None) or type(error).__name__
    return UserError(
        f"{where}: this is no YAML",
        problem,
        "python jobs/extract_features.py --cfg job, for a config as it is to be written",
    )


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/extract_features.py --help")
