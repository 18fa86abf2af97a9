"""The run folders: runs that never finished, what interrupted writes left, and sums of time that must agree."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import run_ids, run_status
from pipeline.dataset.verify.files import is_temporary
from pipeline.dataset.verify.findings import Finding, Findings
from pipeline.dataset.verify.others import OtherTables
from pipeline.dataset.verify.parts import RERUN
from pipeline.dataset.verify.tracks import Tracks

SUM_TOLERANCE = 1e-6
"""Relative: the same numbers were added in another order."""
PROBE = re.compile(r"runs/probe-[0-9a-f]{8}")


def check_runs(output: Output, findings: Findings, tracks: Tracks, others: OtherTables) -> None:
    """The newest run must have finished (what older ones left undone, it did), and its times must add up."""
    runs = run_ids(output)
    for run in runs:
        name = f"runs/{run}/performance.json"
        if not output.fs.exists(output.path(name)):
            # One that is done and found nothing to do measured nothing.
            if run == runs[-1] and run_status(output, run) != "done":
                said = "the newest run has no performance.json: it did not finish"
                findings.add(Finding("unfinished_run", f"runs/{run}", said, advice=RERUN))
            continue
        try:
            numbers = json.loads(output.read(name))
        except ValueError:
            findings.add(Finding("unfinished_run", name, "is not JSON: its write was cut off", advice=RERUN))
            continue
        _check_sums(name, run, numbers, findings, tracks=tracks, others=others)


def _check_sums(
    name: str, run: str, numbers: dict[str, Any], findings: Findings, *, tracks: Tracks, others: OtherTables
) -> None:
    """Sums per stage. Only of a run whose rows are all there: later runs replace rows, and keep others of it."""
    if run not in tracks.runs or others.parts.broken("timings") or not others.whole:
        return
    number = tracks.runs.index(run)
    mine = tracks.rows["run"] == number
    if int(np.count_nonzero(mine)) != numbers.get("files"):
        return
    # What was spent on a content lies with one of its files, and moves when that has another.
    if (tracks.by_asset.count(tracks.rows["asset"][mine]) > 1).any():
        return
    spent = others.spent.get(number, {})
    for stage, told in numbers.get("stages", {}).items():
        seconds, rows = spent.get(stage, (0.0, 0))
        same = math.isclose(seconds, told["compute_s"], rel_tol=SUM_TOLERANCE, abs_tol=1e-9)
        if rows == told["rows"] and not same:
            said = (
                f"{stage}: timings have {plural(rows, 'row')} and {seconds:.3f} s, "
                f"the run counted {told['rows']} and {told['compute_s']:.3f} s"
            )
            advice = "only costs differ; output.overwrite=true measures all of it again"
            findings.add(Finding("timing_sum", name, said, advice=advice))


def check_temporary(output: Output, findings: Findings, among_blobs: list[str]) -> None:
    """Files that an interrupted write left under its temporary name."""
    found, folders = list(among_blobs), output.folders()
    for folder in (*output.tables, "runs"):
        root = output.path(folder)
        if output.fs.exists(root):
            names = output.fs.find(root) if folder == "runs" else output.fs.ls(root, detail=False)
            relative = (folder + str(name)[str(name).index(root) + len(root) :] for name in names)
            found += [name for name in relative if is_temporary(name, folders) or PROBE.fullmatch(name)]
    for name in found:
        said = "an interrupted write left it"
        findings.add(Finding("temporary_file", name, said, "remove the file", remove=name))
