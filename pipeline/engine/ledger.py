"""What the workers of one run have to agree on: who computes a content that several files have, and who was seen last.

Under Ray an actor, asked only about files whose size some other file shares, and in the passes that hunt for what kills
workers. Should it be lost itself, equal files are computed more than once, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


class Ledger:
    """The state; `start_ledger` makes an actor of it.

    Args:
        known: contents whose row is there already: asset id → uri of that row.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._owners = dict(known or {})
        self._seen: dict[int, tuple[str, str | None]] = {}

    def claim(self, asset_id: str, uri: str) -> str:
        """The file that computes ``asset_id``: the first that claimed it. Asking again changes nothing."""
        return self._owners.setdefault(asset_id, uri)

    def entered(self, stage: str, rows: Iterable[tuple[int, str | None]]) -> None:
        """Files, as (index, asset id), are about to be worked on by ``stage``."""
        self._seen.update((index, (stage, asset)) for index, asset in rows)

    def last_seen(self) -> dict[int, tuple[str, str | None]]:
        """Index → (stage, asset id) of each file that was announced."""
        return self._seen


def start_ledger(known: Mapping[str, str] | None = None) -> Any:
    """The actor's handle."""
    import ray

    return ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote(known)


class Claims:
    """Asks the ledger; without one, every file computes its own content.

    Args:
        ledger: an actor's handle, or a `Ledger` of this process.
    """

    def __init__(self, ledger: Any = None) -> None:
        self._ledger = ledger

    def owner(self, asset_id: str, uri: str) -> str:
        """The file that computes this content; ``uri`` itself where nobody can be asked."""
        if self._ledger is None:
            return uri
        if isinstance(self._ledger, Ledger):
            return self._ledger.claim(asset_id, uri)
        import ray

        try:
            return ray.get(self._ledger.claim.remote(asset_id, uri))
        except ray.exceptions.RayError:
            return uri


def announce(ledger: Any, stage: str, rows: list[tuple[int, str | None]]) -> None:
    """`Ledger.entered` of the actor, and wait until it has taken note."""
    import ray

    ray.get(ledger.entered.remote(stage, rows))


def last_seen(ledger: Any) -> dict[int, tuple[str, str | None]]:
    """`Ledger.last_seen` of the actor; nothing where it is lost too."""
    import ray

    try:
        return ray.get(ledger.last_seen.remote())
    except ray.exceptions.RayError:
        return {}
