"""Loudness after ITU-R BS.1770-4 and EBU Tech 3342; in memory bounded by its chunks.

The measurement goes through the mean squares of K-weighted steps of 100 ms: both the 400 ms gating blocks and
the 3 s windows of the loudness range are sums of whole steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dsp.recursive import RecursiveFilter, whole_blocks
from pipeline.late import torch

ABSOLUTE_GATE_LUFS = -70.0
RELATIVE_GATE_LU = -10.0
RANGE_RELATIVE_GATE_LU = -20.0
RANGE_PERCENTILES = (10.0, 95.0)

# BS.1770-4 gives coefficients at 48 kHz. These are the analogue prototypes behind them, found by B. De Man
# ("Evaluation of Implementations of the EBU R128 Loudness Measurement", AES 2018) and used by libebur128.
_SHELF_HZ, _SHELF_Q, _SHELF_DB = 1681.974450955533, 0.7071752369554196, 3.999843853973347
_SHELF_BAND_EXPONENT = 0.4996667741545416
_HIGH_PASS_HZ, _HIGH_PASS_Q = 38.13547087602444, 0.5003270373238773

# Below this rate the bilinear transform bends the shelf by more than 0.02 dB (0.28 dB at 8 kHz).
_MATCHED_BELOW = 24000

# Lower rates leave too little of the shelf, whose corner is at 1682 Hz.
LOWEST_RATE = 4000

# BS.1770-4, annex 3: 1.41 for azimuths of 60 to 120 degrees, 1 for all others; the LFE channel is left out.
# Channels are in the order of WAVEFORMATEXTENSIBLE; the surrounds of quad, 5.0 and 5.1 are those at 110
# degrees, in 6.1 and 7.1 the side pair is at 90 and the back at 135 or more.
_SURROUND = 1.41
_CHANNEL_WEIGHTS = {
    4: (1.0, 1.0, _SURROUND, _SURROUND),
    5: (1.0, 1.0, 1.0, _SURROUND, _SURROUND),
    6: (1.0, 1.0, 1.0, 0.0, _SURROUND, _SURROUND),
    7: (1.0, 1.0, 1.0, 0.0, 1.0, _SURROUND, _SURROUND),
    8: (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, _SURROUND, _SURROUND),
}

_STEPS_PER_BLOCK = 4
_STEPS_PER_SHORT_TERM = 30


def channel_weights(channels: int) -> np.ndarray:
    """Weight of each channel in the loudness sum, float64 ``[channels]``.

    Mono, stereo and three channels have 1 throughout; quad (L R Ls Rs), 5.0 (L R C Ls Rs), 5.1 (L R C LFE Ls
    Rs), 6.1 (L R C LFE Cb Ls Rs) and 7.1 (L R C LFE Lb Rb Ls Rs) follow BS.1770-4, annex 3. Beyond 8 channels
    no order is agreed upon and each has 1.
    """
    return np.array(_CHANNEL_WEIGHTS.get(channels, (1.0,) * channels))


def k_weighting(sample_rate: int) -> np.ndarray:
    """The K-weighting filter at any rate of at least `LOWEST_RATE`: a high shelf, then a high pass.

    At 48 kHz it has the coefficients of BS.1770-4. At other rates it has their response, within 0.04 dB from
    8 kHz up and 0.4 dB at 4 kHz; the formulas libebur128 and pyloudnorm's ``DeMan`` use at all rates would
    read speech at 8 kHz 0.2 LU too high.

    Returns:
        second-order sections as in scipy, float64 ``[2, 6]``.

    Raises:
        ValueError: the sample rate is too low.
    """
    if sample_rate < LOWEST_RATE:
        raise ValueError(f"K-weighting needs a sample rate of at least {LOWEST_RATE} Hz, not {sample_rate}")
    shelf = _matched_shelf(sample_rate) if sample_rate < _MATCHED_BELOW else _bilinear_shelf(sample_rate)
    k, a0 = _high_pass_terms(sample_rate)
    # The numerator of the standard, 1, -2, 1, leaves a pass-band gain of a0: 0.04 dB at 48 kHz, which is part
    # of the standard, but 0.26 dB at 8 kHz. Here it is that of 48 kHz at every rate.
    b0 = _high_pass_terms(48000)[1] / a0
    high_pass = [b0, -2.0 * b0, b0, 1.0, 2.0 * (k * k - 1.0) / a0, (1.0 - k / _HIGH_PASS_Q + k * k) / a0]
    return np.array([shelf, high_pass])


def _high_pass_terms(sample_rate: int) -> tuple[float, float]:
    k = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    return k, 1.0 + k / _HIGH_PASS_Q + k * k


def _bilinear_shelf(sample_rate: int) -> list[float]:
    k = math.tan(math.pi * _SHELF_HZ / sample_rate)
    gain = 10.0 ** (_SHELF_DB / 20.0)
    band = gain**_SHELF_BAND_EXPONENT
    a0 = 1.0 + k / _SHELF_Q + k * k
    return [
        (gain + band * k / _SHELF_Q + k * k) / a0,
        2.0 * (k * k - gain) / a0,
        (gain - band * k / _SHELF_Q + k * k) / a0,
        1.0,
        2.0 * (k * k - 1.0) / a0,
        (1.0 - k / _SHELF_Q + k * k) / a0,
    ]


def _matched_shelf(sample_rate: int) -> list[float]:
    """A section with the poles of the analogue shelf whose gain is that of 48 kHz at three frequencies.

    M. Vicanek, "Matched Second Order Digital Filters", 2016: the squared gain is linear in the squared
    coefficients ``B``, which are then taken apart into the minimum-phase numerator.
    """
    w0, q = 2.0 * math.pi * _SHELF_HZ / sample_rate, 0.5 / _SHELF_Q
    a1 = -2.0 * math.exp(-q * w0) * math.cos(math.sqrt(1.0 - q * q) * w0)
    a2 = math.exp(-2.0 * q * w0)
    hz = np.array([0.0, min(_SHELF_HZ, sample_rate / 6), sample_rate / 2])
    reference, z = np.array(_bilinear_shelf(48000)), np.exp(-2j * np.pi * hz / 48000)
    wanted = np.abs(np.polyval(reference[2::-1], z) / np.polyval(reference[:2:-1], z)) ** 2
    sine = np.sin(np.pi * hz / sample_rate) ** 2
    basis = np.stack([1.0 - sine, sine, 4.0 * sine * (1.0 - sine)], axis=1)
    poles = basis @ np.array([(1.0 + a1 + a2) ** 2, (1.0 - a1 + a2) ** 2, -4.0 * a2])
    squares = np.linalg.solve(basis, wanted * poles)
    at_zero, at_nyquist = math.sqrt(squares[0]), math.sqrt(squares[1])
    mean = (at_zero + at_nyquist) / 2.0
    b0 = (mean + math.sqrt(mean * mean + squares[2])) / 2.0
    return [b0, (at_zero - at_nyquist) / 2.0, -squares[2] / (4.0 * b0), 1.0, a1, a2]


@dataclass(frozen=True)
class Steps:
    """K-weighted energy of a track in steps of 100 ms; an incomplete last step is left out.

    Args:
        energy: sum of squares over the samples and, with their weights, the channels; float64 ``[steps]``.
        samples: length of each step, int64 ``[steps]``; at 11025 Hz it alternates between 1102 and 1103.
    """

    energy: np.ndarray
    samples: np.ndarray

    def powers(self, steps: int) -> np.ndarray:
        """Weighted mean square of each window of ``steps`` steps, one window per step: ``[windows]``."""
        if len(self.energy) < steps:
            return np.zeros(0)
        window = np.ones(steps)
        return np.convolve(self.energy, window, "valid") / np.convolve(self.samples, window, "valid")

    @classmethod
    def joined(cls, parts: Sequence[Steps]) -> Steps:
        """The steps of consecutive pieces of a track."""
        return cls(
            np.concatenate([part.energy for part in parts] or [np.zeros(0)]),
            np.concatenate([part.samples for part in parts] or [np.zeros(0, dtype=np.int64)]),
        )


def measure_steps(
    chunks: Iterable[np.ndarray],
    channels: int,
    sample_rate: int,
    origin: int = 0,
    first_step: int = 0,
) -> Steps:
    """K-weight a track, or a piece of one, and sum the energy of its 100 ms steps.

    Args:
        chunks: consecutive pieces of the track, ``[channels, n]``, of any lengths.
        channels: their order is that of `channel_weights`.
        sample_rate: Hz, at least `LOWEST_RATE`.
        origin: where in the track ``chunks`` begin, samples.
        first_step: the first step wanted; what ``chunks`` hold before it only settles the filter, which forgets
            within 0.1 s.

    Raises:
        ValueError: the sample rate is too low.
    """
    k_weight = RecursiveFilter(k_weighting(sample_rate), channels)
    weights = channel_weights(channels)
    energies, bounds = [], [step_start(first_step, sample_rate)]
    start, rest = origin, 0.0
    for block, count in whole_blocks(chunks):
        filtered = k_weight(torch.from_numpy(block))[:, :count].numpy()
        cuts = _step_bounds(first_step + len(bounds), start + count, sample_rate)
        edges = [min(max(0, bounds[0] - start), count), *(cut - start for cut in cuts), count]
        for first, last, cut in itertools.zip_longest(edges[:-1], edges[1:], cuts):
            # A float32 sum of at most one step; whole tracks are summed in float64.
            squares = [float(piece @ piece) for piece in filtered[:, first:last]]
            rest += float(weights @ squares)
            if cut is not None:
                energies.append(rest)
                bounds.append(cut)
                rest = 0.0
        start += count
    return Steps(np.array(energies, dtype=np.float64), np.diff(np.array(bounds, dtype=np.int64)))


def step_start(step: int, sample_rate: int) -> int:
    """The first sample of a step of 100 ms."""
    return round(step * sample_rate / 10)


def first_step_from(sample: int, sample_rate: int) -> int:
    """The first step that begins at ``sample`` or after it."""
    step = max(0, 10 * sample // sample_rate - 1)
    while step_start(step, sample_rate) < sample:
        step += 1
    return step


def _step_bounds(first: int, stop: int, sample_rate: int) -> list[int]:
    """Ends of the steps number ``first`` and on, in samples, as far as they do not exceed ``stop``."""
    bounds = []
    while (bound := step_start(first, sample_rate)) <= stop:
        bounds.append(bound)
        first += 1
    return bounds


def _lufs(power: np.ndarray | float) -> np.ndarray:
    # BS.1770-4 equation 2; -0.691 makes a 997 Hz sine at full scale in one front channel read -3.01.
    return -0.691 + 10.0 * np.log10(np.maximum(power, 1e-30))


def _gated(powers: np.ndarray, relative_gate: float, beats: Callable) -> np.ndarray:
    """The powers above the absolute gate and above the gate relative to their mean."""
    loud = powers[beats(_lufs(powers), ABSOLUTE_GATE_LUFS)]
    if not len(loud):
        return loud
    return loud[beats(_lufs(loud), _lufs(loud.mean()) + relative_gate)]


def integrated_loudness(steps: Steps) -> float | None:
    """Programme loudness, LUFS: 400 ms blocks that overlap by 75 %, gated twice (BS.1770-4, annex 1).

    None for a track of less than 400 ms, and where no block passes the absolute gate of -70 LUFS.
    """
    gated = _gated(steps.powers(_STEPS_PER_BLOCK), RELATIVE_GATE_LU, np.greater)
    return float(_lufs(gated.mean())) if len(gated) else None


def loudness_range(steps: Steps) -> float | None:
    """Loudness range, LU: from the 10th to the 95th percentile of the gated 3 s loudness (EBU Tech 3342).

    None for a track of less than 3 s, and where no window passes the absolute gate of -70 LUFS.
    """
    gated = _gated(steps.powers(_STEPS_PER_SHORT_TERM), RANGE_RELATIVE_GATE_LU, np.greater_equal)
    if not len(gated):
        return None
    # Nearest rank, as in the listing of Tech 3342.
    ranks = [int((len(gated) - 1) * p / 100 + 0.5) for p in RANGE_PERCENTILES]
    low, high = _lufs(np.sort(gated)[ranks])
    return float(high - low)
