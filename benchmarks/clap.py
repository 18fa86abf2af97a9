"""CLAP embeddings from audio files: Soundmill, laion_clap and transformers, on the same files and weights.

Each side goes from file names to unit vectors, in a process of its own, with the same number of threads. Their
turns are interleaved and the medians compared; what the first turn of a process warms up is not counted. The
checkpoint is in LAION's format, by default written here with seeded random weights: speed and agreement of
the implementations can be told from it, how good the embeddings are can not. transformers gets the same
weights under its own names.

- soundmill: decode and resample in a thread ahead, windows of 10 s without overlap, batches across tracks.
- laion_clap: `CLAP_Module.get_audio_embedding_from_filelist`, a file at a time. The package fetches its text
  half from a hub at import; here small stand-ins take its place, which audio never touches.
- transformers: librosa.load at 48 kHz, ClapFeatureExtractor (rand_trunc, repeatpad, 50 Hz) and
  ClapModel.get_audio_features, a file at a time.

Both packages embed 10 s at most of a file, so the files are cut to --seconds, 10 by default; ours then has one
window per file too, and agreement is the least cosine between ours and theirs.

    python benchmarks/clap.py --audio ../shared/audio --tracks 24 --repeats 5
    python benchmarks/clap.py --checkpoint music_audioset_epoch_15_esc_90.14.pt
    python benchmarks/clap.py --cuda        audio-seconds per second, and the share of the card's bf16 peak
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))
# The stand-ins for laion_clap's text half, and seeded weights under LAION's names.
sys.path.insert(0, str(REPO / "tests"))

RATE = 48000
SIDES = ("soundmill", "laion_clap", "transformers")
ARCHITECTURES = ("HTSAT-tiny", "HTSAT-base")


def flop_per_clip(architecture: str) -> float:
    """Twice the multiply-adds of the matrices for one clip of 10 s; attention scores are not counted."""
    from pipeline.models.clap.checkpoint import ARCHITECTURES

    shape = ARCHITECTURES[architecture]
    total, width, tokens = 0.0, shape.width, 64 * 64
    for stage, depth in enumerate(shape.depths):
        # Query, key, value and their projection, and the perceptron of four times the width.
        total += depth * 12 * width**2 * tokens
        if stage < len(shape.depths) - 1:
            tokens //= 4
            total += 8 * width**2 * tokens
            width *= 2
    return 2 * total


def write_tracks(audio: Path, folder: Path, tracks: int, seconds: float) -> list[str]:
    """Stretches of the songs, at their own rate, as 16-bit WAV: what a data set of clips looks like."""
    songs = sorted((audio / "music").glob("*/song.ogg"))
    if not songs:
        raise SystemExit(f"there is no music/*/song.ogg below {audio}: name a folder by --audio")
    paths = []
    for number in range(tracks):
        with soundfile.SoundFile(songs[number % len(songs)]) as song:
            length = int(seconds * song.samplerate)
            room = max(1, song.frames - length)
            song.seek(int(number * 7.3 * song.samplerate) % room)
            samples = song.read(length, dtype="float32")
            path = folder / f"{number:04d}.wav"
            soundfile.write(path, samples, song.samplerate, subtype="PCM_16")
        paths.append(str(path))
    return paths


def soundmill(checkpoint: Path, paths: list[str], options: argparse.Namespace) -> Callable[[], np.ndarray]:
    """Ours: a thread decodes ahead of the network, which is most of the work."""
    from pipeline.audio.decode import decode
    from pipeline.audio.resample import make_view
    from pipeline.models.clap.embed import ClapEmbedder

    embedder = ClapEmbedder(
        checkpoint,
        options.device,
        options.amp,
        max_batch_audio_seconds=options.batch_seconds,
        window_seconds=10.0,
        hop_seconds=10.0,
    )
    print(f"soundmill: {embedder.backend}, {embedder.precision.reason}", file=sys.stderr)
    block = max(1, int(options.batch_seconds // 10))

    def load(path: str) -> np.ndarray:
        decoded = decode(Path(path).read_bytes(), name=path)
        return make_view(decoded.samples, decoded.sample_rate, RATE, 1)[0]

    def run() -> np.ndarray:
        vectors = []
        with ThreadPoolExecutor(1) as ahead:
            for tracks in _blocks(ahead.map(load, paths), block):
                results, _ = embedder.embed_tracks(tracks)
                for result in results:
                    if result.error is not None:
                        raise result.error
                    vectors.append(result.aggregate("mean"))
        return np.stack(vectors)

    return run


def _blocks(tracks: Iterator[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    block: list[np.ndarray] = []
    for track in tracks:
        block.append(track)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def laion_clap(checkpoint: Path, paths: list[str], options: argparse.Namespace) -> Callable[[], np.ndarray]:
    """laion_clap's own public method; only its text half is replaced."""
    import torch
    from helpers.clap_reference import _stand_in_text_half

    from pipeline.models.clap.checkpoint import read_checkpoint

    _stand_in_text_half()
    import laion_clap as package

    loaded = read_checkpoint(checkpoint)
    module = package.CLAP_Module(enable_fusion=False, amodel=loaded.info.architecture, device=options.device)
    found = module.model.load_state_dict(loaded.state, strict=False)
    if found.unexpected_keys or any(
        k.startswith("audio_") for k in found.missing_keys if "transform" not in k
    ):
        raise SystemExit(f"{checkpoint} does not fit laion_clap: {found}")
    module.eval()

    @torch.inference_mode()
    def run() -> np.ndarray:
        return np.concatenate([module.get_audio_embedding_from_filelist([path]) for path in paths])

    return run


def transformers(checkpoint: Path, paths: list[str], options: argparse.Namespace) -> Callable[[], np.ndarray]:
    """ClapModel under the same weights, with its own feature extractor."""
    import librosa
    import torch
    from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

    from pipeline.models.clap.checkpoint import ARCHITECTURES, read_checkpoint
    from pipeline.models.clap.hub_format import audio_names

    loaded = read_checkpoint(checkpoint)
    shape = ARCHITECTURES[loaded.info.architecture]
    config = ClapAudioModelWithProjection.config_class(
        patch_embeds_hidden_size=shape.width,
        depths=list(shape.depths),
        hidden_size=shape.features,
        projection_dim=512,
    )
    model = ClapAudioModelWithProjection(config).eval()
    fill(model, loaded.state, audio_names)
    model.to(options.device)
    extractor = ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc", padding="repeatpad")

    @torch.inference_mode()
    def run() -> np.ndarray:
        vectors = []
        for path in paths:
            samples, _ = librosa.load(path, sr=RATE)
            inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
            found = model(input_features=inputs["input_features"].to(options.device)).audio_embeds
            vectors.append(torch.nn.functional.normalize(found, dim=-1).cpu().numpy())
        return np.concatenate(vectors)

    return run


def fill(model, state: dict, audio_names: Callable[[dict], dict]) -> None:
    """Give a model of transformers the weights of ``state``, by the inverse of our own conversion."""
    import torch

    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            [laions] = audio_names({name: parameter})
            part = next((i for i, p in enumerate(("query", "key", "value")) if f".{p}." in name), None)
            if part is not None:
                laions = laions.replace((".query.", ".key.", ".value.")[part], ".qkv.")
                parameter.copy_(state[laions].chunk(3)[part])
            else:
                parameter.copy_(state[laions])


def serve(options: argparse.Namespace) -> None:
    """One side: a line in runs it once, a line out says how long it took."""
    import torch

    torch.set_num_threads(options.threads)
    # What a package prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    paths = [str(p) for p in sorted(options.folder.glob("*.wav"))]
    run = globals()[options.side](options.checkpoint, paths, options)
    for line in sys.stdin:
        started = time.perf_counter()
        used = time.process_time()
        vectors = run()
        answer = {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - used}
        np.save(line.strip(), vectors)
        print(json.dumps(answer), file=answers, flush=True)


class Side:
    """A process that runs one side when told to."""

    def __init__(self, name: str, checkpoint: Path, folder: Path, options: argparse.Namespace) -> None:
        self.name, self.folder = name, folder
        command = [sys.executable, __file__, "--side", name, "--checkpoint", str(checkpoint)]
        command += ["--folder", str(folder), "--threads", str(options.threads), "--amp", options.amp]
        command += ["--device", options.device, "--batch-seconds", str(options.batch_seconds)]
        threads = str(options.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "HF_HUB_OFFLINE": "1",
        }
        self.log = (folder / f"{name}.log").open("w+")
        self.process = subprocess.Popen(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.runs: list[dict[str, float]] = []

    def run(self, counted: bool = True) -> None:
        """Once through all files."""
        print(self.folder / f"{self.name}.npy", file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise SystemExit(f"{self.name} failed:\n{self.log.read()[-3000:]}")
        if counted:
            self.runs.append(json.loads(line))

    def vectors(self) -> np.ndarray:
        """Of the last run."""
        return np.load(self.folder / f"{self.name}.npy", allow_pickle=False)

    def note(self) -> str:
        """What the side said of itself."""
        self.log.seek(0)
        return " ".join(line.strip() for line in self.log if line.startswith(f"{self.name}:"))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.log.close()


def compare(options: argparse.Namespace, checkpoint: Path, folder: Path) -> None:
    """Print the table."""
    audio_s = sum(soundfile.info(p).duration for p in sorted(folder.glob("*.wav")))
    sides = [Side(name, checkpoint, folder, options) for name in options.sides]
    try:
        for side in sides:
            side.run(counted=False)
        for turn in range(options.repeats):
            for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
                side.run()
        print(f"{sides[0].note()}; {options.threads} threads each, {options.repeats} turns, medians\n")
        print(
            "| from files | wall, s (min to max) | CPU, s | audio-s per s | ours is | least cosine to ours |"
        )
        print("| --- | --- | --- | --- | --- | --- |")
        ours = statistics.median(r["wall_s"] for r in sides[0].runs)
        for side in sides:
            walls = [r["wall_s"] for r in side.runs]
            wall, cpu = statistics.median(walls), statistics.median(r["cpu_s"] for r in side.runs)
            cosine = (side.vectors() * sides[0].vectors()).sum(axis=1).min()
            print(
                f"| {side.name} | {wall:.2f} ({min(walls):.2f} to {max(walls):.2f}) | {cpu:.2f} "
                f"| {audio_s / wall:.1f} | {wall / ours:.2f}× | {cosine:.5f} |"
            )
    finally:
        for side in sides:
            side.close()


def on_card(options: argparse.Namespace, checkpoint: Path) -> None:
    """Throughput of the network on a GPU, and how much of what its matrix units can do that is."""
    import torch

    if not torch.cuda.is_available():
        print("GPU: not measured, no CUDA device is visible here")
        return
    from pipeline.models.clap.checkpoint import read_checkpoint
    from pipeline.models.clap.clips import CLIP_SAMPLES
    from pipeline.models.clap.tower import AudioTower

    def seconds(run: Callable[[], object], repeats: int) -> float:
        times = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return statistics.median(times[repeats // 3 :])

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    peak = 2 * 8192**3 / seconds(lambda: a @ a, 30)
    print(f"{torch.cuda.get_device_name()}: bf16 matrix product of 8192, {peak / 1e12:.0f} TFLOP/s\n")
    print("| dtype | clips per batch | audio-s per s | share of the bf16 peak |")
    print("| --- | --- | --- | --- |")
    for dtype in (torch.float32, torch.bfloat16):
        weights = read_checkpoint(checkpoint)
        tower = AudioTower(weights, dtype).to("cuda")
        for clips in (16, 64, 128):
            x = 0.1 * torch.randn(clips, CLIP_SAMPLES, device="cuda")
            spent = seconds(lambda tower=tower, x=x: tower(x), 15)
            share = flop_per_clip(weights.info.architecture) * clips / spent / peak
            print(f"| {dtype} | {clips} | {10 * clips / spent:.0f} | {share:.1%} |")


def main() -> None:
    """Parse the command line and run."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    audio = REPO.parent / "shared" / "audio"
    parser.add_argument("--checkpoint", type=Path, help="LAION .pt; default: seeded random weights")
    parser.add_argument(
        "--architecture", choices=ARCHITECTURES, default="HTSAT-base", help="of the random weights"
    )
    parser.add_argument("--audio", type=Path, default=audio, help="folder with music/*/song.ogg")
    parser.add_argument("--tracks", type=int, default=16, help="number of files")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a file, 10 at most")
    parser.add_argument("--repeats", type=int, default=5, help="turns per side")
    parser.add_argument("--threads", type=int, default=2, help="of torch, OpenMP and MKL, in each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="ours comes first")
    parser.add_argument("--amp", default="auto", help="of ours: auto, true or false")
    parser.add_argument("--batch-seconds", type=float, default=160.0, help="of ours")
    parser.add_argument("--cuda", action="store_true", help="measure the network on the GPU instead")
    for hidden in ("--side", "--device"):
        parser.add_argument(hidden, default="cpu" if hidden == "--device" else None, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        serve(options)
        return
    if not 0 < options.seconds <= 10:
        parser.error("--seconds must be at most 10: the packages embed no more of a file")
    if options.sides[0] != "soundmill":
        parser.error("--sides begins with soundmill, to which the others are compared")
    with tempfile.TemporaryDirectory(prefix="soundmill-clap-") as scratch:
        folder, checkpoint = Path(scratch), options.checkpoint
        if checkpoint is None:
            from helpers.clap_reference import seeded_state, write_checkpoint

            checkpoint = write_checkpoint(folder / "random.pt", seeded_state(options.architecture))
            print(f"random weights (seed 0, {options.architecture}): speed and agreement only")
        if options.cuda:
            on_card(options, checkpoint)
            return
        write_tracks(options.audio, folder, options.tracks, options.seconds)
        print(f"{options.tracks} files of {options.seconds:g} s")
        compare(options, checkpoint, folder)


if __name__ == "__main__":
    main()
