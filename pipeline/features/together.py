"""Several short tracks at once: what many extractors share is computed for all tracks of a batch in one go.

On a GPU a clip of a few seconds launches thousands of kernels that have hardly anything to do. Here the frames of
several tracks lie side by side in one power spectrogram (`pipeline.features.packed`), and one call each makes
the mel spectrogram, the peaks that tell the tuning, the constant-Q chroma, the rises, the masks' energies and the
spectral descriptors of all of them. Each track's extractors then run as ever, on views.

Tracks are packed on a GPU only. On a CPU it gains nothing, for there chunks are as small as its caches, and matrix
products of other sizes round otherwise (the power is the same bit for bit, mel and chroma are not), while there
the columns of a track must not depend on its neighbours in a single bit. On a GPU the tolerance is 1e-3 dB, and
1e-5 of the largest value of other columns.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from pipeline.errors import Fallback
from pipeline.features.base import Extractor
from pipeline.features.chroma import cqt_obstacle
from pipeline.features.cqt import highest_frequency
from pipeline.features.filterbanks import mel_filterbank
from pipeline.features.packed import frame_spans, packed_power, packed_rises
from pipeline.features.packed_cqt import packed_chroma_cqt
from pipeline.features.pitch import strong_peaks_of_each
from pipeline.features.run import Outcome, TrackAudio, run_extractors
from pipeline.features.spectra import SharedSpectra, is_pcm

T = TypeVar("T")

BATCH_SECONDS = 300.0
"""Audio of one packed batch, a bound on its memory: 0.3 GB at 22050 Hz and the usual parameters, 53 MB of it the
power spectrogram, however the seconds divide into tracks. (Measured on a CPU with the chunks of a GPU, less what
CUDA and its libraries take.) A longer track is worked on alone."""

# A track of a few samples has a frame of its own, and counts as more than it lasts.
_LEAST_SECONDS = 0.1


def run_together(
    extractors: Sequence[Extractor],
    tracks: Sequence[TrackAudio],
    max_batch_seconds: float = BATCH_SECONDS,
    pack: bool | None = None,
) -> list[list[Outcome]]:
    """`run_extractors` on several tracks.

    A track that is longer than ``max_batch_seconds``, empty or in several blocks, or whose mono view holds
    what is no PCM, is worked on alone. So is a batch that fails as a whole, say for want of memory: its tracks
    then have a `Fallback` on record.

    Args:
        extractors: with their parameters.
        tracks: in any order; those at other rates or on other devices are in other batches.
        max_batch_seconds: audio of a packed batch.
        pack: whether tracks are packed at all; None for those on a GPU.

    Returns:
        per track an outcome per extractor, in order. What was computed for a batch is split by audio seconds
        over its tracks, and belongs to the extractor that asked first. An extractor that fails on one track
        stops neither the others nor the other tracks.

    Raises:
        torch.AcceleratorError: the GPU failed; the process cannot go on using it.
    """
    outcomes: list[list[Outcome]] = [[] for _ in tracks]
    for batch in plan_batches(tracks, max_batch_seconds, pack):
        chosen = [tracks[index] for index in batch]
        if len(chosen) == 1:
            found = [run_extractors(extractors, chosen[0].track, chosen[0].blocks)]
        else:
            found = SpectraBatch(chosen).run(extractors)
        for index, of_track in zip(batch, found, strict=True):
            outcomes[index] = of_track
    return outcomes


def plan_batches(
    tracks: Sequence[TrackAudio], max_batch_seconds: float = BATCH_SECONDS, pack: bool | None = None
) -> list[list[int]]:
    """Which tracks go together: lists of their numbers, each track in one; see `run_together`.

    In order: a batch is full when the next track of its kind would not fit. A track counts as 0.1 s at least.
    """
    batches: list[list[int]] = []
    open_: dict[tuple, tuple[list[int], float]] = {}
    for index, audio in enumerate(tracks):
        seconds = max(audio.track.seconds, _LEAST_SECONDS)
        wanted = torch.device(audio.device).type == "cuda" if pack is None else pack
        fits = audio.track.one_block and len(audio.mono) > 0 and seconds <= max_batch_seconds
        if not (wanted and fits and is_pcm(audio.mono)):
            batches.append([index])
            continue
        kind = audio.sample_rate, str(audio.device)
        batch, taken = open_.get(kind, ([], 0.0))
        if not batch or taken + seconds > max_batch_seconds:
            batch, taken = [], 0.0
            batches.append(batch)
        batch.append(index)
        open_[kind] = batch, taken + seconds
    return batches


@dataclass(frozen=True)
class _Charge:
    """Seconds spent on all tracks of a batch because extractor number ``asking`` needed something."""

    asking: int
    seconds: float


class BatchedSpectra(SharedSpectra):
    """`SharedSpectra` of a track of a batch: what the batch computes for all its tracks comes from there.

    Args:
        audio: one block.
        batch: the track's.
        index: of the track in the batch.
    """

    def __init__(self, audio: TrackAudio, batch: SpectraBatch, index: int) -> None:
        super().__init__(
            audio.mono,
            audio.sample_rate,
            audio.native,
            audio.native_rate,
            audio.device,
            track=audio.track,
            every_channel=audio.every_channel,
        )
        self.batch, self.index = batch, index

    def release(self) -> None:
        """Forget all intermediates."""
        self._cache.clear()

    def _once(self, key: tuple, compute: Callable[[], T]) -> T:
        return super()._once(key, lambda: self._shared(key, self.batch.makers.get(key[0]), compute))

    def result(
        self,
        key: tuple,
        compute: Callable[[SharedSpectra], T],
        compute_each: Callable[[SpectraBatch], Sequence[T]] | None = None,
    ) -> T:
        """As of a track alone, by ``compute_each`` where there is one."""

        maker = None if compute_each is None else lambda *_: compute_each(self.batch)
        return super()._once(key, lambda: self._shared(key, maker, lambda: compute(self)))

    def _shared(self, key: tuple, maker: Callable[..., Any] | None, compute: Callable[[], T]) -> T:
        parts = None if maker is None else self.batch.share(key, maker)
        part = None if parts is None else parts[self.index]
        return compute() if part is None else part


class SpectraBatch:
    """What the tracks of a batch have computed together, each of it at most once and only when one of them asks.

    Args:
        tracks: not empty and one block each, all at one sample rate and on one device.

    ``counts`` says how often each intermediate was computed for the whole batch; a count above one is a bug.
    ``problem`` is the error that put an end to the batch: from then on each track computes on its own.
    """

    def __init__(self, tracks: Sequence[TrackAudio]) -> None:
        self.sample_rate = tracks[0].sample_rate
        self.device = torch.device(tracks[0].device)
        self.members = [BatchedSpectra(audio, self, index) for index, audio in enumerate(tracks)]
        self.seconds = [audio.track.seconds for audio in tracks]
        self.counts: Counter[tuple] = Counter()
        self.problem: Exception | None = None
        # By the first word of the key under which `SharedSpectra` keeps it: a part per track, None where the
        # track has to see to it itself.
        self.makers: dict[str, Callable[..., Sequence[Any]]] = {
            "power": lambda *key: self._parts(self.power(*key), key[1]),
            "mel_bank": lambda *key: [self.mel_bank(*key)] * len(self.members),
            "mel": lambda *key: self._parts(self.mel(*key), key[1]),
            "rises": self._rises,
            "peaks": self._peaks,
            "chroma_cqt": self._chroma_cqt,
        }
        self._cache: dict[tuple, Any] = {}
        self._asking, self._depth = 0, 0
        self._charges: list[_Charge] = []

    def run(self, extractors: Sequence[Extractor]) -> list[list[Outcome]]:
        """All ``extractors`` on all tracks: outcomes per track, as of `run_together`."""
        outcomes = [[self._one(member, i, e) for i, e in enumerate(extractors)] for member in self.members]
        total = sum(self.seconds)
        for of_track, seconds in zip(outcomes, self.seconds, strict=True):
            for charge in self._charges:
                of_track[charge.asking].seconds += charge.seconds * seconds / total
            for outcome in of_track:
                outcome.batch_items, outcome.batch_audio_s = len(self.members), total
            if self.problem is not None:
                self._record_problem(of_track)
        self._release()
        return outcomes

    def _one(self, member: BatchedSpectra, number: int, extractor: Extractor) -> Outcome:
        self._asking = number
        before = len(self._charges)
        (outcome,) = run_extractors([extractor], member.track, lambda: [member])
        # What it computed for the others, too, is split among all of them in the end.
        outcome.seconds = max(0.0, outcome.seconds - sum(c.seconds for c in self._charges[before:]))
        return outcome

    def _release(self) -> None:
        """Let go of the spectra at once: batch and tracks refer to each other, and a GPU's memory is short."""
        self._cache.clear()
        for member in self.members:
            member.release()

    def _record_problem(self, outcomes: Sequence[Outcome]) -> None:
        wanted = f"a batch of {len(self.members)} tracks"
        reason = f"{type(self.problem).__name__}: {self.problem}"
        done = next((o.extraction for o in outcomes if o.extraction is not None), None)
        if done is not None:
            done.fallbacks.append(Fallback("features", wanted, "each track alone", reason))

    def share(self, key: tuple, maker: Callable[..., Sequence[T | None]]) -> Sequence[T | None] | None:
        """``maker(*parameters)`` of the first who asks for ``key``: a part per track.

        None when the batch was given up. The time is charged to the extractor at work.
        """
        if self.problem is not None:
            return None
        started, outermost = time.perf_counter(), not self._depth
        self._depth += 1
        try:
            parts = self._once(("each", *key), lambda: maker(*key[1:]))
            if outermost and self.device.type == "cuda":
                # Or whoever first waits for the device would pay.
                torch.cuda.synchronize(self.device)
            return parts
        except torch.AcceleratorError:
            raise
        except Exception as error:  # what costs the batch must not cost its tracks
            if not outermost:
                raise
            # Its traceback would keep alive what there may be no memory for.
            self.problem = error.with_traceback(None)
            self._cache.clear()
            return None
        finally:
            self._depth -= 1
            if outermost:
                self._charges.append(_Charge(self._asking, time.perf_counter() - started))

    def _once(self, key: tuple, compute: Callable[[], T]) -> T:
        if key not in self._cache:
            self.counts[key] += 1
            self._cache[key] = compute()
        return self._cache[key]

    def spans(self, hop_length: int) -> list[slice]:
        """The columns of each track in a matrix of the batch."""
        return frame_spans([len(member.mono) for member in self.members], hop_length)

    def power(self, n_fft: int, hop_length: int) -> torch.Tensor:
        """Power spectrogram of all tracks side by side, float32 ``[n_fft // 2 + 1, frames]``; see `spans`."""
        waveforms = [member.mono for member in self.members]
        return self._once(
            ("power", n_fft, hop_length),
            lambda: packed_power(waveforms, n_fft, hop_length, self.device),
        )

    def mel_bank(self, n_fft: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """As `SharedSpectra.mel_bank`."""
        return self._once(
            ("mel_bank", n_fft, n_mels, fmin, fmax),
            lambda: mel_filterbank(self.sample_rate, n_fft, n_mels, fmin, fmax).to(self.device),
        )

    def mel(self, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float) -> torch.Tensor:
        """Mel power spectrogram of all tracks side by side, float32 ``[n_mels, frames]``; see `spans`."""
        return self._once(
            ("mel", n_fft, hop_length, n_mels, fmin, fmax),
            lambda: self.mel_bank(n_fft, n_mels, fmin, fmax) @ self.power(n_fft, hop_length),
        )

    def _parts(self, matrix: torch.Tensor, hop_length: int) -> list[torch.Tensor]:
        return [matrix[:, span] for span in self.spans(hop_length)]

    def _rises(self, n_fft: int, hop_length: int, n_mels: int) -> Sequence[Any]:
        mel = self.mel(n_fft, hop_length, n_mels, 0.0, self.sample_rate / 2)
        return packed_rises(mel, self.spans(hop_length))

    def _peaks(self, n_fft: int, hop_length: int, exponent: int) -> list[np.ndarray]:
        power = self.power(n_fft, hop_length)
        return strong_peaks_of_each(power, self.spans(hop_length), self.sample_rate, n_fft, exponent)

    def _chroma_cqt(self, n_fft: int, hop_length: int) -> list[torch.Tensor | None]:
        long_enough = (m for m in self.members if cqt_obstacle(self.sample_rate, len(m.mono)) is None)
        tunings = {member.index: member.cqt_tuning(n_fft, hop_length) for member in long_enough}
        tunings = {i: t for i, t in tunings.items() if self.sample_rate >= 2.0 * highest_frequency(t)}
        waveforms = [self.members[index].mono for index in tunings]
        chroma = packed_chroma_cqt(
            waveforms, self.sample_rate, hop_length, list(tunings.values()), self.device
        )
        found = dict(zip(tunings, chroma, strict=True))
        return [found.get(member.index) for member in self.members]
