"""How ``source_v1`` and ``output_v1`` were made: once, on Ray, by the version before the house was rebuilt.

What an old version left behind is not made anew; this is kept so that one can see what it is, and as the way to keep an
``output_v2`` when there is reason to. ``python tests/pins/make_output_v1.py FOLDER`` writes both into ``FOLDER``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]

PLACE = "/music/v1"
"""Stands for the folder of the sources in what is written down."""
NODE = "node"


def write_sources(folder: Path) -> None:
    """A stereo file, a mono one and a copy of it, noise, and one that is broken."""
    folder.mkdir(parents=True)
    time = np.arange(8000) / 8000
    left, right = (
        0.3 * np.sin(2 * np.pi * f * time) + 0.2 * np.sin(2 * np.pi * 440 * time) for f in (220, 330)
    )
    both = np.stack([left, right], axis=1)[:4000]
    soundfile.write(folder / "stereo.wav", both, 8000, subtype="PCM_U8")
    soundfile.write(folder / "mono.flac", left, 8000)
    shutil.copyfile(folder / "mono.flac", folder / "copy.flac")
    noise = np.random.RandomState(5).uniform(-0.5, 0.5, 8000)
    soundfile.write(folder / "noise.wav", noise, 8000, subtype="PCM_U8")
    (folder / "broken.wav").write_bytes(b"RIFF and nothing else")


def settle_times(folder: Path) -> None:
    """Give the sources the times that the rows hold as their versions."""
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))


def with_uris(output: Path, old: str, new: str) -> None:
    """Put another folder into the uris of all tables. Parts are written as they were, under their names."""
    for path in sorted(output.glob("*/*.parquet")):
        table = pq.ParquetFile(path).read()
        if "uri" in table.column_names:
            place = table.schema.get_field_index("uri")
            uris = [new + uri.removeprefix(old) for uri in table["uri"].to_pylist()]
            table = table.set_column(place, table.schema.field(place), [uris])
            pq.write_table(table, path, compression="zstd")


def _without_machine(output: Path, source: Path) -> None:
    """Leave out what is large (report, manifest) or of the machine: the log, its name, and those of its folders."""
    with_uris(output, str(source), PLACE)
    for path in (output / "timings").glob("*.parquet"):
        table = pq.ParquetFile(path).read()
        place = table.schema.get_field_index("node")
        nodes = [[NODE] * table.num_rows]
        pq.write_table(table.set_column(place, table.schema.field(place), nodes), path, compression="zstd")
    [run] = [path for path in (output / "runs").iterdir() if path.is_dir()]
    for path in list(run.iterdir()):
        if path.name not in ("performance.json", "config.yaml", "status.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    numbers = json.loads((run / "performance.json").read_text())
    for process in numbers.get("processes", []):
        process["node"] = NODE
    (run / "performance.json").write_text(json.dumps(numbers))
    for path in run.iterdir():
        path.write_text(path.read_text().replace(str(source), PLACE).replace(str(output.parent), "/made"))


def main(target: Path) -> None:
    """Write both folders."""
    import pin_checkpoint
    import pin_seams
    from pin_runs import old_config

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_sources(root / "source_v1")
        settle_times(root / "source_v1")
        checkpoint = pin_checkpoint.write_checkpoint(root / "clap.pt")
        config = old_config(root / "source_v1", root / "output_v1", checkpoint)
        config.ray.num_cpus, config.hardware.max_files_per_block = 2, 3
        with pin_seams.few_parts():
            result = pin_seams.run(config)
        print(f"exit code {result.exit_code}, problems: {pin_seams.problems(root / 'output_v1')}")
        _without_machine(root / "output_v1", root / "source_v1")
        for name in ("source_v1", "output_v1"):
            shutil.copytree(root / name, target / name)


if __name__ == "__main__":
    sys.path[:0] = [str(REPO), str(HERE), str(REPO / "tests" / "sequences")]
    main(Path(sys.argv[1]))
