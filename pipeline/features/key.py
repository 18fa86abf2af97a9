"""Musical key: which of the 24 major and minor keys the pitch classes of a track fit best."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipeline.dsp.harmonics import frame_lengths
from pipeline.dsp.onsets import OnsetCurve, TempoSearch
from pipeline.errors import Fallback
from pipeline.features.base import Extraction, Extractor, Running, column, register
from pipeline.features.chroma import METHODS as CHROMA_METHODS
from pipeline.features.chroma import normalise_frames, usable_method
from pipeline.features.key_profiles import (
    KEYS,
    PROFILES,
    key_clearness,
    key_confidence,
    key_scores,
)
from pipeline.features.spectra import SharedSpectra
from pipeline.features.tempo import shared_rhythm
from pipeline.features.track import TrackInfo
from pipeline.optional import look_up

BACKENDS = ("own", "essentia")
METHODS = ("peaks", *CHROMA_METHODS)

_TOP = 3
LEAST_EVIDENCE = 0.2
"""``key_evidence`` below which no key is claimed. Half of the recordings of `benchmarks/tonality.py` are
told apart best at 0.23, and real drums reach 0.28. Of the other half 0.7 % of what has no key gets one, and 0.9 % of
the music loses its key."""

UNSURE = 0.6
"""``key_confidence`` below which a key is unsure."""

BEGINNING_SECONDS, BEGINNING_WEIGHT = 2.0, 0.4
"""Music mostly begins on its tonic: the first seconds that sound count once more, with this weight against that of the
whole."""

# A frame so far below the loudest one does not sound, as in the chroma.
_SILENT_FRAME = 1e-6

_TOO_LONG = "the track is longer than one block"
_FLATS = {"Db": "C#", "Eb": "D#", "Gb": "F#", "Ab": "G#", "Bb": "A#"}

# The mel bands that the tempo extractor follows by default, so that beats are shared with it.
_BEAT_MELS = 128


@register
@dataclass(frozen=True)
class Key(Extractor):
    """Key by correlation of the mean chroma with the profiles of the 24 keys (Krumhansl and Schmuckler).

    The chroma is that of spectral peaks (`pipeline.dsp.harmonics`), which drums hardly change. Each frame that sounds
    counts alike: it is divided by its length before the mean is taken, to which 0.4 times the mean of the first two
    seconds is added. With the methods of the chroma extractor it is the plain mean of the chroma of that one, which is
    computed only once.

    ``key_confidence`` is how likely the key is right, as counted on scores played by instruments of many kinds
    (`benchmarks/truth.py`): a logistic curve over a clearness ``c``, 1 / (1 + exp(0.5 - 5 c)). ``c`` is the lead of
    the best key over the second best, ``(r1 - r2) / (1 - p2)``, times the fit ``r1 ** 2``, times ``min(1, v / vp)``,
    and at most 1. ``r1`` and ``r2`` are their scores, ``p2`` is the second best score of the profile itself, ``v`` and
    ``vp`` are the standard deviation over the mean of the chroma and of the profile. It was counted with the default
    method and profile; with others it orders keys and no more.

    ``key_evidence`` says whether there are notes at all that a key could be of: how closely the strong partials keep to
    one scale of semitones, wherever that lies. It is the mean resultant length (Mardia and Jupp, "Directional
    statistics", 2000) of their distances to the scale, where a frame that sounds counts as one partial at least. A
    chord has 1, tonal music 0.3 to 0.9, noise, clicks and speech less than 0.15, drums up to 0.3. Below 0.2 there is no
    key; music whose partials lie everywhere, such as death metal, has none then either.

    Args:
        backend: ``own``, or ``essentia`` for its KeyExtractor on the same audio, which tells only the best key:
            ``key_scores`` and ``key_confidence`` are None. Where it is not installed the track gets ``own`` and
            a fallback record.
        profile: one of `PROFILES`, of either backend.
        method: chroma, ``peaks``, or ``cqt`` or ``stft`` as in the chroma extractor; of ``own``, as are those below.
        n_fft: FFT length, samples, of ``stft`` and of the tuning.
        hop_length: samples between frames, of ``cqt``, ``stft`` and the tuning.
        beat_sync: take the median of the frames from beat to beat before the mean. Beats are those of the tempo
            extractor at its defaults; a track without them gets frames and a fallback record.

    Beats and Essentia need the whole track at once: one of several blocks gets frames and ``own``, on record.
    """

    name: ClassVar[str] = "key"
    version: ClassVar[str] = "4"
    views: ClassVar[tuple[str, ...]] = ("mono",)
    description: ClassVar[str] = "musical key"

    backend: str = "own"
    profile: str = "thpcp"
    method: str = "peaks"
    n_fft: int = 2048
    hop_length: int = 512
    beat_sync: bool = False

    def check(self) -> None:
        for parameter, choices in (("backend", BACKENDS), ("profile", tuple(PROFILES)), ("method", METHODS)):
            value = getattr(self, parameter)
            if value not in choices:
                raise ValueError(f"{parameter}={value} must be one of {', '.join(choices)}")
        if self.n_fft < 256:
            raise ValueError(f"n_fft={self.n_fft} must be at least 256")
        if not self.hop_length > 0:
            raise ValueError(f"hop_length={self.hop_length} must be positive")

    def columns(self) -> tuple[pa.Field, ...]:
        source = "Krumhansl, Cognitive foundations of musical pitch, 1990"
        return (
            column(
                "key_name",
                pa.string(),
                "name",
                "tonic of the best key: C, C#, … B; undefined for silence and where key_evidence is below "
                f"{LEAST_EVIDENCE:g}",
                source,
            ),
            column("key_mode", pa.string(), "name", "major or minor; undefined without a key", source),
            column(
                "key_confidence",
                pa.float32(),
                "ratio",
                f"how likely the key is right, as counted on played scores (benchmarks/RESULTS.md): below {UNSURE:g} "
                "unsure; from the lead of the best key over the second best, the fit of the best and the contrast of "
                "the chroma; undefined without a key and with the essentia backend",
            ),
            column(
                "key_evidence",
                pa.float32(),
                "ratio",
                "how closely the strong partials keep to one scale of semitones: near 1 for tonal music, near 0 for "
                "noise, drums and speech; undefined for silence",
                "mean resultant length: Mardia and Jupp, Directional statistics, 2000",
            ),
            column(
                "key_scores",
                pa.list_(pa.float32()),
                "1",
                "correlations of the mean chroma with the key profiles: C major to B major, then C minor to "
                "B minor; undefined for silence and with the essentia backend",
                source,
            ),
            column(
                "key_top",
                pa.list_(pa.string()),
                "name",
                "the three best keys, such as A minor, best first; undefined without a key",
                source,
            ),
        )

    def start(self, track: TrackInfo) -> Running:
        """Begin a track; all None for silence and without samples."""
        return _KeyRun(self, track)


class _KeyRun(Running):
    def __init__(self, key: Key, track: TrackInfo) -> None:
        self.key, self.track = key, track
        self.undefined: dict[str, None] = {f.name: None for f in key.columns()}
        self.fallbacks: list[Fallback] = []
        self.method: str | None = None
        self.total, self.frames = np.zeros(12), 0
        self.beginning = np.zeros((12, 0))
        self.by_essentia: dict[str, Any] | None = None
        self.sounding = 0.0
        self.hops_per_frame = 1.0
        self.in_tune = (0.0, 0)

    def add(self, block: SharedSpectra) -> None:
        if self.method is None and self._begin(block):
            return
        lengths = self.key.n_fft, self.key.hop_length
        self.in_tune = block.partials(*lengths).in_tune()
        loudest = block.loudest_chroma(self.method, *lengths)
        if loudest == 0.0:
            return
        raw = block.chroma(self.method, *lengths).numpy()
        # Of amplitudes, as those of the constant-Q transform.
        scale = "cqt" if self.method == "peaks" else self.method
        chroma, sounding = normalise_frames(raw, "l2", scale, loudest)
        self.sounding += sounding.sum() * self.hops_per_frame
        frames = each = chroma[:, sounding]
        if self.key.beat_sync and self.track.one_block:
            frames = self._beats(block, chroma, sounding, frames)
        self.total += frames.sum(axis=1)
        self.frames += frames.shape[1]
        if self.method == "peaks":
            seconds_per_frame = self.hops_per_frame * self.key.hop_length / self.track.sample_rate
            missing = round(BEGINNING_SECONDS / seconds_per_frame) - self.beginning.shape[1]
            self.beginning = np.concatenate([self.beginning, each[:, :missing]], axis=1)

    def chroma(self) -> np.ndarray | None:
        """Mean of the frames, ``[12]``, with its beginning: what scores are of; None where nothing sounds."""
        if not self.frames:
            return None
        chroma = self.total / self.frames
        if self.method == "peaks":
            chroma = chroma + BEGINNING_WEIGHT * self.beginning.mean(axis=1)
        return chroma

    def _begin(self, block: SharedSpectra) -> bool:
        """Settle what the first block settles; True where Essentia has done all there is to do."""
        key = self.key
        if key.backend == "essentia":
            reason = essentia_obstacle() if self.track.one_block else _TOO_LONG
            if reason is None:
                self.by_essentia = find_by_essentia(block, key.profile)
                lengths = key.n_fft, key.hop_length
                self.in_tune = block.partials(*lengths).in_tune()
                power = block.power(*lengths).sum(dim=0)
                self.sounding = int((power > _SILENT_FRAME * power.amax()).sum()) if len(power) else 0
                return True
            self.fallbacks.append(Fallback("features", "key.backend=essentia", "own", reason))
        self.method, fallbacks = usable_method(key.method, "key.method", block)
        self.fallbacks += fallbacks
        if self.method == "peaks":
            self.hops_per_frame = frame_lengths(block.sample_rate)[1] / key.hop_length
        if key.beat_sync and not self.track.one_block:
            self.fallbacks.append(Fallback("features", "key.beat_sync=true", "frames", _TOO_LONG))
        return False

    def _beats(
        self, block: SharedSpectra, chroma: np.ndarray, sounding: np.ndarray, frames: np.ndarray
    ) -> np.ndarray:
        lengths = self.key.n_fft, self.key.hop_length
        curve = OnsetCurve(*lengths)
        curve.add(block.rises(*lengths, _BEAT_MELS))
        rhythm = shared_rhythm(self.track, curve, *lengths, _BEAT_MELS, search=TempoSearch())
        if rhythm is not None and len(rhythm.beats):
            return beat_medians(chroma, sounding, np.round(rhythm.beats / self.hops_per_frame))
        reason = "no steady beat was found"
        self.fallbacks.append(Fallback("features", "key.beat_sync=true", "frames", reason))
        return frames

    def finish(self) -> Extraction:
        if self.by_essentia is not None:
            return Extraction(self._claimed(self.by_essentia), backend="essentia")
        chroma = self.chroma()
        scores = None if chroma is None else key_scores(chroma, self.key.profile)
        if chroma is None or scores is None:
            return Extraction(self.undefined, fallbacks=self.fallbacks)
        order = np.argsort(-scores, kind="stable")
        tonic, mode = KEYS[order[0]]
        values = {
            "key_name": tonic,
            "key_mode": mode,
            "key_confidence": key_confidence(key_clearness(chroma, scores, self.key.profile)),
            "key_scores": scores.astype(np.float32),
            "key_top": [" ".join(KEYS[i]) for i in order[:_TOP]],
        }
        return Extraction(self._claimed(values), fallbacks=self.fallbacks)

    def _claimed(self, values: dict[str, Any]) -> dict[str, Any]:
        """All columns: with no key, but what speaks against one, where the evidence does not suffice."""
        if not self.sounding:
            return self.undefined
        length, partials = self.in_tune
        evidence = length / max(partials, self.sounding)
        if evidence < LEAST_EVIDENCE:
            values = {name: values[name] for name in ("key_scores",) if name in values}
        return self.undefined | values | {"key_evidence": evidence}


def unsure(confidence: np.ndarray) -> np.ndarray:
    """Whether keys are weak, by their ``key_confidence``; NaN, where there is none to go by, is not: bool."""
    return np.asarray(confidence) < UNSURE


def find_by_essentia(block: SharedSpectra, profile: str) -> dict[str, Any]:
    """The columns that Essentia's KeyExtractor tells; none for silence."""
    waveform = block.waveform()
    if waveform.numel() == 0 or float(waveform.abs().amax()) == 0.0:
        return {}
    import essentia

    essentia.log.infoActive = False
    import essentia.standard

    extractor = essentia.standard.KeyExtractor(profileType=profile, sampleRate=block.sample_rate)
    tonic, mode, _ = extractor(waveform.numpy())
    tonic = _FLATS.get(tonic, tonic)
    return {"key_name": tonic, "key_mode": mode, "key_top": [f"{tonic} {mode}"]}


def essentia_obstacle() -> str | None:
    """Why Essentia's KeyExtractor cannot run, or None."""
    found = look_up("essentia", load=True)
    return None if found.available else found.reason


def beat_medians(chroma: np.ndarray, sounding: np.ndarray, beats: np.ndarray) -> np.ndarray:
    """Median of the sounding frames from each beat to the next, before the first and after the last too.

    Args:
        chroma: ``[12, frames]``.
        sounding: ``[frames]``, bool.
        beats: frames of the beats, ascending.

    Returns:
        ``[12, beats]`` of unit length, without those where nothing sounds.
    """
    bounds = [0, *(int(b) for b in beats if 0 < b < chroma.shape[1]), chroma.shape[1]]
    spans = (chroma[:, a:b][:, sounding[a:b]] for a, b in itertools.pairwise(bounds))
    medians = [np.median(span, axis=1) for span in spans if span.shape[1]]
    medians = [m / np.linalg.norm(m) for m in medians if m.any()]
    return np.stack(medians, axis=1) if medians else np.zeros((12, 0))
