"""From the odds of a beat in each frame to the beats of a track, its tempo and its meter, or that it has none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pipeline.models.beats.decoding import ZONES, Path, Space, decode, intervals_of, log_odds
from pipeline.models.beats.front_end import FRAMES_PER_SECOND
from pipeline.models.beats.heard import Heard
from pipeline.models.beats.names import BeatOptions
from pipeline.models.beats.tapped import SAME, TappedTempi

PATIENCE_FRAMES = int(600 * FRAMES_PER_SECOND)
FEWEST_BEATS = 4
"""Fewer are no rhythm."""
LEAST_UNREST = 0.03
"""Less is no music, see `Heard.unrest`: of steady tones and slow glides; of music to develop on all has 0.045 and
more."""
# A beat is there where the sum of these with `Beats.strength`, `lacking` and `Heard.unrest` is as much as the last of
# them: by `benchmarks/beats_fit.py`, which tells music from speech, noises and bursts at random.
_STRENGTH, _LACKING, _UNREST, _LEAST = 8.6, -3.1, -17.8, -0.04
# Frames on either side of a beat that belong to it; where odds are told from those between the beats.
_NEAR = 2
_PIECE = 15000  # frames at a time
# Intervals of the steady part lie within this share of their median, and its tempo within that share of theirs.
_STEADY, _DRIFT = 0.1, 0.02
# The other octave is looked for within this share of half and twice the tempo.
_OCTAVE = 0.12
# A path of the tapped tempo may change its tempo by so much.
_GUIDED = 1.25
# It may lack so much log probability per second; or any, where the other one is steady and so only of another octave.
_MOST_LEAD, _STEADY_ENOUGH = 2.0, 0.95
# How the logarithm of the odds of the other octave falls with the log probability that it lacks per second. Of 39
# renderings to develop on it was right for three: it is seldom, and how much it lacks says little.
_SECOND = (-1.5, 0.2)


@dataclass(frozen=True, eq=False)
class Beats:
    """The rhythm of a track; None and empty where it has none.

    Args:
        beats, downbeats: their times, s from the first sample, ascending; float64.
        bpm: beats per minute of the steady part.
        bpm_confidence: probability that ``bpm`` is what a listener would tap, 0 to 1.
        meter: beats of a bar.
        stability: 1 where all intervals between beats are equal, 0 where their spread is as large as their median.
        second_bpm: the tempo of another octave that fits next best.
        second_odds: probability of that one beside ``bpm``, 0 to 0.5.
        strength: by how much the odds of a beat at the beats exceed those between them, -1 to 1; of a track without
            rhythm, too.
    """

    beats: np.ndarray = field(default_factory=lambda: np.empty(0))
    downbeats: np.ndarray = field(default_factory=lambda: np.empty(0))
    bpm: float | None = None
    bpm_confidence: float | None = None
    meter: int | None = None
    stability: float | None = None
    second_bpm: float | None = None
    second_odds: float | None = None
    strength: float | None = None


def rhythm(heard: Heard, options: BeatOptions | None = None, tempi: TappedTempi | None = None) -> Beats:
    """The rhythm of a track.

    Args:
        heard: of it, 50 frames a second.
        options: meters and tempi that are considered.
        tempi: that a listener would tap; None where nobody knows, and how sure the tempo is neither.

    Raises:
        ValueError: NaN or infinity among what was heard.
    """
    options = options or BeatOptions()
    if not len(heard.odds):
        return Beats()
    activations = heard.activations()
    best = likeliest(activations, options, tempi)
    times, _ = beat_times(activations, best.nodes)
    there = np.isfinite(times)
    beats, downbeats = times[there], times[there & (best.nodes[:, 1] == 0)]
    strength = strength_of(activations, best)
    if strength is None:
        return Beats()
    if not is_beat(strength, lacking(activations, best), heard.unrest):
        return Beats(strength=strength)
    bpm, steady = tempo(beats), stability(beats)
    second, lead = _second(activations, options, best, bpm)
    return Beats(
        beats,
        downbeats,
        bpm,
        bpm_confidence=tempi.confidence(bpm) if tempi is not None else None,
        meter=best.meter,
        stability=steady,
        second_bpm=second,
        second_odds=None if lead is None else _logistic(_SECOND[0] - _SECOND[1] * lead),
        strength=strength,
    )


def is_beat(strength: float, lacks: float, unrest: float) -> bool:
    """Whether a listener would tap.

    Args:
        strength: see `Beats`.
        lacks: see `lacking`.
        unrest: see `Heard`.
    """
    said = _STRENGTH * strength + _LACKING * lacks + _UNREST * unrest
    return unrest >= LEAST_UNREST and said >= _LEAST


def _best(activations: np.ndarray, intervals: np.ndarray, options: BeatOptions) -> Path:
    """The likeliest path of any meter."""
    spaces = [Space(meter, intervals) for meter in options.meters]
    return max(decode(activations, spaces, PATIENCE_FRAMES), key=lambda path: path.log_probability)


def likeliest(activations: np.ndarray, options: BeatOptions, tempi: TappedTempi | None) -> Path:
    """The path of the tempo that a listener would tap, or else the likeliest of all.

    Without that, a path may as well be of half or twice the tempo: the networks' odds alone hardly tell. Where the
    tempo itself changes on the way, no one tempo stands for the track, and the likeliest path of all is taken.

    Args:
        activations, options, tempi: as `Heard.activations` gives them, and as for `rhythm`.
    """
    intervals = _intervals(options)
    free = _best(activations, intervals, options)
    times, _ = beat_times(activations, free.nodes)
    beats = times[np.isfinite(times)]
    tapped = tempi.likeliest if tempi is not None else None
    if tapped is None or len(beats) < FEWEST_BEATS or abs(tempo(beats) / tapped - 1) <= SAME:
        return free
    lengths = intervals * (tapped / (60 * FRAMES_PER_SECOND))
    near = intervals[(lengths <= _GUIDED) & (lengths >= 1 / _GUIDED)]
    if not len(near):
        return free
    path = _best(activations, near, options)
    lead = (free.log_probability - path.log_probability) * FRAMES_PER_SECOND / len(activations)
    return path if lead <= _MOST_LEAD or stability(beats) >= _STEADY_ENOUGH else free


def _intervals(options: BeatOptions) -> np.ndarray:
    return intervals_of(options.min_bpm, options.max_bpm, FRAMES_PER_SECOND)


def _second(
    activations: np.ndarray, options: BeatOptions, best: Path, bpm: float
) -> tuple[float | None, float | None]:
    """The tempo at half or twice ``bpm`` that fits better, and the log probability per second that it lacks."""
    found: tuple[float | None, float | None] = (None, None)
    intervals = _intervals(options)
    for factor in (0.5, 2.0):
        lengths = intervals * (bpm * factor / (60 * FRAMES_PER_SECOND))
        near = intervals[np.abs(lengths - 1) <= _OCTAVE]
        if not len(near):
            continue
        path = _best(activations, near, options)
        beats, _ = beat_times(activations, path.nodes)
        beats = beats[np.isfinite(beats)]
        lead = (best.log_probability - path.log_probability) * FRAMES_PER_SECOND / len(activations)
        if len(beats) >= FEWEST_BEATS and (found[1] is None or lead < found[1]):
            found = tempo(beats), lead
    return found


def strength_of(activations: np.ndarray, path: Path) -> float | None:
    """By how much the odds at the beats of a path exceed those between them, see `Beats`; None where these are too
    few to be a rhythm."""
    times, strengths = beat_times(activations, path.nodes)
    there = np.isfinite(times)
    if there.sum() < FEWEST_BEATS:
        return None
    return float(strengths[there].mean() - _between_beats(activations, times[there]))


def lacking(activations: np.ndarray, path: Path) -> float:
    """The log probability per frame that a path lacks to the best that each frame could say on its own.

    Speech has peaks as high as those of music, but no bars fit them.
    """
    free = 0.0
    for start in range(0, len(activations), _PIECE):
        said = log_odds(activations[start : start + _PIECE])
        free += float(said.max(axis=0).sum())
    return (free - path.log_probability) / len(activations)


def _logistic(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, value))))


def _between_beats(activations: np.ndarray, beats: np.ndarray) -> float:
    """Mean odds of a beat, or a downbeat, in the frames that are not near any of the beats."""
    odds = activations.sum(axis=1, dtype=np.float64)
    away = np.ones(len(odds), bool)
    frames = np.round(beats * FRAMES_PER_SECOND).astype(int)
    for offset in range(-_NEAR, _NEAR + 1):
        away[np.clip(frames + offset, 0, len(odds) - 1)] = False
    return float(odds[away].mean()) if away.any() else 0.0


def beat_times(activations: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """When the beats of a path are, finer than the frame, and how strong.

    A beat lies at the highest odds (of beat and downbeat together) in that part of it in which one is heard, and there
    in the middle of that peak.

    Args:
        nodes: as in `Path`.

    Returns:
        seconds and odds, float64 ``[beats]``; NaN of one that is heard before the track begins.
    """
    odds = activations.sum(axis=1, dtype=np.float64)
    times, strengths = np.full(len(nodes), np.nan), np.full(len(nodes), np.nan)
    for number, (frame, _, length) in enumerate(nodes):
        start, stop = max(0, frame), min(len(odds), frame - (-length // ZONES))
        if start < stop:
            peak = start + int(np.argmax(odds[start:stop]))
            times[number] = (peak + _between(odds, peak)) / FRAMES_PER_SECOND
            strengths[number] = odds[peak]
    return times, strengths


def _between(odds: np.ndarray, peak: int) -> float:
    """Where the middle of a peak lies, in frames from its highest: at most one away.

    It is the centre of mass of what five frames have more than the lowest of them. On clicks it is half as far off, and
    spreads less, than the top of a parabola: the networks hear a loud beginning up to two frames before it is there.
    """
    if not _NEAR <= peak < len(odds) - _NEAR:
        return 0.0
    around = odds[peak - _NEAR : peak + _NEAR + 1]
    mass = around - around.min()
    total = float(mass.sum())
    middle = float((mass * np.arange(-_NEAR, _NEAR + 1)).sum()) / total if total > 0 else 0.0
    return max(-1.0, min(1.0, middle))


def tempo(beats: np.ndarray) -> float:
    """Beats per minute of the longest steady part: the slope of the line through its beats.

    Where the tempo drifts within it, so that the line is another than most of its intervals, their median stands.

    Args:
        beats: at least two times, s, ascending.
    """
    intervals = np.diff(beats)
    # One that is there: of two tempi in equal parts the mean is neither's, and no interval would be near it.
    middle = float(np.percentile(intervals, 50, method="lower"))
    steady = np.abs(intervals - middle) <= _STEADY * middle
    edges = np.flatnonzero(np.diff(np.concatenate([[False], steady, [False]])))
    first, stop = max(zip(edges[::2], edges[1::2], strict=True), key=lambda run: run[1] - run[0])
    part = beats[first : stop + 1]
    slope, median = float(np.polyfit(np.arange(len(part)), part, 1)[0]), float(np.median(np.diff(part)))
    return 60.0 / (slope if abs(slope / median - 1) <= _DRIFT else median)


def stability(beats: np.ndarray) -> float:
    """1 less the spread of the intervals, as a share of their median; not below 0.

    The spread is half of what lies between the 16th and the 84th of a hundred, a standard deviation of what is normal.
    """
    intervals = np.diff(beats)
    low, middle, high = np.percentile(intervals, [16, 50, 84])
    return max(0.0, 1.0 - (high - low) / 2 / middle) if middle > 0 and math.isfinite(middle) else 0.0
