"""Outputs of the mastering job for the tests of the report: songs, silence, files of masters and originals."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from report_tables import RUN, digest, write_run

from pipeline.audio.encode import encode
from pipeline.audio.song_formats import SongFormat
from pipeline.dataset.contents import Contents
from pipeline.dataset.output import Output
from pipeline.dataset.tables.schemas import tracks_schema
from pipeline.report.master_player import Player, Room, player
from pipeline.report.master_view import louder_by, section
from pipeline.report.overview import overview
from pipeline.stages.master.spec import master_product
from pipeline.workflows import report

PRODUCTS = (master_product(SongFormat("flac")),)
RATE = 16_000
HZ = [100.0, 1000.0, 4000.0]


def song(uri: str, **more) -> dict:
    """A song of 8 s that became 4 LU louder, as it was to be."""
    return {
        "asset_id": digest(uri), "uri": uri, "size_bytes": 1, "container": "flac", "codec": "flac",
        "sample_rate": RATE, "channels": 1, "duration_s": 8.0, "status": "ok", "run_id": RUN, "extractor_keys": [],
        "fallbacks": [], "master_preset": "warm", "master_mode": "adaptive", "master_amount": 1.0,
        "master_target_lufs": -14.0, "master_ceiling_dbtp": -1.0, "master_lufs_before": -18.0,
        "master_lufs_after": -14.004, "master_lra_before": 6.0, "master_lra_after": 5.5, "master_tp_before": -3.0,
        "master_tp_after": -1.0, "master_plr_before": 15.0, "master_plr_after": 13.0, "master_gain_db": 4.5,
        "master_max_gain_reduction_db": 2.25, "master_from_s": 0.0, "master_sample_rate": RATE, "master_channels": 1,
        "master_loudness_before": [-20.0, -19.0, None, -18.0, -18.0, -18.0],
        "master_loudness_after": [-16.0, -15.0, None, -14.0, -14.0, -14.0],
        "master_gain_reduction": [0.0, 0.0, 2.25, 0.5, 0.0, 0.0, 0.0, 0.0], "master_reasons": [],
        "master_spectrum_hz": HZ, "master_spectrum_before": [-20.0, -30.0, -40.0],
        "master_spectrum_after": [-14.0, -26.0, -37.0], **more,
    }  # fmt: skip


def silence(uri: str) -> dict:
    """What the job writes of silence."""
    nothing = {name: None for name in song(uri) if re.fullmatch(r"master_(lufs|lra|tp|plr|psr)_.*", name)}
    return song(
        uri, **nothing, master_target_lufs=None, master_limited_by="silence", master_gain_db=0.0,
        master_max_gain_reduction_db=0.0, master_loudness_before=[], master_loudness_after=[],
        master_gain_reduction=[0.0] * 8, master_spectrum_before=[-196.9] * 3, master_spectrum_after=[-196.9] * 3,
    )  # fmt: skip


def sound(seconds: float = 0.5, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 0.1, (1, int(RATE * seconds)))
    return encode(noise, RATE, "flac")


def with_files(output: Output, row: dict, folder: Path, seconds: float = 0.5) -> dict:
    """The song, with an original of its asset_id in ``folder`` and a master below the output."""
    folder.mkdir(exist_ok=True)
    before = sound(seconds, 1)
    original = folder / f"{digest(row['uri'])[:8]} #1.flac"
    original.write_bytes(before)
    asset = hashlib.sha256(before).hexdigest()
    path = f"masters_flac/{asset[:2]}/{asset}/master.flac"
    output.write(path, sound(seconds, 2))
    return row | {"asset_id": asset, "uri": str(original), "master_file": path}


def build(output: Output, rows: list[dict], products=PRODUCTS, part: int = 0) -> Output:
    """An output of the mastering job with these rows in one part."""
    output.declare(Contents(products, "master"))
    table = pa.Table.from_pylist(rows, schema=tracks_schema(products))
    output.write_table(f"tracks/part-{part:09d}-0123456789ab.parquet", table)
    if part == 0:
        write_run(output, len(rows), 60.0)
    return output


def part_of(output: Output) -> str:
    """The section as it stands in the page."""
    page = Path(report.run(output)).read_text()
    return page[page.index('<section id="masters">') : page.index('<section id="trouble">')]


def made_of(output: Output):
    return section(output, overview(output))


def player_of(output: Output, row: dict) -> Player:
    build(output, [row])
    return player(output, row, louder_by(row), Room())
