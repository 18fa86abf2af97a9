"""What the networks say of who speaks when: activities of local speakers, and embeddings of their voices.

Segmentation hears 10 s, and then 10 s that begin 2.5 s later; an embedder hears stretches of up to 1.5 s in which one
of its local speakers speaks alone. `pipeline.speech.diarization` makes turns of it, once for a whole recording: of ten
hours that is some 60 MB. Audio is held for less than half a minute. Pyannote.audio alone does it all by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.dsp.runs import runs, without_gaps
from pipeline.errors import UserError
from pipeline.models.backends import no_backend
from pipeline.models.speech.base import Backend, BackendUnavailable
from pipeline.models.speech.diarize_names import BACKEND_NAMES, OWN_MODELS
from pipeline.models.speech.pyannote_pipeline import Told
from pipeline.models.speech.pyannote_pipeline import load as load_pyannote
from pipeline.models.speech.samples import mono_samples
from pipeline.models.speech.segmentation_network import (
    FRAME_STEP,
    FRAMES,
    POWERSET,
    RECEPTIVE_FIELD,
    SPEAKERS,
    WINDOW,
    SegmentationNetwork,
)
from pipeline.models.speech.speaker_embedding import SpeakerEmbedder

SAMPLE_RATE = 16_000
HOP_FRAMES = 148
"""From one chunk to the next, 2.4975 s: every time is heard four times, as a part of different contexts."""
HOP = HOP_FRAMES * FRAME_STEP
EMBEDDED_S = 1.5
EMBEDDED_HOP_S = 0.75
SHORTEST_EMBEDDED_S = 0.4
PAUSE_S = 0.3
"""A speaker's own pause up to this does not end what is embedded in one piece."""

# Chunks that go through the network together; always the same ones, however the audio comes.
_GROUP = 4
_GROUP_SAMPLES = (_GROUP - 1) * HOP + WINDOW
# The first sample that a frame stands for, where its filters look at `RECEPTIVE_FIELD` from `FRAME_STEP * i` on.
_FIRST_SAMPLE = (RECEPTIVE_FIELD - FRAME_STEP) // 2
_MARGIN = (FRAMES - HOP_FRAMES) // 2


class Embedder(Protocol):
    """A network that makes a vector of a stretch of speech.

    Attributes:
        dimensions: of a vector.
        cosines: what similarities of its vectors mean, of `pipeline.speech.clustering.Cosines`, where that is something
            else than with CAM++.
    """

    dimensions: int
    cosines: Mapping[str, float]

    def model_id(self) -> str:
        """Name and weights hash."""
        ...

    def embed(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """float32 ``[windows, dimensions]`` of unit length, of float32 ``[n]`` at 16 kHz each."""
        ...


class RecordingStream(Protocol):
    """One recording of a backend."""

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, float ``[n]`` within -1..1, any n."""
        ...

    def finish(self) -> Heard | Told:
        """What there is to cluster; or turns, of a backend that clusters by itself."""
        ...


class DiarizationBackend(Backend, Protocol):
    """A backend that hears who speaks when; `pipeline.stages.diarize.turns` makes turns of what it hears."""

    def stream(
        self, *, num: int | None = None, minimum: int = 1, maximum: int | None = None
    ) -> RecordingStream:
        """Begin a recording.

        Args:
            num, minimum, maximum: of speakers, see `pipeline.speech.clustering.SpeakerCounts`; for one that clusters by
                itself.
        """
        ...


@dataclass(frozen=True)
class Heard:
    """What the networks say of one recording; frames of all chunks lie on one grid.

    Args:
        activities: uint8 ``[chunks, frames, 3]``: how likely each of a chunk's local speakers speaks, 0 to 255.
        spans: int64 ``[windows, 4]``, by chunk: chunk, local speaker, first frame of the recording and the one after
            the last of what was embedded.
        embeddings: float32 ``[windows, d]`` of unit length.
        duration_s: of the recording.
        hop_frames: frames from one chunk to the next.
        frame_s: from one frame to the next.
        first_s: where the first frame begins.
        cosines: of the embedder.
    """

    activities: np.ndarray
    spans: np.ndarray
    embeddings: np.ndarray
    duration_s: float
    hop_frames: int = HOP_FRAMES
    frame_s: float = FRAME_STEP / SAMPLE_RATE
    first_s: float = _FIRST_SAMPLE / SAMPLE_RATE
    cosines: Mapping[str, float] = field(default_factory=dict)


class Diarizer:
    """A backend that hears what is clustered.

    Args:
        name: of the backend.
        segmentation: tells up to three people apart.
        embedder: makes vectors of voices.
    """

    version = "1"
    sample_rate = SAMPLE_RATE

    def __init__(self, name: str, segmentation: SegmentationNetwork, embedder: Embedder) -> None:
        self.name = name
        self.segmentation = segmentation
        self.embedder = embedder

    def model_id(self) -> str:
        """Names and weights hashes of both networks."""
        return f"{self.segmentation.model_id()}+{self.embedder.model_id()}"

    def stream(
        self, *, num: int | None = None, minimum: int = 1, maximum: int | None = None
    ) -> DiarizationStream:
        """Begin a recording. How many speak matters only to clustering."""
        return DiarizationStream(self.segmentation, self.embedder)


class DiarizationStream:
    """One recording, piece by piece.

    Args:
        segmentation, embedder: as of `Diarizer`.
    """

    def __init__(self, segmentation: SegmentationNetwork, embedder: Embedder) -> None:
        self._segmentation = segmentation
        self._embedder = embedder
        self._pieces: list[np.ndarray] = []
        self._held = 0
        self._samples = 0
        self._chunks = 0
        self._activities: list[np.ndarray] = []
        self._spans: list[tuple[int, int, int, int]] = []
        self._embeddings: list[np.ndarray] = []
        self._finished = False

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, float ``[n]`` within -1..1, any n.

        Raises:
            ValueError: another shape or type, samples that are not finite, or the recording is finished.
        """
        self._require_open()
        samples = mono_samples(samples)
        self._samples += len(samples)
        for first in range(0, len(samples), _GROUP_SAMPLES):
            # A copy: the caller may go on to use its array.
            self._pieces.append(samples[first : first + _GROUP_SAMPLES].copy())
            self._held += len(self._pieces[-1])
            # One more than that, so that another chunk follows for certain.
            while self._held > _GROUP_SAMPLES:
                audio = np.concatenate(self._pieces)
                self._hear(audio, _GROUP, last=False)
                self._pieces = [audio[_GROUP * HOP :].copy()]
                self._held = len(self._pieces[0])

    def finish(self) -> Heard:
        """All that was heard. Raises `ValueError` where the recording is finished already."""
        self._require_open()
        self._finished = True
        if self._samples:
            chunks = 1 + max(0, -(-(self._held - WINDOW) // HOP))
            audio = np.zeros((chunks - 1) * HOP + WINDOW, np.float32)
            audio[: self._held] = np.concatenate(self._pieces)
            self._hear(audio, chunks, last=True)
        self._pieces = []
        return Heard(
            np.concatenate(self._activities)
            if self._activities
            else np.zeros((0, FRAMES, SPEAKERS), np.uint8),
            np.array(self._spans, np.int64).reshape(-1, 4),
            np.concatenate([np.zeros((0, self._embedder.dimensions), np.float32), *self._embeddings]),
            self._samples / SAMPLE_RATE,
            cosines=self._embedder.cosines,
        )

    def _require_open(self) -> None:
        if self._finished:
            raise ValueError("this recording is finished")

    def _hear(self, audio: np.ndarray, chunks: int, *, last: bool) -> None:
        """Send so many chunks, which begin with ``audio``, through both networks; whether they are the last ones."""
        windows = np.stack([audio[i * HOP : i * HOP + WINDOW] for i in range(chunks)])
        probabilities = self._segmentation.powerset_probabilities(windows)
        activities = np.rint(np.clip(probabilities @ POWERSET, 0, 1) * 255).astype(np.uint8)
        stretches = []
        for index, (window, activity) in enumerate(zip(windows, activities, strict=True)):
            chunk = self._chunks + index
            is_last = last and index == chunks - 1
            for first, end, local in to_embed(activity >= 128, is_first=chunk == 0, is_last=is_last):
                begin = chunk * HOP_FRAMES
                self._spans.append((chunk, local, begin + first, begin + end))
                stretches.append(
                    window[_FIRST_SAMPLE + first * FRAME_STEP : _FIRST_SAMPLE + end * FRAME_STEP]
                )
        self._activities.append(activities)
        if stretches:
            self._embeddings.append(self._embedder.embed(stretches))
        self._chunks += chunks


def to_embed(activity: np.ndarray, *, is_first: bool, is_last: bool) -> list[tuple[int, int, int]]:
    """Which stretches of a chunk are embedded: those of one local speaker alone that lie the nearest to its middle.

    Args:
        activity: bool ``[frames, locals]`` of the chunk.
        is_first, is_last: of the recording's chunks.

    Returns:
        first frame, the one after the last, and local speaker of each, frames counted from the chunk's first.
    """
    own = (0 if is_first else _MARGIN), (FRAMES if is_last else _MARGIN + HOP_FRAMES)
    length, hop, least = (
        round(seconds * SAMPLE_RATE / FRAME_STEP)
        for seconds in (EMBEDDED_S, EMBEDDED_HOP_S, SHORTEST_EMBEDDED_S)
    )
    found = []
    for local, column in enumerate(_alone(activity).T):
        for start, stop in runs(column).tolist():
            if stop - start < least:
                continue
            starts = list(range(start, max(stop - length, start) + 1, hop))
            if stop - (starts[-1] + length) > hop // 2:
                starts.append(stop - length)
            spans = [(at, min(at + length, stop), local) for at in starts]
            found += [span for span in spans if own[0] <= (span[0] + span[1]) / 2 < own[1]]
    return found


def _alone(activity: np.ndarray) -> np.ndarray:
    """Where each local speaker speaks alone, own short pauses included, bool ``[frames, locals]``."""
    alone = activity & (activity.sum(axis=1, keepdims=True) == 1)
    silent = ~activity.any(axis=1)
    most = round(PAUSE_S * SAMPLE_RATE / FRAME_STEP)
    return np.stack([column | (without_gaps(column, most) & silent) for column in alone.T], axis=1)


def _load_campplus(device: str, model: str | None) -> Diarizer:
    return Diarizer("campplus", SegmentationNetwork.load(), SpeakerEmbedder.load(device))


def _load_resemblyzer(device: str, model: str | None) -> Diarizer:
    from pipeline.models.speech.voice_encoder import VoiceEmbedder

    return Diarizer("resemblyzer", SegmentationNetwork.load(), VoiceEmbedder.load(device))


def _load_ecapa(device: str, model: str | None) -> Diarizer:
    from pipeline.models.speech.ecapa_embedding import EcapaEmbedder

    return Diarizer("ecapa", SegmentationNetwork.load(), EcapaEmbedder.load(device, model))


REGISTRY: dict[str, Callable[[str, str | None], DiarizationBackend]] = {
    "campplus": _load_campplus,
    "resemblyzer": _load_resemblyzer,
    "ecapa": _load_ecapa,
    "pyannote": load_pyannote,
}
"""Name → how to load it for a device, with a model where it has several."""


def load_backend(name: str, device: str = "cpu", model: str | None = None) -> DiarizationBackend:
    """The backend called ``name``.

    Args:
        name: one of `BACKEND_NAMES`.
        device: ``cpu`` or ``cuda``.
        model: of those in `OWN_MODELS`: a folder, or ``owner/name`` in the hub's cache; None is the one named there.

    Raises:
        BackendUnavailable: it cannot run here; the message says what to type.
        UserError: there is no such name, or it has one model only.
    """
    if name not in REGISTRY:
        raise no_backend("there is no diarization backend {}", name, BACKEND_NAMES)
    if model is not None and name not in OWN_MODELS:
        raise UserError(f"the diarization backend {name} has one model only", do="diarize.model=null")
    return REGISTRY[name](device, model)


__all__ = [
    "BACKEND_NAMES",
    "REGISTRY",
    "BackendUnavailable",
    "DiarizationBackend",
    "DiarizationStream",
    "Diarizer",
    "Heard",
    "Told",
    "load_backend",
    "to_embed",
]
