"""Files in which a stage hung, so that its process had to end: whoever is given one of them again knows."""

from __future__ import annotations

from contextlib import suppress

from pipeline.dataset.store import Store


class HungFiles:
    """Kept in the run's folder, where the next process finds it, on whatever node it is.

    Args:
        output: the output root.
        run_id: of the run.
    """

    def __init__(self, output: Store, run_id: str) -> None:
        self._output, self._run_id = output, run_id

    def add(self, stage: str, index: int) -> None:
        """Take note of a file of the run. A storage that is away is none that can be told."""
        with suppress(Exception):
            self._output.write(self._path(stage, index), b"")

    def has(self, stage: str, index: int) -> bool:
        """Whether a process ended of it in this run, as far as can be known."""
        try:
            self._output.read(self._path(stage, index))
        except Exception:  # noqa: BLE001  there is no note, or nobody can be asked: then it is tried
            return False
        return True

    def _path(self, stage: str, index: int) -> str:
        return f"runs/{self._run_id}/hung/{stage}-{index}"
