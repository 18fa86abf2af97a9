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
    "ru": "Ночь тиха, горит огонь, песня льётся над рекой, и никто не знает, где кончается покой.",
    "pl": "Śpiewam cicho w środku nocy, wiatr unosi moje słowa, a nad rzeką świeci księżyc.",
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
    variant = f"{language}+{rng.choice(['f2', 'f4', 'm3', 'm7'])}"
    pitch, speed = str(rng.integers(30, 90)), str(rng.integers(90, 150))
    command = ["espeak-ng", "-v", variant, "-p", pitch, "-s", speed, PHRASES[language], "-w"]
    return _spoken_by(command, seconds)


def flite(speaker: str, seconds: float, rng: np.random.Generator) -> np.ndarray | None:
    """An English phrase by one of flite's speakers, slowly; None where it is not installed."""
    stretch = f"duration_stretch={rng.uniform(1.0, 1.6):.2f}"
    return _spoken_by(["flite", "-voice", speaker, "--setf", stretch, "-t", PHRASES["en"], "-o"], seconds)


def _spoken_by(command: list[str], seconds: float) -> np.ndarray | None:
    """What a program writes into the file that is named behind its arguments, over and over; None without it."""
    program = shutil.which(command[0])
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "voice.wav")
        subprocess.run([program, *command[1:], str(path)], check=True, capture_output=True)  # noqa: S603
        audio, rate = soundfile.read(path, dtype="float32")
    audio = soxr.resample(audio, rate, RATE)
    return np.tile(audio, int(seconds * RATE / len(audio)) + 1)[: int(seconds * RATE)]


def on_a_melody(spoken: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A spoken voice that sings: its spectral envelopes, half as fast, on harmonics of a melody with vibrato where it
    was voiced and on noise where it was not. Float32 ``[samples]`` → the same length.

    A channel vocoder (Dudley 1939) with cepstral envelopes; voiced is what is periodic between 80 and 400 Hz.
    """
    size, hop, stretch = 2048, 512, 2.0
    window = np.hanning(size)
    padded = np.pad(spoken, size)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    power = np.abs(np.fft.rfft(frames)) ** 2
    correlation = np.fft.irfft(power)
    periodic = correlation[:, RATE // 400 : RATE // 80].max(1) / (correlation[:, 0] + 1e-12)
    cepstra = np.fft.irfft(0.5 * np.log(power + 1e-9 * power.max() + 1e-20))
    cepstra[:, 70:-70] = 0
    envelope = np.exp(np.fft.rfft(cepstra).real)
    at = np.arange(len(frames)) / stretch
    near = np.minimum(np.round(at).astype(int), len(frames) - 1)
    envelope, voiced = envelope[near], np.clip((periodic[near] - 0.35) / 0.2, 0, 1)
    tonic, steps = int(rng.integers(45, 64)), SCALES[str(rng.choice(list(SCALES)))]
    notes, length = [], 0
    while length < len(padded):
        midi = tonic + int(rng.choice(steps)) + 12 * int(rng.random() < 0.2)
        notes.append(np.full(int(rng.uniform(0.25, 0.8) * RATE), float(midi)))
        length += len(notes[-1])
    pitch = scipy.signal.lfilter([2e-3], [1, -(1 - 2e-3)], np.concatenate(notes)[: len(padded)] - notes[0][0])
    t = np.arange(len(padded)) / RATE
    pitch += notes[0][0] + rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * rng.uniform(4.8, 6.2) * t)
    hz = 440 * 2 ** ((pitch - 69) / 12)
    phase = 2 * np.pi * np.cumsum(hz) / RATE
    tone = sum(np.cos(n * phase) * (n * hz < 12000) for n in range(1, int(12000 / hz.min()) + 1))
    noise = rng.standard_normal(len(padded))
    out = np.zeros(len(padded))
    for number, (gain, share) in enumerate(zip(envelope, voiced, strict=True)):
        part = slice(number * hop, number * hop + size)
        source = share * tone[part] * np.sqrt(hz[part] / RATE * 2) + (1 - share) * noise[part] * 0.6
        out[part] += window * np.fft.irfft(gain * np.fft.rfft(window * source))
    return out[size : size + len(spoken)].astype(np.float32)


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
