"""Mixtures whose stems are known, and instrumentals of them: good, bad and absurd ones. For `karaoke_score.py`."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr
import sung_voice
import torch

RATE = 44100
SAMPLES = 247 * 2048
"""Length of an excerpt, 11.5 s: what Spleeter takes in one go."""
LEVELS_DB = (-6.0, 0.0, 6.0)
FURTHER = "further"
"""The set of songs with many voices, of whose mixtures only `some` of the outputs are taken."""
FURTHER_RANGES_DB = ((-8.0, -4.0), (-4.0, 0.0), (0.0, 4.0), (4.0, 8.0))
"""Between which the levels of its mixtures are drawn."""
ABSURD = ("do-nothing", "silence", "low-pass", "inverted centre")
"""Outputs no one would call a separation; the others count as realistic."""
SUFFIXES = (".ogg", ".opus")
VOICES = {
    "development": ("en_US_f_Allison", "fr_CA_f_June", "sung", "sung", "sung", "espeak:en", "espeak:de"),
    FURTHER: (
        "ru_RU_f_IvrvoiceRU",
        "ru_RU_f_IvrvoiceRU melody",
        "en_US_f_Allison melody",
        "fr_CA_f_June melody",
        "espeak:ru",
        "espeak:pl melody",
        "espeak:en melody",
        "espeak:de melody",
        "flite:slt",
        "flite:rms",
        "flite:awb melody",
        "flite:rms melody",
        "sung",
        "sung",
    ),
    "held out": ("it_IT_m_Carlo", "sung", "sung", "espeak:fr", "espeak:es"),
}


@dataclass(frozen=True)
class Song:
    """A backing: the sum of these files, which start together."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Mixture:
    """Float32 ``[2, SAMPLES]`` each; their sum is the mix. The voice of a backing alone is silence."""

    song: str
    voice_kind: str
    level_db: float
    backing: np.ndarray = field(repr=False)
    voice: np.ndarray = field(repr=False)

    @property
    def mix(self) -> np.ndarray:
        return self.backing + self.voice


def songs(folders: list[Path], most: int = 1000) -> list[Song]:
    """The songs below these folders: ``song.ogg`` with its ``guitar.ogg``, or any other Ogg file. Of each folder at
    most so many, evenly from its list."""
    found = []
    for folder in folders:
        files = sorted(
            p
            for p in folder.rglob("*")
            if p.suffix in SUFFIXES and p.name != "guitar.ogg" and p.stat().st_size > 1_000_000
        )
        for path in files[:: max(1, -(-len(files) // most))]:
            guitar = path.with_name("guitar.ogg")
            stems = (path, guitar) if path.name == "song.ogg" and guitar.is_file() else (path,)
            found.append(Song(path.parent.name if path.name == "song.ogg" else path.stem, stems))
    unique = {song.name.lower().replace(" ", "_"): song for song in found}
    return list(unique.values())


def _read(song: Song, start_s: float, samples: int) -> np.ndarray:
    total = np.zeros((2, samples), np.float32)
    for path in song.files:
        with soundfile.SoundFile(path) as file:
            first = int(start_s * file.samplerate)
            file.seek(min(first, max(0, file.frames - int(samples * file.samplerate / RATE) - 1)))
            audio = file.read(int(samples * file.samplerate / RATE) + 1, dtype="float32", always_2d=True)
        if file.samplerate != RATE:
            audio = soxr.resample(audio, file.samplerate, RATE)
        audio = np.repeat(audio, 2, axis=1)[:, :2] if audio.shape[1] == 1 else audio[:, :2]
        audio = audio[:samples].T
        total[:, : audio.shape[1]] += audio
    return total


def _voice(kind: str, folder: Path, seconds: float, rng: np.random.Generator) -> np.ndarray:
    dry = None
    kind, melody = kind.removesuffix(" melody"), kind.endswith(" melody")
    if kind.startswith("espeak:"):
        dry = sung_voice.espeak(kind.split(":")[1], seconds, rng)
    elif kind.startswith("flite:"):
        dry = sung_voice.flite(kind.split(":")[1], seconds, rng)
    elif kind != "sung":
        dry = sung_voice.prompts(folder / "speech" / kind, seconds, rng)
    if dry is not None and melody:
        dry = sung_voice.on_a_melody(dry, rng)
    if dry is None:
        dry = sung_voice.sung(seconds, rng)
    return sung_voice.in_a_room(dry, rng)


def mixtures(part: list[Song], audio: Path, which: str, samples: int = SAMPLES) -> Iterator[Mixture]:
    """Of each song one mixture per level, at places and with voices drawn by its name, and the backing alone."""
    for song in part:
        rng = np.random.default_rng(zlib.crc32(song.name.encode()))
        levels = (
            LEVELS_DB if which != FURTHER else tuple(rng.uniform(*range_db) for range_db in FURTHER_RANGES_DB)
        )
        for level in (*levels, -np.inf):
            backing = _read(song, float(rng.uniform(15, 75)), samples)
            kind = str(rng.choice(VOICES[which])) if np.isfinite(level) else "none"
            if kind == "none":
                yield Mixture(song.name, kind, level, backing, np.zeros_like(backing))
                continue
            voice = _voice(kind, audio, samples / RATE + 0.01, rng)[:, :samples]
            gain = np.sqrt(np.mean(backing**2) / np.mean(voice**2)) * 10 ** (level / 20)
            yield Mixture(song.name, kind, level, backing, (voice * gain).astype(np.float32))


def some(found: dict[str, np.ndarray], mixture: Mixture) -> dict[str, np.ndarray]:
    """What backends handed out, nothing done and silence; of the other outputs a few, drawn by the mixture."""
    always = [name for name in ("do-nothing", "silence", "spleeter", "midside") if name in found]
    rng = np.random.default_rng(zlib.crc32(f"{mixture.song} {mixture.level_db} some".encode()))
    absurd = [name for name in found if name in ABSURD and name not in always]
    rest = [name for name in found if name not in always and name not in ABSURD]
    drawn = [*rng.choice(rest, min(5, len(rest)), replace=False), *rng.choice(absurd, int(rng.integers(2)))]
    return {name: found[name] for name in [*always, *map(str, drawn)]}


def _filtered(audio: np.ndarray, hz: float) -> np.ndarray:
    lowpass = scipy.signal.butter(6, hz, "lowpass", fs=RATE, output="sos")
    return scipy.signal.sosfilt(lowpass, audio).astype(np.float32)


def _ideal_mask(mixture: Mixture) -> np.ndarray:
    """The mix times the ratio mask of the true powers: the voice as a very good mask would take it out."""
    stems = torch.from_numpy(np.stack([mixture.backing, mixture.voice]))
    window = torch.hann_window(4096)
    how = {"n_fft": 4096, "hop_length": 1024, "window": window}
    spectra = torch.stft(stems.flatten(0, 1), return_complex=True, **how).unflatten(0, (2, 2))
    power = spectra.abs().square()
    mask = (power[0] + 1e-12) / (power.sum(0) + 1e-12)
    return torch.istft(mask * spectra.sum(0), length=stems.shape[-1], **how).numpy()


def outputs(
    mixture: Mixture, separated: dict[str, Callable[[np.ndarray], np.ndarray]]
) -> dict[str, np.ndarray]:
    """Name → instrumental, float32 ``[2, samples]``.

    Args:
        mixture: with a voice.
        separated: backend → (mix → vocals).
    """
    mix, backing, voice = mixture.mix, mixture.backing, mixture.voice
    rng = np.random.default_rng(zlib.crc32(f"{mixture.song} {mixture.level_db}".encode()))
    vocals = {name: function(mix) for name, function in separated.items()}
    found = {
        "do-nothing": mix, "silence": np.zeros_like(mix),
        "low-pass": _filtered(mix, float(np.exp(rng.uniform(np.log(150), np.log(4000))))),
        "inverted centre": np.stack([mix[0] - mix[1], mix[1] - mix[0]]) / 2,
    }  # fmt: skip
    for name, estimate in vocals.items():
        found[name] = mix - estimate
        found[f"{name} 50 %"] = mix - 0.5 * estimate
        found[f"{name} 150 %"] = mix - 1.5 * estimate
    spleeter = next(iter(vocals.values()))
    ideal = _ideal_mask(mixture)
    found["ideal mask"] = ideal
    # Stands for a network that is better than Spleeter: its mistakes, but fewer.
    found["half-way to the truth"] = backing + 0.4 * (mix - spleeter - backing)
    for low, high in ((-12, -3), (-30, -12)):
        leak = float(rng.uniform(low, high))
        found[f"truth and {'much' if high == -3 else 'little'} voice"] = backing + 10 ** (leak / 20) * voice
    # Mistakes of both kinds of separator, and no more voice than they leave.
    masked, centre = (
        rng.uniform(0.2, 0.8) * (backing - ideal),
        rng.uniform(0.1, 0.4) * (vocals["midside"] - voice),
    )
    found["damaged truth"] = backing - masked - centre
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}
