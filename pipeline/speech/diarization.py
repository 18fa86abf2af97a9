"""Turns of speakers out of local activities and voice embeddings: who speaks when, without any network.

A network that tells up to three people apart hears overlapping windows of some seconds ("chunks"); who is who differs
from chunk to chunk. Embeddings of stretches in which one of them speaks alone are clustered over the whole recording,
and each local speaker of each chunk becomes one of the clusters: the one that its voice is nearest to. Where its voice
is clearly not one person's, each part of it goes to the cluster that is nearest to what was embedded there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipeline.dsp.runs import runs, without_gaps
from pipeline.speech.clustering import CAMPPLUS, Cosines, SpeakerCounts, centroids, cluster, unit
from pipeline.speech.segments import Turn

CLOSED_GAP_S = 0.5
"""Silence up to this within the turn of one speaker belongs to it."""
SHORTEST_TURN_S = 0.1
ALL = 255
"""The probability one in the evidence."""
SEVERAL_S = 0.5
"""With so many seconds against it, a local speaker is several people, told apart by what was embedded."""
NEAR_S = 1.0
"""What was embedded farther away says nothing of a frame."""
FIRM_S = 1.0
"""Speakers are found from stretches of at least this length; shorter ones are only given to them."""
FEWEST_FIRM = 8


class Evidence(Protocol):
    """What the networks say of a recording; frames of all chunks lie on one grid.

    Attributes:
        activities: uint8 ``[chunks, frames, locals]``: how likely each of a chunk's local speakers speaks, 0 to `ALL`.
        spans: int64 ``[windows, 4]``, by chunk: chunk, local speaker, first frame of the recording and the one after
            the last of what was embedded.
        embeddings: float ``[windows, d]``, of unit length.
        duration_s: of the recording.
        hop_frames: frames from one chunk to the next.
        frame_s: from one frame to the next.
        first_s: where the first frame begins.
    """

    @property
    def activities(self) -> np.ndarray: ...

    @property
    def spans(self) -> np.ndarray: ...

    @property
    def embeddings(self) -> np.ndarray: ...

    @property
    def duration_s(self) -> float: ...

    @property
    def hop_frames(self) -> int: ...

    @property
    def frame_s(self) -> float: ...

    @property
    def first_s(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class Diarization:
    """Who speaks when. Speakers are numbered from 0 in the order in which they first speak.

    Args:
        starts_s: float64 ``[turns]``, rising.
        ends_s: float64 ``[turns]``.
        speakers: int64 ``[turns]``.
        confidences: float64 ``[turns]``, 0..1: how much nearer the voice is to this speaker than to the next one; NaN
            where nobody can say.
        overlaps: bool ``[turns]``: somebody else speaks at some time of the turn.
        centroids: float32 ``[speakers, d]`` of unit length; zero where nothing could be embedded.
        seconds: float64 ``[speakers]``: how long each speaks.
    """

    starts_s: np.ndarray
    ends_s: np.ndarray
    speakers: np.ndarray
    confidences: np.ndarray
    overlaps: np.ndarray
    centroids: np.ndarray
    seconds: np.ndarray

    @property
    def names(self) -> list[str]:
        """``S1``, ``S2`` …, of each speaker."""
        return [f"S{index + 1}" for index in range(len(self.seconds))]

    def turns(self) -> list[Turn]:
        """The turns in order, under the names of the speakers."""
        columns = (self.starts_s, self.ends_s, self.speakers, self.confidences, self.overlaps)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        names = self.names
        return [
            Turn(start, end, names[who], None if np.isnan(sure) else sure, overlap)
            for start, end, who, sure, overlap in rows
        ]


def diarize(
    evidence: Evidence, counts: SpeakerCounts | None = None, cosines: Cosines = CAMPPLUS
) -> Diarization:
    """Put a name to each stretch of speech.

    Args:
        evidence: of the whole recording.
        counts: what is known of the number of speakers.
        cosines: what similarities of these embeddings mean.

    Raises:
        ValueError: embeddings that are not finite, or not as many as spans.
    """
    if len(evidence.spans) != len(evidence.embeddings):
        raise ValueError(f"{len(evidence.embeddings)} embeddings for {len(evidence.spans)} spans")
    vectors = np.asarray(evidence.embeddings, np.float64)
    means = _mean_voices(vectors, evidence, counts, cosines)
    assigned, sure = _assign(evidence, means, cosines)
    speaking = _recording_activity(evidence, assigned, len(means))
    return _turns(speaking, sure, means, evidence)


def _mean_voices(
    vectors: np.ndarray, evidence: Evidence, counts: SpeakerCounts | None, cosines: Cosines
) -> np.ndarray:
    """The mean voice of each speaker, ``[speakers, d]``; one of zeros where nothing was embedded."""
    if not len(vectors):
        return np.zeros((1, vectors.shape[1]))
    spans = evidence.spans
    firm = (spans[:, 3] - spans[:, 2]) * evidence.frame_s >= FIRM_S
    if firm.sum() < FEWEST_FIRM:
        firm[:] = True
    alike = _alike(vectors[firm], spans[firm], cosines)
    labels = cluster(vectors[firm], counts, alike=alike, cosines=cosines)
    return unit(centroids(vectors[firm], labels))


def _alike(vectors: np.ndarray, spans: np.ndarray, cosines: Cosines) -> float:
    """How similar stretches of one speaker are in this recording: the median of those of one local speaker of one chunk
    that share no time."""
    found = []
    for apart in (1, 2, 3):
        first, second = spans[:-apart], spans[apart:]
        one = (first[:, :2] == second[:, :2]).all(axis=1) & (first[:, 3] <= second[:, 2] + 2)
        found.append(np.einsum("nd,nd->n", vectors[:-apart][one], vectors[apart:][one]))
    similar = np.concatenate(found)
    if len(similar) < FEWEST_FIRM:
        return cosines.alike
    return float(np.clip(np.median(similar), cosines.alike_least, cosines.alike_most))


def _assign(evidence: Evidence, means: np.ndarray, cosines: Cosines) -> tuple[np.ndarray, np.ndarray]:
    """Which speaker each local one is in each frame, int8 ``[chunks, frames, locals]``, -1 for nobody; and how sure
    that is, ``[chunks, speakers]``, NaN where the voice was not heard."""
    chunks, length, locals_ = evidence.activities.shape
    assigned = np.full((chunks, length, locals_), -1, np.int8)
    sure = np.full((chunks, len(means)), np.nan)
    bounds = np.searchsorted(evidence.spans[:, 0], np.arange(chunks + 1))
    reach = -(-length // evidence.hop_frames)
    for chunk in range(chunks):
        near = slice(bounds[max(chunk - reach, 0)], bounds[min(chunk + reach + 1, chunks)])
        scores = evidence.embeddings[near] @ means.T
        shared = _shared(evidence, chunk, near)
        heard = np.flatnonzero(shared.any(axis=0))
        if not len(heard):
            continue
        voices = unit(shared[:, heard].T.astype(np.float64) @ evidence.embeddings[near]) @ means.T
        for local, voice, who in zip(heard, voices, _choose(voices, cosines.trust), strict=True):
            others = np.delete(voice, who)
            margin = voice[who] - (others.max() if len(others) else cosines.unlike)
            sure[chunk, who] = np.fmax(sure[chunk, who], 1 / (1 + np.exp(-cosines.steepness * margin)))
            against = scores.max(axis=1) - scores[:, who] > cosines.against
            if shared[against, local].sum() * evidence.frame_s < SEVERAL_S:
                assigned[chunk, :, local] = who
            else:
                middles = evidence.spans[near, 2:].mean(axis=1) - chunk * evidence.hop_frames
                weights = _nearness(middles, length, evidence.frame_s) * (shared[:, local] > 0)
                assigned[chunk, :, local] = (weights @ scores).argmax(axis=1)
    _assign_unheard(evidence, assigned, len(means))
    return assigned, sure


def _shared(evidence: Evidence, chunk: int, near: slice) -> np.ndarray:
    """In how many frames of what was embedded each local speaker of a chunk speaks alone, int64 ``[windows,
    locals]``; none where that is less than half."""
    activity = evidence.activities[chunk] >= ALL / 2
    alone = activity & (activity.sum(axis=1, keepdims=True) == 1)
    so_far = np.concatenate((np.zeros((1, alone.shape[1]), np.int64), np.cumsum(alone, axis=0)))
    begin = chunk * evidence.hop_frames
    first, end = (np.clip(evidence.spans[near, i] - begin, 0, len(activity)) for i in (2, 3))
    shared = so_far[end] - so_far[first]
    length = evidence.spans[near, 3] - evidence.spans[near, 2]
    return np.where(2 * shared >= length[:, None], shared, 0)


def _nearness(middles: np.ndarray, frames: int, frame_s: float) -> np.ndarray:
    """What each embedding counts in each frame, ``[frames, windows]``: the near ones, or else the nearest."""
    distance = np.abs(np.arange(frames)[:, None] - middles[None]) * frame_s
    return np.maximum(1 - distance / NEAR_S, 0) + 1e-3 / (1 + distance)


def _choose(scores: np.ndarray, trust: float) -> np.ndarray:
    """The speaker of each local one by similarity ``[locals, speakers]``: different ones where that costs less than
    ``trust``."""
    nearest = scores.argmax(axis=1)
    if len(scores) > scores.shape[1] or len(set(nearest.tolist())) == len(nearest):
        return nearest
    rows, columns = linear_sum_assignment(-scores)
    lost = scores[rows, nearest].sum() - scores[rows, columns].sum()
    return columns if lost < trust else nearest


def _assign_unheard(evidence: Evidence, assigned: np.ndarray, speakers: int) -> None:
    """Give local speakers that were never heard alone to whom the chunks beside them have there."""
    active, hop = evidence.activities >= ALL / 2, evidence.hop_frames
    shared = active.shape[1] - hop
    for chunk, local in np.argwhere((assigned < 0).all(axis=1) & active.any(axis=1)):
        votes = np.zeros(speakers)
        for other in (chunk - 1, chunk + 1):
            if 0 <= other < len(active):
                here, there = (
                    (slice(shared), slice(hop, None)) if other < chunk else (slice(hop, None), slice(shared))
                )
                both = active[chunk, here, local, None] & active[other, there] & (assigned[other, there] >= 0)
                votes += np.bincount(assigned[other, there][both], minlength=speakers)
        if speakers > 1:
            taken = assigned[chunk][assigned[chunk] >= 0]
            votes[np.unique(taken)] = 0
        if votes.any() or speakers == 1:
            assigned[chunk, :, local] = int(votes.argmax())


def _recording_activity(evidence: Evidence, assigned: np.ndarray, speakers: int) -> np.ndarray:
    """Who speaks in each frame of the recording, bool ``[frames, speakers]``: the mean of what the chunks there say,
    that in whose middle it lies counting the most."""
    activities, hop = evidence.activities, evidence.hop_frames
    chunks, length = activities.shape[:2]
    total = (chunks - 1) * hop + length if chunks else 0
    speaking = np.zeros((total, speakers), bool)
    weight = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1.0
    reach = -(-length // hop)
    for part in range(-(-total // hop)):
        begin, end = part * hop, min((part + 1) * hop, total)
        votes, number, weights = (
            np.zeros((end - begin, speakers)),
            np.zeros(end - begin),
            np.zeros(end - begin),
        )
        for chunk in range(max(part - reach + 1, 0), min(part + 1, chunks)):
            own = slice(begin - chunk * hop, min(end - chunk * hop, length))
            heard, w = activities[chunk, own] / ALL, weight[own]
            said = np.zeros((len(w), speakers))
            for local, who in enumerate(assigned[chunk, own].T):
                rows = np.flatnonzero(who >= 0)
                said[rows, who[rows]] = np.maximum(said[rows, who[rows]], heard[rows, local])
            votes[: len(w)] += said * w[:, None]
            number[: len(w)] += said.sum(axis=1) * w
            weights[: len(w)] += w
        number = np.floor(number / weights + 0.5)
        rank = np.argsort(np.argsort(-votes, axis=1, kind="stable"), axis=1, kind="stable")
        speaking[begin:end] = (rank < number[:, None]) & (votes > 0)
    return speaking


def _turns(speaking: np.ndarray, sure: np.ndarray, means: np.ndarray, evidence: Evidence) -> Diarization:
    """The turns of what is spoken, short gaps closed, and the speakers numbered by when they first speak."""
    silent = ~speaking.any(axis=1)
    most, least = round(CLOSED_GAP_S / evidence.frame_s), round(SHORTEST_TURN_S / evidence.frame_s)
    found = []
    for who, column in enumerate(speaking.T):
        column |= without_gaps(column, most) & silent
        for first, end in runs(column).tolist():
            start_s, end_s = (evidence.first_s + frame * evidence.frame_s for frame in (first, end))
            end_s = min(end_s, evidence.duration_s)
            if end - first < least or end_s <= start_s:
                column[first:end] = False
            else:
                found.append((start_s, end_s, who, first, end))
    found.sort(key=lambda turn: (turn[0], turn[2]))
    order = list(dict.fromkeys(turn[2] for turn in found))
    crowded = np.concatenate(([0], np.cumsum(speaking.sum(axis=1) > 1)))
    spoken = [(order.index(who), end - start) for start, end, who, _, _ in found]
    return Diarization(
        starts_s=np.array([turn[0] for turn in found], np.float64),
        ends_s=np.array([turn[1] for turn in found], np.float64),
        speakers=np.array([who for who, _ in spoken], np.int64),
        confidences=np.array(
            [_confidence(sure[:, turn[2]], *turn[3:], evidence) for turn in found], np.float64
        ),
        overlaps=np.array([crowded[end] > crowded[first] for _, _, _, first, end in found], bool),
        centroids=means[order].astype(np.float32),
        seconds=np.bincount([who for who, _ in spoken], [length for _, length in spoken], len(order)),
    )


def _confidence(sure: np.ndarray, first: int, end: int, evidence: Evidence) -> float:
    """The mean over the chunks in whose middle a turn lies; 0.5 where none of them heard the voice."""
    margin = (evidence.activities.shape[1] - evidence.hop_frames) // 2
    chunks = np.clip((np.array([first, end - 1]) - margin) // evidence.hop_frames, 0, len(sure) - 1)
    heard = sure[chunks[0] : chunks[1] + 1]
    heard = heard[np.isfinite(heard)]
    return float(heard.mean()) if len(heard) else 0.5
