"""The beat tracker: audio in, beats out; tracks share batches, and a long one is heard block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pipeline.audio.reader import ArrayReader, AudioReader
from pipeline.audio.resample import make_view
from pipeline.models.beats.front_end import BANDS, INPUTS, FrontEnd, even_gain, frame_count
from pipeline.models.beats.harmony import Turns, folding
from pipeline.models.beats.heard import Heard, rises_and_levels
from pipeline.models.beats.names import SAMPLE_RATE, BeatOptions
from pipeline.models.beats.network import Ensemble, State, load_ensemble
from pipeline.models.beats.rhythm import Beats, rhythm
from pipeline.models.beats.tapped import tapped

BLOCK_FRAMES = 1000
"""Frames of each track that the networks hear at once, 20 s."""
GPU_TRACKS = 64
"""Tracks that they hear together on a card. On a CPU it is one: more are no quicker there, since a core's cache holds
the weights, and so what a track gets is the same, bit for bit, whatever else is there."""


class BeatTracker:
    """Finds the beats of tracks.

    Args:
        ensemble: the networks.
        options: meters and tempi that are considered.
        batch_tracks: tracks that the networks hear together; 0 takes one on a CPU, and `GPU_TRACKS` on a card.
    """

    def __init__(
        self, ensemble: Ensemble, options: BeatOptions | None = None, *, batch_tracks: int = 0
    ) -> None:
        self.ensemble = ensemble
        self.options = options or BeatOptions()
        self.batch_tracks = batch_tracks or (1 if ensemble.device.type == "cpu" else GPU_TRACKS)
        self.backend = "BeatNet"
        self._front_end = FrontEnd(ensemble.device)
        self._folding = torch.from_numpy(folding()).to(ensemble.device)

    def warm_up(self) -> None:
        """Run once on a second of noise, so that the first track does not wait for what is compiled."""
        noise = np.random.default_rng(0).uniform(-0.1, 0.1, (1, SAMPLE_RATE)).astype(np.float32)
        self.track([ArrayReader(noise)])

    def hear(
        self, tracks: Sequence[AudioReader], progress: Callable[[int, float], None] | None = None
    ) -> list[Heard]:
        """What is heard of each track.

        What a track gets depends on the others that it is heard with by rounding alone, below 1e-5.

        Args:
            tracks: mono at `SAMPLE_RATE`.
            progress: is told the number of a track and the share of it that was heard, after each block.

        Raises:
            ValueError: NaN or infinity in the audio.
        """
        found: dict[int, Heard] = {}
        # The longest first: those that end leave the batch at its end.
        order = sorted(range(len(tracks)), key=lambda number: -tracks[number].samples)
        for start in range(0, len(order), self.batch_tracks):
            batch = order[start : start + self.batch_tracks]
            found |= zip(batch, self._batch([tracks[n] for n in batch], batch, progress), strict=True)
        return [found[number] for number in range(len(tracks))]

    def _batch(
        self,
        tracks: Sequence[AudioReader],
        numbers: Sequence[int],
        progress: Callable[[int, float], None] | None,
    ) -> list[Heard]:
        """The same for tracks that are heard together, the longest first."""
        frames = [frame_count(track.samples) for track in tracks]
        gains = [even_gain(track) for track in tracks]
        parts: list[list[np.ndarray]] = [[np.empty((0, 4), np.float32)] for _ in tracks]
        harmonies, turned = [Turns() for _ in tracks], [[np.empty(0, np.float32)] for _ in tracks]
        states: list[State] = self.ensemble.start(len(tracks))
        for start in range(0, max(frames, default=0), BLOCK_FRAMES):
            active = sum(count > start for count in frames)
            states = [(h[:, :active].contiguous(), c[:, :active].contiguous()) for h, c in states]
            stop = min(start + BLOCK_FRAMES, frames[0])
            inputs = torch.zeros((active, stop - start, INPUTS), device=self.ensemble.device)
            for number in range(active):
                last = min(stop, frames[number])
                inputs[number, : last - start] = self._front_end.features(
                    tracks[number], start, last, gains[number]
                )
            odds, states = self.ensemble(inputs, states)
            chroma = inputs[..., :BANDS] @ self._folding
            block = torch.cat([odds, rises_and_levels(inputs), chroma], dim=-1).cpu().numpy()
            for number in range(active):
                heard = block[number, : frames[number] - start]
                parts[number].append(heard[:, :4].copy())
                turned[number].append(harmonies[number].push(heard[:, 4:]))
                if progress is not None:
                    progress(numbers[number], min(1.0, stop / frames[number]))
        return [
            _heard(np.concatenate(part), np.concatenate([*turns, harmony.finish()]))
            for part, turns, harmony in zip(parts, turned, harmonies, strict=True)
        ]

    def beats(self, track: AudioReader, heard: Heard) -> Beats:
        """The beats of a track of which that was heard."""
        tempi = tapped(track, heard, self.options.min_bpm, self.options.max_bpm)
        return rhythm(heard, self.options, tempi)

    def track(self, tracks: Sequence[AudioReader]) -> list[Beats]:
        """The beats of each track; as `hear`."""
        return [self.beats(*each) for each in zip(tracks, self.hear(tracks), strict=True)]


def _heard(curves: np.ndarray, turns: np.ndarray) -> Heard:
    """Of odds, rises and levels, ``[frames, 4]``, and turns of the harmony."""
    level = float(curves[:, 3].mean(dtype=np.float64)) if len(curves) else 0.0
    return Heard(curves[:, :2].copy(), curves[:, 2].copy(), turns, level)


def track_beats(
    samples: np.ndarray, sample_rate: int, options: BeatOptions | None = None, *, device: str = "cpu"
) -> Beats:
    """The beats of one track.

    Args:
        samples: float ``[samples]`` or ``[channels, samples]``.
        sample_rate: Hz.
        options: meters and tempi that are considered.
        device: where the networks run; they are loaded anew with each call, see `BeatTracker` for many tracks.

    Raises:
        UserError: the weights are missing or damaged.
    """
    audio = np.atleast_2d(np.asarray(samples, np.float32))
    mono = make_view(audio, sample_rate, SAMPLE_RATE, 1)
    return BeatTracker(load_ensemble(device), options).track([ArrayReader(mono)])[0]
