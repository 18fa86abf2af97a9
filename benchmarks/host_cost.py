"""The host's part of the GPU stages, measured without a GPU: ms per window and per track of CLAP and htdemucs.

Both networks are replaced by ones that return at once, so what is left is what the stages do around them: reading,
levels, 16-bit steps, cutting windows, batching, overlap-add, the stems' statistics, bookkeeping.

    python benchmarks/host_cost.py
    python benchmarks/host_cost.py --against HEAD       and the same of a revision, in the same table

Two columns. "All on this CPU" is the CPU time of everything. "Host's own" is what would be left to the host if the
device were a card: CPU time less the time inside ATen kernels on samples that would lie on the card. A
`TorchDispatchMode` is around the run and clocks every operation below Python; what the mode itself costs per
operation is measured on a trivial one and taken off. What is the device's:

- where `pipeline.models.transfer` brings the samples to the device, every ATen operation but those of the staging
  copy. A CPU has no need of that copy: here `upload` is replaced by one that makes it, into memory that is there;
- in a revision without that module samples stay on the host until a batch goes to the network, and come back after
  it. There only what runs inside ``_forward`` is the device's; pageable copies to and from a card come on top.

A launch costs the host some 5 to 10 us on a card, which a CPU does not show: operations per window are a column of
their own. One thread; CPU time, so that waiting and other work on the machine do not count; least of the repeats.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
CLAP_RATE, RATE = 48000, 44100
CLIP_BATCH, WINDOW_BATCH = 64, 16
AIMS = {"CLAP": 0.15, "htdemucs": 2.0}


class Device:
    """What of the present work would be a card's: set while its operations are clocked."""

    def __init__(self, everywhere: bool) -> None:
        self.active = self.everywhere = everywhere
        self.seconds, self.operations, self.clocked, self.staging = 0.0, 0, 0, 0.0

    @contextmanager
    def only(self, active: bool) -> Iterator[None]:
        """Whether operations in here are the device's."""
        before, self.active = self.active, active
        try:
            yield
        finally:
            self.active = before

    def clock(self) -> Any:
        """A mode that adds up the time inside operations that are the device's."""
        from torch.utils._python_dispatch import TorchDispatchMode

        device = self

        class Clock(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                started = time.thread_time()
                result = func(*args, **(kwargs or {}))
                device.clocked += 1
                if device.active:
                    device.seconds += time.thread_time() - started
                    device.operations += 1
                return result

        return Clock()


def mark_device() -> Device:
    """Find out how this revision brings samples to the device, and mark what is the device's part."""
    import torch

    from pipeline.models.clap.embed import ClapEmbedder
    from pipeline.models.separation.separation_stream import SeparationStream

    try:
        from pipeline.models import transfer
    except ImportError:
        device = Device(everywhere=False)
        for owner in (ClapEmbedder, SeparationStream):
            owner._forward = _inside(device, owner._forward)
        return device
    device = Device(everywhere=True)
    real = transfer.upload

    pinned = torch.empty(0, dtype=torch.uint8)

    def upload(audio: Any, where: Any) -> Any:
        nonlocal pinned
        found = torch.from_numpy(audio)
        started = time.thread_time()
        with device.only(False):
            # The allocator of pinned memory keeps what it has: no pages are touched for the first time.
            if pinned.numel() < found.nbytes:
                pinned = torch.zeros(found.nbytes, dtype=torch.uint8)
            pinned[: found.nbytes].view(found.dtype).view(found.shape).copy_(found)
        device.staging += time.thread_time() - started
        return found

    for name, module in list(sys.modules.items()):
        if name.startswith("pipeline.models") and getattr(module, "upload", None) is real:
            module.upload = upload
    return device


def _inside(device: Device, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any) -> Any:
        with device.only(True):
            return forward(*given)

    return run


def clap_work(folder: Path, seconds: float, count: int) -> tuple[Callable[[], int], int]:
    """What embeds ``count`` tracks and returns the number of windows; and the number of tracks."""
    import torch
    from inputs import architectures, random_checkpoint, stretches

    from pipeline.models.clap.embed import ClapEmbedder
    from pipeline.models.clap.tower import AudioTower

    unit = torch.nn.functional.normalize(torch.randn(CLIP_BATCH, 512), dim=-1)

    def forward(self: AudioTower, waveforms: Any, return_raw: bool = False) -> Any:
        found = unit[: len(waveforms)]
        return (found, found) if return_raw else found

    AudioTower.forward = forward
    [architecture] = architectures(small=True)
    checkpoint = random_checkpoint(folder, architecture)
    embedder = ClapEmbedder(
        checkpoint,
        "cpu",
        "false",
        max_batch_audio_seconds=10.0 * CLIP_BATCH,
        window_seconds=10.0,
        hop_seconds=5.0,
    )
    tracks = stretches(count, seconds, CLAP_RATE, None, stereo=False)

    def run() -> int:
        results = embedder.embed_tracks(tracks)[0]
        return sum(w.embedding is not None for result in results for w in result.windows)

    return run, count


def htdemucs_work(folder: Path, seconds: float, count: int) -> tuple[Callable[[], int], int]:
    """What separates ``count`` tracks into statistics and returns the number of windows; and of tracks."""
    import torch
    from demucs.htdemucs import HTDemucs
    from inputs import SOURCES, stretches

    from pipeline.audio.reader import ArrayReader
    from pipeline.models.separation import SeparationStream, StemFold
    from pipeline.models.separation.demucs import Demucs

    sizes = {"channels": 8, "nfft": 2048, "t_layers": 1, "t_heads": 2, "bottom_channels": 0}
    backend = Demucs(HTDemucs(SOURCES, segment=Fraction(39, 5), **sizes), "cpu")
    backend.batch_items = WINDOW_BATCH
    # As wide as the network's, and not the input itself, so that nothing can be saved on it.
    stems = 0.1 * torch.randn(WINDOW_BATCH, len(SOURCES), 2, int(RATE * 7.8))
    backend.separate = lambda batch: stems[: len(batch), ..., : batch.shape[-1]]
    tracks = stretches(count, seconds, RATE, None)
    windows = sum(1 for track in tracks for _ in backend.windows(track.shape[1]))

    def run() -> int:
        folds: dict[int, StemFold] = {}
        for piece in SeparationStream(backend, [ArrayReader(track) for track in tracks]):
            if piece.error is not None:
                raise piece.error
            fold = folds.setdefault(piece.track, StemFold(backend.sources))
            if piece.block is not None:
                fold.add(piece.block)
            if piece.done:
                fold.statistics()
        return windows

    return run, count


CASES = (
    ("CLAP", clap_work, 60.0, 16),
    ("CLAP", clap_work, 10.0, 64),
    ("htdemucs", htdemucs_work, 60.0, 4),
    ("htdemucs", htdemucs_work, 10.0, 16),
)


def serve(project: Path, repeats: int, scale: float) -> None:
    """Measure the checkout at ``project`` and print a JSON list."""
    sys.path[:0] = [str(project), str(REPO / "benchmarks" / "gpu")]
    import torch

    torch.set_num_threads(1)
    device, rows = mark_device(), []
    mode = _mode_seconds(device)
    with tempfile.TemporaryDirectory(prefix="soundmill-random-") as folder:
        for name, build, seconds, count in CASES:
            run, tracks = build(Path(folder), seconds, max(1, round(scale * count)))
            windows = run()
            taken = min(_cpu_seconds(run) for _ in range(repeats))
            own, operations, staging = min(_own_seconds(device, run) for _ in range(repeats))
            rows.append(
                {"stage": name, "track_s": seconds, "tracks": tracks, "windows": windows, "all_s": taken,
                 "own_s": own - device.clocked * mode, "operations": operations, "staging_s": staging}
            )  # fmt: skip
    print(json.dumps(rows))


def _cpu_seconds(run: Callable[[], int]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _own_seconds(device: Device, run: Callable[[], Any]) -> tuple[float, int, float]:
    """CPU seconds of a run outside the device's operations, the mode's included; the number of those operations; and
    the seconds of staging copies."""
    device.seconds, device.operations, device.clocked, device.staging = 0.0, 0, 0, 0.0
    with device.clock():
        taken = _cpu_seconds(run)
    return taken - device.seconds, device.operations, device.staging


def _mode_seconds(device: Device) -> float:
    """What the mode costs per operation."""
    import torch

    x, count = torch.zeros(1), 2000
    with device.only(True):
        least = min(_own_seconds(device, lambda: [x.add_(1) for _ in range(count)])[0] for _ in range(5))
    return least / count


def measure(project: Path, repeats: int, scale: float) -> list[dict[str, Any]]:
    """The rows of a checkout, from a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--serve",
        str(project),
        "--repeats",
        str(repeats),
        "--scale",
        str(scale),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{project} could not be measured:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def checked_out(revision: str, folder: Path) -> Path:
    """The files of a revision below ``folder``; the repository itself is left as it is."""
    command = ["git", "-C", str(REPO), "archive", revision]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"--against {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def table(sides: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown; a row per revision and case."""
    lines = [
        "| stage | tracks | code | all on this CPU, ms per window | per track | host's own, ms per window | per track "
        "| of it staging copies | aim per window | operations per window |",
        "| --- | --- | --- |" + " ---: |" * 7,
    ]
    for number, (name, _, seconds, _) in enumerate(CASES):
        for side, rows in sides.items():
            row = rows[number]
            cells = [
                f"{1e3 * row[total] / row[per]:.3f}"
                for total in ("all_s", "own_s")
                for per in ("windows", "tracks")
            ]
            each = f"{row['tracks']} of {seconds:g} s, {row['windows'] / row['tracks']:.0f} windows"
            cells.append(f"{1e3 * row['staging_s'] / row['windows']:.3f}")
            operations = f"{row['operations'] / row['windows']:.1f}"
            lines.append(
                f"| {name} | {each} | {side} | {' | '.join(cells)} | {AIMS[name]:g} | {operations} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--against", metavar="REV", help="a git revision to measure as well, first")
    parser.add_argument("--repeats", type=int, default=5, help="the least counts")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of tracks")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.repeats, options.scale)
        return
    sides = {}
    with tempfile.TemporaryDirectory(prefix="soundmill-revision-") as folder:
        if options.against:
            before = checked_out(options.against, Path(folder))
            sides[options.against] = measure(before, options.repeats, options.scale)
        sides["this checkout"] = measure(REPO, options.repeats, options.scale)
    print(table(sides))


if __name__ == "__main__":
    main()
