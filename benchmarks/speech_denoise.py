"""How much the denoising backends gain on speech in noise whose clean form is known, as Markdown tables.

    python benchmarks/speech_denoise.py --quick                          # does it work?
    python benchmarks/speech_denoise.py --speech FOLDER FOLDER FOLDER    # folders of WAV or G.722, a speaker each
    python benchmarks/speech_denoise.py --backends dtln spleeter --limits 6 12

Real prompts of each speaker, some seconds each, with four kinds of noise at 0, 5 and 10 dB (power over the whole of
both): pink noise; babble, eight prompts of the other speakers at once; a machine, a hum with harmonics that swells five
times a second over hiss; and music. Each backend gets the mixture at its own rate and is compared at 16 kHz with the
clean prompt: PESQ-WB (ITU-T P.862.2), STOI, SI-SDR, and, where the store has its weights, DNSMOS (overall), which needs
no clean form. ``nothing`` is the mixture. A limit is ``limit_db``, the most that is taken away. The lag is where the
cross-correlation with the clean prompt peaks; where it is not 0 the figures would mean little.

Prompts of 8 kHz say nothing of what lies above 4 kHz: PESQ-WB wants folders with 16 kHz or more. Needs the packages
pesq and pystoi.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO)]

from pipeline.audio.metrics import si_sdr
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.denoise.choose import load_backend
from pipeline.models.speech.denoise.names import BACKEND_NAMES
from pipeline.models.speech.denoise.streams import denoised
from pipeline.models.speech.quality import Dnsmos

RATE = 48000
"""Rate of the mixtures, Hz: that of the backend that hears most."""
JUDGED = 16000
"""Rate at which they are compared, Hz."""
LEVELS_DB = (0.0, 5.0, 10.0)
KINDS = ("pink", "babble", "machine", "music")
METRICS = ("PESQ-WB", "STOI", "SI-SDR, dB", "DNSMOS")
DIGITS = (2, 3, 1, 2)
PEAK = 0.5


@dataclass(frozen=True)
class Mixture:
    """A prompt in noise, float32 ``[samples]`` at `RATE`."""

    speaker: str
    kind: str
    level_db: float
    clean: np.ndarray = field(repr=False)
    mix: np.ndarray = field(repr=False)


def read(path: Path) -> np.ndarray:
    """One file, mono float32 at `RATE`."""
    if path.suffix == ".g722":
        import av

        with av.open(str(path), format="g722") as file:
            frames = [frame.to_ndarray()[0] for frame in file.decode(audio=0)]
        audio, rate = np.concatenate([*frames, np.zeros(0, np.int16)]).astype(np.float32) / 32768, 16000
    else:
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        audio = audio.mean(axis=1)
    return soxr.resample(audio, rate, RATE).astype(np.float32)


def prompts(folder: Path, count: int, seconds: float) -> list[np.ndarray]:
    """Prompts of a speaker that last as long at least, cut to that, evenly from the list."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".wav", ".g722")):
        audio = read(path)
        if len(audio) >= seconds * RATE:
            found.append(audio[: int(seconds * RATE)])
    return found[:: max(1, len(found) // count)][:count]


def pink(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by 3 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), samples)


def machine(samples: int, rng: np.random.Generator) -> np.ndarray:
    """A motor: 30 harmonics of some 50 Hz with random phases that swell, and hiss around 2 kHz."""
    time = np.arange(samples) / RATE
    hum = sum(
        np.sin(2 * np.pi * 49.3 * n * time + rng.uniform(0, 2 * np.pi)) * rng.uniform(0.3, 1) / n**0.7
        for n in range(1, 31)
    )
    band = scipy.signal.butter(2, (800, 5000), "bandpass", fs=RATE, output="sos")
    hiss = scipy.signal.sosfilt(band, rng.standard_normal(samples))
    swell = 1 + 0.4 * np.sin(2 * np.pi * 5 * time)
    return swell * (hum / hum.std() + 0.5 * hiss / hiss.std())


def babble(voices: list[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Eight prompts at once, each from a place of its own."""
    total = np.zeros(samples)
    for number in rng.permutation(np.arange(8) % len(voices)):
        voice = np.roll(voices[number], rng.integers(len(voices[number])))[:samples]
        total += voice / voice.std()
    return total


def songs(folder: Path, seconds: float) -> list[np.ndarray]:
    """A place in each song below the folder: ``song.ogg`` with its ``guitar.ogg``, or any other Ogg file."""
    found = []
    for path in sorted(p for p in folder.rglob("*.ogg") if p.name != "guitar.ogg"):
        parts = [path, path.with_name("guitar.ogg")] if path.name == "song.ogg" else [path]
        audio = [read(part)[30 * RATE : int((30 + seconds) * RATE)] for part in parts if part.is_file()]
        found.append(sum(audio))
    return [song for song in found if len(song) == int(seconds * RATE) and song.any()]


def noise(kind: str, samples: int, rng: np.random.Generator, others: list[np.ndarray]) -> np.ndarray:
    """Noise of one of `KINDS` but music."""
    if kind == "babble":
        return babble(others, samples, rng)
    return {"pink": pink, "machine": machine}[kind](samples, rng)


def mixtures(speakers: dict[str, list[np.ndarray]], music: list[np.ndarray]) -> Iterator[Mixture]:
    """Each prompt with each kind of noise at each level; what is random follows from the names."""
    for name, own in speakers.items():
        others = [voice for other, voices in speakers.items() if other != name for voice in voices]
        for number, clean in enumerate(own):
            rng = np.random.default_rng(zlib.crc32(f"{name} {number}".encode()))
            song = music[number % len(music)] if music else None
            for kind in KINDS if music else KINDS[:-1]:
                added = song if kind == "music" else noise(kind, len(clean), rng, others)
                for level in LEVELS_DB:
                    mix = clean + clean.std() / added.std() * 10 ** (-level / 20) * added
                    scale = PEAK / np.abs(mix).max()
                    parts = (scale * clean).astype(np.float32), (scale * mix).astype(np.float32)
                    yield Mixture(name, kind, level, *parts)


def judge() -> Callable[[np.ndarray], float]:
    """DNSMOS of ``[samples]`` at `JUDGED`, overall; NaN for everything where it is not there."""
    try:
        dnsmos = Dnsmos.load()
    except BackendUnavailable as error:
        print(f"no DNSMOS here: {error}\n")
        return lambda audio: np.nan

    def overall(audio: np.ndarray) -> float:
        found = dnsmos.quality(audio.astype(np.float32))
        return np.nan if found is None else found.ovrl

    return overall


def scores(result: np.ndarray, clean: np.ndarray, dnsmos: Callable[[np.ndarray], float]) -> list[float]:
    """`METRICS` of one result, both at `JUDGED`."""
    from pesq import NoUtterancesError, pesq
    from pystoi import stoi

    try:
        heard = pesq(JUDGED, clean, result, "wb")
    except NoUtterancesError:
        heard = np.nan
    decibel = si_sdr(result, clean)
    return [heard, stoi(clean, result, JUDGED), np.nan if decibel is None else decibel, dnsmos(result)]


def lag(result: np.ndarray, clean: np.ndarray) -> int:
    """Samples that the result is late."""
    return int(scipy.signal.correlate(result, clean, method="fft").argmax()) - len(clean) + 1


def judged(name: str, limit_db: float | None, one: Mixture) -> np.ndarray:
    """What a backend makes of a mixture, at `JUDGED`; the mixture itself for ``nothing``."""
    if name == "nothing":
        return soxr.resample(one.mix, RATE, JUDGED)
    backend = load_backend(name)
    mix = soxr.resample(one.mix, RATE, backend.sample_rate)
    return soxr.resample(denoised(backend.stream(limit_db=limit_db), mix), backend.sample_rate, JUDGED)


def measure(
    name: str, limit_db: float | None, known: list[Mixture], dnsmos: Callable[[np.ndarray], float]
) -> tuple[np.ndarray, set[int]]:
    """`METRICS` of each mixture ``[mixtures, metrics]``, and the lags that were seen."""
    rows, lags = [], set()
    for one in known:
        clean = soxr.resample(one.clean, RATE, JUDGED)
        result = judged(name, limit_db, one)
        size = min(len(clean), len(result))
        rows.append(scores(result[:size], clean[:size], dnsmos))
        lags.add(lag(result[:size], clean[:size]))
    return np.array(rows), lags


def tables(names: list[str], limits: list[float], known: list[Mixture]) -> None:
    """Measure each backend at each limit, and print a table by level and one by kind of noise."""
    dnsmos = judge()
    told, notes = {}, []
    for name in ["nothing", *names]:
        try:
            model = "" if name == "nothing" else f" ({load_backend(name).model_id()})"
        except BackendUnavailable as error:
            notes.append(f"{name}: not here ({error})")
            continue
        for limit in [None] if name == "nothing" else [None, *limits]:
            title = f"{name}{model}" if limit is None else f"{name}, {limit:g} dB"
            told[title], lags = measure(name, limit, known, dnsmos)
            notes.append(f"{title}: lags of {', '.join(map(str, sorted(lags)))} samples at {JUDGED} Hz")
            print(f"measured {title}", file=sys.stderr, flush=True)
    table(told, [f"{one.level_db:g} dB" for one in known])
    table(told, [one.kind for one in known])
    print("\n".join(notes))


def table(told: dict[str, np.ndarray], groups: list[str]) -> None:
    """One table of means: a row for each result, a column for each metric in each group of mixtures.

    Args:
        told: title → `METRICS` of each mixture ``[mixtures, metrics]``.
        groups: of each mixture.
    """
    columns = [
        (metric, group)
        for group in dict.fromkeys(groups)
        for metric in range(len(METRICS))
        if any(np.isfinite(rows[:, metric]).any() for rows in told.values())
    ]
    print("| backend | " + " | ".join(f"{METRICS[metric]}, {group}" for metric, group in columns) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    for title, rows in told.items():
        cells = []
        for metric, group in columns:
            values = rows[[other == group for other in groups], metric]
            values = values[np.isfinite(values)]
            cells.append(f"{values.mean():.{DIGITS[metric]}f}" if len(values) else "–")
        print(f"| {title} | {' | '.join(cells)} |")
    print()


def versions() -> str:
    """What makes the numbers, with versions."""
    packages = ("pesq", "pystoi", "numpy", "soxr", "onnxruntime", "torch")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = REPO.parent / "shared" / "audio"
    parser.add_argument("--audio", type=Path, default=default, help="folder with music/ and speech/")
    parser.add_argument("--speech", type=Path, nargs="+", help="folders of prompts, a speaker each")
    parser.add_argument("--music", type=Path, help="folder of songs without a singer, instead of music/")
    parser.add_argument("--backends", nargs="+", default=list(BACKEND_NAMES), choices=BACKEND_NAMES)
    parser.add_argument("--limits", type=float, nargs="*", default=[12.0], help="limits of reduction, dB")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of each speaker")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a prompt")
    parser.add_argument("--quick", action="store_true", help="one prompt of two speakers, 5 dB only")
    options = parser.parse_args()
    folders = options.speech or sorted((options.audio / "speech").iterdir())
    count = 1 if options.quick else options.prompts
    found = {
        folder.name: prompts(folder, count, options.seconds)
        for folder in folders[: 2 if options.quick else None]
    }
    if sum(bool(voices) for voices in found.values()) < 2:
        parser.error(
            f"two speakers with prompts of {options.seconds:g} s are needed: name folders by --speech"
        )
    known = list(mixtures(found, songs(options.music or options.audio / "music", options.seconds)))
    known = [one for one in known if one.level_db == 5.0] if options.quick else known
    print(f"{len(known)} mixtures of {', '.join(found)}, {options.seconds:g} s each.")
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions()}\n")
    tables(options.backends, options.limits, known)


if __name__ == "__main__":
    main()
