"""How near answers of `truth.py` are to the truth: tempo, key, tuning and what a confidence is worth.

    python benchmarks/truth_metrics.py            # JSON of beats and onsets in, JSON of their scores out

Beats and onsets are judged by mir_eval, which this file imports only when it is run so, in the virtual environment of
`truth_peers.py`. Nothing is left out: a question without an answer is answered wrongly.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

TOLERANCE = 0.04
"""Of a tempo, as a share of the true one (Gouyon et al., "An experimental comparison of audio tempo induction
algorithms", 2006)."""
OCTAVES = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)
"""Multiples that accuracy 2 takes for the tempo."""
CHORD_S = 0.03
"""Notes nearer than this begin together."""
PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
WORTH = {"exact": 1.0, "fifth above": 0.5, "relative": 0.3, "parallel": 0.2, "fifth below": 0.0, "other": 0.0,
         "none": 0.0}  # fmt: skip
BINS = 5


def accuracy(found: float | None, true: float, multiples: Sequence[float] = (1.0,)) -> float:
    """1 where a tempo is within `TOLERANCE` of one of these multiples of the true one, else 0."""
    if not found:
        return 0.0
    return float(any(abs(found - true * m) <= TOLERANCE * true * m for m in multiples))


def relation(found: str | None, true: str) -> str:
    """What a key that was found is to the true one: one of `WORTH`."""
    if not found:
        return "none"
    (tonic, mode), (true_tonic, true_mode) = (key.split() for key in (found, true))
    up = (PITCH_CLASSES.index(tonic) - PITCH_CLASSES.index(true_tonic)) % 12
    if mode == true_mode:
        return {0: "exact", 7: "fifth above", 5: "fifth below"}.get(up, "other")
    if up == 0:
        return "parallel"
    return "relative" if up == (9 if true_mode == "major" else 3) else "other"


def key_score(found: str | None, true: str) -> float:
    """The weighted score of MIREX, as mir_eval has it, where only the fifth above counts: 0 to 1."""
    return WORTH[relation(found, true)]


def cents_off(found: float | None, true: float) -> float | None:
    """How far a tuning is off, 0 to 50 cents: a semitone more or less is the same tuning."""
    if found is None:
        return None
    return float(abs((found - true + 50.0) % 100.0 - 50.0))


def upper_half(confidence: Sequence[float | None], right: Sequence[float]) -> float:
    """Of the half with the highest confidence, how many are right; None counts as the lowest."""
    known = np.array([-np.inf if c is None else c for c in confidence])
    order = np.argsort(-known, kind="stable")
    return float(np.mean(np.asarray(right)[order[: (len(order) + 1) // 2]]))


def bins(
    confidence: Sequence[float | None], right: Sequence[float], count: int = BINS
) -> list[tuple[float, float, int]]:
    """Equal parts from the least to the highest confidence: mean confidence, share of right ones, how many."""
    known = [(c, r) for c, r in zip(confidence, right, strict=True) if c is not None]
    parts = np.array_split(np.array(sorted(known)).reshape(-1, 2), min(count, max(1, len(known))))
    return [(float(p[:, 0].mean()), float(p[:, 1].mean()), len(p)) for p in parts if len(p)]


def calibration_error(
    confidence: Sequence[float | None], right: Sequence[float], count: int = BINS
) -> float | None:
    """Expected calibration error: how far confidence and share of right ones are apart, mean over `bins`; None
    where no confidence is known."""
    parts = bins(confidence, right, count)
    total = sum(n for *_, n in parts)
    return sum(abs(c - r) * n for c, r, n in parts) / total if total else None


def together(onsets: Sequence[float], within: float = CHORD_S) -> list[float]:
    """Onsets without those that come less than ``within`` after one that is kept; ascending in, ascending out."""
    kept: list[float] = []
    for onset in onsets:
        if not kept or onset - kept[-1] >= within:
            kept.append(float(onset))
    return kept


def judged(question: dict[str, Any]) -> dict[str, float]:
    """By mir_eval: of ``beats`` F, CMLt and AMLt without the first 5 s, of ``onsets`` F within 50 ms."""
    import mir_eval

    true, found = (np.array(question[which], dtype=float) for which in ("true", "found"))
    if question["kind"] == "onsets":
        return {"F": mir_eval.onset.f_measure(np.array(together(true)), found, window=0.05)[0]}
    true, found = (mir_eval.beat.trim_beats(times) for times in (true, found))
    _, cml, _, aml = mir_eval.beat.continuity(true, found)
    return {"F": mir_eval.beat.f_measure(true, found), "CMLt": cml, "AMLt": aml}


def main() -> None:
    import warnings

    warnings.simplefilter("ignore")
    json.dump([judged(question) for question in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
