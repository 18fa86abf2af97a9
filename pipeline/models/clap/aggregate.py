"""One vector for a track from the vectors of its windows."""

from __future__ import annotations

import numpy as np

AGGREGATES = ("mean", "weighted", "robust")

# Below this many windows the 5 % tails hold fewer than two windows each, and cutting them off would only
# throw away the two most extreme of a healthy track.
TRIM_MIN_WINDOWS = 40
TRIM_QUANTILES = (0.05, 0.95)
# Windows beyond this many median distances from the centre get no weight.
BIWEIGHT_CUTOFF = 2.5
# Below this length the mean of unit vectors is rounding noise and points nowhere.
DEGENERATE = 1e-6


def aggregate(
    embeddings: np.ndarray,
    how: str,
    *,
    seconds: np.ndarray,
    rms: np.ndarray,
    norms: np.ndarray | None = None,
) -> np.ndarray | None:
    """Aggregate the embeddings of a track's windows. Silent windows have none and are not passed.

    - ``mean``: the mean of the unit vectors, brought back to unit norm.
    - ``weighted``: the same, each window weighted by its energy: mean square times its real length.
    - ``robust``: a spherical biweight.
      (1) With `TRIM_MIN_WINDOWS` or more windows, those whose embedding had a norm outside the 5 % to 95 %
      quantiles before normalisation are dropped.
      (2) The centre is the spherical median, the direction with the least sum of angles to all windows
      (Fisher, "Spherical medians", JRSS B 47, 1985), found by Weiszfeld's iteration on the sphere (Fletcher,
      Venkatasubramanian and Joshi, NeuroImage 45, 2009).
      (3) Each window is weighted by Tukey's biweight ``(1 - (a / c)^2)^2`` of its angle ``a`` to that centre,
      0 beyond ``c``, `BIWEIGHT_CUTOFF` times the median angle (Mosteller and Tukey, "Data Analysis and
      Regression", 1977). The median angle is the scale because in many dimensions the distances of healthy
      windows gather around it.
      (4) Windows of weight 0 are removed and (2) and (3) repeated once without them, so that they have no
      influence left at all.
      (5) Weighted mean, unit norm.
      On clean normal windows that vary in 4, 8 or 32 dimensions its variance is that of the mean divided by
      0.85, 0.93 and 0.96.

    Args:
        embeddings: unit vectors ``[n, dims]``; other lengths are brought to one.
        how: one of `AGGREGATES`.
        seconds: real length of each window ``[n]``, s.
        rms: linear RMS of each window ``[n]``.
        norms: norm of each embedding before normalisation ``[n]``; None skips step (1).

    Returns:
        float32 ``[dims]`` of unit norm. None where there is no direction: no windows, or windows that cancel.

    Raises:
        ValueError: ``how`` is unknown, the lengths differ, or a value is NaN, infinite or negative.
    """
    if how not in AGGREGATES:
        raise ValueError(f"aggregate {how!r} is unknown: use one of {', '.join(AGGREGATES)}")
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != 2:
        raise ValueError(f"expected embeddings of [n, dims], got {list(vectors.shape)}")
    _check("embeddings", np.abs(vectors).sum(axis=1), len(vectors))
    seconds, rms = _check("seconds", seconds, len(vectors)), _check("rms", rms, len(vectors))
    lengths = np.linalg.norm(vectors, axis=1)
    norms = lengths if norms is None else _check("norms", norms, len(vectors))
    some = lengths > 0
    units = vectors[some] / lengths[some, None]
    if how == "weighted":
        return _direction(units, _energy(seconds, rms)[some])
    if how == "robust":
        return _robust(units[_typical(norms[some])])
    return _direction(units, np.ones(len(units)))


def _check(name: str, values: np.ndarray, n: int) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.shape != (n,):
        raise ValueError(f"expected {n} {name}, got {list(values.shape)}")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name} must be finite and not negative")
    return values


def _energy(seconds: np.ndarray, rms: np.ndarray) -> np.ndarray:
    # Only ratios matter; dividing by the loudest keeps the squares of very quiet tracks from underflowing.
    loudest = rms.max(initial=0.0)
    return (rms / loudest) ** 2 * seconds if loudest > 0 else np.zeros(len(rms))


def _typical(norms: np.ndarray) -> np.ndarray:
    """Which windows have a norm within `TRIM_QUANTILES`, or all where there are too few to tell."""
    if len(norms) < TRIM_MIN_WINDOWS:
        return np.ones(len(norms), bool)
    low, high = np.quantile(norms, TRIM_QUANTILES)
    return (norms >= low) & (norms <= high)


def _direction(units: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    total = weights.sum()
    if not total > 0:
        return None
    mean = weights @ units / total
    length = np.linalg.norm(mean)
    return (mean / length).astype(np.float32) if length > DEGENERATE else None


def _robust(units: np.ndarray) -> np.ndarray | None:
    for _ in range(2):
        centre = spherical_median(units)
        if centre is None:
            return None
        weights = _biweight(_angles(units, centre))
        used, units = (units, weights), units[weights > 0]
    return _direction(*used)


def spherical_median(units: np.ndarray, iterations: int = 200) -> np.ndarray | None:
    """The direction with the least sum of angles to ``units`` ``[n, dims]``; None where it is not defined.

    Starts from the mean direction. Each step moves along the sphere by the sum of the unit tangents towards
    the windows over the sum of their inverse angles, as in Weiszfeld's iteration for the plane.
    """
    start = _direction(units, np.ones(len(units)))
    if start is None:
        return None
    centre = start.astype(np.float64)
    centre /= np.linalg.norm(centre)
    for _ in range(iterations):
        # A window at the centre itself has no direction; the floor makes its infinite weight a large one.
        angles = np.maximum(_angles(units, centre), 1e-9)
        tangents = units - (units @ centre)[:, None] * centre
        sines = np.maximum(np.linalg.norm(tangents, axis=1), 1e-12)
        step = (tangents / sines[:, None]).sum(axis=0) / (1 / angles).sum()
        size = np.linalg.norm(step)
        if size < 1e-10:
            break
        centre = np.cos(size) * centre + np.sin(size) * step / size
        centre /= np.linalg.norm(centre)
    return centre


def _angles(units: np.ndarray, centre: np.ndarray) -> np.ndarray:
    # The chord is exact for small angles, where the arc cosine loses half of the digits.
    return 2 * np.arcsin(np.clip(np.linalg.norm(units - centre, axis=1) / 2, 0, 1))


def _biweight(angles: np.ndarray) -> np.ndarray:
    # The floor is float32 resolution: equal windows differ by rounding, and that is no reason to drop any.
    cutoff = max(BIWEIGHT_CUTOFF * float(np.median(angles)), 1e-5)
    return np.maximum(1 - (angles / cutoff) ** 2, 0) ** 2
