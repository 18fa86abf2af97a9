"""The beat decoder against a plain Viterbi over all states, frame by frame."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.models.beats import decoding
from pipeline.models.beats.decoding import FLOOR, Path, Space, decode, intervals_of, log_odds

NEVER = 10**6


def clicks(frames: int, period: int, bar: int, seed: int = 0, first: int = 0) -> np.ndarray:
    """Odds of beat and downbeat of a bar that repeats, with noise below: float32 ``[frames, 2]``."""
    odds = np.random.default_rng(seed).random((frames, 2)).astype(np.float32) ** 4 * 0.45
    odds[first::period] = (0.6, 0.1)
    odds[first :: period * bar] = (0.3, 0.5)
    return odds


def plain_viterbi(odds: np.ndarray, space: Space) -> tuple[list[tuple[int, int, int]], float]:
    """Beat of the bar, frames per beat and frames that are over, of each frame; and the log probability."""
    states = [
        (beat, length, past)
        for beat in range(space.beats)
        for length in space.intervals.tolist()
        for past in range(length)
    ]
    number = {state: place for place, state in enumerate(states)}
    changes = np.exp(-space.change * np.abs(space.intervals / space.intervals[:, None] - 1))
    changes = np.log(changes / changes.sum(axis=1, keepdims=True))
    before = []
    for beat, length, past in states:
        if past:
            before.append(([number[beat, length, past - 1]], np.zeros(1)))
        else:
            ends = [(beat - 1) % space.beats, *space.intervals.tolist()]
            column = changes[:, space.intervals.tolist().index(length)]
            before.append(([number[ends[0], other, other - 1] for other in ends[1:]], column))
    neither = np.log(np.maximum((1 - odds.sum(axis=1)) / (space.zones - 1), FLOOR))
    heard = np.log(np.maximum(odds, FLOOR))
    said = [
        (heard[:, 1] if beat == 0 else heard[:, 0]) if past < length / space.zones else neither
        for beat, length, past in states
    ]
    scores = np.array([row[0] for row in said]) - np.log(len(states))
    pointers = []
    for frame in range(1, len(odds)):
        found = [(scores[places] + change) for places, change in before]
        best = [int(np.argmax(values)) for values in found]
        pointers.append([places[b] for (places, _), b in zip(before, best, strict=True)])
        scores = np.array([values[b] + row[frame] for values, b, row in zip(found, best, said, strict=True)])
    path = [int(np.argmax(scores))]
    for row in reversed(pointers):
        path.append(row[path[-1]])
    return [states[place] for place in reversed(path)], float(scores.max())


def states_of(path: Path, frames: int) -> list[tuple[int, int, int]]:
    """The same of a path that the decoder found; every frame must be in exactly one beat."""
    found = {}
    for frame, beat, length in path.nodes.tolist():
        for past in range(length):
            assert frame + past not in found
            found[frame + past] = (beat, length, past)
    return [found[frame] for frame in range(frames)]


@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_that_of_a_viterbi_over_all_states(seed, monkeypatch):
    odds = clicks(110, period=6 + seed % 3, bar=3, seed=seed, first=seed).astype(np.float64)
    odds[60:, :] = clicks(50, period=8, bar=3, seed=seed + 9)  # and then another tempo
    space = Space(3, np.arange(5, 10), change=30.0)
    states, score = plain_viterbi(odds, space)
    for piece in (1500, 23):
        monkeypatch.setattr(decoding, "_PIECE", piece)
        [path] = decode(odds, [space], NEVER)
        assert path.log_probability == pytest.approx(score, abs=1e-9)
        assert states_of(path, 110) == states


def test_what_is_given_out_piece_by_piece_is_the_whole(monkeypatch):
    """Eight minutes of other tempi and a pause: in some pieces nothing is settled, in others much."""
    odds = np.concatenate([
        clicks(9000, period=25, bar=4, seed=1),
        clicks(4000, period=31, bar=4, seed=2),
        np.full((3000, 2), 0.01, np.float32),
        clicks(9000, period=18, bar=4, seed=3),
    ])  # fmt: skip
    spaces = [Space(meter, intervals_of(60, 200, 50)) for meter in (3, 4)]
    in_pieces = decode(odds, spaces, NEVER)
    monkeypatch.setattr(decoding, "_PIECE", len(odds))
    at_once = decode(odds, spaces, NEVER)
    for one, other in zip(in_pieces, at_once, strict=True):
        np.testing.assert_array_equal(one.nodes, other.nodes)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-12)


def test_memory_is_bounded_and_music_is_settled_long_before():
    """Where the bars are heard, no path keeps apart for long; what is kept does not grow."""
    space = Space(4, intervals_of(40, 300, 50))
    decoder, kept = decoding.BarDecoder(space, 30_000), []
    odds = log_odds(clicks(30_000, period=25, bar=4), space.zones)
    for start in range(0, 30_000, 1500):
        decoder.push(odds[:, start : start + 1500])
        kept.append(len(decoder._back))
    assert (decoder.forced, max(kept) < 6000) == (0, True)


def test_what_cannot_be_settled_is_decided_and_stays_one_path():
    """Silence for longer than the patience: every bar line is as likely as another."""
    space = Space(4, intervals_of(60, 200, 50))
    odds = np.concatenate([np.full((4000, 2), 1e-3), clicks(3000, period=25, bar=4)])
    decoder = decoding.BarDecoder(space, 1000)
    found = [decoder.push(log_odds(odds[start : start + 500], space.zones)) for start in range(0, 7000, 500)]
    assert decoder.forced > 0
    assert len(decoder._back) <= 1000 + 50 + 1500
    rest, score = decoder.finish()
    path = Path(4, np.concatenate([*found, rest]), score)
    states = states_of(path, 7000)
    assert all(a[2] + 1 == a[1] and b[0] == (a[0] + 1) % 4 for a, b in itertools.pairwise(states)
               if b[2] == 0)  # fmt: skip
    [whole] = decode(odds, [space], NEVER)
    # Behind the silence, and a bar or two of music, both hear the same bars.
    assert states[4800:] == states_of(whole, 7000)[4800:]
    assert score == pytest.approx(whole.log_probability, abs=80)


@pytest.mark.parametrize("frames", [0, 1, 5, 49])
def test_the_shortest_tracks(frames):
    [path] = decode(np.full((frames, 2), 0.2), [Space(4, intervals_of(40, 300, 50))], NEVER)
    assert path.nodes.shape[1] == 3
    assert (len(path.nodes) > 0) == (frames > 0)


def test_a_range_of_tempi_is_a_range_of_intervals():
    assert intervals_of(40, 300, 50).tolist() == list(range(10, 76))
    assert intervals_of(100, 100.1, 50).tolist() == [30]
