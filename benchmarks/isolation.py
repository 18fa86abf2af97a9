"""What the child process costs: decode and views of real files, in this process and in `IsolatedDecoder`.

    python benchmarks/isolation.py --audio ../shared/audio --repeats 5

Both sides end with the views in one Arrow buffer, as the decode stage leaves them. CPU seconds are those of both
processes together; sides alternate, and the least of the repeats counts, for both clocks. Music is cut to
``--seconds`` and written in several formats; speech is taken as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.audio.decode import decode
from pipeline.audio.encode import encode
from pipeline.audio.isolated import IsolatedDecoder
from pipeline.audio.stream import AudioFile
from pipeline.audio.views import DecodedViews, View, Wanted, decode_views
from pipeline.engine.batch import pcm_array

VIEWS = (
    View("native", None, None),
    View("clap", 48000, 1),
    View("separation", 44100, 2),
    View("mono", 22050, 1),
)
WANTED = Wanted(VIEWS, 1_500_000_000, 86400.0)


def cases(audio: Path, seconds: float) -> dict[str, list[AudioFile]]:
    """Name → files."""
    music = [decode(path.read_bytes()) for path in sorted((audio / "music").rglob("song.*"))]
    found = {}
    for container in ("ogg", "mp3", "flac", "m4a", "wav"):
        found[f"music, {container}"] = [
            _file(
                f"x.{container}",
                encode(m.samples[:, : int(seconds * m.sample_rate)], m.sample_rate, container),
            )
            for m in music
        ]
    speech = sorted((audio / "speech").rglob("*.wav"))
    found[f"speech, wav ({len(speech)} files)"] = [_file(path.name, path.read_bytes()) for path in speech]
    return found


def _file(name: str, data: bytes) -> AudioFile:
    return AudioFile(name, len(data), data)


def cpu_seconds(pid: int) -> float:
    """Time that a process's only busy thread has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(
    run: Callable[[AudioFile], DecodedViews], files: list[AudioFile], pids: list[int]
) -> tuple[float, float]:
    """(wall, CPU) seconds until the views of every file lie in an Arrow buffer."""
    started, cpu = time.perf_counter(), sum(map(cpu_seconds, pids))
    for file in files:
        pcm_array(list(run(file).stored.values()))
    return time.perf_counter() - started, sum(map(cpu_seconds, pids)) - cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--audio", type=Path, default=Path("../shared/audio"))
    parser.add_argument("--seconds", type=float, default=180.0, help="longest excerpt of music")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    decoder = IsolatedDecoder(WANTED)
    here = [os.getpid()]
    print("| files | audio s | here, CPU s | isolated, CPU s | CPU ratio | wall ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, files in cases(options.audio, options.seconds).items():
        audio_s = sum(decoder.decode(file).duration_s for file in files)
        sides = [], []
        for _ in range(options.repeats):
            sides[0].append(measure(lambda file: decode_views(file, WANTED), files, here))
            sides[1].append(measure(decoder.decode, files, [*here, decoder.pid]))
        (wall, cpu), (wall_alone, cpu_alone) = (map(min, zip(*side, strict=True)) for side in sides)
        print(
            f"| {name} | {audio_s:.0f} | {cpu:.2f} | {cpu_alone:.2f} | {cpu_alone / cpu:.3f} |"
            f" {wall_alone / wall:.3f} |"
        )
    print(f"\nThe child's peak: {decoder.peak_rss_bytes >> 20} MiB.")


if __name__ == "__main__":
    main()
