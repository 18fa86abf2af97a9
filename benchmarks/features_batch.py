"""Short clips one at a time against packed together: seconds, and the calls of torch's operators behind them.

    python benchmarks/features_batch.py --device cuda --clips 64 --seconds 5
    python benchmarks/features_batch.py --device cpu      # forced: a job packs on a GPU only

Both get the same decoded clips (chords and drums, stereo at 44.1 kHz and mono at 22.05 kHz) and every extractor,
in turn, round by round after one that warms up; figures are medians over the rounds. A call of an operator is
about a kernel on a GPU, or a copy to or from it. They are counted in a run of their own, which on a CPU takes the
chunks of a GPU and torch instead of the compiled loops.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from features import machine
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.audio import synth
from pipeline.audio.resample import resample
from pipeline.features import REGISTRY, cqt, frame_sums, layout, masks, median, pitch, spectral, stft
from pipeline.features.base import Extractor
from pipeline.features.run import TrackAudio
from pipeline.features.together import BATCH_SECONDS, run_together

RATE, DSP_RATE = 44100, 22050
# No kernel runs for these: other views of the same memory, and memory as it is.
FREE = {
    *("view", "slice", "select", "transpose", "permute", "t", "unfold", "expand", "unsqueeze", "squeeze"),
    *("alias", "detach", "split", "as_strided", "view_as_real", "lift_fresh", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty"),
}
TRANSFORMS, PRODUCTS = {"_fft_r2c"}, {"mm", "bmm", "addmm", "addmm_"}


class CountedCalls(TorchDispatchMode):
    """How often each operator of torch is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def of(self, names: set[str]) -> int:
        return sum(self.calls[name] for name in names)

    def kernels(self) -> int:
        """All that do something."""
        return sum(self.calls.values()) - self.of(FREE)


@contextmanager
def like_a_gpu(device: str) -> Iterator[None]:
    """On a CPU, the chunks of a GPU and nothing compiled."""

    def by_torch(x: torch.Tensor, positions: torch.Tensor, size: int) -> torch.Tensor:
        rows = x.index_select(0, positions)
        return median._run(median.median_network(size), rows, torch.minimum, torch.maximum, torch.stack)

    with ExitStack() as stack:
        if device == "cpu":
            for chunks in (
                masks._CHUNK_ELEMENTS,
                spectral._CHUNK_FRAMES,
                pitch._CHUNK_FRAMES,
                cqt.CHUNK_FRAMES,
            ):
                stack.enter_context(mock.patch.dict(chunks, cpu=chunks["cuda"]))
            for module, kernel in (
                (stft, "_compiled_squares"),
                (masks, "_compiled_energies"),
                (layout, "_compiled_transposition"),
                (frame_sums, "_compiled_sums"),
                (frame_sums, "_compiled_crossing"),
                (frame_sums, "_compiled_extremes"),
            ):
                stack.enter_context(mock.patch.object(module, kernel, return_value=None))
            stack.enter_context(mock.patch.object(masks, "row_medians", by_torch))
        yield


def make_clips(count: int, seconds: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mono at the DSP rate and stereo at the native one, float32."""
    clips = []
    for seed in range(count):
        tonic, bpm = synth.PITCH_CLASSES[seed % 12], 90.0 + seed
        chords = synth.chord_progression(tonic, "minor" if seed % 2 else "major", seconds, RATE, bpm, seed)
        drums = synth.drum_pattern(bpm, seconds, RATE, seed)
        native = synth.mixture([(drums, 0.7, 0.2), (chords, 0.5, -0.3)]).astype(np.float32)
        clips.append((resample(native, RATE, DSP_RATE).mean(axis=0), native))
    return clips


def tracks_of(clips: list[tuple[np.ndarray, np.ndarray]], device: str) -> list[TrackAudio]:
    """Of which nothing is known yet."""
    return [TrackAudio(mono, DSP_RATE, native, RATE, device=device) for mono, native in clips]


def seconds_of(
    extractors: list[Extractor],
    clips: list[tuple[np.ndarray, np.ndarray]],
    device: str,
    pack: bool,
    most: float,
) -> float:
    tracks = tracks_of(clips, device)
    start = time.perf_counter()
    outcomes = run_together(extractors, tracks, most, pack=pack)
    if device == "cuda":
        torch.cuda.synchronize()
    taken = time.perf_counter() - start
    failed = [outcome for of_track in outcomes for outcome in of_track if outcome.error]
    if failed:
        raise SystemExit(f"{failed[0].extractor.name} failed: {failed[0].error!r}")
    return taken


def compare(title: str, extractors: list[Extractor], clips: list, options: argparse.Namespace) -> list[str]:
    """Two rows, alone and together."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.repeats + 1):
        for pack, found in times.items():
            found.append(seconds_of(extractors, clips, options.device, pack, options.batch_seconds))
    medians = {pack: statistics.median(found[1:]) for pack, found in times.items()}
    audio = sum(len(mono) / DSP_RATE for mono, _ in clips)
    rows = []
    for pack, seconds in medians.items():
        with like_a_gpu(options.device), CountedCalls() as counted:
            seconds_of(extractors, clips, options.device, pack, options.batch_seconds)
        calls = f"{counted.of(TRANSFORMS)} | {counted.of(PRODUCTS)} | {counted.kernels()}"
        name = f"{title}, {'together' if pack else 'one at a time'}"
        ratio = f"{medians[False] / seconds:.2f} ×" if pack else ""
        rows.append(f"| {name} | {seconds:.3f} | {audio / seconds:.0f} | {ratio} | {calls} |")
    return rows


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each clip")
    parser.add_argument("--batch-seconds", type=float, default=BATCH_SECONDS, help="audio of a packed batch")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; one more warms up")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device: nothing is measured; --device cpu forces the packed path there")
    torch.set_num_threads(options.threads)
    clips = make_clips(options.clips, options.seconds)
    card = f"GPU {torch.cuda.get_device_name()}; " if options.device == "cuda" else ""
    print(f"{card}{machine()}\n")
    print(
        f"{options.clips} clips of {options.seconds:g} s on {options.device}, {options.threads} thread(s), at most "
        f"{options.batch_seconds:g} s per batch, median of {options.repeats} rounds.\n"
    )
    print("| extractors | seconds | × real time | faster by | FFT calls | products | kernels, about |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    every = [cls() for cls in REGISTRY.values()]
    # Loudness and quality read the native channels, of which nothing is packed.
    mono = [extractor for extractor in every if extractor.views == ("mono",)]
    for title, extractors in (("all", every), ("those of the mono mix", mono)):
        print("\n".join(compare(title, extractors, clips, options)), flush=True)


if __name__ == "__main__":
    main()
