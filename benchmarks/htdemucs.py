"""How fast htdemucs runs here against `demucs.apply.apply_model` and the `demucs` command, as a Markdown table.

One and the same network of the published size with random weights: this is about speed and about equal numbers,
and says nothing about quality. The tracks are separated by all three in turn, several rounds; the table has
medians. Ours and apply_model get samples in memory; the command also loads the model, decodes and writes 24-bit
FLAC, so its time less that of a track of one second is given too.

    python benchmarks/htdemucs.py --seconds 30 --tracks 2 --rounds 3 --threads 2
    python benchmarks/htdemucs.py --cuda --seconds 240 --tracks 8
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

RATE = 44100
SOURCES = ["drums", "bass", "other", "vocals"]


def random_model() -> torch.nn.Module:
    """htdemucs as published, 41.5 million parameters, seeded."""
    from demucs.htdemucs import HTDemucs

    torch.manual_seed(0)
    return HTDemucs(SOURCES, bottom_channels=512, segment=Fraction(39, 5)).eval()


def noise(seconds: float, seed: int) -> np.ndarray:
    """Pink noise, different in both channels: float32 ``[2, samples]``."""
    samples = int(seconds * RATE)
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal((2, samples)))
    white /= np.sqrt(np.maximum(np.arange(white.shape[1]), 1))
    pink = np.fft.irfft(white, samples)
    return (0.2 * pink / np.abs(pink).max()).astype(np.float32)


def reference(model: torch.nn.Module, tracks: list[np.ndarray], device: str) -> list[np.ndarray]:
    """As ``demucs.api.Separator`` calls it, with ``shifts=0``."""
    from demucs.apply import apply_model

    found = []
    for track in tracks:
        wav = torch.from_numpy(track)
        ref = wav.mean(0)
        mean, std = ref.mean(), ref.std() + 1e-8
        out = apply_model(model, ((wav - mean) / std)[None], shifts=0, overlap=0.25, device=device)
        found.append((out * std + mean)[0].cpu().numpy())
    return found


def ours(backend, tracks: list[np.ndarray]) -> list[np.ndarray]:
    """All tracks through one stream."""
    from pipeline.audio.reader import ArrayReader
    from pipeline.models.separation import SeparationStream

    blocks: list[list[np.ndarray]] = [[] for _ in tracks]
    for piece in SeparationStream(backend, [ArrayReader(track) for track in tracks]):
        if piece.error is not None:
            raise piece.error
        if piece.block is not None:
            blocks[piece.track].append(piece.block)
    return [np.concatenate(parts, axis=-1) for parts in blocks]


def command(repo: Path, folder: Path, files: list[Path], device: str, threads: int) -> None:
    """``python -m demucs`` on files."""
    line = [
        sys.executable,
        "-m",
        "demucs",
        "--repo",
        str(repo),
        "-n",
        "random",
        "--shifts",
        "0",
        "--flac",
        "--int24",
    ]
    line += ["-d", device, "-o", str(folder / "out"), *map(str, files)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"demucs: {done.stderr.strip().splitlines()[-1]}")


def timed(work: Callable[[], object], device: str) -> tuple[float, float, object]:
    """Wall and CPU seconds of ``work``, and its result. CPU time of child processes counts."""
    cpu = lambda: sum(os.times()[:4])  # noqa: E731
    wall_start, cpu_start = time.perf_counter(), cpu()
    result = work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall_start, cpu() - cpu_start, result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each track")
    parser.add_argument("--tracks", type=int, default=2, help="how many")
    parser.add_argument("--rounds", type=int, default=3, help="times each way runs, in turn")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--cuda", action="store_true", help="on the GPU")
    parser.add_argument("--batch", type=int, help="windows in a batch of ours")
    parser.add_argument("--no-command", action="store_true", help="leave out the demucs command")
    options = parser.parse_args()
    from pipeline.audio.encode import encode
    from pipeline.audio.metrics import si_sdr
    from pipeline.models.separation.demucs import Demucs
    from pipeline.models.separation.networks import use_amp

    device = "cuda" if options.cuda else "cpu"
    if options.cuda and not torch.cuda.is_available():
        parser.error("--cuda: there is no GPU here")
    torch.set_num_threads(options.threads)
    model = random_model()
    backends = {"ours, float32": Demucs(model, device, amp=False)}
    if use_amp("auto", device):
        backends["ours, bfloat16"] = Demucs(model, device, amp=True)
    for backend in backends.values():
        backend.batch_items = options.batch or backend.batch_items
    tracks = [noise(options.seconds, seed) for seed in range(options.tracks)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        args, kwargs = model._init_args_kwargs
        state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        torch.save(
            {"klass": type(model), "args": args, "kwargs": kwargs, "state": state}, folder / "random.th"
        )
        files, second = [], folder / "second.wav"
        for number, track in enumerate(tracks):
            files.append(folder / f"{number}.wav")
            files[-1].write_bytes(encode(track, RATE, "wav", subtype="FLOAT"))
        second.write_bytes(encode(tracks[0][:, :RATE], RATE, "wav", subtype="FLOAT"))
        ways: dict[str, Callable[[], object]] = {"apply_model": lambda: reference(model, tracks, device)}
        for name, backend in backends.items():
            ways[name] = lambda backend=backend: ours(backend, tracks)
        if not options.no_command:
            ways["demucs command"] = lambda: command(folder, folder, files, device, options.threads)
            ways["demucs command, 1 s"] = lambda: command(folder, folder, [second], device, options.threads)
        reference(model, [tracks[0][:, : 8 * RATE]], device)
        for backend in backends.values():
            ours(backend, [tracks[0][:, : 8 * RATE]])
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        results: dict[str, object] = {}
        for _ in range(options.rounds):
            for name, way in ways.items():
                wall, cpu, results[name] = timed(way, device)
                spent[name].append((wall, cpu))
    print_table(options, device, spent)
    expected = results["apply_model"]
    for name in backends:
        pairs = list(zip(results[name], expected, strict=True))
        worst = max(float(np.abs(found - right).max()) for found, right in pairs)
        loudest = max(float(np.abs(right).max()) for _, right in pairs)
        ratio = min(si_sdr(f, r) for found, right in pairs for f, r in zip(found, right, strict=True))
        print(f"\n{name}: largest difference from apply_model {worst:.1e} (largest value {loudest:.2f}), "
              f"SI-SDR against it {ratio:.1f} dB or more")  # fmt: skip


def print_table(
    options: argparse.Namespace, device: str, spent: dict[str, list[tuple[float, float]]]
) -> None:
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {options.threads} threads"
    audio = options.seconds * options.tracks
    print(
        f"{options.tracks} tracks of {options.seconds:g} s, {where}, random weights, {options.rounds} rounds\n"
    )
    print(
        "| htdemucs by | wall, s | CPU, s | × real time | wall, of apply_model | CPU time, of apply_model |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    base = [statistics.median(column) for column in zip(*spent["apply_model"], strict=True)]
    for name, times in spent.items():
        wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
        speed = f"{audio / wall:.2f}" if not name.endswith("1 s") else "–"
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {speed} | {wall / base[0]:.2f} | {cpu / base[1]:.2f} |")


if __name__ == "__main__":
    main()
