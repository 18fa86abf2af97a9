"""``make demo``: synthetic tracks with known key and loudness through the main job, known against measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.output import Output
from pipeline.models import weights
from pipeline.workflows import features
from pipeline.workflows.config import ExtractConfig
from pipeline.workflows.demo_data import DemoTrack, write_demo

# Weights that travel inside a package: the only ones a demo can count on.
PACKAGED = ("spleeter-2stems",)
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Pitch classes of the tonic triad above the tonic.
TRIADS = {"major": (0, 4, 7), "minor": (0, 3, 7)}


def run(config: ExtractConfig, folder: Path) -> int:
    """Write the tracks, run the job on them and print what is known against what was measured.

    Args:
        config: source and output lie below ``folder``.
        folder: of the demo.

    Returns:
        the job's exit code.
    """
    started = time.perf_counter()
    for name in PACKAGED:
        if weights.find(name) is None:
            print(f"fetching {name}")
            weights.fetch(name, print)
    truth = write_demo(folder / "audio")
    result = features.run(config)
    if result.exit_code == features.EXIT_OK:
        rows = measured(Output(config.output.uri))
        print("\n" + table(truth, rows))
        print(f"\ntables:  {result.output}/{{tracks,segments,timings,failures}}/*.parquet")
        print(f"report:  {result.report}")
        print(f"all done in {time.perf_counter() - started:.0f} s")
    return result.exit_code


def measured(output: Output) -> dict[str, dict[str, Any]]:
    """Rows of ``tracks`` by file name."""
    return {
        row["uri"].rsplit("/", 1)[-1]: row for batch in output.batches("tracks") for row in batch.to_pylist()
    }


def table(truth: list[DemoTrack], rows: dict[str, dict[str, Any]]) -> str:
    """Known against measured, one line per track."""
    lines = [
        f"{'track':30} {'format':22} {'LUFS known':>10} {'measured':>9}  {'key':9} "
        f"{'strongest pitch classes':24} {'voice':>6}",
        "-" * 116,
    ]
    truth = [track for track in truth if track.name in rows]
    for track in truth:
        row = rows[track.name]
        form = f"{row['container']} {row['sample_rate'] / 1000:g} kHz ×{row['channels']}"
        loudness = row.get("loudness_integrated_lufs")
        share = row.get("stem_share_vocals")
        lines.append(
            f"{track.name:30} {form:22} {track.lufs:10.1f} "
            f"{'–' if loudness is None else format(loudness, '.1f'):>9}  {track.key or '–':9} "
            f"{strongest(row.get('chroma_mean')) if track.key else '–':24} "
            f"{'–' if share is None else format(share, '.0%'):>6}"
        )
    agree = [t for t in truth if t.key and in_triad(t.key, rows[t.name].get("chroma_mean"))]
    keyed = [t for t in truth if t.key]
    lines += [
        "",
        f"In {len(agree)} of {len(keyed)} tracks with a key the strongest pitch class belongs to the tonic triad. "
        "Voice is the share of energy that separation gives to vocals.",
    ]
    return "\n".join(lines)


def strongest(chroma: list[float] | None, count: int = 3) -> str:
    """Names of the strongest pitch classes, strongest first."""
    if chroma is None:
        return "–"
    return " ".join(NOTES[i] for i in np.argsort(chroma)[::-1][:count])


def in_triad(key: str, chroma: list[float] | None) -> bool:
    """Whether the strongest pitch class belongs to the tonic triad of ``key``, such as ``A minor``."""
    if chroma is None:
        return False
    tonic, mode = key.split()
    return (int(np.argmax(chroma)) - NOTES.index(tonic)) % 12 in TRIADS[mode]
