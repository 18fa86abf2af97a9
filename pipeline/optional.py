"""Packages a run can do without: looked up in one place, with the version found or what to type to get it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from packaging.requirements import Requirement

from pipeline.commands import by_name
from pipeline.errors import Fallback

INSTALL = {
    "essentia": "essentia>=2.1b6.dev1389",
    "openunmix": "openunmix>=1.3",
    "demucs": "demucs>=4.1,<5",
    "pyloudnorm": "pyloudnorm>=0.2,<0.3",
    "laion_clap": "laion-clap==1.1.7",
    "pocketsphinx": "pocketsphinx>=5.1,<6",
}
"""Module → what pip is told to install."""

_REASON_LENGTH = 200


@dataclass(frozen=True)
class Lookup:
    """What became of looking for a package.

    Args:
        name: the module.
        available: whether it can be used.
        version: of the installed distribution; None where it is missing or does not say.
        reason: the version in words, or why it cannot be used and what to type. One line.
    """

    name: str
    available: bool
    version: str | None
    reason: str

    def fallback(self, stage: str, wanted: str, used: str) -> Fallback:
        """The record of doing without: ``wanted`` needs this package, ``used`` took its place."""
        return Fallback(stage, wanted, used, self.reason)


def look_up(name: str, load: bool = False) -> Lookup:
    """Look for an installed package.

    Args:
        name: the module, ``laion_clap`` and not ``laion-clap``.
        load: import it too, which tells a broken installation (a missing shared library, a dependency of the
            wrong version) from a working one. Whatever it raises is the reason.
    """
    if not _is_installed(name):
        return Lookup(name, False, None, f"{name} is not installed; {advice(name)}")
    version = _version(name)
    said = f"{name} {version}" if version else name
    if load:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  a package may raise anything while it is imported
            words = " ".join(str(error).split())[:_REASON_LENGTH]
            reason = f"{said} does not load ({type(error).__name__}: {words}); {advice(name, again=True)}"
            return Lookup(name, False, version, reason)
    return Lookup(name, True, version, f"{said} is installed")


def advice(name: str, again: bool = False) -> str:
    """What to type: ``type `pip install 'openunmix>=1.3'```."""
    force = "--force-reinstall " if again else ""
    return f"type `pip install {force}'{INSTALL.get(name, name)}'`"


def extra(name: str) -> str:
    """The command that installs an extra of this project, such as ``service``: in a checkout from there."""
    if not by_name():
        return f".venv/bin/python -m pip install -c constraints.txt -e '.[{name}]'"
    wanted = (Requirement(line) for line in importlib.metadata.requires("soundmill") or ())
    packages = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": name})]
    own = [e for r in packages if r.name == "soundmill" for e in r.extras]
    listed = [f"'{r.name}{r.specifier}'" for r in packages if r.name != "soundmill"]
    return " ".join(["pip install", *listed]) if not own else " ".join([*map(extra, own), *listed])


def _is_installed(name: str) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # already imported, and made by hand
        return True
    except ModuleNotFoundError:  # nor is the package that it is a part of
        return False
    # Without an origin it is a folder that happens to have the name.
    return spec is not None and spec.origin is not None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)  # takes laion_clap for laion-clap
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Package → its version, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
