"""Hostile files from a seed, and the run of the real decode stage over them.

    python tests/engine/hostile.py FOLDER COUNT SEED

writes them below FOLDER/in, decodes them batch by batch, and prints what became of them as JSON. It is a program of
its own so that a crash is seen from outside and peak memory is that of this work alone.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import shutil
import struct
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import soundfile

from pipeline.audio.encode import CONTAINERS, encode
from pipeline.audio.sniff import _MAGIC
from pipeline.audio.views import View
from pipeline.dataset.sources.listing import list_source
from pipeline.engine.batch import collect
from pipeline.engine.packing import pack, planned
from pipeline.engine.process import peak_rss_bytes
from pipeline.stages.decode.worker import DecodeWorker

BATCH = 64
RATE = 16000
MAX_TRACK_BYTES = 50_000_000
HEAD = 400
# Through libsndfile: suffix → format and subtype.
LIBSNDFILE = {
    "w64": ("W64", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "aifc": ("AIFF", "ULAW"),
    "wave": ("WAVEX", "PCM_24"),
    "oga": ("OGG", "OPUS"),
}
# Through FFmpeg: suffix → muxer and encoder.
FFMPEG = {
    "mka": ("matroska", "libopus"),
    "wv": ("wv", "wavpack"),
    "mp2": ("mp2", "mp2"),
    "mov": ("mov", "pcm_s16le"),
    "m4b": ("ipod", "alac"),
    "tta": ("tta", "tta"),
    "ts": ("mpegts", "mp2"),
    "avi": ("avi", "mp2"),
}
EXTREMES = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 4_000_000_000)


def seeds() -> dict[str, bytes]:
    """Suffix → the bytes of a good file of half a second, for every container that can be written here."""
    time_ = np.arange(RATE // 2) / RATE
    noise = np.random.default_rng(0).standard_normal((2, len(time_)))
    samples = (0.3 * np.sin(2 * np.pi * 440 * time_) + 0.05 * noise).astype(np.float32)
    found = {container: encode(samples, RATE, container) for container in CONTAINERS}
    for suffix, (format_, subtype) in LIBSNDFILE.items():
        out = io.BytesIO()
        soundfile.write(out, samples.T, RATE, format=format_, subtype=subtype)
        found[suffix] = out.getvalue()
    for suffix, (muxer, encoder) in FFMPEG.items():
        found[suffix] = _through_ffmpeg(samples, muxer, encoder)
    return found


def _through_ffmpeg(samples: np.ndarray, muxer: str, encoder: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=muxer) as file:
        stream = file.add_stream(encoder, rate=RATE, layout="stereo")
        stream.codec_context.open()
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout="stereo")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format, "stereo", RATE, stream.codec_context.frame_size or 4096)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            file.mux(stream.encode(part))
    return out.getvalue()


def _flip_bits(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(len(data), size=rng.integers(1, 40)):
        data[at] ^= 1 << int(rng.integers(8))


def _flip_bits_of_the_header(data: bytearray, rng: np.random.Generator) -> None:
    for at in rng.integers(min(len(data), HEAD), size=rng.integers(1, 6)):
        data[at] ^= 1 << int(rng.integers(8))


def _lie(data: bytearray, rng: np.random.Generator) -> None:
    """Counts and sizes of two or four bytes, in either order, become impossible ones."""
    for _ in range(rng.integers(1, 3)):
        form = str(rng.choice([">I", "<I", ">H", "<H"]))
        value = int(rng.choice(EXTREMES)) & (0xFFFFFFFF if form[1] == "I" else 0xFFFF)
        struct.pack_into(form, data, 2 * int(rng.integers(min(len(data), HEAD) // 2 - 2)), value)


def _truncate(data: bytearray, rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data))) :]


def _cut_out(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data)))
    del data[at : at + int(rng.integers(1, 2000))]


def _repeat(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data)))
    data[at:at] = data[at : at + int(rng.integers(1, 2000))] * int(rng.integers(1, 9))


def _insert(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data)))
    data[at:at] = rng.bytes(int(rng.integers(1, 3000)))


def _blank(data: bytearray, rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data)))
    stop = min(len(data), at + int(rng.integers(1, 4000)))
    data[at:stop] = bytes([int(rng.choice([0, 255]))]) * (stop - at)


MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], None], ...] = (
    _flip_bits, _flip_bits_of_the_header, _lie, _lie, _truncate, _cut_out, _repeat, _insert, _blank,
)  # fmt: skip


def _patched(data: bytes, offset: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, offset, value)
    return bytes(out)


def crafted(good: dict[str, bytes], rng: np.random.Generator) -> dict[str, bytes]:
    """Name → files with one precise lie each, and what is no audio at all."""
    wav, flac, aiff = good["wav"], good["flac"], good["aiff"]
    found = {f"flac-total-{n}.flac": _flac_total(flac, n) for n in (1, 2**31, 2**36 - 1)}
    for name, offset, form in (
        ("channels", 22, "<H"),
        ("rate", 24, "<I"),
        ("bytes", 28, "<I"),
        ("block", 32, "<H"),
    ):
        for value in EXTREMES:
            found[f"wav-{name}-{value}.wav"] = _patched(
                wav, offset, form, value & (2 ** (8 * struct.calcsize(form)) - 1)
            )
    for name, offset, form in (("tag", 20, "<H"), ("bits", 34, "<H"), ("data", 40, "<I"), ("fmt", 16, "<I")):
        for value in EXTREMES:
            found[f"wav-{name}-{value}.wav"] = _patched(
                wav, offset, form, value & (2 ** (8 * struct.calcsize(form)) - 1)
            )
    for value in (0, 65535):
        found[f"aiff-channels-{value}.aiff"] = _patched(aiff, 20, ">H", value)
    found["aiff-frames.aiff"] = _patched(aiff, 22, ">I", 0x7FFFFFFF)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(30_000_000))
    found |= {
        "zip-bomb.flac": squeezed.getvalue(),
        "gzip.wav": gzip.compress(wav, mtime=0),
        "gzip-bomb.wav": gzip.compress(bytes(30_000_000), mtime=0),
        "empty.mp3": b"",
        "one-byte.ogg": b"O",
        "zeros.m4a": bytes(5000),
        "ones.mp3": b"\xff" * 5000,
        "text.opus": b"no music\n" * 100,
        "playlist.m4a": b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n/etc/passwd\n",
        "concat.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "elf.wav": b"\x7fELF" + bytes(200),
        "id3-only.mp3": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(300),
        "id3-chain.mp3": b"ID3\x04\0\0\0\0\0\0" * 5000,
        "mp4-of-atoms.mp4": b"\0\0\0\x08ftyp" + b"\0\0\0\x08moov" * 4000,
        "mp4-nested.mp4": b"\0\0\0\x14ftypisom\0\0\0\0isom" + _nested(b"moov", b"trak", 2000),
        "ebml-nested.mka": b"\x1a\x45\xdf\xa3"
        + b"\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 500,
        "riff-of-chunks.wav": b"RIFF\xff\xff\xff\x7fWAVE" + b"junk\0\0\0\0" * 20000,
        # A megabyte of samples, all equal: a few bytes per 65535 of them.
        "constant.flac": encode(np.zeros((8, 1_000_000), np.float32), 8000, "flac"),
        # One sample a second: views of it are larger by four orders of magnitude.
        "one-hertz.wav": _patched(_patched(wav, 24, "<I", 1), 28, "<I", 4),
        "loudest-rate.wav": _patched(_patched(wav, 24, "<I", 768_000), 28, "<I", 3_072_000),
    }
    for offset, magic, kind in _MAGIC:
        for number in range(3):
            found[f"{kind.container}-{magic.hex()}-{number}.ape"] = bytes(offset) + magic + rng.bytes(2000)
    names = sorted(good)
    for number in range(40):
        head, tail = (good[name] for name in rng.choice(names, 2))
        cut = int(rng.integers(20, 600))
        found[f"spliced-{number}.{names[number % len(names)]}"] = head[:cut] + tail[cut:]
    for number in range(20):
        found[f"random-{number}.{names[number % len(names)]}"] = rng.bytes(int(rng.integers(1, 20000)))
        magic = good[names[number % len(names)]][:12]
        found[f"magic-{number}.{names[number % len(names)]}"] = magic + rng.bytes(int(rng.integers(1, 5000)))
    return found


def _flac_total(data: bytes, total: int) -> bytes:
    word = struct.unpack_from(">Q", data, 18)[0]
    return _patched(data, 18, ">Q", word >> 36 << 36 | total)


def _nested(outer: bytes, inner: bytes, depth: int) -> bytes:
    out = b""
    for level in range(depth):
        out = struct.pack(">I", len(out) + 8) + (outer if level == depth - 1 else inner) + out
    return out


def hostile_files(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """``count`` names and contents; the same for the same seed, but for Ogg, whose serial numbers are random."""
    good, rng = seeds(), np.random.default_rng(seed)
    names = sorted(good)
    special = list(crafted(good, rng).items())[:count]
    yield from special
    for number in range(count - len(special)):
        suffix = names[number % len(names)]
        data = bytearray(good[suffix])
        done = []
        for _ in range(int(rng.integers(1, 3))):
            mutate = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
            if len(data) > 16:
                mutate(data, rng)
                done.append(mutate.__name__.strip("_"))
        yield f"{number:05d}-{'-'.join(done)}.{suffix}", bytes(data)


def run(folder: Path, count: int, seed: int) -> dict:
    """Decode them with the real stage: what the test looks at."""
    views = [
        View("native", None, None),
        View("mono", 22050, 1),
        View("stereo", 44100, 2),
    ]
    stage = DecodeWorker(views, max_track_bytes=MAX_TRACK_BYTES, decode_timeout_s=30.0)
    outcomes: Counter[str] = Counter()
    rows: list[str] = []
    lost: list[str] = []
    written: list[str] = []
    peak_child = slowest = 0.0
    files = hostile_files(count, seed)
    while batch := list(itertools.islice(files, BATCH)):
        place = folder / "in"
        place.mkdir(parents=True)
        for name, data in batch:
            (place / name).write_bytes(data)
        written += [name for name, _ in batch]
        for block in pack(planned(list_source(str(place), glob="*")), 300.0, BATCH):
            for table in [stage(block)]:
                for uri, views_, long, failures, cost in zip(
                    table["uri"].to_pylist(), table["views"].to_pylist(), table["long"].to_pylist(),
                    collect(table, "failures"), table["timings@decode"].to_pylist(), strict=True,
                ):  # fmt: skip
                    rows.append(Path(uri).name)
                    decoded = views_ != "{}" or bool(long)
                    classes = [f["error_class"] for f in failures] + ["decoded"] * decoded
                    outcomes["+".join(classes)] += 1
                    slowest = max(slowest, cost[0]["compute_s"])
                    if failures and failures[0]["error_class"].startswith("Decoder"):
                        lost.append(f"{Path(uri).name}: {failures[0]['message']}")
                        shutil.copy(uri, folder / "found")
        peak_child = max(peak_child, stage.decoder.peak_rss_bytes)
        shutil.rmtree(place)
    stage.decoder.close()
    used = os.times()
    return {
        "written": len(written),
        "same": sorted(written) == sorted(rows),
        "outcomes": dict(outcomes.most_common()),
        "lost": lost,
        "peak_parent": peak_rss_bytes(),
        "peak_child": peak_child,
        "slowest_s": slowest,
        "cpu_s": used.user + used.system + used.children_user + used.children_system,
    }


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "found").mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    print(json.dumps(run(target, int(sys.argv[2]), int(sys.argv[3]))))
