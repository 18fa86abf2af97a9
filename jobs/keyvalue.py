"""The command line of the small jobs: ``key=value`` as for the main job, typed, without a config file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

import yaml

from pipeline.commands import as_typed
from pipeline.errors import UserError
from pipeline.workflows.config_checks import nearest

Options = TypeVar("Options")
FLAGS = {"true": True, "false": False}


@dataclass
class OfAnOutput:
    """What every job is told that works on the tables of a run."""

    uri: str = field(
        metadata={"key": "output.uri", "help": "root of the tables, folder or URL", "example": "FOLDER"}
    )
    storage_options: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "key": "output.storage_options",
            "kind": dict,
            "help": "of a URL: {endpoint: …, key: …, secret: …}",
        },
    )


def parse(cls: type[Options], arguments: Sequence[str], description: str, examples: str) -> Options:
    """Fill ``cls`` from ``key=value`` arguments.

    The metadata of each field has its ``key``, its ``help`` and, for flags and numbers, ``kind`` (bool or int);
    a field of kind dict takes ``key={a: b}`` and ``key.a=b``.

    Raises:
        UserError: an unknown key, a key twice, or a value of the wrong kind. The line never repeats a value of a
            dict, which may be a secret.
        SystemExit: after ``--help``, with 0.
    """
    known = {f.metadata["key"]: f for f in fields(cls)}
    if any(a in ("-h", "--help") for a in arguments):
        print(_help(known.values(), description, examples))
        raise SystemExit(0)
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.lstrip("+").partition("=")
        outer, _, inner = key.rpartition(".")
        if not equals:
            raise UserError(f"{key} has no value: type {key}=…{nearest(key, known)}")
        if key in known:
            f = known[key]
            if f.name in found:
                raise UserError(f"{key} is given twice")
            found[f.name] = _value(key, text, f.metadata.get("kind", str))
        elif outer in known and known[outer].metadata.get("kind") is dict:
            found.setdefault(known[outer].name, {})[inner] = text
        else:
            raise UserError(f"{key} is not a key of this job{nearest(key, known)}")
    for key, f in known.items():
        if f.default is MISSING and f.default_factory is MISSING and not found.get(f.name):
            raise UserError(f"{key} is not set: type {key}={f.metadata['example']}")
    return cls(**found)


def _value(key: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in FLAGS:
            raise UserError(f"{key}={text} must be true or false")
        return FLAGS[text.lower()]
    if kind is int:
        try:
            number = int(text)
        except ValueError:
            raise UserError(f"{key}={text} must be a whole number") from None
        if number < 0:
            raise UserError(f"{key}={text} must not be negative")
        return number
    return _mapping(key, text) if kind is dict else text


def _mapping(key: str, text: str) -> dict[str, Any]:
    """``{a: b}``, also as Hydra lets people write it, ``{a:b}``."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{key} must read {{name: value, …}}; quote it for the shell: '{key}={{key: …}}'")
    return dict(
        str(name).split(":", 1) if inner is None and ":" in str(name) else (str(name), inner)
        for name, inner in value.items()
    )


def _help(known: Any, description: str, examples: str) -> str:
    width = max(len(f.metadata["key"]) for f in known) + 2
    lines = [description.strip(), "", "keys:"]
    lines += [f"  {f.metadata['key']:<{width}}{f.metadata['help']}" for f in known]
    return as_typed("\n".join([*lines, "", examples.rstrip()]))


if __name__ == "__main__":
    import preflight

    preflight.no_job(__doc__, "python jobs/verify.py --help")
