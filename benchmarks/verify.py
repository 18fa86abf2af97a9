"""How fast verify reads an output, and what its index takes: ``python benchmarks/verify.py [tracks]``.

Makes an output of that many tracks (20,000) in parts of 32, each with a blob, a stem, two segments and five
timings, in a temporary folder; verifies it once. Prints tracks per second and bytes of index per track.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

from helpers.small_output import finish, write_part

from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify


def main() -> None:
    """Build, verify, print."""
    tracks = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory(prefix="soundmill-") as folder:
        output = Output(folder)
        for first in range(0, tracks, 32):
            write_part(output, first, [f"{n}.wav" for n in range(first, min(tracks, first + 32))])
        finish(output)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        report = verify(output)
        seconds = time.perf_counter() - started
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert report.tracks == tracks
    assert not report.found
    print(
        f"{tracks} tracks in {seconds:.1f} s: {tracks / seconds:.0f} tracks/s; index "
        f"{report.index_bytes / tracks:.0f} bytes per track; peak RSS rose by {more / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    main()
