"""What a check found, and how it can be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 10_000
"""Findings of one kind that are kept, and mended, in one round; the others are only counted."""


@dataclass(frozen=True)
class Edit:
    """A change of one row of a part.

    Args:
        part: relative to the root.
        row: number in the part, from 0.
        drop: remove the row; the other fields are ignored then.
        forget: extractor whose entry leaves ``extractor_keys``, so that the next run computes it again.
        null: columns that become null.
        failures: rows that are added to the part of ``failures`` that goes with this part of `tracks`.
    """

    part: str
    row: int
    drop: bool = False
    forget: str | None = None
    null: tuple[str, ...] = ()
    failures: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One problem.

    Args:
        kind: such as ``orphan_blob``; the same word for the same problem always.
        where: part, file or run, relative to the root.
        message: one line.
        mend: what ``repair=true`` does about it; None where it can do nothing.
        advice: what to type where repair can do nothing.
        remove: file that repair removes, relative to the root.
        edits: rows that repair changes.
    """

    kind: str
    where: str
    message: str
    mend: str | None = None
    advice: str = ""
    remove: str | None = None
    edits: tuple[Edit, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "kind": self.kind,
            "where": self.where,
            "message": self.message,
            "mendable": self.mend is not None,
            "mend": self.mend,
            "advice": self.advice or None,
        }


@dataclass
class Findings:
    """All problems of one pass: the counts are exact, of each kind the first `MOST` are kept."""

    kept: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    mendable: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        """Count it, and keep it while there is room for its kind."""
        self.counts[finding.kind] += 1
        self.mendable[finding.kind] += finding.mend is not None
        if self.counts[finding.kind] <= MOST:
            self.kept.append(finding)

    @property
    def total(self) -> int:
        """How many problems there are."""
        return self.counts.total()
