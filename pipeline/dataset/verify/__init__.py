"""Whether an output holds what it promises, and mending it where it does not.

Everything is read part by part. What has to be known of all rows at once takes, beside one part and the listing
of one of 256 folders: 97 bytes per track, 23 more with each declared table and 37 with timings, 29 per failure and
49 per array or artifact; see `Report.index_bytes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.counting import plural
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output
from pipeline.dataset.tables.halves import require_tracks
from pipeline.dataset.verify.files import Files
from pipeline.dataset.verify.findings import Finding, Findings
from pipeline.dataset.verify.others import OtherTables
from pipeline.dataset.verify.parts import Parts
from pipeline.dataset.verify.repair import mend
from pipeline.dataset.verify.runs import check_runs, check_temporary
from pipeline.dataset.verify.tracks import Tracks
from pipeline.errors import UserError

__all__ = ["Finding", "Findings", "Report", "check", "verify"]
ROUNDS = 20


@dataclass
class Report:
    """What a verify saw, did and left.

    Args:
        tracks: rows in `tracks`.
        index_bytes: memory that the compact index of all rows took.
        found: problems by kind, of the first round.
        remaining: what is still there, with the first of each kind; empty for a clean output.
        mended: what repair did, by kind.
        examples: what repair did, the first of each kind.
        rounds: repair rounds: a dropped row leaves files that only then are orphans.
    """

    tracks: int
    index_bytes: int
    found: Counter[str]
    remaining: Findings
    mended: Counter[str] = field(default_factory=Counter)
    examples: list[Finding] = field(default_factory=list)
    rounds: int = 0

    @property
    def exit_code(self) -> int:
        """0: clean, or all of it mended; 1: problems remain."""
        return 1 if self.remaining.total else 0

    def as_json(self) -> dict[str, Any]:
        """For ``runs/verify-<time>.json``: the counts are exact, of each kind 10,000 findings are listed."""
        return {
            "tracks": self.tracks,
            "found": dict(self.found),
            "mended": dict(self.mended),
            "remaining": dict(self.remaining.counts),
            "findings": [f.as_json() for f in self.remaining.kept],
            "repairs": [f.as_json() for f in self.examples],
        }


def check(
    output: Output, prune: bool = False, *, empty: bool = False, deep: bool = False
) -> tuple[Findings, int, int]:
    """Look at everything once and change nothing.

    Args:
        prune: rows of files that are there no longer are findings, too.
        empty: an output without tables is no mistake.
        deep: read arrays and artifacts, too, and compare them with what was written.

    Returns:
        the findings, the rows of `tracks`, and the bytes that the index of all rows took.

    Raises:
        UserError: there are no tables, `tracks` is missing, or the storage fails.
    """
    findings = Findings()
    parts = Parts(output, findings)
    if not empty and not any(parts.names.values()):
        raise UserError(f"output.uri={output.uri} holds no tables: type the output.uri of a run")
    require_tracks(output)
    parts.check_foreign()
    parts.check_orphans()
    files = Files(output, deep)
    tracks = Tracks(parts, files, findings)
    tracks.check_duplicates()
    if prune:
        tracks.check_gone()
    others = OtherTables(parts, tracks, findings)
    for declared in output.contents.tables.values():
        others.check_declared(declared)
    others.check_timings()
    others.check_failures()
    parts.check_schemas()
    _check_orphan_files(files, findings, others.whole)
    check_temporary(output, findings, files.temporary)
    check_runs(output, findings, tracks, others)
    return findings, len(tracks.rows), files.nbytes + tracks.nbytes + others.nbytes


def _check_orphan_files(files: Files, findings: Findings, whole: bool) -> None:
    for name in files.unseen():
        noun = files.noun(name)
        said = "no row refers to it"
        if whole:
            findings.add(Finding(f"orphan_{noun}", name, said, "remove the file", remove=name))
        else:
            advice = "a part of tracks cannot be read, so it may be in use: mend that first"
            findings.add(Finding(f"orphan_{noun}", name, said, advice=advice))


def verify(
    output: Output,
    repair: bool = False,
    said: Callable[[str], None] = lambda line: None,
    *,
    prune: bool = False,
    deep: bool = False,
) -> Report:
    """Check an output and, with ``repair``, mend it and check again until nothing more can be mended.

    Args:
        output: root of the tables.
        repair: change what can be mended; must not run beside a job that writes there.
        said: told in one line what each round of repair did.
        deep: read arrays and artifacts, too: every byte of the output.
        prune: repair, and remove the rows of files that are there no longer with their arrays and artifacts.

    Raises:
        UserError: there are no tables, the storage fails, or a job is writing there.
    """
    if not (repair or prune):
        return _verify(output, False, said, False, deep)
    lock = OutputLock(output, "verify")
    lock.acquire(said)
    try:
        return _verify(output, True, said, prune, deep)
    finally:
        lock.release()


def _verify(output: Output, repair: bool, said: Callable[[str], None], prune: bool, deep: bool) -> Report:
    findings, rows, size = check(output, prune, deep=deep)
    report = Report(rows, size, Counter(findings.counts), findings)
    while repair and report.rounds < ROUNDS and any(report.remaining.mendable.values()):
        before = report.remaining.total
        done = mend(output, report.remaining.kept)
        report.rounds += 1
        report.mended.update(f.kind for f in done)
        report.examples += done[: max(0, 1000 - len(report.examples))]
        said(f"round {report.rounds}: mended {len(done)} of {plural(before, 'problem')}; checking again")
        report.remaining, report.tracks, _ = check(output, prune, empty=True, deep=deep)
    return report
