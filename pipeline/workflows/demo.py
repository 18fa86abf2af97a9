"""``make demo``: synthetic tracks with known key and loudness through the main job, known against measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import say
from pipeline.models import weights
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import DemoTrack, write_demo
from pipeline.workflows.jobs import extract
from pipeline.workflows.outcome import EXIT_OK

# Weights that travel inside a package: the only ones a demo can count on.
PACKAGED = ("spleeter-2stems", "musicnn", "beatnet")


def run(config: ExtractConfig, folder: Path, began: float | None = None) -> int:
    """Write the tracks, run the job on them and print what is known against what was measured.

    Args:
        config: source and output lie below ``folder``.
        folder: of the demo.
        began: when the command began, Unix time; None takes this call.

    Returns:
        the job's exit code.
    """
    began = time.time() if began is None else began
    for name in PACKAGED:
        if weights.find(name) is None:
            print(f"fetching {name}")
            weights.fetch(name, print)
    say(f"making the demo's tracks in {folder / 'audio'}")
    truth = write_demo(folder / "audio")
    result = extract.run(config, moments={"shell": began})
    if result.exit_code == EXIT_OK and not config.dry_run:
        rows = measured(Output(config.output.uri))
        print("\n" + table(truth, rows))
        print(f"\ntables:  {result.output}/{{tracks,segments,timings,failures}}/*.parquet")
        print(f"report:  {result.report}")
        print(f"all done in {time.time() - began:.0f} s")
    return result.exit_code


def measured(output: Output) -> dict[str, dict[str, Any]]:
    """Rows of ``tracks`` by file name."""
    return {
        row["uri"].rsplit("/", 1)[-1]: row for batch in output.batches("tracks") for row in batch.to_pylist()
    }


def table(truth: list[DemoTrack], rows: dict[str, dict[str, Any]]) -> str:
    """Known against measured, one line per track; ``–`` where there is nothing to know or to measure."""
    truth = [track for track in truth if track.name in rows]
    lines = [
        f"{'':30} {'':22} {'LUFS':^14} {'key':^20} {'tempo, BPM':^14} {'beats,':>7} {'vocals':>7}",
        f"{'track':30} {'format':22} {'known':>6} {'found':>7} {'known':>9} {'found':>10} {'known':>7} {'found':>6} "
        f"{'BPM':>7} {'found':>7}",
        "-" * 124,
    ]
    for track in truth:
        row = rows[track.name]
        form = f"{row['container']} {row['sample_rate'] / 1000:g} kHz ×{row['channels']}"
        lines.append(
            f"{track.name:30} {form:22} "
            f"{track.lufs:6.1f} {_shown(row.get('loudness_integrated_lufs'), '.1f'):>7} "
            f"{track.key or '–':>9} {found_key(row) if track.key else '–':>10} "
            f"{_shown(track.tempo_bpm, '.0f'):>7} {_shown(row.get('tempo_bpm'), '.1f'):>6} "
            f"{_shown(row.get('beats_bpm'), '.1f'):>7} "
            f"{_shown(row.get('stem_share_vocals'), '.0%'):>7}"
        )
    keyed = [t for t in truth if t.key]
    timed = [t for t in truth if t.tempo_bpm]
    keys = sum(found_key(rows[t.name]) == t.key for t in keyed)
    tempi = sum(within(rows[t.name].get("tempo_bpm"), t.tempo_bpm) for t in timed)
    lines += ["", f"{keys} of {len(keyed)} keys right, {tempi} of {len(timed)} tempi within 1 %."]
    return "\n".join(lines)


def found_key(row: dict[str, Any]) -> str:
    """``A minor``, or ``–`` where no key was found."""
    return f"{row['key_name']} {row['key_mode']}" if row.get("key_name") else "–"


def within(found: float | None, known: float) -> bool:
    """Whether a tempo is right to one percent."""
    return found is not None and abs(found / known - 1) <= 0.01


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
