"""Seeded test signals whose key, tempo and loudness are known because they were put in.

All generators return float32 ``[samples]`` with a peak of 1 (`normalize_lufs` sets the level) and depend on
their arguments only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

# Semitones above the tonic, and the chord there: I IV V I, and i VI V i with the leading note of harmonic
# minor. No other key holds all their notes.
_PROGRESSIONS = {
    "major": ((0, (0, 4, 7)), (5, (0, 4, 7)), (7, (0, 4, 7)), (0, (0, 4, 7))),
    "minor": ((0, (0, 3, 7)), (8, (0, 4, 7)), (7, (0, 4, 7)), (0, (0, 3, 7))),
}

# First three formants of adult male vowels, Hz (Peterson and Barney 1952, table II); the fourth hardly moves.
_VOWELS = {
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (270, 2290, 3010, 3600),
    "o": (570, 840, 2410, 3300),
    "u": (300, 870, 2240, 3300),
}
_BANDWIDTHS = np.array([70.0, 90.0, 130.0, 200.0])[:, None]
_VOICE_TOP_HZ = 5000.0
_CONTROL_RATE = 200


def pitch_hz(pitch_class: int, octave: int) -> float:
    """Equal-tempered frequency of a pitch class (0 is C), A4 = 440 Hz."""
    return 440.0 * 2.0 ** ((pitch_class - 9) / 12 + octave - 4)


def chord_progression(
    tonic: str, mode: str, seconds: float, sample_rate: int, *, bpm: float = 120.0, seed: int = 0
) -> np.ndarray:
    """I-IV-V-I (or i-VI-V-i), one bar of four beats each, over and over: harmonic tones that decay slowly.

    Args:
        tonic: one of `PITCH_CLASSES`.
        mode: ``major`` or ``minor``.
        seconds: length.
        sample_rate: Hz.
        bpm: tempo that sets the length of a bar.
        seed: phases of the partials.
    """
    rng = np.random.default_rng(seed)
    root = PITCH_CLASSES.index(tonic)
    count = round(seconds * sample_rate)
    bar = round(4 * 60.0 / bpm * sample_rate)
    chords = [_chord(root + degree, notes, bar, sample_rate, rng) for degree, notes in _PROGRESSIONS[mode]]
    phrase = np.concatenate(chords)
    return _peak_one(np.tile(phrase, count // len(phrase) + 1)[:count])


def _chord(
    root: int, notes: Sequence[int], count: int, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    t = np.arange(count) / sample_rate
    total = np.zeros(count)
    # The root once more in the bass says which inversion of which chord this is.
    voices = [(root % 12, 3, 1.0), *(((root + note) % 12, 4, 0.7) for note in notes)]
    for pitch_class, octave, level in voices:
        for partial in range(1, 7):
            frequency = partial * pitch_hz(pitch_class, octave)
            if frequency < 0.45 * sample_rate:
                phase = rng.uniform(0, 2 * np.pi)
                total += level / partial**1.5 * np.sin(2 * np.pi * frequency * t + phase)
    return total * np.exp(-0.4 * t / t[-1]) * _fade(count, round(0.01 * sample_rate))


def drum_pattern(bpm: float, seconds: float, sample_rate: int, seed: int = 0) -> np.ndarray:
    """Kick on beats 1 and 3, snare on 2 and 4, hi-hat on every eighth: the first beat is at 0 s."""
    rng = np.random.default_rng(seed)
    count = round(seconds * sample_rate)
    out = np.zeros(count)
    kick, snare, hat = _kick(sample_rate), _snare(sample_rate, rng), _hat(sample_rate, rng)
    beat = 60.0 / bpm * sample_rate
    for eighth in range(int(2 * count / beat) + 1):
        start = round(eighth * beat / 2)
        _add(out, 0.15 * hat, start)
        if eighth % 4 == 0:
            _add(out, kick, start)
        elif eighth % 4 == 2:
            _add(out, 0.8 * snare, start)
    return _peak_one(out)


def _kick(sample_rate: int) -> np.ndarray:
    t = np.arange(round(0.2 * sample_rate)) / sample_rate
    frequency = 50 + 90 * np.exp(-t / 0.03)
    return np.sin(2 * np.pi * np.cumsum(frequency) / sample_rate) * np.exp(-t / 0.07)


def _snare(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(round(0.15 * sample_rate)) / sample_rate
    noise = rng.uniform(-1, 1, t.size) * np.exp(-t / 0.04)
    return 0.7 * noise + 0.5 * np.sin(2 * np.pi * 190 * t) * np.exp(-t / 0.03)


def _hat(sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    t = np.arange(round(0.05 * sample_rate)) / sample_rate
    return np.diff(rng.uniform(-1, 1, t.size), prepend=0.0) * np.exp(-t / 0.012)


def voice(
    seconds: float, sample_rate: int, pitches_hz: Sequence[float] | None = None, seed: int = 0
) -> np.ndarray:
    """A formant voice: glottal pulses through four resonances that move from vowel to vowel, with vibrato.

    Made of harmonics, each as strong as source and formants leave it at its momentary frequency; that is
    the filtered pulse train without its aliases. Source -12 dB and radiation +6 dB per octave, resonances
    after Klatt (1980).

    Args:
        seconds: length.
        sample_rate: Hz.
        pitches_hz: pitches to sing, drawn at random per syllable; by default a speaking voice near 120 Hz.
        seed: syllables, vowels, pitches and breath.
    """
    rng = np.random.default_rng(seed)
    count = round(seconds * sample_rate)
    pitch, formants, loudness = _syllables(seconds, pitches_hz, rng)
    control_t = np.arange(pitch.size) / _CONTROL_RATE
    t = np.arange(count) / sample_rate
    vibrato = 1 + 0.012 * np.sin(2 * np.pi * 5.5 * control_t)
    f0 = pitch * vibrato
    phase = 2 * np.pi * np.cumsum(np.interp(t, control_t, f0)) / sample_rate
    turn, rotating = np.exp(1j * phase), np.ones(count, np.complex128)
    out = np.zeros(count)
    top = min(_VOICE_TOP_HZ, 0.45 * sample_rate)
    for harmonic in range(1, int(top / f0.min()) + 1):
        rotating *= turn
        frequency = harmonic * f0
        level = _vocal_tract(frequency, formants) / harmonic * (frequency < top)
        out += np.interp(t, control_t, level) * rotating.imag
    breath = 0.01 * np.abs(out).max(initial=0.0) * rng.standard_normal(count)
    return _peak_one((out + breath) * np.interp(t, control_t, loudness))


def _syllables(
    seconds: float, pitches_hz: Sequence[float] | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pitch ``[n]``, formants ``[4, n]``, loudness ``[n]`` at the control rate; every 8th is a pause."""
    count = int(seconds * _CONTROL_RATE) + 2
    pitch, formants, loudness = np.empty(count), np.empty((4, count)), np.zeros(count)
    start, syllable = 0, 0
    while start < count:
        length = min(int(rng.uniform(0.18, 0.38) * _CONTROL_RATE), count - start)
        part = slice(start, start + length)
        chosen = rng.choice(pitches_hz) if pitches_hz is not None else 120 * 2 ** rng.uniform(-0.25, 0.25)
        pitch[part] = chosen
        formants[:, part] = np.array(_VOWELS[rng.choice(list(_VOWELS))])[:, None]
        if syllable % 8 != 7:
            loudness[part] = 0.15 + 0.85 * np.sin(np.pi * (np.arange(length) + 0.5) / length)
        start, syllable = start + length, syllable + 1
    # The tongue takes some 50 ms from vowel to vowel; the voice glides less.
    return _smooth(pitch, 5), np.stack([_smooth(row, 11) for row in formants]), _smooth(loudness, 5)


def _vocal_tract(frequency: np.ndarray, formants: np.ndarray) -> np.ndarray:
    resonances = formants**2 / np.hypot(formants**2 - frequency**2, _BANDWIDTHS * frequency)
    return resonances.prod(axis=0)


def _smooth(x: np.ndarray, width: int) -> np.ndarray:
    padded = np.pad(x, width // 2, mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def mixture(parts: Sequence[tuple[np.ndarray, float, float]], drive: float = 0.0) -> np.ndarray:
    """Pan and add: float32 ``[2, samples]`` with a peak of at most 1.

    Args:
        parts: (signal ``[samples]``, gain, position from -1 left to 1 right); constant-power panning.
        drive: above 0, how hard the sum is driven into a soft clipper (tanh), which makes it dense and loud.
    """
    count = min(len(signal) for signal, _, _ in parts)
    out = np.zeros((2, count))
    for signal, gain, position in parts:
        angle = (position + 1) * np.pi / 4
        out += gain * np.outer((np.cos(angle), np.sin(angle)), signal[:count])
    out = _peak_one(out)
    return np.tanh(drive * out).astype(np.float32) if drive else out


def integrated_lufs(x: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness by ITU-R BS.1770-4 (pyloudnorm) of ``[channels, samples]``; -inf for silence.

    Raises:
        ValueError: shorter than one gating block, 0.4 s.
    """
    import pyloudnorm

    return float(pyloudnorm.Meter(sample_rate).integrated_loudness(x.T.astype(np.float64)))


def normalize_lufs(x: np.ndarray, sample_rate: int, target: float) -> np.ndarray:
    """Scale ``[channels, samples]`` to ``target`` LUFS; float32. Peaks are not limited.

    Raises:
        ValueError: silence, or shorter than 0.4 s: there is no loudness to scale.
    """
    loudness = integrated_lufs(x, sample_rate)
    if not np.isfinite(loudness):
        raise ValueError("silence has no loudness to normalise")
    return (x * 10.0 ** ((target - loudness) / 20)).astype(np.float32)


def _add(out: np.ndarray, sound: np.ndarray, start: int) -> None:
    part = sound[: max(0, len(out) - start)]
    out[start : start + len(part)] += part


def _fade(count: int, edge: int) -> np.ndarray:
    position = np.arange(count)
    return np.clip(np.minimum(position, count - 1 - position) / max(1, edge), 0, 1)


def _peak_one(x: np.ndarray) -> np.ndarray:
    peak = np.abs(x).max(initial=0.0)
    return (x / peak if peak else x).astype(np.float32)
