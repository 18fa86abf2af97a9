"""The karaoke service on a real Kafka and Elasticsearch: the cost of a message, the batch job beside it, memory.

    python benchmarks/service.py                       # all three, with songs that are made up
    python benchmarks/service.py --method spleeter --songs 12 --seconds 30
    python benchmarks/service.py --songs 4 --messages 10 --many 10   # does it work?

Java 17 and Maven are needed once; ``tests/servers`` fetches and starts both servers. The machine should be idle.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
from helpers.karaoke_service import TOPICS, Service, answers, request, send
from servers.elasticsearch_server import ElasticsearchServer
from servers.kafka_server import KafkaServer
from small import make_up_files

WORKERS = 2


def family_bytes(pid: int) -> int:
    """Memory of a process and its children that is theirs alone, or their share of what they share."""
    found = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        try:
            found += process.memory_full_info().pss
        except psutil.Error:
            continue
    return found


class Bench:
    """A running service with its servers.

    Args:
        folder: for everything.
        method: ``karaoke.method``.
    """

    def __init__(self, folder: Path, method: str) -> None:
        self.folder, self.method = folder, method
        self.kafka, self.index = KafkaServer(folder / "kafka"), ElasticsearchServer(folder / "index")
        self.answered = 0

    def __enter__(self) -> Bench:
        self.kafka.start()
        self.index.start()
        self.kafka.create_topics(TOPICS, 2)
        keys = [
            f"service.kafka={self.kafka.bootstrap}",
            f"service.search_url={self.index.url}",
            f"service.roots=[{self.folder}]",
            f"service.parallel={WORKERS}",
            f"karaoke.method={self.method}",
        ]
        self.service = Service(self.folder / "service", keys).start().ready(300)
        return self

    def __exit__(self, *error: object) -> None:
        self.service.stop()
        self.index.kill()
        self.kafka.kill()

    def timed(
        self, values: Sequence[dict[str, Any]], meanwhile: Callable[[int], None] = lambda n: None
    ) -> float:
        """Seconds from the first message to the last answer; all of them must have gone well."""
        began = time.monotonic()
        send(self.kafka.bootstrap, values)
        wanted = self.answered + len(values)
        while (found := self._announced()) < wanted:
            meanwhile(found)
            time.sleep(0.05)
        seconds = time.monotonic() - began
        self.answered = wanted
        return seconds

    def _announced(self) -> int:
        return self.service.log.read_bytes().count(b'"step": "announced"')


def batch(source: Path, output: Path, method: str) -> float:
    """Seconds that the batch job works on the same songs, without its start."""
    command = [
        sys.executable, "jobs/karaoke.py", f"source.uri={source}", f"output.uri={output}", f"karaoke.method={method}",
        "ray.address=inline", "karaoke.sample_rate=44100", "karaoke.channels=2",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    (numbers,) = (output / "runs").glob("*/performance.json")
    return float(json.loads(numbers.read_text())["wall_s"])


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="midside", help="karaoke.method (default: %(default)s)")
    parser.add_argument("--songs", type=int, default=24, help="for the comparison (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each of them (default: %(default)s)")
    parser.add_argument("--messages", type=int, default=200, help="without work (default: %(default)s)")
    parser.add_argument(
        "--many", type=int, default=200, help="songs of 5 s, for memory (default: %(default)s)"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        songs, many = folder / "songs", folder / "many"
        for where, count, seconds in ((songs, given.songs, given.seconds), (many, given.many, 5.0)):
            where.mkdir()
            make_up_files(where, count, seconds)
            for file in where.iterdir():  # a folder for each, as the service has them
                (where / file.stem).mkdir()
                shutil.move(file, where / file.stem / "original.flac")
        batch_s = batch(songs, folder / "batch", given.method)
        with Bench(folder, given.method) as bench:
            asked = [request(f"song-{d.name}", d / "original.flac") for d in sorted(songs.iterdir())]
            service_s = bench.timed(asked)
            print("| what | |\n| --- | ---: |")
            print(
                f"| batch job, {given.songs} songs of {given.seconds:g} s, {given.method} | {batch_s:.1f} s |"
            )
            print(f"| service, {WORKERS} workers, first message to last answer | {service_s:.1f} s |")
            print(f"| service against batch job | {batch_s / service_s:.2f} × |")
            again = [asked[n % len(asked)] for n in range(given.messages)]
            each = bench.timed(again) / given.messages
            print(
                f"| a message whose song is done already ({given.messages} of them) | {1000 * each:.1f} ms |"
            )
            memory = memory_over(bench, many)
            for after, held in memory:
                print(f"| memory of service and workers after {after} songs of 5 s | {held / 1e6:.0f} MB |")
            assert all(
                a["status"] == "vocals_processed"
                for found in answers(bench.kafka.bootstrap).values()
                for a in found
            )


def memory_over(bench: Bench, many: Path) -> list[tuple[int, int]]:
    """Songs that were done → bytes that service and workers held, in eight steps."""
    asked = [request(f"many-{d.name}", d / "original.flac") for d in sorted(many.iterdir())]
    step = max(1, len(asked) // 8)
    found = []
    for start in range(0, len(asked), step):
        bench.timed(asked[start : start + step])
        found.append((min(start + step, len(asked)), family_bytes(bench.service.process.pid)))
    return found


if __name__ == "__main__":
    main()
