"""How well and how fast the separation backends take speech out of music, as a Markdown table.

Speech at the level of the music (0 dB) over a song, 44.1 kHz stereo: SI-SDR of both before and after, audio
seconds per second, and the resident set of a process that does nothing else: once the backend has run on one
second, of which torch alone is about half, and at its peak with all stems kept. The choice of files is
fixed, so the ratios repeat; the speed is this machine's.

    python benchmarks/separation.py --audio ../shared/audio --seconds 60 --threads 2
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
SONG = Path("music/feelings/song.ogg")
SONG_START_SECONDS = 60


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


def sources(folder: Path, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Speech and music of one energy and one length."""
    music, rate = soundfile.read(
        folder / SONG, start=SONG_START_SECONDS * RATE, frames=int(seconds * RATE), dtype="float32"
    )
    if rate != RATE:
        raise SystemExit(f"{SONG} has {rate} Hz, not {RATE}")
    voice = speech(folder, len(music))
    music = music.T[:, : voice.shape[1]].copy()
    return voice, music * np.sqrt(np.mean(voice**2) / np.mean(music**2))


def measure(name: str, folder: Path, seconds: float, threads: int) -> dict[str, float]:
    """Figures of one backend in this process."""
    import torch

    from pipeline.audio.metrics import si_sdr
    from pipeline.models.separation import load_backend

    torch.set_num_threads(threads)
    backend = load_backend(name)
    voice, music = sources(folder, seconds)
    mix = voice + music
    backend.separate(mix[:, :RATE])  # the first call also builds the kernels
    before = peak_mb()
    start = time.perf_counter()
    stems = backend.separate(mix)
    elapsed = time.perf_counter() - start
    return {
        "voice_in": si_sdr(mix, voice),
        "voice_out": si_sdr(stems[0], voice),
        "music_in": si_sdr(mix, music),
        "music_out": si_sdr(stems[1], music),
        "speed": mix.shape[1] / RATE / elapsed,
        "before_mb": before,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Largest resident set of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(name: str, options: argparse.Namespace) -> dict[str, float]:
    """`measure` in a fresh process, so that the peak of one backend is not that of another."""
    command = [sys.executable, __file__, "--audio", str(options.audio), "--one", name]
    command += ["--seconds", str(options.seconds), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--audio", type=Path, default=REPO.parent / "shared" / "audio", help="music/, speech/"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the mix")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--backends", nargs="+", default=["spleeter", "midside"])
    parser.add_argument("--one", metavar="BACKEND", help="figures of one backend as JSON")
    options = parser.parse_args()
    if not (options.audio / SONG).is_file():
        parser.error(f"there is no {options.audio / SONG}: name a folder with music/ and speech/ by --audio")
    if options.one:
        print(json.dumps(measure(options.one, options.audio, options.seconds, options.threads)))
        return
    print(f"{options.seconds:g} s of speech over music at 0 dB, {options.threads} threads\n")
    print(
        "| backend | voice SI-SDR in → out, dB | music SI-SDR in → out, dB | × real time | RSS ready → peak, MB |"
    )
    print("| --- | --- | --- | --- | --- |")
    for name in options.backends:
        row = in_own_process(name, options)
        voice = f"{round(row['voice_in'], 1) + 0.0:.1f} → {row['voice_out']:.1f}"
        music = f"{round(row['music_in'], 1) + 0.0:.1f} → {row['music_out']:.1f}"
        memory = f"{row['before_mb']:.0f} → {row['peak_mb']:.0f}"
        print(f"| {name} | {voice} | {music} | {row['speed']:.1f} | {memory} |")


if __name__ == "__main__":
    main()
