"""Backends that do the same thing in different ways: each loaded once per process, and so is why one is not there."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from pipeline.errors import UserError

Loaded = TypeVar("Loaded")


class BackendUnavailable(Exception):
    """This backend cannot run here: weights or a package are missing. The message says what to type."""


class LoadedBackends:
    """Backends of one kind; those that are there lie in the cache of models."""

    def __init__(self) -> None:
        self._missing: dict[Any, str] = {}
        self._cached: set[Any] = set()

    def get(self, kind: str, told: str, device: str, load: Callable[[], Loaded]) -> Loaded:
        """The backend that was asked for, loaded where nobody asked before.

        Args:
            kind: of backend, and its name.
            told: all else that it depends on but the weights store, in words.
            device: where it runs.

        Raises:
            BackendUnavailable: it cannot run here.
        """
        # Here: who only says that a backend is unavailable needs no torch.
        from pipeline.models.model_cache import MODELS, ModelKey
        from pipeline.models.weights import root

        # With the store in the key: what lies in another one is another model, or none.
        key = ModelKey(kind, f"{told} in {root()}", device)
        if key not in self._missing:
            self._cached.add(key)
            try:
                return MODELS.get(key, load)
            except BackendUnavailable as error:
                self._missing[key] = str(error)
        raise BackendUnavailable(self._missing[key])

    def forget(self) -> None:
        """Load afresh from now on, for example after weights were fetched; the memory is given back."""
        from pipeline.models.model_cache import MODELS

        self._missing.clear()
        for key in self._cached:
            MODELS.release(key)
        self._cached.clear()


def first_that_runs(
    names: Iterable[str],
    load: Callable[[str], Loaded],
    refuses: Callable[[Loaded], str | None] = lambda backend: None,
) -> tuple[str, Loaded | None, list[str]]:
    """Walk names and take the first backend that loads and does not refuse.

    Args:
        refuses: why a backend does not take what it is to do; None where it does.

    Returns:
        its name and itself, ``none`` and None where there is none; and why those before it were passed over.
    """
    reasons: list[str] = []
    for name in names:
        try:
            backend = load(name)
            refusal = refuses(backend)
        except BackendUnavailable as error:
            refusal = str(error)
        if refusal is None:
            return name, backend, reasons
        reasons.append(f"{name}: {refusal}")
    return "none", None, reasons


def no_backend(what: str, name: str, known: Sequence[str]) -> UserError:
    """That there is no backend of this name, with the nearest one.

    Args:
        what: the sentence, in which ``{}`` stands for the name.
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}"
    return UserError(what.format(repr(name)), do=hint)
