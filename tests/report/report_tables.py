"""Outputs for the tests of the report: ten tracks that were really computed, and tables as large as one likes."""

from __future__ import annotations

import datetime
import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa
from helpers.standard_schemas import tracks_of

from pipeline.audio import synth
from pipeline.dataset.output import Output, blob_path, npy_bytes
from pipeline.dataset.tables.schemas import FAILURES
from pipeline.features import REGISTRY
from pipeline.features.spectra import SharedSpectra
from pipeline.report.table_reading import identities

RATE = 22050
RUN = "20260101T101500-aaaa"
HOSTILE = "/audio/\"'<b>&amp;</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>.wav"
EXTRACTORS = ("mel", "mfcc", "chroma", "key", "loudness", "tempo", "quality")
LARGE = 100_000


def digest(text: str) -> str:
    """An asset_id."""
    return hashlib.sha256(text.encode()).hexdigest()


def identity(text: str) -> int:
    """What the report calls the content with that `digest`."""
    return int(identities(pa.table({"asset_id": [digest(text)]}))[0])


def signals() -> dict[str, np.ndarray]:
    """Uri → ``[channels, samples]`` at `RATE`."""
    chords = {
        f"/audio/chords_{tonic}_{mode}.wav": synth.chord_progression(
            tonic, mode, 4.0, RATE, bpm=120.0, seed=seed
        )[None]
        * 0.3
        for seed, (tonic, mode) in enumerate(
            [("C", "major"), ("A", "minor"), ("F#", "major"), ("D", "minor")]
        )
    }
    drums = synth.drum_pattern(120.0, 4.0, RATE)[None] * 0.5
    return {
        **chords,
        HOSTILE: synth.chord_progression("G", "major", 4.0, RATE, bpm=100.0, seed=9)[None] * 0.2,
        "/audio/drums.wav": drums,
        "/audio/clipped.wav": np.clip(4 * drums, -1, 1),
        "/audio/silence.wav": np.zeros((1, RATE), np.float32),
    }


def row_of(uri: str, samples: np.ndarray, output: Output | None = None) -> dict[str, Any]:
    """The row of a track, with its blobs written."""
    asset = digest(uri)
    row: dict[str, Any] = {
        "asset_id": asset, "uri": uri, "size_bytes": 1, "container": "wav", "codec": "pcm_s16le", "sample_rate": RATE,
        "channels": len(samples), "duration_s": samples.shape[1] / RATE, "status": "ok", "run_id": RUN,
        "extractor_keys": [], "fallbacks": [],
    }  # fmt: skip
    samples = samples.astype(np.float32)
    spectra = SharedSpectra(samples.mean(axis=0), RATE, samples, RATE)
    for name in EXTRACTORS:
        found = REGISTRY[name]().extract(spectra)
        row |= found.values
        for array, values in found.arrays.items() if output is not None else ():
            row[f"{array}_blob"] = blob_path(asset, name, "0123456789ab", array)
            row[f"{array}_shape"] = list(values.shape)
            output.write(row[f"{array}_blob"], npy_bytes(values.astype(np.float16)))
    return row


def build_small(output: Output) -> Output:
    """Ten files: eight contents, a copy, and one that failed; without CLAP."""
    rows = [row_of(uri, samples, output) for uri, samples in signals().items()]
    rows.append({**rows[0], "uri": "/audio/a copy.wav"})
    lost = {"asset_id": digest("lost"), "uri": "/audio/lost.mp3"}
    rows.append({**lost, "status": "failed", "run_id": RUN, "extractor_keys": [], "fallbacks": []})
    schema = tracks_of([REGISTRY[name]() for name in EXTRACTORS], True, False)
    for start, stop in ((0, 6), (6, 10)):
        part = pa.Table.from_pylist(rows[start:stop], schema=schema)
        output.write_table(f"tracks/part-{start:09d}-0123abcd.parquet", part)
    failure = {
        **lost,
        "stage": "decode",
        "error_class": "UnrecognizedFormat",
        "message": "</td><script>window.hacked=1</script>",
        "attempts": 1,
        "worker_died": False,
        "first_seen": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
        "run_id": RUN,
    }
    output.write_table(
        "failures/part-000000006-0123abcd.parquet", pa.Table.from_pylist([failure], schema=FAILURES)
    )
    write_run(output, files=10, audio_s=29.0)
    plan = {
        "files": 10, "audio_hours": 0.008, "wall_s": {"low": 5.0, "expected": 10.0, "high": 12.0}, "gpu_hours": None,
        "failures_expected": {"rate": 0.2, "sampled": 5}, "output_bytes": 2_000_000,
        "stages": {"features.mel": {"compute_s": 4.0}}, "peak_rss_bytes": {"features": 2**30},
    }  # fmt: skip
    output.write(f"runs/{RUN}/plan.json", json.dumps(plan).encode())
    return output


def write_run(
    output: Output, files: int, audio_s: float, run: str = RUN, device: str = "cpu"
) -> dict[str, Any]:
    """``performance.json`` and ``environment.json`` of a run."""
    stages = {
        name: {"device": device if name == "clap" else "cpu", "rows": files, "cache_hits": 0, "compute_s": seconds,
               "share": seconds / 20, "wait_s": seconds / 3, "real_time_factor": audio_s / seconds,
               "padding_fraction": 0.1}
        for name, seconds in {"clap": 9.0, "features.mel": 6.0, "decode": 4.0, "write": 1.0}.items()
    }  # fmt: skip
    numbers = {
        "run_id": run, "files": files, "status": {"ok": files - 1, "failed": 1}, "audio_s": audio_s, "wall_s": 14.0,
        "startup_s": 2.0, "real_time_factor": audio_s / 14, "compute_s": 20.0, "busy_s": 21.0,
        "compute_over_busy": 0.95,
        "stages": stages, "cache": None,
        "processes": [{"stage": s, "node": "n", "pid": n, "peak_rss_bytes": (n + 1) << 29}
                      for n, s in enumerate(("decode", "features", "features", "clap"))],
        "fallbacks": [{"stage": "clap", "wanted": "<i>cuda</i>", "used": "cpu", "reason": "no GPU", "count": 3}],
    }  # fmt: skip
    output.write(f"runs/{run}/performance.json", json.dumps(numbers).encode())
    output.write(
        f"runs/{run}/environment.json", b'{"python": "3.11", "cpu_count": 2, "packages": {"ray": "2.60"}}'
    )
    return numbers


def build_large(output: Output, rows: int = LARGE, part: int = 5_000) -> Output:
    """Synthetic tables: not all columns, embeddings of a few hundred clusters, nulls and infinities here and there."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, 512)).astype(np.float32)
    # One pool of vectors, shifted: fresh noise for each row would take longer than the report.
    pool = rng.normal(size=(part, 512)).astype(np.float32) * 0.5
    for start in range(0, rows, part):
        vectors = centres[rng.integers(0, len(centres), part)] + np.roll(pool, start // part * 7 + 1, axis=1)
        if start == 0:
            vectors[1] = vectors[0] + 0.01
        table = _large_part(rng, start, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        output.write_table(f"tracks/part-{start:09d}-0123abcd.parquet", table)
    write_run(output, rows, rows * 100.0)
    return output


def _large_part(rng: np.random.Generator, start: int, vectors: np.ndarray) -> pa.Table:
    n = len(vectors)
    numbers = rng.integers(0, 256, (n, 32), dtype=np.uint8)
    if start == 0:
        numbers[:2, :7] = 0  # the near-duplicates are in every sample
    offsets = np.arange(0, 64 * (n + 1), 64, dtype=np.int32)
    ids = pa.StringArray.from_buffers(
        n, pa.py_buffer(offsets), pa.py_buffer(numbers.tobytes().hex().encode())
    )
    loudness = rng.normal(-16, 4, n).astype(np.float32)
    loudness[::97] = np.nan
    peak = (loudness + rng.normal(14, 2, n)).astype(np.float32)
    peak[5] = -np.inf
    tempo = pa.array(rng.normal(115, 25, n).clip(40, 300), pa.float32(), mask=rng.random(n) < 0.1)
    lists = pa.ListArray.from_arrays(
        pa.array(np.arange(0, vectors.size + 1, 512, dtype=np.int32)),
        pa.array(vectors.ravel().astype(np.float32)),
    )
    choose = lambda *names: pa.array(names).take(pa.array(rng.integers(0, len(names), n)))  # noqa: E731
    return pa.table(
        {
            "asset_id": ids, "uri": pa.array([f"/music/{start + k:06d}.flac" for k in range(n)]),
            "status": choose("ok", "ok", "ok", "partial"), "container": choose("flac", "mp3", "ogg", "m4a", "wav"),
            "codec": choose("a", "b"), "sample_rate": choose("44100", "48000", "22050").cast(pa.int32()),
            "channels": choose("1", "2").cast(pa.int32()), "duration_s": pa.array(rng.lognormal(5, 0.6, n)),
            "loudness_integrated_lufs": loudness, "loudness_true_peak_dbtp": peak, "tempo_bpm": tempo,
            "key_name": choose("C", "G", "D", "A", "F#"), "key_mode": choose("major", "minor"),
            "quality_clipping_ratio": pa.array(np.where(rng.random(n) < 0.01, 0.001, 0.0), pa.float32()),
            "clap_embedding": lists,
        }
    )  # fmt: skip
