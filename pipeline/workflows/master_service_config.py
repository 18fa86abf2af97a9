"""The configuration of the service that masters are listened to by: that of the mastering job, and `listening.*`."""

from __future__ import annotations

import dataclasses
import string
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from pipeline.dataset.storage import is_local
from pipeline.errors import UserError
from pipeline.service.listening.asked import Wanted
from pipeline.service.listening.guard import LEAST_TOKEN, is_loopback
from pipeline.service.listening.wav import BITS
from pipeline.workflows.config_checks import nearest, positive, refused
from pipeline.workflows.master_config import MasterConfig, MasterOptions
from pipeline.workflows.place_checks import check_options, check_place

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045

FINGERPRINT = "fingerprint"
_OF_FILES = ("encodes", "preview", "format", "bit_rate", "quality", "bits", "sample_rate")
REFERENCES = 8
"""So many songs may be listened to for one master."""
_NUMBER, _NUMBERS = "a number", "a list of numbers"
# As they are in an address, too.
_OF_TOKENS = frozenset(string.ascii_letters + string.digits + string.punctuation) - frozenset("+&#%")
# Key of a wish → its type: what of `master.*` changes how a master sounds.
_TYPES: dict[str, Any] = {
    **{k: t for k, t in typing.get_type_hints(MasterOptions).items() if k not in _OF_FILES},
    FINGERPRINT: bool,
}


@dataclass
class ListeningConfig:
    """Where the service listens, what it may read, and how much it takes of its machine.

    ``roots`` are the folders and URL prefixes that songs and references may lie below; nothing else is read. ``token``
    is asked of everybody where it is set, and has to be where others can reach the service; ``names`` are those under
    which it may be asked besides localhost, where there is none. ``songs`` are kept at most, masters with what can be
    heard of them, and ``recordings`` decoded songs, of which the next preset is rendered at once; both lie in
    temporary files, a minute of either takes some 10 to 20 MB. ``workers`` songs are mastered at a time. ``bits`` are
    those of the samples that are sent, 16 or 24 with dither, or 32 for floats. ``fingerprint`` takes each song's
    fingerprint, which a few rules of the adaptive mode go by, before the first sound.
    """

    roots: list[str] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 8090
    token: Optional[str] = None
    names: list[str] = field(default_factory=list)
    songs: int = 16
    recordings: int = 4
    workers: int = 2
    bits: int = 16
    fingerprint: bool = False
    max_hours: float = 3.0
    max_download_mb: int = 1024
    folder: Optional[str] = None

    def hosts(self) -> list[str]:
        """The names under which the service may be asked where there is no token."""
        return [*self.names, self.host]

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if not self.roots:
            raise UserError(
                "listening.roots is empty",
                "it says which folders and URLs songs may lie below",
                "'listening.roots=[/A/FOLDER]'",
            )
        for root in self.roots:
            check_place("listening.roots", root, "source.storage_options")
            if is_local(root) and not root.removeprefix("file://").startswith("/"):
                raise UserError(
                    f"listening.roots={root} is relative",
                    "whoever asks does not know this folder",
                    f"'listening.roots=[/A/FOLDER/{root}]'",
                )
        if not 0 <= self.port <= 65535:
            raise refused(self, "listening.port", "must lie within 0..65535; 0 takes one that is free")
        for key in ("songs", "recordings", "workers", "max_hours", "max_download_mb"):
            positive(self, f"listening.{key}")
        if self.bits not in BITS:
            raise refused(self, "listening.bits", f"must be {', '.join(map(str, BITS[:-1]))} or {BITS[-1]}")
        if self.folder is not None and not Path(self.folder).is_dir():
            raise refused(self, "listening.folder", "is no folder", "temporary files lie there")
        self._check_token()

    def _check_token(self) -> None:
        # Not in the command, which everybody on this machine can see; and shown, since somebody has to type it.
        make = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        new = f'export SOUNDMILL_LISTENING_TOKEN="$({make})"; echo "$SOUNDMILL_LISTENING_TOKEN"'
        if self.token is None:
            if not is_loopback(self.host):
                raise UserError(
                    f"listening.host={self.host} needs a token", "others than this machine can reach it", new
                )
        elif len(self.token) < LEAST_TOKEN or not set(self.token) <= _OF_TOKENS:
            # Never the token itself: this goes to a terminal, and to its scroll-back.
            raise UserError(
                f"listening.token must have at least {LEAST_TOKEN} characters of ASCII, without blanks and + & # %",
                "whoever guesses it may read all roots, and an address makes other characters of these",
                new,
            )


@dataclass
class MasterServiceConfig(MasterConfig):
    """Everything ``jobs/master_service.py`` can be told. ``master.*`` is what holds where nobody asks otherwise."""

    listening: ListeningConfig = field(default_factory=ListeningConfig)

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        changed = next(self._unused(), None)
        if changed is not None:
            own = changed.startswith("source.")
            raise UserError(
                f"{changed} is not for the service",
                "whoever listens says which song is meant"
                if own
                else "it writes no files, and has no workers elsewhere",
                "'listening.roots=[FOLDER]'" if own else "python jobs/master.py",
            )
        check_options("source.storage_options", self.source.storage_options, tuple(self.listening.roots))
        self.listening.check()
        self.master.check()
        _references(self.master)

    def _unused(self) -> Iterator[str]:
        """The keys that were given, and would change nothing."""
        plain = type(self)()
        for group in dataclasses.fields(self):
            if group.name in ("listening", "master"):
                continue
            mine, default = getattr(self, group.name), getattr(plain, group.name)
            if not dataclasses.is_dataclass(default):
                if mine != default:
                    yield group.name
                continue
            keys = [f"{group.name}.{f.name}" for f in dataclasses.fields(default)]
            for key in keys:
                name = key.partition(".")[2]
                if key != "source.storage_options" and getattr(mine, name) != getattr(default, name):
                    yield key
        yield from (f"master.{k}" for k in _OF_FILES if getattr(self.master, k) != getattr(plain.master, k))

    def understood(self, said: Mapping[str, Any]) -> Wanted:
        """What somebody asked for, which has no ``master.`` before its keys. Raises `UserError`."""
        given = {key: _value(key, value) for key, value in said.items()}
        fingerprint = given.pop(FINGERPRINT, self.listening.fingerprint)
        options = dataclasses.replace(self.master, **given)
        try:
            options.check()
            return Wanted(options.wish(), _references(options), fingerprint)
        except UserError as error:
            raise UserError(*(text.replace("master.", "") for text in error.args)) from None


def _references(options: MasterOptions) -> tuple[str, ...]:
    """Each once: it is open for as long as the master is kept. Raises `UserError`."""
    found = tuple(dict.fromkeys(options.references()))
    if len(found) > REFERENCES:
        raise UserError(
            f"master.reference has {len(found)} songs",
            f"{REFERENCES} can be listened to for one master",
            "the ones that are most alike",
        )
    return found


def _value(key: str, value: Any) -> Any:
    """A value of JSON as the options have it. Raises `UserError`."""
    if key not in _TYPES:
        raise UserError(
            f"{key} is no key of a wish{nearest(key, _TYPES)}",
            f"there are {', '.join(sorted(_TYPES))}",
            '{"preset": "warm"}',
        )
    kind = _TYPES[key]
    if not _fits(value, kind):
        raise UserError(
            f"{key} must be {_word(kind)}",
            "it is something else in the JSON that was sent",
            f'no "{key}" at all',
        )
    if key == "reference" and isinstance(value, str):
        return [value]
    try:
        return _floats(value) if _word(kind) in (_NUMBER, _NUMBERS) else value
    except OverflowError:
        raise UserError(f"{key} is a number that is too large", "", f'no "{key}" at all') from None


def _floats(value: Any) -> Any:
    """-10 and -10.0 are one wish."""
    if isinstance(value, list):
        return [float(one) for one in value]
    return value if value is None else float(value)


def _word(kind: Any) -> str:
    """What a value of a type is called."""
    if typing.get_origin(kind) is list:
        return _NUMBERS if typing.get_args(kind) == (float,) else "a list"
    for part in typing.get_args(kind):
        if part is not type(None):
            return _word(part)
    return {float: _NUMBER, bool: "true or false"}.get(kind, "a text")


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type, null of an optional one included; a text is a list of one."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return (isinstance(value, str) and parts[0] is str) or (
            isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
        )
    if parts:
        return any(_fits(value, part) for part in parts)
    return isinstance(value, kind)
