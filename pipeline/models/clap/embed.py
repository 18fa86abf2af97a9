"""Windows of many tracks through the CLAP tower in shared batches, and back to their tracks."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline.audio.reader import ArrayReader, AudioReader
from pipeline.audio.windows import repeat_pad, window_spans
from pipeline.errors import Fallback, UserError
from pipeline.models.batching import BatchRunner
from pipeline.models.clap.aggregate import aggregate
from pipeline.models.clap.checkpoint import Checkpoint, read_checkpoint
from pipeline.models.clap.tower import CLIP_SAMPLES, CLIP_SECONDS, SAMPLE_RATE, AudioTower
from pipeline.models.model_cache import MODELS, ModelKey
from pipeline.models.precision import pick_precision

log = logging.getLogger(__name__)

# LAION scales by the largest int16, both ways.
_FULL_SCALE = 32767.0


@dataclass(frozen=True)
class Window:
    """One window of a track.

    Args:
        start_s: where it begins, s.
        end_s: where its audio ends, s; the filling up to the tower's 10 s does not count.
        rms_dbfs: RMS level, dB relative to full scale 1.0; None for digital silence.
        embedding: float32 ``[512]``, unit norm; None for a silent window, whose peak is below one int16 step.
        norm: length of the embedding before normalisation; None for a silent window.
    """

    start_s: float
    end_s: float
    rms_dbfs: float | None
    embedding: np.ndarray | None
    norm: float | None


@dataclass
class TrackWindows:
    """The windows of one track in order, or the error that only this track ran into."""

    windows: list[Window] = field(default_factory=list)
    error: Exception | None = None

    def aggregate(self, how: str) -> np.ndarray | None:
        """`pipeline.models.clap.aggregate.aggregate` over the windows that have an embedding."""
        heard = [w for w in self.windows if w.embedding is not None]
        if not heard:
            return None
        return aggregate(
            np.stack([w.embedding for w in heard]),
            how,
            seconds=np.array([w.end_s - w.start_s for w in heard]),
            rms=np.array([10 ** (w.rms_dbfs / 20) for w in heard]),
            norms=np.array([w.norm for w in heard]),
        )


@dataclass(frozen=True)
class BatchReport:
    """What one batch was and cost.

    Args:
        items: windows in it.
        audio_s: real audio in it, s, without filling.
        padding_fraction: share of what the tower processed that was filling, 0..1.
        compute_s: transfer, tower and transfer back, s.
    """

    items: int
    audio_s: float
    padding_fraction: float
    compute_s: float


@dataclass
class TrackCost:
    """What a track cost.

    Args:
        compute_s: its own preparation, and of each batch it was in the share of its audio seconds; attempts
            that failed included, so that the sum over tracks is what was spent.
        batch: the batch that held most of its audio; None if it was in none.
    """

    compute_s: float = 0.0
    batch: BatchReport | None = None


@dataclass
class EmbedReport:
    """What a call of `ClapEmbedder.embed_tracks` cost: per batch, and per track in the order given."""

    batches: list[BatchReport]
    tracks: list[TrackCost]


class ClapEmbedder:
    """Embeds tracks with one checkpoint on one device.

    Args:
        checkpoint: see `read_checkpoint`.
        device: ``cpu`` or ``cuda``.
        amp: ``auto``, ``true`` or ``false``: the transformer's matrices in bfloat16, see `pick_precision`.
        max_batch_audio_seconds: bound of a batch. Every window counts as the 10 s that the tower processes
            however short it is, since that is what takes memory; one window is always allowed.
        window_seconds: at most 10, the clip HTSAT was trained on. Shorter windows are repeated up to that.
        hop_seconds: distance between the starts of two windows.

    Raises:
        UserError: a parameter is out of range, or the checkpoint is refused.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "cpu",
        amp: str | bool = "auto",
        max_batch_audio_seconds: float = 80.0,
        window_seconds: float = 10.0,
        hop_seconds: float = 5.0,
    ) -> None:
        self.window = _samples("clap.window_seconds", window_seconds)
        self.hop = _samples("clap.hop_seconds", hop_seconds)
        if self.window > CLIP_SAMPLES:
            raise UserError(
                f"clap.window_seconds={window_seconds:g}: the tower takes {CLIP_SECONDS:g} s at most"
            )
        if not 0 < max_batch_audio_seconds < math.inf:
            raise UserError(f"clap.max_batch_audio_seconds={max_batch_audio_seconds:g} must be above 0")
        self.device = device
        self.precision = pick_precision(amp, device)
        short = self.precision.fallback("clap")
        self.fallbacks: list[Fallback] = [short] if short else []
        loaded = read_checkpoint(checkpoint)
        self.info = loaded.info
        self.tower = self._tower(device, self.precision.dtype, lambda: loaded)
        self.runner: BatchRunner[np.ndarray, tuple[np.ndarray, float]] = BatchRunner(
            "clap",
            self._forward,
            device,
            max(1, int(max_batch_audio_seconds // CLIP_SECONDS)),
            key=(self.model_id, self.precision.name),
        )

        # Size and seconds of each batch of the run going on.
        self.ran: list[tuple[int, float]] = []

    @property
    def model_id(self) -> str:
        """Architecture and weights, such as ``HTSAT-base:0123456789ab``: the embedding space."""
        return self.info.model_id

    @property
    def backend(self) -> str:
        """Architecture and number format, such as ``HTSAT-base bfloat16``."""
        return f"{self.info.architecture} {self.precision.name}"

    def warm_up(self) -> float:
        """Run noise, so that the first real batch finds kernels ready, and on a GPU its memory. Seconds."""
        started = time.perf_counter()
        noise = np.random.default_rng(0).integers(-3000, 3000, CLIP_SAMPLES, np.int16)
        clips = 1 if self.device == "cpu" else max(3, self.runner.batch_items)
        self.runner.run([noise] * clips)
        return time.perf_counter() - started

    def embed_tracks(
        self, tracks: Sequence[np.ndarray | AudioReader]
    ) -> tuple[list[TrackWindows], EmbedReport]:
        """Embed the windows of all ``tracks``, filling batches across tracks.

        How windows fall into batches changes a component by less than 1e-5 in float32, 1e-3 in bfloat16.
        Where memory runs out the batches get smaller for good, and on a GPU a window that does not fit alone
        is run on the CPU, in float32; `take_fallbacks` tells.

        Args:
            tracks: mono at 48 kHz, float ``[samples]`` or a reader of one channel, -1..1; values beyond are
                clipped, as LAION does. Of a reader only the windows of a batch are in memory.

        Returns:
            one `TrackWindows` per track in the order given, and what it cost. A track that cannot be embedded
            carries its error and costs the others nothing but time; so does one of whose windows not even a
            single one fits into memory.

        Raises:
            torch.AcceleratorError: the GPU failed; the process cannot go on using it.
        """
        run = _Run(self, len(tracks))
        batch: list[_Clip] = []
        for clip in run.clips(tracks):
            batch.append(clip)
            if len(batch) >= self.runner.batch_items:
                run.embed(batch)
                batch = []
        run.embed(batch)
        return run.results, EmbedReport(run.batches, run.costs)

    def take_fallbacks(self) -> list[Fallback]:
        """What memory has forced since the last call."""
        return self.runner.take_fallbacks()

    def _tower(self, device: str, dtype: torch.dtype, read: Callable[[], Checkpoint]) -> AudioTower:
        key = ModelKey(f"clap-audio:{self.info.architecture}", self.info.sha256, device, str(dtype))
        return MODELS.get(key, lambda: AudioTower(read(), dtype).to(device))

    def _forward(self, clips: Sequence[np.ndarray], device: str) -> list[tuple[np.ndarray, float]]:
        """int16 clips → per clip its unit embedding ``[512]`` and the norm before normalisation."""
        started = time.perf_counter()
        tower = self.tower
        if device != self.device:
            tower = self._tower(device, torch.float32, lambda: read_checkpoint(self.info.path))
        filled = np.stack([repeat_pad(clip, CLIP_SAMPLES) for clip in clips])
        waveforms = torch.from_numpy(filled).to(device).float().div_(_FULL_SCALE)
        unit, raw = tower(waveforms, return_raw=True)
        unit, norms = unit.cpu().numpy(), raw.norm(dim=-1).cpu().numpy()
        if not (np.isfinite(unit).all() and np.isfinite(norms).all() and (norms > 0).all()):
            raise FloatingPointError("the tower returned an embedding that is zero, NaN or infinite")
        self.ran.append((len(clips), time.perf_counter() - started))
        return list(zip(unit, norms.tolist(), strict=True))


@dataclass(frozen=True)
class _Clip:
    """A window on its way through the tower: whose it is and its samples as int16, not filled yet."""

    track: int
    index: int
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


class _Run:
    """One call of `ClapEmbedder.embed_tracks`: results and costs as they come in."""

    def __init__(self, embedder: ClapEmbedder, tracks: int) -> None:
        self.embedder = embedder
        self.results = [TrackWindows() for _ in range(tracks)]
        self.costs = [TrackCost() for _ in range(tracks)]
        self.batches: list[BatchReport] = []
        self._most: Counter[int] = Counter()

    def clips(self, tracks: Sequence[np.ndarray | AudioReader]) -> Iterator[_Clip]:
        """The windows that are not silent. Silent ones and broken tracks are settled here."""
        for track, x in enumerate(tracks):
            result = self.results[track]
            try:
                for clip in self._track_clips(track, x):
                    yield clip
                    if result.error is not None:
                        break
            except (ValueError, OSError) as error:
                self._fail(track, error)

    def _track_clips(self, track: int, x: np.ndarray | AudioReader) -> Iterator[_Clip]:
        reader = _mono_reader(x)
        windows = self.results[track].windows
        for start, stop in window_spans(reader.samples, self.embedder.window, self.embedder.hop):
            started = time.perf_counter()
            view = reader.read(start, stop)[0]
            samples, rms = quantise(view), rms_dbfs(view)
            windows.append(Window(start / SAMPLE_RATE, stop / SAMPLE_RATE, rms, None, None))
            self.costs[track].compute_s += time.perf_counter() - started
            if samples.any():
                yield _Clip(track, len(windows) - 1, samples)

    def embed(self, clips: list[_Clip]) -> None:
        """Run a batch. If it fails, run it again track by track, and let only the culprit carry the error."""
        clips = [clip for clip in clips if self.results[clip.track].error is None]
        if not clips:
            return
        ran = self.embedder.ran = []
        started = time.perf_counter()
        try:
            results = self.embedder.runner.run([clip.samples for clip in clips])
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a network raises, its neighbours go on
            self._charge(clips, time.perf_counter() - started)
            tracks = sorted({clip.track for clip in clips})
            if len(tracks) == 1:
                self._fail(tracks[0], error)
                return
            log.warning("a CLAP batch of %d tracks failed, running them one by one: %r", len(tracks), error)
            for track in tracks:
                self.embed([clip for clip in clips if clip.track == track])
            return
        spent = time.perf_counter() - started
        for clip, (embedding, norm) in zip(clips, results, strict=True):
            windows = self.results[clip.track].windows
            w = windows[clip.index]
            windows[clip.index] = Window(w.start_s, w.end_s, w.rms_dbfs, embedding.copy(), norm)
        # What the runner took for itself, and for attempts that did not fit, is shared by all.
        self._charge(clips, spent - sum(compute_s for _, compute_s in ran))
        done = 0
        for items, compute_s in ran:
            self._report(clips[done : done + items], compute_s)
            done += items

    def _report(self, clips: list[_Clip], compute_s: float) -> None:
        """Enter a batch that ran as a whole."""
        seconds = self._charge(clips, compute_s)
        audio_s = sum(seconds.values())
        report = BatchReport(len(clips), audio_s, 1 - audio_s / (len(clips) * CLIP_SECONDS), compute_s)
        self.batches.append(report)
        for track, own in seconds.items():
            if own > self._most[track]:
                self._most[track] = own
                self.costs[track].batch = report

    def _charge(self, clips: list[_Clip], compute_s: float) -> dict[int, float]:
        """Split ``compute_s`` over the tracks by audio seconds, which are returned."""
        seconds: dict[int, float] = {}
        for clip in clips:
            seconds[clip.track] = seconds.get(clip.track, 0.0) + clip.seconds
        total = sum(seconds.values())
        for track, own in seconds.items():
            self.costs[track].compute_s += compute_s * own / total
        return seconds

    def _fail(self, track: int, error: Exception) -> None:
        self.results[track].windows.clear()
        self.results[track].error = error


def _mono_reader(x: np.ndarray | AudioReader) -> AudioReader:
    if not isinstance(x, np.ndarray):
        if x.channels != 1:
            raise ValueError(f"expected a mono track, got {x.channels} channels")
        return x
    if x.ndim != 1 or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"expected a mono track of floats [samples], got {x.dtype} {list(x.shape)}")
    return ArrayReader(x[None])


def quantise(x: np.ndarray) -> np.ndarray:
    """Clip float32 ``x`` to -1..1 and truncate to int16 steps of 1/32767, as ``laion_clap`` feeds its tower.

    Raises:
        ValueError: ``x`` holds NaN or infinity.
    """
    if not np.isfinite(x).all():
        raise ValueError("the audio holds NaN or infinity")
    return (np.clip(x, -1, 1) * np.float32(_FULL_SCALE)).astype(np.int16)


def rms_dbfs(x: np.ndarray) -> float | None:
    """RMS level of ``x``, dB relative to full scale 1.0 (a full-scale sine reads -3.01); None for silence."""
    peak = float(np.abs(x).max(initial=0.0))
    if peak == 0:
        return None
    return 20 * math.log10(peak) + 10 * math.log10(np.mean(np.square(x / peak, dtype=np.float64)))


def _samples(name: str, seconds: float) -> int:
    samples = round(seconds * SAMPLE_RATE) if math.isfinite(seconds) else 0
    if samples < 1:
        raise UserError(f"{name}={seconds:g} must be above 0")
    return samples
