"""What evidence was worth on known stems: a small regression, written by ``benchmarks/karaoke_score.py``.

Per judge and target a ridge regression on the standardised signs and on their closeness to landmarks, which are
mixtures' outputs of the training set: ``bias + z · linear + Σ w exp(-|(z - landmark) / lengths|² / 2)``. Intervals are
split-conformal, their half width told by where the prediction lies (Lei et al. 2018, "Distribution-free predictive
inference for regression", JASA 113; per stratum as Vovk's Mondrian predictors).
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources

import numpy as np

FILE = "calibration.json"
NO_JUDGE = "none"
"""The model's name where no judge was asked."""
REACH = 4.0
"""Signs further from the mean than so many standard deviations count as that far: nothing is known out there."""


@dataclass(frozen=True)
class Target:
    """One quantity that is told from the evidence.

    Args:
        bias, linear, weights: of the regression.
        low, high: bounds of the scale; what lies beyond was counted as the bound.
        edges: predictions between which the half width is another, ascending.
        half_widths: of the 90 % interval, one more than edges.
    """

    bias: float
    linear: list[float]
    weights: list[float]
    low: float
    high: float
    edges: list[float]
    half_widths: list[float]


@dataclass(frozen=True)
class Model:
    """The regression for one judge.

    Args:
        signs: names of the signs it takes, in order.
        mean, scale: that standardise them.
        landmarks: standardised, ``[landmarks, signs]``.
        lengths: over which the closeness falls, for each sign.
        targets: ``sdr``, ``residual_vocal``, ``damage``.
        voice_db: level of the voice in the mix below which there is none to remove, dB.
    """

    signs: list[str]
    mean: list[float]
    scale: list[float]
    landmarks: list[list[float]]
    lengths: list[float]
    targets: dict[str, Target]
    voice_db: float

    def basis(self, signs: np.ndarray) -> np.ndarray:
        """Standardised signs and closeness to the landmarks: ``[n, signs]`` → ``[n, signs + landmarks]``."""
        z = np.clip((signs - np.array(self.mean)) / np.array(self.scale), -REACH, REACH)
        lengths = np.array(self.lengths)
        near, landmarks = z / lengths, np.array(self.landmarks).reshape(-1, z.shape[1]) / lengths
        distance = (near**2).sum(1)[:, None] + (landmarks**2).sum(1) - 2 * near @ landmarks.T
        return np.hstack([z, np.exp(-0.5 * distance)])

    def predict(self, signs: Mapping[str, float], target: str) -> tuple[float, float, float]:
        """Prediction and its 90 % interval, each within the scale of the target.

        Raises:
            KeyError: a sign is missing.
        """
        wanted = self.targets[target]
        basis = self.basis(np.array([[signs[name] for name in self.signs]]))[0]
        value = wanted.bias + float(basis @ np.array(wanted.linear + wanted.weights))
        value = min(max(value, wanted.low), wanted.high)
        half = wanted.half_widths[int(np.searchsorted(wanted.edges, value))]
        return value, max(value - half, wanted.low), min(value + half, wanted.high)


@dataclass(frozen=True)
class Calibration:
    """Models by judge, and where they come from.

    Args:
        models: judge's name, or `NO_JUDGE`, → model.
        trained_on: what on, in words.
        version: the first 12 digits of the sha256 of the other two.
    """

    models: dict[str, Model]
    trained_on: str
    version: str


def content_version(models: Mapping[str, Model], trained_on: str) -> str:
    """Changes with any number of the calibration."""
    told = json.dumps([{name: asdict(model) for name, model in models.items()}, trained_on], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def to_json(models: Mapping[str, Model], trained_on: str) -> str:
    """The text of the calibration's file."""
    version = content_version(models, trained_on)
    return json.dumps(asdict(Calibration(dict(models), trained_on, version))) + "\n"


def from_json(text: str) -> Calibration:
    """The calibration in a file's text.

    Raises:
        ValueError: the version is not that of the content.
    """
    told = json.loads(text)
    models = {
        name: Model(**{**model, "targets": {key: Target(**one) for key, one in model["targets"].items()}})
        for name, model in told["models"].items()
    }
    if content_version(models, told["trained_on"]) != told["version"]:
        raise ValueError(f"{FILE} was changed by hand: benchmarks/karaoke_score.py --write writes it anew")
    return Calibration(models, told["trained_on"], told["version"])


@functools.cache
def calibration() -> Calibration:
    """The one that comes with the package."""
    return from_json(resources.files(__package__).joinpath(FILE).read_text())
