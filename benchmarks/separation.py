"""How well and how fast the separation backends take known mixtures apart, as Markdown tables.

Mixtures of sources that are known, 44.1 kHz stereo, at the levels said:

- speech over music: speech centred, at the level of a song that it has nothing to do with (0 dB);
- demo: drums, harmony and a sung formant voice, synthesised as for `make demo`, each known by itself;
- song: two songs without a singer, in two stems: the lead guitar and everything else. A model of vocals and
  accompaniment has no stem for a guitar: the sum of both belongs into the accompaniment and nothing into the
  vocals, so "both" compares the mix itself: what the accompaniment lacks of it is the model's mistake.

Per source its SI-SDR (Le Roux et al. 2019) in the mix, and in the stem that should hold it, in dB. A backend is in
these tables only with trained weights; one that is not here is named with the reason. Then speed, and the peak
resident set of a process that streams 2 minutes and one that streams 2 hours, made up while it reads.

    python benchmarks/separation.py --audio ../shared/audio --seconds 60 --threads 2 --memory
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

RATE = 44100
SONGS = ("feelings", "escape_from_chaosland")
SONG_START_SECONDS = 60
SHORT_SECONDS, LONG_SECONDS = 120, 7200


def speech(folder: Path, samples: int) -> np.ndarray:
    """Prompts of all speakers in turn, centred: float32 ``[2, samples]``."""
    speakers = [sorted(speaker.glob("*.wav")) for speaker in sorted((folder / "speech").iterdir())]
    parts, length = [], 0
    for prompts in zip(*speakers, strict=False):
        for prompt in prompts:
            audio, rate = soundfile.read(prompt, dtype="float32")
            parts.append(soxr.resample(audio, rate, RATE))
            length += len(parts[-1])
        if length >= samples:
            break
    voice = np.concatenate(parts)[:samples]
    return np.stack([voice, voice])


def excerpt(file: Path, seconds: float) -> np.ndarray:
    """Float32 ``[2, samples]`` from the middle of a song on."""
    audio, rate = soundfile.read(
        file, start=SONG_START_SECONDS * RATE, frames=int(seconds * RATE), dtype="float32", always_2d=True
    )
    if rate != RATE:
        raise SystemExit(f"{file} has {rate} Hz, not {RATE}")
    return np.repeat(audio.T, 2, axis=0) if audio.shape[1] == 1 else audio.T.copy()


def mixtures(folder: Path, seconds: float) -> dict[str, dict[str, np.ndarray]]:
    """Mixture → source → float32 ``[2, samples]``; the sources of a mixture add up to it."""
    music = excerpt(folder / "music" / SONGS[0] / "song.ogg", seconds)
    voice = speech(folder, music.shape[1])
    music = music[:, : voice.shape[1]] * np.sqrt(np.mean(voice**2) / np.mean(music[:, : voice.shape[1]] ** 2))
    found = {"speech over music, 0 dB": {"voice": voice, "music": music}, "demo song": demo(seconds)}
    for name in SONGS:
        guitar = excerpt(folder / "music" / name / "guitar.ogg", seconds)
        song = excerpt(folder / "music" / name / "song.ogg", seconds)
        length = min(guitar.shape[1], song.shape[1])
        found[f"song: {name}"] = {"guitar": guitar[:, :length], "everything else": song[:, :length]}
    return found


def demo(seconds: float) -> dict[str, np.ndarray]:
    """Voice, drums and harmony with the levels and places of the demo's songs (A major, 96 beats per minute)."""
    from pipeline.audio import synth

    notes = [synth.pitch_hz(pitch, octave) for pitch, octave in ((1, 3), (4, 3), (9, 2))]
    left, right = (
        synth.chord_progression("A", "major", seconds, RATE, bpm=96.0, seed=seed) for seed in (8, 108)
    )
    positions = {
        "voice": [(synth.voice(seconds, RATE, notes, 8), 1.0, 0.0)],
        "drums": [(synth.drum_pattern(96.0, seconds, RATE, 8), 0.7, 0.0)],
        "harmony": [(left, 0.5, -0.5), (right, 0.5, 0.5)],
    }
    sources = {}
    for name, parts in positions.items():
        count = min(len(signal) for signal, _, _ in parts)
        total = np.zeros((2, count))
        for signal, gain, position in parts:
            angle = (position + 1) * np.pi / 4
            total += gain * np.outer((np.cos(angle), np.sin(angle)), signal[:count])
        sources[name] = total
    shortest = min(source.shape[1] for source in sources.values())
    peak = np.abs(sum(source[:, :shortest] for source in sources.values())).max()
    return {name: (source[:, :shortest] / peak).astype(np.float32) for name, source in sources.items()}


# Source → the stems that should hold it, the first that a backend has.
WHERE = {
    "voice": ("vocals",),
    "music": ("accompaniment",),
    "drums": ("drums", "accompaniment"),
    "harmony": ("other", "accompaniment"),
    "guitar": ("guitar", "other", "accompaniment"),
    "everything else": ("accompaniment",),
    "both": ("accompaniment",),
}


def measure(name: str, folder: Path, seconds: float, threads: int) -> dict:
    """Figures of one backend in this process."""
    import torch

    from pipeline.audio.metrics import si_sdr
    from pipeline.models.separation import load_backend, separate_track

    torch.set_num_threads(threads)
    backend = load_backend(name)
    rows, spent, audio = [], 0.0, 0.0
    warm = np.random.default_rng(0).standard_normal((2, int(backend.segment * RATE))).astype(np.float32) * 0.1
    separate_track(backend, warm)  # the first call also builds the kernels
    for title, sources in mixtures(folder, seconds).items():
        mix = sum(sources.values())
        start = time.perf_counter()
        stems = dict(zip(backend.sources, separate_track(backend, mix), strict=True))
        spent, audio = spent + time.perf_counter() - start, audio + mix.shape[1] / RATE
        if "accompaniment" not in stems:
            stems["accompaniment"] = mix - stems["vocals"]
        wanted = {**sources, "both": mix} if "guitar" in sources else sources
        for source, samples in wanted.items():
            stem = next(stem for stem in WHERE[source] if stem in stems)
            before, after = si_sdr(mix, samples), si_sdr(stems[stem], samples)
            rows.append([title, source, stem, before, after])
    return {"rows": rows, "speed": audio / spent, "amp": backend.amp, "model": backend.model_id()}


class Made:
    """A track that is made while it is read, so that only the separation's own memory shows."""

    channels = 2

    def __init__(self, seconds: float) -> None:
        self.samples = int(seconds * RATE)
        self._noise = np.random.default_rng(0).standard_normal((2, RATE)).astype(np.float32) * 0.1

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._noise[:, np.arange(start, stop) % RATE]


def memory(name: str, seconds: float, threads: int) -> dict:
    """Peak resident set of this process after streaming a track of so many seconds."""
    import torch

    from pipeline.models.separation import StemFold, load_backend, stream_track

    torch.set_num_threads(threads)
    backend = load_backend(name)
    fold = StemFold(backend.sources)
    for block in stream_track(backend, Made(seconds)):
        fold.add(block)
    # Linux counts in KiB.
    return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_own_process(options: argparse.Namespace, *extra: str) -> dict | str:
    """Figures from a fresh process, so that the peak of one is not that of another; or why there are none."""
    command = [sys.executable, __file__, "--audio", str(options.audio), "--seconds", str(options.seconds)]
    command += ["--threads", str(options.threads), *extra]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1].split(": ", 1)[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, default=REPO.parent / "shared" / "audio", help="music/, speech/"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each mix")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--backends", nargs="+", default=["demucs", "openunmix", "spleeter", "midside"])
    parser.add_argument("--memory", action="store_true", help="also stream 2 minutes and 2 hours (minutes)")
    parser.add_argument("--one", metavar="BACKEND", help="figures of one backend as JSON")
    parser.add_argument("--peak", nargs=2, metavar=("BACKEND", "SECONDS"), help="its peak memory as JSON")
    options = parser.parse_args()
    if not (options.audio / "music" / SONGS[0] / "song.ogg").is_file():
        parser.error(
            f"there is no music in {options.audio}: name a folder with music/ and speech/ by --audio"
        )
    if options.one:
        print(json.dumps(measure(options.one, options.audio, options.seconds, options.threads)))
        return
    if options.peak:
        print(json.dumps(memory(options.peak[0], float(options.peak[1]), options.threads)))
        return
    print(f"{options.seconds:g} s of each mix, {options.threads} threads\n")
    print("| mixture | source | stem | backend | SI-SDR in the mix → in the stem, dB |")
    print("| --- | --- | --- | --- | --- |")
    speeds, missing = [], []
    for name in options.backends:
        found = in_own_process(options, "--one", name)
        if isinstance(found, str):
            missing.append(f"{name} is not in the tables: {found}")
            continue
        for title, source, stem, before, after in found["rows"]:
            known = "–" if source == "both" else f"{before:+.1f}"
            print(f"| {title} | {source} | {stem} | {name} | {known} → {after:+.1f} |")
        speeds.append((name, found["speed"], found["amp"], found["model"]))
    heads = [f"peak RSS, {s} s, MB" for s in (SHORT_SECONDS, LONG_SECONDS)] if options.memory else []
    print("\n| " + " | ".join(["backend", "model", "bf16", "× real time", *heads]) + " |")
    print("| --- " * (4 + len(heads)) + "|")
    for name, speed, amp, model in speeds:
        cells = [name, model, "yes" if amp else "no", f"{speed:.1f}"]
        for seconds in (SHORT_SECONDS, LONG_SECONDS) if options.memory else ():
            peak = in_own_process(options, "--peak", name, str(seconds))
            cells.append(peak if isinstance(peak, str) else f"{peak['peak_mb']:.0f}")
        print("| " + " | ".join(cells) + " |")
    print("\n" + "\n".join(missing))


if __name__ == "__main__":
    main()
