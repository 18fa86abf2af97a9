"""DeepFilterNet 3 through its C runtime: 48 kHz, the whole band.

The runtime is a native library that works in this process: where it finds something that it does not expect it aborts,
and takes the process with it. So what it is known to abort for (NaN, a missing model) is refused before, and the
worker that uses this backend must be a process of its own, as those of the stages are. Beginning a recording takes
about a second of work, for the runtime reads and optimises its networks anew.

Source: Schröter et al. 2023, "DeepFilterNet: Perceptually Motivated Real-Time Speech Enhancement", Interspeech; code
and weights MIT or Apache-2.0.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from pathlib import Path

import numpy as np

from pipeline.models.separation.names import SeparationOptions
from pipeline.models.speech.base import BackendUnavailable, DenoiseStream
from pipeline.models.speech.denoise.names import MOST_DB
from pipeline.models.speech.denoise.stored import stored
from pipeline.models.speech.denoise.streams import FrameStream, checked_limit

WEIGHTS = "deepfilternet3"
MODEL = "DeepFilterNet3_onnx.tar.gz"
LIBRARY = {"darwin": "libdeepfilter.dylib", "win32": "deepfilter.dll"}.get(sys.platform, "libdeepfilter.so")
HOP = 480
DELAY = 1440
"""Samples: a frame of the transform, and two that the networks look ahead."""
_SAMPLE_BYTES = 4


class DeepFilterNet:
    """DeepFilterNet 3. Takes any recording.

    Args:
        library: the C runtime, its functions declared, see `load_library`.
        model: the networks.
        weights_hash: sha256 of the networks and the runtime, which both make the numbers.
    """

    name = "deepfilternet"
    version = "1"
    sample_rate = 48000

    def __init__(self, library: ctypes.CDLL, model: Path, weights_hash: str = "") -> None:
        self._library, self._model, self._hash = library, model, weights_hash

    @classmethod
    def load(
        cls, device: str = "cpu", threads: int = 1, options: SeparationOptions | None = None
    ) -> DeepFilterNet:
        """Build it with its real weights, on the CPU and in the caller's thread whatever is said.

        Raises:
            BackendUnavailable: weights or the runtime are missing, or it is not for this machine.
        """
        (model, path), digest = stored(WEIGHTS, (MODEL, LIBRARY))
        return cls(load_library(path), model, digest)

    def model_id(self) -> str:
        """Name and hash of networks and runtime."""
        return f"{WEIGHTS}:{self._hash[:12]}"

    def stream(self, *, limit_db: float | None = None) -> DenoiseStream:
        """Begin a recording, see `pipeline.models.speech.base.Denoiser`; for one thread at a time."""
        limit = checked_limit(limit_db)
        # Its own limit mixes spectra as the others mix samples; it differs by rounding.
        frames = _Frames(self._library, self._model, MOST_DB if limit is None else limit)
        return FrameStream(frames, HOP, DELAY, frames.close)


def load_library(path: Path) -> ctypes.CDLL:
    """The C runtime with its functions declared. Raises `BackendUnavailable` where it cannot be loaded."""
    try:
        library = ctypes.CDLL(str(path))
        library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        library.df_create.restype = ctypes.c_void_p
        library.df_get_frame_length.argtypes = [ctypes.c_void_p]
        library.df_get_frame_length.restype = ctypes.c_size_t
        library.df_process_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        library.df_process_frame.restype = ctypes.c_float
        library.df_free.argtypes = [ctypes.c_void_p]
        library.df_free.restype = None
    except (OSError, AttributeError) as error:
        raise BackendUnavailable(f"{path} cannot be used here: {error}") from error
    return library


class _Frames:
    """The runtime with the state of one recording.

    Args:
        library: see `load_library`.
        model: the networks; a file that is there, or the process ends.
        limit_db: `MOST_DB` for none.

    Raises:
        BackendUnavailable: they are gone, or made for frames of another length.
    """

    def __init__(self, library: ctypes.CDLL, model: Path, limit_db: float) -> None:
        if not model.is_file():
            raise BackendUnavailable(f"{model} is gone")
        state = library.df_create(str(model).encode(), limit_db, None)
        if not state:
            raise BackendUnavailable(f"the runtime of {WEIGHTS} cannot read {model}")
        self._library, self._state = library, state
        # A recording may be given up half way.
        self.close = weakref.finalize(self, library.df_free, state)
        frame = library.df_get_frame_length(state)
        if frame != HOP:
            raise BackendUnavailable(f"{model} works in frames of {frame} samples, not {HOP}")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Whole frames in, as many samples out, `DELAY` late."""
        samples = np.ascontiguousarray(samples, np.float32)
        done = np.zeros_like(samples)
        source, target = samples.ctypes.data, done.ctypes.data
        for start in range(0, len(samples) * _SAMPLE_BYTES, HOP * _SAMPLE_BYTES):
            self._library.df_process_frame(self._state, source + start, target + start)
        return done
