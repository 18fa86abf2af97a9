"""Fits the calibration of the karaoke score, and predicts what it was not fitted to. For `karaoke_score.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from karaoke_rows import Row

from pipeline.karaoke.calibration import NO_JUDGE, REACH, Model, Target

FOLDS = 5
LANDMARKS = 300
WIDTH_PER_SIGN = 1.0
RIDGE = 0.03
HUBER_DB = 0.5
STEPS = 6
BACKENDS = ("spleeter", "midside")
BACKEND_WEIGHT = 2.0
"""What a backend hands out as it is counts so many times: it is what the score is for."""
SCALES = {"sdr": (-20.0, 20.0), "residual_vocal": (-40.0, 6.0), "damage": (-40.0, 6.0)}
STRATA = 4
COVERAGE = 0.9


def truths(rows: Sequence[Row], target: str) -> np.ndarray:
    """The true values within the scale of the target; silence has the lowest SDR there is."""
    low, high = SCALES[target]
    values = [getattr(row, f"{target}_db") for row in rows]
    return np.clip([low if value is None else value for value in values], low, high)


def sign_names(rows: Sequence[Row], judge: str) -> list[str]:
    """The signs the model for this judge takes."""
    names = sorted(rows[0].evidence.signs)
    return [name for name in names if judge != NO_JUDGE or not name.startswith("judge_")]


def table(rows: Sequence[Row], names: Sequence[str]) -> np.ndarray:
    """Signs of all rows: ``[rows, signs]``."""
    return np.array([[row.evidence.signs[name] for name in names] for row in rows])


def fit(rows: Sequence[Row], judge: str, voice_db: float) -> Model:
    """The regression on these rows, its intervals not told yet."""
    names = sign_names(rows, judge)
    signs = table(rows, names)
    mean, scale = signs.mean(0), np.maximum(signs.std(0), 0.05)
    z = np.clip((signs - mean) / scale, -REACH, REACH)
    landmarks = z[_spread(z, LANDMARKS)]
    model = Model(
        names, _short(mean), _short(scale), _short(landmarks), WIDTH_PER_SIGN / len(names), {}, voice_db
    )
    basis = model.basis(signs)
    weight = np.array([BACKEND_WEIGHT if row.output in BACKENDS else 1.0 for row in rows])
    targets = {}
    for name, (low, high) in SCALES.items():
        true = truths(rows, name)
        bias, slope = _robust(basis, true, weight)
        count = len(names)
        targets[name] = Target(
            round(bias, 4),
            slope[:count].tolist(),
            slope[count:].tolist(),
            low,
            high,
            [],
            [high - low],
        )
    return dataclasses.replace(model, targets=targets)


def _robust(basis: np.ndarray, true: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """Bias and slope of a ridge regression by Huber's loss: an error beyond `HUBER_DB` counts by its size and not by
    its square, in steps of weighted least squares."""
    now = weight
    for _ in range(STEPS):
        centre, bias = np.average(basis, axis=0, weights=now), float(np.average(true, weights=now))
        centred = basis - centre
        square = (centred * now[:, None]).T @ centred + RIDGE * np.eye(basis.shape[1])
        slope = np.array(_short(np.linalg.solve(square, (centred * now[:, None]).T @ (true - bias))))
        wrong = np.abs(true - bias - centred @ slope)
        now = weight * np.minimum(1.0, HUBER_DB / np.maximum(wrong, 1e-9))
    return bias - float(centre @ slope), slope


def _short(numbers: np.ndarray) -> list:
    return np.round(numbers, 4).tolist()


def _spread(z: np.ndarray, count: int) -> list[int]:
    """Rows that lie far from each other: each next one is the furthest from those taken so far."""
    chosen = [int(np.argmin((z**2).sum(1)))]
    nearest = ((z - z[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(z)):
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((z - z[chosen[-1]]) ** 2).sum(1))
    return chosen


def predictions(model: Model, rows: Sequence[Row], target: str) -> np.ndarray:
    """Predicted values of all rows, within the scale."""
    wanted = model.targets[target]
    basis = model.basis(table(rows, model.signs))
    return np.clip(wanted.bias + basis @ np.array(wanted.linear + wanted.weights), wanted.low, wanted.high)


def folds(rows: Sequence[Row], count: int = FOLDS) -> list[np.ndarray]:
    """For each fold, which rows are in it; a song is in one fold."""
    songs = sorted({row.song for row in rows})
    of = {song: number % count for number, song in enumerate(songs)}
    return [np.array([of[row.song] == fold for row in rows]) for fold in range(min(count, len(songs)))]


def part(rows: Sequence[Row], wanted: np.ndarray) -> list[Row]:
    return [row for row, chosen in zip(rows, wanted, strict=True) if chosen]


def unseen(rows: Sequence[Row], judge: str, target: str) -> np.ndarray:
    """Each row's prediction by a model that was fitted without its song."""
    found = np.zeros(len(rows))
    for fold in folds(rows):
        found[fold] = predictions(fit(part(rows, ~fold), judge, 0.0), part(rows, fold), target)
    return found


def with_intervals(model: Model, rows: Sequence[Row], judge: str) -> Model:
    """The model with conformal half widths from predictions of songs it was not fitted to, by strata of the value."""
    targets = {}
    for name, target in model.targets.items():
        predicted = unseen(rows, judge, name)
        wrong = np.abs(predicted - truths(rows, name))
        edges = np.quantile(predicted, np.arange(1, STRATA) / STRATA)
        stratum = np.searchsorted(edges, predicted)
        halves = [conformal(wrong[stratum == number]) for number in range(STRATA)]
        targets[name] = dataclasses.replace(target, edges=_short(edges), half_widths=_short(np.array(halves)))
    return dataclasses.replace(model, targets=targets)


def conformal(wrong: np.ndarray) -> float:
    """The error that is not exceeded by the next one with probability 0.9, if it is like these."""
    rank = int(np.ceil((len(wrong) + 1) * COVERAGE))
    return float(np.sort(wrong)[min(rank, len(wrong)) - 1])
