"""The configuration of the service that masters are listened to by: that of the mastering job, and `listening.*`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from pipeline.dataset.storage import is_local
from pipeline.errors import UserError
from pipeline.mastering.presets import Preset
from pipeline.service.listening.asked import Wanted
from pipeline.service.listening.guard import LEAST_TOKEN, is_loopback
from pipeline.service.listening.wav import BITS
from pipeline.workflows.config_checks import nearest, positive, refused
from pipeline.workflows.master_config import MasterConfig, MasterOptions
from pipeline.workflows.place_checks import check_place

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045

FINGERPRINT = "fingerprint"
_OF_FILES = ("encodes", "preview", "format", "bit_rate", "quality", "bits", "sample_rate")
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
        new = "listening.token=\"$(python3 -c 'import secrets; print(secrets.token_urlsafe())')\""
        if self.token is None:
            if not is_loopback(self.host):
                raise UserError(
                    f"listening.host={self.host} needs a token", "others than this machine can reach it", new
                )
        elif len(self.token) < LEAST_TOKEN or not self.token.isascii() or not self.token.isprintable():
            # Never the token itself: this goes to a terminal, and to its scroll-back.
            raise UserError(
                f"listening.token must have at least {LEAST_TOKEN} characters of ASCII",
                "whoever guesses it may read all roots",
                new,
            )


@dataclass
class MasterServiceConfig(MasterConfig):
    """Everything ``jobs/master_service.py`` can be told. ``master.*`` is what holds where nobody asks otherwise."""

    listening: ListeningConfig = field(default_factory=ListeningConfig)

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        why = "whoever listens says which song is meant"
        if self.source.uri:
            raise UserError("source.uri is not for the service", why, "'listening.roots=[FOLDER]'")
        if self.output.uri:
            raise UserError(
                "output.uri is not for the service", "it writes no files", "python jobs/master.py"
            )
        plain = MasterOptions()
        changed = [key for key in _OF_FILES if getattr(self.master, key) != getattr(plain, key)]
        if changed:
            raise UserError(
                f"master.{changed[0]} is not for the service", "it writes no files", "python jobs/master.py"
            )
        self.listening.check()
        self.master.check()

    def understood(self, said: Mapping[str, Any]) -> Wanted:
        """What somebody asked for, which has no ``master.`` before its keys. Raises `UserError`."""
        for key, value in said.items():
            _check_key(key, value)
        given = {
            key: [value] if key == "reference" and isinstance(value, str) else value
            for key, value in said.items()
        }
        fingerprint = given.pop(FINGERPRINT, self.listening.fingerprint)
        options = dataclasses.replace(self.master, **given)
        try:
            options.check()
        except UserError as error:
            raise UserError(*(text.replace("master.", "") for text in error.args)) from None
        return Wanted(options.wish(), tuple(options.references()), fingerprint)


def _check_key(key: str, value: Any) -> None:
    if key not in _TYPES:
        raise UserError(
            f"{key} is no key of a wish{nearest(key, _TYPES)}",
            f"there are {', '.join(sorted(_TYPES))}",
            '{"preset": "warm"}',
        )
    if not _fits(value, _TYPES[key]):
        default = Preset().__dict__.get(key, getattr(MasterOptions(), key, False))
        kind = "a number" if isinstance(default, float) else "true or false" if default is False else "a text"
        if isinstance(default, list | tuple):
            kind = "a list"
        raise UserError(
            f"{key} must be {kind}", "it is something else in the JSON that was sent", f'no "{key}" at all'
        )


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
