"""A small output as a run would leave it, made by hand with the real schemas: what the verify tests damage."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import defaultdict

import numpy as np
import pyarrow as pa

from helpers.standard_schemas import segments_of, tracks_of
from pipeline.dataset.output import Output, blob_path, npy_bytes
from pipeline.dataset.tables.schemas import FAILURES, TIMINGS
from pipeline.features import REGISTRY
from pipeline.stages.separation.spec import STEM_FILES

SPACE = "HTSAT-tiny:0123456789ab"
RUN = "20260101T000000-aaaa"
LATER = "20260102T000000-bbbb"
KEYS = {"mel": "111111111111", "clap": "222222222222", "separation": "333333333333"}
WINDOWS = 2
STAGES = ("decode", "features.mel", "clap", "separation", "write")
TRACKS = tracks_of([REGISTRY["mel"]()], True, True, embedding_space=SPACE)


def asset(name: str) -> str:
    """The asset_id of a track."""
    return hashlib.sha256(name.encode()).hexdigest()


def unit(seed: int) -> list[float]:
    """A unit vector of CLAP's size."""
    vector = np.random.default_rng(seed).normal(size=512)
    return (vector / np.linalg.norm(vector)).astype(np.float32).tolist()


def part_name(number: int) -> str:
    """As the sink names parts."""
    return f"part-{number:09d}-0123abcd.parquet"


def mel_path(name: str) -> str:
    """Where the blob of a track lies."""
    return blob_path(asset(name), "mel", KEYS["mel"], "mel")


def track_row(name: str, run: str = RUN, seed: int = 0) -> dict:
    """A row of a track that worked."""
    return {
        "asset_id": asset(name), "uri": f"/audio/{name}", "size_bytes": 1000, "container": "wav", "codec": "pcm",
        "sample_rate": 44100, "channels": 2, "duration_s": 8.0, "status": "ok", "run_id": run,
        "schema_version": "soundmill_tracks_v1", "extractor_keys": list(KEYS.items()), "fallbacks": [],
        "mel_mean": [0.5] * 128, "mel_blob": mel_path(name), "mel_shape": [8, 16], "clap_embedding": unit(seed),
        "clap_windows": WINDOWS, "clap_aggregate": "mean", "clap_model": SPACE, "separation_backend": "spleeter",
        "stem_share_vocals": 0.5, "stem_gain_vocals_db": 0.0,
    }  # fmt: skip


def write_part(
    output: Output, number: int, names: list[str], run: str = RUN, bad: tuple[str, ...] = ()
) -> None:
    """One block of tracks through all tables; those in ``bad`` failed to decode."""
    file = part_name(number)
    tracks, segments, timings, failures = [], [], [], []
    for place, name in enumerate(names):
        if name in bad:
            tracks.append(
                {"asset_id": asset(name), "uri": f"/audio/{name}", "status": "failed", "run_id": run,
                 "extractor_keys": [], "fallbacks": []}
            )  # fmt: skip
            failures.append(
                {"asset_id": asset(name), "uri": f"/audio/{name}", "stage": "decode", "message": "no music",
                 "error_class": "UnrecognizedFormat", "attempts": 1, "worker_died": False, "run_id": run,
                 "first_seen": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)}
            )  # fmt: skip
        else:
            tracks.append(track_row(name, run, number + place))
            output.write(mel_path(name), npy_bytes(np.ones((8, 16), np.float16)))
            output.write(STEM_FILES.path(asset(name), "vocals.flac"), b"fLaC and more")
            segments += [
                {"asset_id": asset(name), "segment_index": i, "start_s": 5.0 * i, "end_s": 5.0 * i + 10,
                 "clap_embedding": unit(100 + i), "rms_dbfs": -20.0}
                for i in range(WINDOWS)
            ]  # fmt: skip
        for stage in ("decode", "write") if name in bad else STAGES:
            timings.append(
                {"asset_id": asset(name), "stage": stage, "device": "cpu", "backend": "x", "compute_s": 0.1,
                 "wait_s": 0.0, "batch_items": 1, "batch_audio_s": 8.0, "padding_fraction": 0.0,
                 "cache_hit": False, "node": "n", "pid": 1}
            )  # fmt: skip
    tables = {
        "segments": (segments, segments_of(SPACE)), "failures": (failures, FAILURES),
        "timings": (timings, TIMINGS), "tracks": (tracks, TRACKS),
    }  # fmt: skip
    for table, (rows, schema) in tables.items():
        if rows:
            output.write_table(f"{table}/{file}", pa.Table.from_pylist(rows, schema=schema))


def finish(output: Output, run: str = RUN) -> None:
    """The files of a finished run, whose sums are those of the timings that are there."""
    stages: dict[str, dict] = defaultdict(lambda: {"rows": 0, "compute_s": 0.0})
    for batch in output.batches("timings"):
        for row in batch.to_pylist():
            stages[row["stage"]]["rows"] += 1
            stages[row["stage"]]["compute_s"] += row["compute_s"]
    files = sum(batch.num_rows for batch in output.batches("tracks"))
    text = json.dumps({"run_id": run, "files": files, "stages": stages})
    output.write(f"runs/{run}/config.yaml", b"source: {uri: /audio, storage_options: {key: '***'}}\n")
    output.write(f"runs/{run}/performance.json", text.encode())


def build(output: Output) -> Output:
    """Five tracks in two parts, one of which failed."""
    write_part(output, 0, ["a.wav", "b.wav", "bad.mp3"], bad=("bad.mp3",))
    write_part(output, 3, ["c.wav", "d.wav"])
    finish(output)
    return output
