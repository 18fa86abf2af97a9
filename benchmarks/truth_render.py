"""The audio of the sets of `truth.py`: MIDI through fluidsynth, Hydrogen's songs through its own drum kits, and songs.

Every file is FLAC, mono, 44.1 kHz, 16 bits, with a peak of half of full scale.
"""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

RATE = 44100
SECONDS = 75.0
_PEAK = 0.5
_TICKS = 48
"""Of Hydrogen, per quarter."""

# How far a tempo map may lie from where the audio has its onsets.
_SECTION_S, _TOLERANCE_S, _LEAST_SECTIONS = 12.0, 0.02, 0.8


def write(path: Path, audio: np.ndarray) -> None:
    """Write mono audio, at another gain."""
    peak = float(np.abs(audio).max(initial=0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio * (_PEAK / peak if peak else 1.0), RATE, subtype="PCM_16")


def read(path: Path, seconds: float | None = None) -> np.ndarray:
    """Mono at `RATE`, float32 ``[samples]``, from the beginning."""
    info = soundfile.info(path)
    frames = -1 if seconds is None else round(seconds * info.samplerate)
    audio, rate = soundfile.read(path, frames, dtype="float32", always_2d=True)
    return resampled(audio.mean(axis=1), rate)


def resampled(mono: np.ndarray, rate: int) -> np.ndarray:
    """The same at `RATE`."""
    return mono if rate == RATE else soxr.resample(mono, rate, RATE)


def synthesise(midi: Path, font: Path, out: Path, seconds: float) -> None:
    """What fluidsynth makes of a MIDI file, as long as it is said to be.

    Raises:
        subprocess.SubprocessError: fluidsynth could not, or does not end.
    """
    wav = out.with_suffix(".wav")
    command = ["fluidsynth", "-ni", "-q", "-g", "0.5", "-r", str(RATE), "-F", str(wav), str(font), str(midi)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)  # noqa: S603  fluidsynth is of Debian
    write(out, read(wav, seconds))
    wav.unlink()


@dataclass(frozen=True)
class _Layer:
    file: Path
    least: float
    most: float
    gain: float


def hydrogen(song: Path, kits: Path, out: Path) -> dict[str, Any]:
    """A song of Hydrogen's through its own kit, without swing, humanising and effects; and its truth."""
    root = ElementTree.parse(song).getroot()  # noqa: S314  it is of Debian's hydrogen-data
    bpm = float(root.findtext("bpm", "120"))
    layers, gains = _layers(root, kits)
    per_tick = 60.0 / bpm / _TICKS
    audio = np.zeros(round(SECONDS * RATE))
    start, bars, onsets, known = 0, [], set(), {}
    patterns = {p.findtext("name"): p for p in root.iter("pattern") if p.find("noteList") is not None}
    while start * per_tick < SECONDS and patterns:
        before = start
        for group in root.iter("group"):
            together = [patterns[i.text] for i in group.iter("patternID") if i.text in patterns]
            bars.append(start * per_tick)
            for note in (n for p in together for n in p.iter("note")):
                place = (start + int(note.findtext("position", "0"))) * per_tick
                if place < SECONDS and _hit(audio, note, place, (layers, gains, known)):
                    onsets.add(round(place, 4))
            start += max((int(p.findtext("size", "192")) for p in together), default=0)
        if start == before:
            break
    write(out, audio)
    beats = np.arange(0.0, min(SECONDS, start * per_tick), 60.0 / bpm)
    downbeats = [round(b, 4) for b in bars if b < SECONDS]
    return {"seconds": SECONDS, "tempo": bpm, "beats": [round(float(b), 4) for b in beats], "downbeats": downbeats,
            "meter": 4, "onsets": sorted(onsets), "drums": True}  # fmt: skip


def _layers(root: ElementTree.Element, kits: Path) -> tuple[dict[str, list[_Layer]], dict[str, float]]:
    layers: dict[str, list[_Layer]] = {}
    gains: dict[str, float] = {}
    for instrument in root.iter("instrument"):
        number = instrument.findtext("id")
        if number is None or instrument.findtext("isMuted") == "true":
            continue
        kit = kits / (instrument.findtext("drumkit") or "")
        for one in instrument.iter("layer"):
            least, most, gain = (float(one.findtext(key, "0")) for key in ("min", "max", "gain"))
            layers.setdefault(number, []).append(
                _Layer(kit / (one.findtext("filename") or ""), least, most, gain)
            )
        gains[number] = float(instrument.findtext("volume", "1")) * float(instrument.findtext("gain", "1"))
    return layers, gains


def _hit(audio: np.ndarray, note: ElementTree.Element, place: float, kit: tuple[Any, Any, Any]) -> bool:
    layers, gains, known = kit
    number, velocity = note.findtext("instrument", ""), float(note.findtext("velocity", "0.8"))
    chosen = next((one for one in layers.get(number, ()) if one.least <= velocity <= one.most), None)
    if chosen is None or velocity == 0.0 or not chosen.file.is_file():
        return False
    if chosen.file not in known:
        known[chosen.file] = read(chosen.file)
    first = round(place * RATE)
    sound = known[chosen.file][: len(audio) - first]
    audio[first : first + len(sound)] += sound * (velocity * chosen.gain * gains[number])
    return True


def novelty(audio: np.ndarray) -> tuple[np.ndarray, float]:
    """Spectral flux of the logarithm, ``[frames]``, and frames per second: what `fit` compares beats with."""
    hop, size = 441, 2048
    window = np.hanning(size)
    starts = np.arange(0, len(audio) - size, hop)
    spectra = np.stack([np.abs(np.fft.rfft(window * audio[s : s + size])) for s in starts])
    flux = np.maximum(np.diff(np.log1p(100.0 * spectra), axis=0, prepend=spectra[:1]), 0.0).sum(axis=1)
    # A logarithm rises as soon as the end of a frame reaches a sound.
    return np.concatenate([np.zeros(round(size / hop)), flux]), RATE / hop


def fit(audio: np.ndarray, beats: np.ndarray) -> dict[str, float | bool]:
    """How a tempo map lies in the audio: the median shift (s) that sections of it want, and the share that agrees.

    In each section the shift within a quarter of a beat either way is sought at which the flux on half beats is
    largest; whether the audio stresses the beat or what lies between is the map's to say. A map fits where most
    sections want about the same, and that is what it is to be shifted by.
    """
    flux, rate = novelty(audio)
    half = float(np.median(np.diff(beats))) / 2.0
    grid, shifts = np.arange(beats[0], beats[-1], half), np.arange(-half / 2, half / 2, 0.0025)
    wanted = []
    for first in np.arange(0.0, grid[-1] - _SECTION_S, _SECTION_S):
        here = grid[(grid >= first) & (grid < first + _SECTION_S)]
        frames = np.clip(np.round((here[None] + shifts[:, None]) * rate).astype(int), 0, len(flux) - 1)
        if flux[frames].max() > 0.0:
            wanted.append(shifts[int(flux[frames].mean(axis=1).argmax())])
    # A half beat early is a half beat late.
    turns = np.exp(2j * np.pi * np.array(wanted) / half)
    shift = float(np.angle(turns.sum()) / (2.0 * np.pi) * half)
    away = np.abs(np.angle(turns * np.exp(-2j * np.pi * shift / half))) / (2.0 * np.pi) * half
    agree = float(np.mean(away < _TOLERANCE_S))
    return {"shift": shift, "agree": agree, "fits": agree >= _LEAST_SECTIONS}
