"""What the beats cost, step by step, how they compare with Spleeter and with another decoder, and where there are none.

- Speed: seconds of audio per second of one core, of the inputs, the networks, the decoder and all together; and of
  Spleeter on the same audio, of which the beats should cost a tenth. The machine must be idle; say date and hardware.
- The decoder against madmom's, as ported in `madmom-infer` (BSD), where that can be imported: both get the same odds of
  a beat, and the beats in each and the speeds are compared. Install it aside, such as
  ``pip install --no-deps --target FOLDER madmom-infer``, and name the folder with ``--madmom``.
- Null: how many of the prompts of ``speech/*/*.wav`` and of the noises made here have a tempo; none should.

How right the beats are is in `benchmarks/truth.py`. The weights are fetched with `python jobs/models.py fetch beatnet`.

    python benchmarks/beats.py --audio ../shared/audio --seconds 60
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

from quickest import quickest

from pipeline.audio.reader import ArrayReader
from pipeline.audio.resample import make_view
from pipeline.models.beats.decoding import ZONES, Space, decode, intervals_of
from pipeline.models.beats.front_end import FRAMES_PER_SECOND, FrontEnd, frame_count
from pipeline.models.beats.names import SAMPLE_RATE, BeatOptions
from pipeline.models.beats.network import load_ensemble
from pipeline.models.beats.rhythm import PATIENCE_FRAMES
from pipeline.models.beats.tracker import BeatTracker


def read(files: list[Path], seconds: float | None, rate: int = SAMPLE_RATE, channels: int = 1) -> np.ndarray:
    """The sum of the files, float32 ``[channels, samples]``."""
    parts = []
    for file in files:
        native = soundfile.info(file).samplerate
        frames = -1 if seconds is None else int(seconds * native)
        audio, native = soundfile.read(file, dtype="float32", always_2d=True, frames=frames)
        parts.append(make_view(np.ascontiguousarray(audio.T), native, rate, channels))
    shortest = min(part.shape[1] for part in parts)
    return np.sum([part[:, :shortest] for part in parts], axis=0)


def speeds(tracker: BeatTracker, samples: np.ndarray, song: np.ndarray | None) -> None:
    """Print how many seconds of audio a core does in one, step by step; ``song`` is what Spleeter gets, if anything."""
    seconds, audio = samples.shape[1] / SAMPLE_RATE, ArrayReader(samples)
    frames, front_end = frame_count(samples.shape[1]), FrontEnd()
    inputs = front_end.features(audio, 0, frames)[None]
    start = tracker.ensemble.start(1)
    [heard] = tracker.hear([audio])
    odds = heard.activations()
    options = BeatOptions()
    spaces = [
        Space(m, intervals_of(options.min_bpm, options.max_bpm, FRAMES_PER_SECOND)) for m in options.meters
    ]
    whole = quickest(lambda: tracker.track([audio]))
    steps = {
        "inputs": quickest(lambda: front_end.features(audio, 0, frames)),
        "three networks": quickest(lambda: tracker.ensemble(inputs, start)),
        "decoding, three meters": quickest(lambda: decode(odds, spaces, PATIENCE_FRAMES)),
        "all that comes of what is heard": quickest(lambda: tracker.beats(audio, heard)),
        "the whole product": whole,
    }
    print("| step | × real time |\n| --- | ---: |")
    for name, took in steps.items():
        print(f"| {name} | {seconds / took:,.0f} |")
    if song is not None:
        from pipeline.models.separation.separation_stream import separate_track
        from pipeline.models.separation.spleeter import Spleeter

        spleeter = Spleeter.load()
        took = quickest(lambda: separate_track(spleeter, song))
        print(f"| Spleeter | {song.shape[1] / 44100 / took:,.0f} |")
        print(f"\nThe beats cost {whole / seconds / (took / (song.shape[1] / 44100)):.3f} of Spleeter.")


def against_madmom(folder: Path | None, odds: np.ndarray) -> None:
    """Print how the decoder of `madmom-infer` compares, with the same parameters, on the same odds."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        from madmom_infer.features.downbeats import DBNDownBeatTrackingProcessor
    except ImportError:
        print("\nmadmom-infer cannot be imported: not compared")
        return
    meters = (2, 3, 4)
    theirs = DBNDownBeatTrackingProcessor(
        list(meters), min_bpm=40, max_bpm=300, num_tempi=None, transition_lambda=100,
        observation_lambda=ZONES, threshold=0, correct=False, fps=FRAMES_PER_SECOND,
    )  # fmt: skip
    started = time.perf_counter()
    beats = theirs(odds)
    took = time.perf_counter() - started
    spaces = [Space(m, intervals_of(40, 300, FRAMES_PER_SECOND)) for m in meters]
    best = max(decode(odds, spaces, PATIENCE_FRAMES), key=lambda path: path.log_probability)
    mine = best.nodes[best.nodes[:, 0] > 0]
    same = {(round(t * FRAMES_PER_SECOND), int(n)) for t, n in beats} & {
        (int(f), int(b) + 1) for f, b, _ in mine
    }
    print(
        f"\nmadmom-infer: {len(odds) / FRAMES_PER_SECOND / took:.1f}× real time; of its {len(beats)} beats and our "
    )
    print(f"{len(mine)}, {len(same)} are at the same frame with the same place in the bar.")


def noises(seconds: float = 20.0) -> Iterator[tuple[str, np.ndarray]]:
    """Name and float32 ``[1, samples]`` of what has no beat."""
    rng, count = np.random.default_rng(0), int(seconds * SAMPLE_RATE)
    t = np.arange(count) / SAMPLE_RATE
    white = rng.standard_normal(count)
    swell = 1 + 0.7 * np.sin(2 * np.pi * t / 3.3)
    drops = (rng.random(count) < 0.01) * rng.standard_normal(count)
    found = {
        "silence": np.zeros(count),
        "white noise": 0.1 * white,
        "wind": 0.5 * np.convolve(white, np.ones(200) / 200, "same") * swell,
        "rain": 0.3 * np.convolve(drops, np.exp(-np.arange(200) / 40), "same"),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * t),
        "a glide": 0.3 * np.sin(2 * np.pi * (100 * t + 100 * t * t)),
    }
    for name, audio in found.items():
        yield name, audio[None].astype(np.float32)


def nulls(tracker: BeatTracker, folder: Path | None) -> None:
    """Print what has a tempo and should not."""
    found = {"noises": [tracker.track([ArrayReader(audio)])[0].bpm for _, audio in noises()]}
    if folder is not None:
        prompts = sorted((folder / "speech").rglob("*.wav"))
        found["spoken prompts"] = [
            tracker.track([ArrayReader(read([file], None))])[0].bpm for file in prompts
        ]
    print("\n| material | files | with a tempo |\n| --- | ---: | ---: |")
    for name, tempi in found.items():
        print(f"| {name} | {len(tempi)} | {sum(bpm is not None for bpm in tempi)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--audio", type=Path, help="a folder with music/*/*.ogg, stems of songs, and speech/*/*.wav"
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--madmom", type=Path, help="a folder that madmom_infer was installed into")
    parser.add_argument("--no-spleeter", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tracker = BeatTracker(load_ensemble())
    if options.audio is not None:
        stems = sorted(sorted((options.audio / "music").iterdir())[0].glob("*.ogg"))
        samples, song = read(stems, options.seconds), read(stems, options.seconds, 44100, 2)
    else:
        pulse = np.arange(int(options.seconds * SAMPLE_RATE)) % (SAMPLE_RATE // 2)
        noise = np.random.default_rng(0).standard_normal(len(pulse))
        samples, song = (0.3 * noise * np.exp(-pulse / 1000))[None].astype(np.float32), None
    speeds(tracker, samples, None if options.no_spleeter else song)
    against_madmom(options.madmom, tracker.hear([ArrayReader(samples)])[0].odds)
    nulls(tracker, options.audio)


if __name__ == "__main__":
    main()
