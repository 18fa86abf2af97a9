"""Voices for mixtures whose stems are known: sung by formant synthesis, spoken in prompts, or by espeak-ng.

The sung one is `pipeline.audio.synth.voice` on a melody of its own, with consonants of noise between the syllables;
every voice can get a room and a place in the stereo image. Nothing here pretends to be a recording of a singer.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

from pipeline.audio.synth import pitch_hz, voice

RATE = 44100
SCALES = {"major": (0, 2, 4, 7, 9), "minor": (0, 3, 5, 7, 10)}
PHRASES = {
    "en": "Hold me close and never let me go, all the lights are burning in the window, and the river runs below.",
    "de": "Wenn der Mond am Himmel steht, singen wir ein altes Lied, und der Wind trägt es über das weite Feld.",
    "fr": "Je chante la nuit sous les étoiles, le vent emporte ma chanson, et la mer répond à ma voix.",
    "es": "Canta conmigo esta noche, que la luna nos espera, y el viento sabe tu nombre.",
}


def sung(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A melody on vowels with vibrato, and a burst of noise before many a syllable: float32 ``[samples]``."""
    octave, tonic = int(rng.integers(2, 5)), int(rng.integers(12))
    steps = SCALES[str(rng.choice(list(SCALES)))]
    pitches = [pitch_hz(tonic + step, octave) for step in steps]
    sound = voice(seconds, RATE, pitches, int(rng.integers(1 << 30)))
    consonants = np.zeros_like(sound)
    highpass = scipy.signal.butter(2, float(rng.uniform(3500, 6000)), "highpass", fs=RATE, output="sos")
    noise = scipy.signal.sosfilt(highpass, rng.standard_normal(len(sound)))
    for at in np.arange(0.1, seconds - 0.2, 0.3) + rng.uniform(0, 0.1):
        if rng.random() < 0.6:
            start, length = int(at * RATE), int(rng.uniform(0.03, 0.09) * RATE)
            consonants[start : start + length] = np.hanning(length) * noise[start : start + length]
    return sound + 0.25 * consonants.astype(np.float32)


def prompts(speaker: Path, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Prompts of one speaker, one after the other: float32 ``[samples]``."""
    files, parts, length = sorted(speaker.glob("*.wav")), [], 0
    while length < seconds * RATE:
        audio, rate = soundfile.read(files[rng.integers(len(files))], dtype="float32")
        parts.append(soxr.resample(audio, rate, RATE))
        length += len(parts[-1])
    return np.concatenate(parts)[: int(seconds * RATE)]


def espeak(language: str, seconds: float, rng: np.random.Generator) -> np.ndarray | None:
    """A phrase by espeak-ng, slowly and at a pitch of its own; None where it is not installed."""
    program = shutil.which("espeak-ng")
    if program is None:
        return None
    variant = f"{language}+{rng.choice(['f2', 'f4', 'm3', 'm7'])}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.wav")
        pitch, speed = str(rng.integers(30, 90)), str(rng.integers(90, 150))
        command = [program, "-v", variant, "-p", pitch, "-s", speed, "-w", str(path), PHRASES[language]]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
        audio, rate = soundfile.read(path, dtype="float32")
    audio = soxr.resample(audio, rate, RATE)
    return np.tile(audio, int(seconds * RATE / len(audio)) + 1)[: int(seconds * RATE)]


def in_a_room(dry: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Panned, mostly to the centre, with a reverberation that differs between the channels: ``[2, samples]``."""
    position = 0.0 if rng.random() < 0.75 else rng.uniform(-0.4, 0.4)
    angle = (position + 1) * np.pi / 4
    direct = np.outer((np.cos(angle), np.sin(angle)), dry)
    if rng.random() < 0.3:
        return direct.astype(np.float32)
    length = int(rng.uniform(0.3, 1.2) * RATE)
    decay = np.exp(-6.9 * np.arange(length) / length)
    room = rng.standard_normal((2, length)) * decay
    wet = scipy.signal.fftconvolve(dry[None], room, axes=1)[:, : len(dry)]
    wet *= np.sqrt(np.mean(direct**2) / max(np.mean(wet**2), 1e-20)) * 10 ** (rng.uniform(-20, -6) / 20)
    return (direct + wet).astype(np.float32)
