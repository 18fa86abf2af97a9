"""How fast and how right the tags are, as Markdown tables.

- Speed: seconds of audio per second of one core, the spectrogram included, for both networks, for each alone (without
  it), and as the stage runs them, which is both at once. The machine must be idle; say date and hardware.
- Agreement: the largest difference between what the networks give and the published graph in numpy on the same weights
  (`tests/helpers/musicnn_reference.py`), over patches of the audio.
- Tags: the most probable ones of material that is known by ear or made here: songs and prompts of a folder with
  ``music/*/*.ogg`` and ``speech/*/*.wav``, a sine, noise, and drums.

The weights are fetched with `python jobs/models.py fetch musicnn`.

    python benchmarks/tags.py --audio ../shared/audio --seconds 60 --threads 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests"), str(REPO / "benchmarks")]

from quickest import quickest

RATE = 16000
PATCHES = 6
"""That agreement is looked for in, of each sound: the graph in numpy takes its time."""


def material(folder: Path | None, seconds: float) -> dict[str, np.ndarray]:
    """Name → float32 ``[samples]`` at 16 kHz: what is made here, and what lies in ``folder``."""
    t = np.arange(round(seconds * RATE)) / RATE
    rng = np.random.default_rng(0)
    drums = rng.normal(0, 0.3, len(t)) * np.exp(-30 * (t * 2 % 1)) + np.sin(90 * t) * np.exp(
        -12 * (t * 2 % 1)
    )
    found = {
        "sine, 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * t),
        "noise": rng.normal(0, 0.1, len(t)),
        "drums, 120 BPM": 0.5 * drums,
    }
    for song in sorted((folder / "music").iterdir()) if folder else ():
        stems = [heard([stem], seconds) for stem in sorted(song.glob("*.ogg"))]
        shortest = min(map(len, stems))
        found[f"music/{song.name}, the mix"] = sum(stem[:shortest] for stem in stems)
        found[f"music/{song.name}, guitar"] = heard([song / "guitar.ogg"], seconds)
    for speaker in sorted((folder / "speech").iterdir()) if folder else ():
        found[f"speech/{speaker.name}"] = heard(sorted(speaker.glob("*.wav")), seconds)
    return {name: audio.astype(np.float32) for name, audio in found.items()}


def heard(files: list[Path], seconds: float) -> np.ndarray:
    """The files one after the other, mono, at most so long."""
    parts, length = [], 0
    for file in files:
        audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
        parts.append(soxr.resample(audio.mean(axis=1), rate, RATE))
        length += len(parts[-1])
        if length >= seconds * RATE:
            break
    return np.concatenate(parts)[: round(seconds * RATE)]


def speed(tagger, sounds: dict[str, np.ndarray], threads: int) -> str:
    """The table of speeds."""
    import torch

    from pipeline.audio.reader import ArrayReader
    from pipeline.models.tags.front_end import log_mel, patches_of, read_patches
    from pipeline.models.tags.names import NETWORKS, PATCH_SECONDS
    from pipeline.models.tags.tagger import BATCH_PATCHES

    audio = np.concatenate(list(sounds.values()))
    seconds = len(audio) / RATE
    reader = ArrayReader(audio[None])
    count = min(patches_of(len(audio)), BATCH_PATCHES)
    batch = log_mel(torch.from_numpy(read_patches(reader, 0, count).copy()))
    rows = [
        (
            "both, from samples to tags, as the stage does",
            quickest(lambda: tagger.tag_tracks([audio])) / seconds,
        )
    ]
    with torch.inference_mode():
        for name, network in zip(NETWORKS, tagger.networks.networks, strict=True):
            took = quickest(lambda network=network: network(batch)) / (count * PATCH_SECONDS)
            rows.append((f"{name} alone, from the spectrogram", took))
        samples = torch.from_numpy(read_patches(reader, 0, count).copy())
        rows.append(("the spectrogram alone", quickest(lambda: log_mel(samples)) / (count * PATCH_SECONDS)))
    lines = ["| what | audio-s per s | per core |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {1 / took:,.0f} | {1 / took / threads:,.0f} |" for name, took in rows]
    return "\n".join(lines)


def agreement(tagger, sounds: dict[str, np.ndarray]) -> str:
    """The table of differences to the graph in numpy."""
    import torch
    from helpers.musicnn_reference import musicnn

    from pipeline.audio.reader import ArrayReader
    from pipeline.models.tags.checkpoint import read_checkpoint
    from pipeline.models.tags.front_end import log_mel, patches_of, read_patches
    from pipeline.models.tags.names import NETWORKS, TAGS

    variables = read_checkpoint().variables
    worst = {name: [0.0, 0.0] for name in NETWORKS}
    seen = 0
    for audio in sounds.values():
        count = min(PATCHES, patches_of(len(audio)))
        patches = log_mel(torch.from_numpy(read_patches(ArrayReader(audio[None]), 0, count).copy()))
        seen += count
        for name, network in zip(NETWORKS, tagger.networks.networks, strict=True):
            with torch.inference_mode():
                found = network(patches).numpy()
            apart = np.abs(found - np.stack([musicnn(variables[name], patch) for patch in patches.numpy()]))
            worst[name] = np.maximum(worst[name], [apart[:, :TAGS].max(), apart[:, TAGS:].max()])
    lines = [f"| network ({seen} patches) | probabilities | layer before |", "| --- | ---: | ---: |"]
    return "\n".join(
        [*lines, *(f"| {name} | {tags:.1e} | {units:.1e} |" for name, (tags, units) in worst.items())]
    )


def tags(tagger, sounds: dict[str, np.ndarray], most: int) -> str:
    """The table of the most probable tags."""
    from pipeline.models.tags.names import NAMES, NETWORKS

    found, _ = tagger.tag_tracks(list(sounds.values()))
    lines = ["| sound | MagnaTagATune | Million Song Dataset |", "| --- | --- | --- |"]
    for name, track in zip(sounds, found, strict=True):
        cells = []
        for network in NETWORKS:
            values = track.tags(network)
            best = np.argsort(-values, kind="stable")[:most]
            cells.append(", ".join(f"{NAMES[network][n]} {values[n]:.2f}" for n in best))
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--audio", type=Path, help="folder with music/ and speech/; without it only what is made here"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each sound; default 60")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default 1")
    parser.add_argument("--most", type=int, default=5, help="tags that are named of each sound; default 5")
    parser.add_argument("--no-speed", action="store_true", help="leave out what needs an idle machine")
    options = parser.parse_args()

    import torch

    torch.set_num_threads(options.threads)
    from pipeline.models.tags.tagger import Tagger

    sounds = material(options.audio, options.seconds)
    tagger = Tagger()
    tagger.warm_up()
    if not options.no_speed:
        print(f"## Speed, {options.threads} thread\n\n{speed(tagger, sounds, options.threads)}\n")
    print(f"## Agreement with the graph in numpy\n\n{agreement(tagger, sounds)}\n")
    print(f"## Tags\n\n{tags(tagger, sounds, options.most)}")


if __name__ == "__main__":
    main()
