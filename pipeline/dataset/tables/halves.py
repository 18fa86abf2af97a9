"""An output of which a part is missing is not what an interrupted run leaves, and is not tidied up."""

from __future__ import annotations

from pipeline.counting import plural
from pipeline.dataset.output import EMPTY_PART, Output
from pipeline.dataset.run_folder import run_ids, run_status
from pipeline.errors import UserError


def require_tracks(output: Output) -> None:
    """Refuse an output whose `tracks` are not there though a run that came to its end wrote them.

    Its other tables, arrays and stems would be taken for what a killed run left behind, and removed.

    Raises:
        UserError: says what is there, and what to do.
    """
    if output.parts("tracks"):
        return
    others = [
        p for table in output.tables[1:] for p in output.parts(table) if not p.endswith(f"/{EMPTY_PART}")
    ]
    if others and any(run_status(output, run) == "done" for run in run_ids(output)):
        tables = sorted({part.partition("/")[0] for part in others})
        raise UserError(
            f"{output.uri} has no tracks, and {plural(len(others), 'part')} of {', '.join(tables)}",
            "a run wrote them to its end, so this is half of an output, as of a copy that was cut short",
            "copy tracks/ here, too; output.overwrite=true begins anew",
        )
