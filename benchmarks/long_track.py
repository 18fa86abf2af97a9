"""Peak memory of all extractors on one track, from five minutes to ten hours, decoded as it is read.

    python benchmarks/long_track.py --audio ../shared/audio/music --minutes 5 60 600

Each length is a FLAC file of the songs one after the other, again and again, worked on in a process of its own
with one thread. The shortest is also worked on as a whole in memory: the columns of the two are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile

RATE, DSP_RATE = 44100, 22050
SUFFIXES = {".ogg", ".flac", ".wav", ".mp3"}


def write(paths: list[Path], target: Path, seconds: float) -> None:
    """Stereo FLAC of ``seconds``, the tracks one after the other."""
    left = round(seconds * RATE)
    with soundfile.SoundFile(target, "w", RATE, 2) as out:
        while left:
            for path in paths:
                samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
                if rate != RATE or samples.shape[1] != 2:
                    raise SystemExit(f"{path} is not stereo at {RATE} Hz")
                out.write(samples[:left])
                left -= min(left, len(samples))
                if not left:
                    return


def extractors() -> list:
    from pipeline.features import REGISTRY

    return [cls() for _, cls in sorted(REGISTRY.items())]


def measure(path: Path, whole: bool, block_seconds: float) -> dict:
    """Seconds, peak memory and columns of one track in this process."""
    import torch

    from pipeline.audio.decode import decode
    from pipeline.audio.resample import make_view
    from pipeline.audio.stream import open_file
    from pipeline.features.extraction import TrackAudio, run_extractors
    from pipeline.features.streamed import StreamedAudio

    torch.set_num_threads(1)
    suite = extractors()
    context = max(e.context_seconds(DSP_RATE) for e in suite)
    ready, started = peak_mib(), time.perf_counter()
    if whole:
        decoded = decode(path.read_bytes())
        mono = make_view(decoded.samples, RATE, DSP_RATE, 1)[0]
        audio = TrackAudio(mono, DSP_RATE, decoded.samples, RATE, block_seconds=3600.0)
    else:
        audio = StreamedAudio(
            lambda: open_file(path), DSP_RATE, block_seconds=block_seconds, context_seconds=context
        )
    outcomes = run_extractors(suite, audio.track, audio.blocks)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    values = {name: v for o in outcomes for name, v in o.extraction.values.items()}
    plain = {n: np.asarray(v, dtype=float).tolist() for n, v in values.items() if not is_text(v)}
    return {
        "seconds": time.perf_counter() - started,
        "audio_s": audio.track.seconds,
        "ready": ready,
        "peak": peak_mib(),
        "columns": plain,
    }


def is_text(value: object) -> bool:
    return value is None or isinstance(value, str) or (isinstance(value, list) and isinstance(value[0], str))


def peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmHWM in /proc/self/status: this needs Linux")


def in_a_process(path: Path, whole: bool, block_seconds: float) -> dict:
    command = [sys.executable, __file__, "--measure", str(path), "--block-seconds", str(block_seconds)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(  # noqa: S603
        [*command, *["--whole"] * whole], capture_output=True, text=True, env={**os.environ, **threads}
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def difference(columns: dict, reference: dict) -> tuple[float, str]:
    """The largest difference of a column, relative to its largest value or 1."""
    found = [
        (float(np.max(np.abs(np.subtract(columns[name], value)) / max(1.0, np.max(np.abs(value))))), name)
        for name, value in reference.items()
    ]
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).resolve().parents[2] / "shared" / "audio" / "music"
    parser.add_argument("--audio", type=Path, default=default, help="folder of stereo tracks at 44.1 kHz")
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 60, 600])
    parser.add_argument("--block-seconds", type=float, default=120.0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.whole, options.block_seconds)))
        return
    paths = sorted(p for p in options.audio.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"no audio below {options.audio}; pass --audio FOLDER")
    print("| track | read | seconds | × real time | memory before → peak, MiB |")
    print("| --- | --- | ---: | ---: | --- |")
    with tempfile.TemporaryDirectory() as folder:
        first: dict = {}
        for index, minutes in enumerate(sorted(options.minutes)):
            path = Path(folder) / "track.flac"
            write(paths, path, 60 * minutes)
            for whole in (True, False) if index == 0 else (False,):
                found = in_a_process(path, whole, options.block_seconds)
                read = "at once" if whole else f"in blocks of {options.block_seconds:g} s"
                rate = found["audio_s"] / found["seconds"]
                memory = f"{found['ready']:.0f} → {found['peak']:.0f}"
                print(
                    f"| {minutes:g} min | {read} | {found['seconds']:.1f} | {rate:.0f} | {memory} |",
                    flush=True,
                )
                if index == 0:
                    first[whole] = found["columns"]
    worst, name = difference(first[False], first[True])
    print(f"\nLargest difference between the two ways to read the first: {worst:.1e} of {name}.")


if __name__ == "__main__":
    main()
