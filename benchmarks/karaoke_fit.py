"""Fits the calibration of the karaoke score, and predicts what it was not fitted to. For `karaoke_score.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from karaoke_kernel import Scales, learned
from karaoke_rows import Row

from pipeline.karaoke.calibration import NO_JUDGE, REACH, Model, Target

FOLDS = 5
LANDMARKS = 600
MOST_SIGNS = 50
"""That a model takes: those that tell most."""
RIDGE = 0.1
"""Of the variance of the noise: less than a Gaussian process would take, as the landmarks are few."""
HUBER_DB = 1.0
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
    true, songs = truths(rows, "sdr"), np.array([row.song for row in rows])
    weight = np.array([BACKEND_WEIGHT if row.output in BACKENDS else 1.0 for row in rows])
    mean, scale, z = _standardised(table(rows, names))
    scales = learned(z, true, weight, songs)
    if len(names) > MOST_SIGNS:
        telling = (scales.height / scales.lengths) ** 2 + scales.slopes**2
        kept = np.sort(np.argsort(-telling)[:MOST_SIGNS])
        names = [names[number] for number in kept]
        mean, scale, z = mean[kept], scale[kept], z[:, kept]
        scales = learned(z, true, weight, songs)
    landmarks = z[_spread(z / scales.lengths, LANDMARKS)]
    lengths = _short(scales.lengths)
    model = Model(names, _short(mean), _short(scale), np.round(landmarks, 3).tolist(), lengths, {}, voice_db)
    basis = model.basis(table(rows, names))
    targets = {}
    for name, (low, high) in SCALES.items():
        bias, slope = _robust(basis, truths(rows, name), weight, scales)
        linear, weights = slope[: len(names)].tolist(), slope[len(names) :].tolist()
        targets[name] = Target(round(bias, 4), linear, weights, low, high, [], [high - low])
    return dataclasses.replace(model, targets=targets)


def _standardised(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, scale, and the signs by them."""
    mean, scale = signs.mean(0), np.maximum(signs.std(0), 0.05)
    return mean, scale, np.clip((signs - mean) / scale, -REACH, REACH)


def _robust(
    basis: np.ndarray, true: np.ndarray, weight: np.ndarray, scales: Scales
) -> tuple[float, np.ndarray]:
    """Bias and slope of a ridge regression by Huber's loss: an error beyond `HUBER_DB` counts by its size and not by
    its square, in steps of weighted least squares. What the scales expect to be large is held back less."""
    expected = np.concatenate([scales.slopes, np.full(basis.shape[1] - len(scales.slopes), scales.height)])
    basis, now = basis * expected, weight
    for _ in range(STEPS):
        centre, bias = np.average(basis, axis=0, weights=now), float(np.average(true, weights=now))
        centred = basis - centre
        square = (centred * now[:, None]).T @ centred + RIDGE * scales.noise**2 * np.eye(basis.shape[1])
        slope = np.linalg.solve(square, (centred * now[:, None]).T @ (true - bias))
        wrong = np.abs(true - bias - centred @ slope)
        now = weight * np.minimum(1.0, HUBER_DB / np.maximum(wrong, 1e-9))
    return bias - float(centre @ slope), np.array(_short(slope * expected))


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


def unseen(rows: Sequence[Row], judge: str) -> dict[str, np.ndarray]:
    """Each row's predictions by models that were fitted without its song, target by target."""
    found = {target: np.zeros(len(rows)) for target in SCALES}
    for fold in folds(rows):
        model = fit(part(rows, ~fold), judge, 0.0)
        for target, values in found.items():
            values[fold] = predictions(model, part(rows, fold), target)
    return found


def with_intervals(model: Model, rows: Sequence[Row], judge: str) -> Model:
    """The model with conformal half widths from predictions of songs it was not fitted to, by strata of the value."""
    targets, songs = {}, np.array([row.song for row in rows])
    for name, predicted in unseen(rows, judge).items():
        wrong = np.abs(predicted - truths(rows, name))
        edges = np.quantile(predicted, np.arange(1, STRATA) / STRATA)
        stratum = np.searchsorted(edges, predicted)
        halves = [conformal(wrong[stratum == number], songs[stratum == number]) for number in range(STRATA)]
        targets[name] = dataclasses.replace(
            model.targets[name], edges=_short(edges), half_widths=_short(np.array(halves))
        )
    return dataclasses.replace(model, targets=targets)


def conformal(wrong: np.ndarray, songs: np.ndarray) -> float:
    """The error that an output of a new song exceeds in one of ten, if songs are like these.

    Errors of one song are alike, so songs are what is counted: each has the same weight (conformal prediction by pooled
    distributions: Dunn, Wasserman and Ramdas 2022, "Distribution-free prediction sets for two-layer hierarchical
    models", JASA 118). Unlike theirs this holds on average and is not guaranteed for so few songs: with the new song's
    own share, of which nothing is known, intervals of 58 songs held 92 of 100 and were a tenth wider.
    """
    _, which, counts = np.unique(songs, return_inverse=True, return_counts=True)
    weight = 1.0 / counts[which] / len(counts)
    order = np.argsort(wrong)
    return float(wrong[order[np.argmax(np.cumsum(weight[order]) >= COVERAGE - 1e-9)]])
