"""The vocals of a separation network as the denoised rendition of speech: for music under it.

A recording is separated in sections of a minute that overlap by two seconds, and fades from each to the next on that
stretch: so its length does not matter, although some networks want to know the level of all they are given, which
here is that of a section. Mono goes in as two equal channels, and the mean of both comes out. What of the mix is in no
stem is shared out (``share`` of `pipeline.models.separation.residual`): without it Spleeter's vocals end at 11 kHz.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.audio.reader import ArrayReader
from pipeline.models.separation.base import Separator
from pipeline.models.separation.choose import load_backend
from pipeline.models.separation.names import SHARE, SeparationOptions
from pipeline.models.separation.separation_stream import SeparationPool, SeparationStream
from pipeline.models.speech.base import BackendUnavailable, DenoiseStream
from pipeline.models.speech.denoise.streams import Ended, checked_samples, limited
from pipeline.models.transfer import Download

VOCALS = "vocals"
SECTION = (5 * 512 - 4) * 1024
"""Samples of a section, 59 s at 44.1 kHz: five windows of Spleeter to the sample."""
FADE = 2 * 44100
"""Samples on which two sections overlap."""


class StemDenoiser:
    """A separation backend as a `pipeline.models.speech.base.Denoiser`.

    Args:
        separator: a backend with a stem of vocals.

    Raises:
        BackendUnavailable: it has none.
    """

    name: str
    version = "1"

    def __init__(self, separator: Separator) -> None:
        if VOCALS not in separator.sources:
            raise BackendUnavailable(f"{separator.name} has no stem of vocals")
        self.sample_rate = separator.sample_rate
        # What the separation computes is part of what this one does.
        self.version = f"{type(self).version}.{separator.version}"
        self._separator = separator
        self._pool = SeparationPool(separator)

    @classmethod
    def load(
        cls, device: str = "cpu", threads: int = 1, options: SeparationOptions | None = None
    ) -> StemDenoiser:
        """Build it with the weights of the separation backend of the same name; torch's threads are the process's.

        Raises:
            BackendUnavailable: a package or weights are missing.
            UserError: what ``options`` name is not there.
        """
        return cls(load_backend(cls.name, device, options))

    def model_id(self) -> str:
        """Name and hash of the separation's weights."""
        return self._separator.model_id()

    def stream(self, *, limit_db: float | None = None) -> DenoiseStream:
        """Begin a recording, see `pipeline.models.speech.base.Denoiser`; holds a section or two."""
        return limited(_Sections(self._pool), limit_db)


class _Sections:
    """One recording, see the module's docstring."""

    def __init__(self, pool: SeparationPool) -> None:
        self._pool = pool
        self._pieces: list[np.ndarray] = []
        self._held = 0
        self._fading: np.ndarray | None = None
        self._ended = Ended()

    def push(self, samples: np.ndarray) -> np.ndarray:
        """See `DenoiseStream`."""
        self._ended.check()
        samples = checked_samples(samples)
        self._pieces.append(samples.copy())
        self._held += len(samples)
        if self._held < SECTION:
            return np.zeros(0, np.float32)
        audio, done = np.concatenate(self._pieces), []
        while len(audio) >= SECTION:
            done.append(self._faded(self._vocals(audio[:SECTION]), last=False))
            audio = audio[SECTION - FADE :]
        self._pieces, self._held = [audio.copy()], len(audio)
        return np.concatenate(done)

    def finish(self) -> np.ndarray:
        """See `DenoiseStream`."""
        self._ended.check(last=True)
        rest = np.concatenate([*self._pieces, np.zeros(0, np.float32)])
        self._pieces = []
        if self._fading is not None and len(rest) == FADE:
            # The section before ended with the recording.
            return self._fading
        return self._faded(self._vocals(rest), last=True)

    def _faded(self, vocals: np.ndarray, last: bool) -> np.ndarray:
        """A section with its beginning faded into; all but its last `FADE` samples, unless it is the ``last``."""
        if self._fading is not None:
            ramp = (np.arange(FADE, dtype=np.float32) + np.float32(0.5)) / np.float32(FADE)
            vocals[:FADE] = self._fading + (vocals[:FADE] - self._fading) * ramp
        if last:
            return vocals
        self._fading = vocals[-FADE:].copy()
        return vocals[:-FADE]

    def _vocals(self, audio: np.ndarray) -> np.ndarray:
        """The vocals of a section, a new array float32 ``[n]``."""
        done = list(self._blocks(audio))
        return np.concatenate(done) if done else np.zeros(0, np.float32)

    def _blocks(self, audio: np.ndarray) -> Iterator[np.ndarray]:
        reader = ArrayReader(np.stack([audio, audio]))
        stream = SeparationStream(self._pool, [reader], SHARE)
        place = stream.sources.index(VOCALS)
        for piece in stream:
            if piece.error is not None:
                raise piece.error
            if piece.block is not None:
                yield Download(piece.block[place].mean(dim=0)).result()
