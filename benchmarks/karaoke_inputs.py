"""What songs that end early, are nearly mono, or clip do to each backend and to its score, as a Markdown table.

Mixtures of backings and voices as in `karaoke.py`, with voices that the calibration did not see, each changed in one
way. The figures are the SI-SDR improvement of the instrumental (Le Roux et al. 2019), and of the score how far the
prediction lies above the truth and how often the truth is in its 90 % interval. A backend does not judge itself.

    python benchmarks/karaoke_inputs.py --music FOLDER FOLDER --rows rows.jsonl

keeps every row in a file, and with it as the only argument prints its table anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from karaoke_sets import RATE, Mixture, mixtures, songs

BOUND_DB = 20.0
"""Of the scale of predictions; what lies beyond counts as it."""
Changed = tuple[str, np.ndarray, np.ndarray]
"""What was changed, the true backing and the mix, float32 ``[2, samples]`` each."""


def ending(hz: float) -> Callable[[np.ndarray], np.ndarray]:
    """What keeps nothing of a sound above this frequency: it was once at twice that rate."""

    def low(audio: np.ndarray) -> np.ndarray:
        small = soxr.resample(audio.T, RATE, 2 * hz, quality="VHQ")
        back = soxr.resample(small, 2 * hz, RATE, quality="VHQ")[: audio.shape[1]].T
        return np.pad(back, ((0, 0), (0, audio.shape[1] - back.shape[1]))).astype(np.float32)

    return low


def narrowed(mix: np.ndarray, side_db: float) -> Callable[[np.ndarray], np.ndarray]:
    """What turns down the side of any part of a mix, so that the mix has so much of it over its mid."""
    mid, side = mix.sum(0), mix[0] - mix[1]
    has_db = 10 * np.log10(np.square(side).sum() / np.square(mid).sum() + 1e-20)
    gain = min(1.0, 10 ** ((side_db - has_db) / 20))

    def narrow(audio: np.ndarray) -> np.ndarray:
        mid, side = audio.mean(0), gain * (audio[0] - audio[1]) / 2
        return np.stack([mid + side, mid - side]).astype(np.float32)

    return narrow


def changes(mixture: Mixture) -> Iterator[Changed]:
    """A mixture, and all that is made of it."""
    mix = mixture.mix
    yield "as it is", mixture.backing, mix
    for hz in (16000, 11025, 8000, 6000, 4000):
        change = ending(hz)
        yield f"ends at {hz / 1000:g} kHz", change(mixture.backing), change(mix)
    for side_db in (-10.0, -15.0, -20.0, -25.0, -30.0, -40.0, -60.0):
        change = narrowed(mix, side_db)
        yield f"side at {side_db:g} dB", change(mixture.backing), change(mix)
    for share in (0.01, 0.1):
        level = np.quantile(np.abs(mix), 1 - share)
        yield f"clips in {share:.0%}", mixture.backing, np.clip(mix, -level, level).astype(np.float32)


def measured(found: Iterator[Mixture], backends: list[str]) -> Iterator[dict]:
    """A row for each mixture, change and backend."""
    from pipeline.audio.metrics import si_sdr
    from pipeline.karaoke.evidence import Judge
    from pipeline.karaoke.score import score
    from pipeline.models.separation import load_backend, separate_track
    from pipeline.stages.karaoke.worker import vocals_by

    judge = Judge("spleeter", vocals_by(load_backend("spleeter")))
    for mixture in found:
        for change, backing, mix in changes(mixture):
            for backend in map(load_backend, backends):
                result = mix - separate_track(backend, mix)[backend.sources.index("vocals")]
                told = score(mix, result, None if backend.name == judge.name else judge, method=backend.name)
                yield {
                    "variant": change, "be": backend.name, "song": mixture.song, "level": mixture.level_db,
                    "base": float(si_sdr(mix, backing)), "sdr": float(si_sdr(result, backing)),
                    "p": told.karaoke_predicted_sdr_db, "lo": told.karaoke_predicted_sdr_db_low,
                    "hi": told.karaoke_predicted_sdr_db_high,
                }  # fmt: skip


def table(rows: list[dict]) -> str:
    """The rows by change and backend."""
    lines = ["| mixtures | backend | n | improvement, dB | predicted above truth, dB | truth in the interval |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for change, backend in dict.fromkeys((row["variant"], row["be"]) for row in rows):
        part = [row for row in rows if (row["variant"], row["be"]) == (change, backend)]
        better = np.mean([row["sdr"] - row["base"] for row in part])
        told = [(row, min(BOUND_DB, max(-BOUND_DB, row["sdr"]))) for row in part if row["p"] is not None]
        above = f"{np.mean([row['p'] - true for row, true in told]):+.1f}" if told else "–"
        inside = sum(row["lo"] <= true <= row["hi"] for row, true in told)
        cells = change, backend, len(part), f"{better:+.1f}", above, f"{inside} of {len(told)}"
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = REPO.parent / "shared" / "audio"
    parser.add_argument("--audio", type=Path, default=default, help="folder with speech/ and music/")
    parser.add_argument("--music", type=Path, nargs="*", help="folders of songs without a singer")
    parser.add_argument("--most", type=int, default=3, help="songs of a folder")
    parser.add_argument("--backends", nargs="+", default=["spleeter", "midside"])
    parser.add_argument("--rows", type=Path, help="a file that rows are added to, or read from")
    options = parser.parse_args()
    rows = []
    if options.music is None and options.rows and options.rows.is_file():
        rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    else:
        found = songs(options.music or [options.audio / "music"], options.most)
        voiced = (m for m in mixtures(found, options.audio, "held out") if m.voice.any())
        for row in measured(voiced, options.backends):
            rows.append(row)
            if options.rows:
                with options.rows.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
