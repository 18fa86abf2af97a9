"""Speed of the descriptors, beside librosa, Essentia, openSMILE and torchaudio, one thread each.

    python benchmarks/features.py --audio ../shared/audio/music --seconds 60 --repeats 5

Every peer lives in its own process with one thread, is warmed up on ten seconds, and then gets the tracks in
turn with the others, round by round; figures are medians over the rounds, summed over the tracks. Librosa,
torchaudio, openSMILE and Soundmill get decoded samples, mono at 22.05 kHz and all channels at the native rate;
Essentia's MusicExtractor decodes itself and gets an uncompressed WAV, which it reads at hardly any cost.
Decoding the original files is listed on its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import soundfile

SUFFIXES = {".ogg", ".flac", ".wav", ".mp3"}
SERVER = Path(__file__).with_name("feature_peers.py")
ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
}

# Peer → the package it needs. The first one is what the ratios are to.
PEERS = {
    "soundmill": "torch",
    "librosa": "librosa",
    "essentia": "essentia",
    "opensmile": "opensmile",
    "torchaudio": "torchaudio",
}

# What of the librosa script does the work of one extractor.
COUNTERPARTS = {
    "mel": ("mel",),
    "mfcc": ("mfcc",),
    "chroma": ("chroma_stft", "chroma_cqt", "tuning"),
    "hpss": ("hpss",),
    "loudness": ("loudness", "rms"),
    "tempo": ("beat_track", "onset"),
    "spectral": ("centroid", "contrast"),
}


class Peer:
    """A peer in its own process."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, "-W", "ignore", str(SERVER), name]
        self.process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )
        self.receive()

    def send(self, path: Path) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()

    def receive(self) -> dict[str, float]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with code {self.process.wait()}")
        return json.loads(line)

    def run(self, path: Path) -> dict[str, float]:
        self.send(path)
        return self.receive()

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def cut(paths: list[Path], folder: Path, seconds: float) -> list[Path]:
    """Uncompressed excerpts from the middle of the tracks, the whole of them where ``seconds`` is 0."""
    excerpts = []
    for index, path in enumerate(paths):
        info = soundfile.info(path)
        count = min(info.frames, round(seconds * info.samplerate)) if seconds else info.frames
        samples, rate = soundfile.read(path, count, (info.frames - count) // 2, always_2d=True)
        excerpts.append(folder / f"{index:03d}.wav")
        soundfile.write(excerpts[-1], samples, rate, subtype="PCM_16")
    return excerpts


def decode_speed(paths: list[Path], repeats: int) -> float:
    """Audio seconds per second of decoding the original files."""
    from pipeline.audio.decode import decode

    contents = [(path.read_bytes(), path.name) for path in paths]
    audio = sum(soundfile.info(path).duration for path in paths)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for data, name in contents:
            decode(data, name)
        times.append(time.perf_counter() - start)
    return audio / statistics.median(times)


def measure(
    names: list[str], excerpts: list[Path], repeats: int, warmup: Path
) -> dict[str, dict[str, float]]:
    """Seconds of each step of each peer: medians over the rounds, summed over the tracks."""
    peers = {name: Peer(name) for name in names}
    for peer in peers.values():
        peer.run(warmup)
    times: dict[str, list[list[dict[str, float]]]] = {name: [[] for _ in excerpts] for name in names}
    # The first round is thrown away: it loads the excerpts.
    for _ in range(repeats + 1):
        for index, path in enumerate(excerpts):
            for name, peer in peers.items():
                times[name][index].append(peer.run(path))
    for peer in peers.values():
        peer.close()
    return {
        name: {
            step: sum(statistics.median(run[step] for run in runs[1:]) for runs in times[name])
            for step in times[name][0][0]
        }
        for name in names
    }


def together(times: dict[str, float]) -> float:
    """Seconds of a peer for everything it computes."""
    return sum(value for step, value in times.items() if not step.startswith("alone "))


def scaling(excerpts: list[Path], repeats: int, processes: int) -> float:
    """Audio seconds per second of ``processes`` that each do all tracks at the same time."""
    peers = [Peer("soundmill") for _ in range(processes)]
    rates = []
    audio = sum(soundfile.info(path).duration for path in excerpts)
    for _ in range(repeats + 1):
        spent = [0.0] * processes
        for path in excerpts:
            for peer in peers:
                peer.send(path)
            for index, peer in enumerate(peers):
                spent[index] += together(peer.receive())
        rates.append(sum(audio / seconds for seconds in spent))
    for peer in peers:
        peer.close()
    return statistics.median(rates[1:])


def machine() -> str:
    """Processor, cores and versions, one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    found = []
    for package in ("torch", "numpy", "librosa", "pyloudnorm", "essentia", "opensmile", "torchaudio"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(found)}"


def totals_table(results: dict[str, dict[str, float]], audio: float) -> list[str]:
    ours = together(results["soundmill"])
    words = {
        "soundmill": "Soundmill, all extractors",
        "librosa": "librosa script and pyloudnorm",
        "essentia": "Essentia MusicExtractor (with reading a WAV)",
        "opensmile": "openSMILE eGeMAPS functionals",
        "torchaudio": "torchaudio mel and MFCC only",
    }
    lines = ["| all of it | seconds | × real time | Soundmill is faster by |", "| --- | ---: | ---: | ---: |"]
    for name, times in results.items():
        seconds = together(times)
        ratio = "" if name == "soundmill" else f"{seconds / ours:.1f} ×"
        lines.append(f"| {words[name]} | {seconds:.2f} | {audio / seconds:.0f} | {ratio} |")
    return lines


def extractors_table(results: dict[str, dict[str, float]]) -> list[str]:
    """Shared: in the order of the registry, the first to ask for a spectrum pays. Alone: on fresh spectra."""
    ours, script, transforms = (results.get(name, {}) for name in ("soundmill", "librosa", "torchaudio"))
    lines = [
        "| extractor | shared, s | alone, s | librosa script, s | librosa / alone | torchaudio, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in (step for step in ours if step and not step.startswith("alone ")):
        alone, parts = ours[f"alone {name}"], COUNTERPARTS.get(name, ())
        row = [name, f"{ours[name]:.3f}", f"{alone:.3f}", "", "", ""]
        if script and parts:
            seconds = sum(script[part] for part in parts)
            row[3:5] = f"{seconds:.3f} ({', '.join(parts)})", f"{seconds / alone:.1f} ×"
        if name in transforms:
            row[5] = f"{transforms[name]:.3f}"
        lines.append(f"| {' | '.join(row)} |")
    return lines


def report(options: argparse.Namespace, folder: Path) -> None:
    paths = sorted(p for p in options.audio.rglob("*") if p.suffix.lower() in SUFFIXES)[
        : options.limit or None
    ]
    if not paths:
        raise SystemExit(f"no audio below {options.audio}; pass --audio FOLDER")
    excerpts = cut(paths, folder, options.seconds)
    (warmup,) = cut(paths[:1], Path(tempfile.mkdtemp(dir=folder)), 10.0)
    audio = sum(soundfile.info(path).duration for path in excerpts)
    names = [n for n in PEERS if n in options.peers and importlib.util.find_spec(PEERS[n])]
    print(f"{machine()}\n")
    print(
        f"{len(excerpts)} tracks, {audio:.0f} s; one thread per process, median of {options.repeats} rounds.\n"
    )
    results = measure(names, excerpts, options.repeats, warmup)
    print("\n".join([*totals_table(results, audio), "", *extractors_table(results), ""]))
    for name in sorted(set(options.peers) - set(names)):
        print(f"- {name}: not installed, not measured")
    print(f"- decoding the original files: {decode_speed(paths, options.repeats):.0f} × real time")
    for processes in (1, 2):
        speed = scaling(excerpts, options.repeats, processes)
        print(f"- {processes} process{'es' if processes > 1 else ''}: {speed:.0f} audio seconds per second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[2] / "shared" / "audio" / "music"
    parser.add_argument("--audio", type=Path, default=default, help="folder of tracks")
    parser.add_argument("--seconds", type=float, default=0.0, help="excerpt of each track; 0 is all of it")
    parser.add_argument("--limit", type=int, default=0, help="number of tracks; 0 is all of them")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; one more warms up")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    options = parser.parse_args()
    if "soundmill" not in options.peers:
        parser.error("--peers must name soundmill, which the others are compared with")
    with tempfile.TemporaryDirectory() as folder:
        report(options, Path(folder))


if __name__ == "__main__":
    main()
