"""What three decoders make of finished songs: length, position and tags by format, as a Markdown table.

    python benchmarks/song_formats.py
    python benchmarks/song_formats.py --memory 3600         # peak memory of an encoder fed with an hour of stereo

Lengths are in samples too many, lags in samples too late, both of the worst of the lengths in a row.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import numpy as np
from helpers.songs import DECODERS, decoders_of, encoded, lag, noise
from PIL import Image

from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import MP3_RATES, SongFormat
from pipeline.audio.song_tags import Picture, SongTags, read_song_tags

SHORT, LENGTHS = (1, 575), (1151, 1152, 1153, 44100, 132317)
RATES = {"opus": (48000,), "mp3": MP3_RATES}
OTHER_RATES = (8000, 16000, 22050, 32000, 44100, 48000, 96000)
FORMS = {
    "mp3 (CBR)": SongFormat("mp3"), "mp3 (V2)": SongFormat("mp3", quality=2), "flac 16": SongFormat("flac", bits=16),
    "flac 24": SongFormat("flac"), "ogg": SongFormat("ogg"), "opus": SongFormat("opus"), "m4a": SongFormat("m4a"),
    "wav": SongFormat("wav"),
}  # fmt: skip
TEXTS = {
    "title": "Ünïcödé – 日本語 🎤", "artist": "Ä", "album": "B", "track": "3/12", "date": "2019-05-03", "genre": "Pop",
    "lyrics": "one\ntwo 🎤", "comment": "Ö", "mood": "frœhlich", "isrc": "DEABC1900001",
}  # fmt: skip


def worst(form: SongFormat, lengths: tuple[int, ...]) -> dict[str, str]:
    """Decoder → the largest deviations of length and position over all rates and lengths."""
    found: dict[str, list[tuple[int, int]]] = {who: [] for who in decoders_of(form.name)}
    for rate in RATES.get(form.name, OTHER_RATES):
        for samples in lengths:
            x = noise(samples)
            data = encoded(x, rate, form)
            for who, how in decoders_of(form.name).items():
                y = how(data, form.name)
                # Of one sample the maximum of a cross-correlation says nothing.
                late = lag(x, y) if samples > 1 else 0
                found[who].append((y.shape[1] - samples, late))
    return {
        who: " / ".join(f"{max(row, key=abs):+d}" for row in zip(*rows, strict=True))
        for who, rows in found.items()
    }


def tags_kept(form: SongFormat) -> str:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(out, "PNG")
    cover = Picture(out.getvalue(), "image/png")
    found = read_song_tags(encoded(noise(9000), 48000, form, tags=SongTags(TEXTS, (cover,))))
    kept = sum(found.texts.get(name) == text for name, text in TEXTS.items())
    same = [p.data for p in found.pictures] == [cover.data]
    return f"{kept} of {len(TEXTS)}, cover {'equal' if same else 'NOT equal'}"


def table() -> None:
    heads = [f"{who}, {part}" for part in ("1 and 575 samples", "from 1151 samples") for who in DECODERS]
    print("| format | " + " | ".join(heads) + " | tags |")
    print("| --- |" + " --- |" * (len(heads) + 1))
    for name, form in FORMS.items():
        parts = [worst(form, lengths) for lengths in (SHORT, LENGTHS)]
        cells = [part.get(who, "–") for part in parts for who in DECODERS]
        print(f"| {name} | " + " | ".join(cells) + f" | {tags_kept(form)} |", flush=True)


def encode_for(name: str, seconds: float) -> None:
    """Encode noise block by block, and print what this process took."""
    rate, block = 48000, noise(48000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+b") as out,
        SongEncoder(out, FORMS[name], rate, 2, samples=int(seconds) * rate) as encoder,
    ):
        for _ in range(int(seconds)):
            encoder.write(block)
    took = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"| {name} | {seconds:g} | {grown:.0f} | {took:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", type=float, help="seconds of audio for each encoder")
    parser.add_argument("--one", choices=list(FORMS), help="of the memory, this format in this process")
    options = parser.parse_args()
    if options.memory is None:
        table()
    elif options.one:
        encode_for(options.one, options.memory)
    else:
        print(
            "| format | audio, s | memory beyond start, MiB | took, s |\n| --- | --- | --- | --- |",
            flush=True,
        )
        for name in FORMS:
            again = [sys.executable, __file__, "--memory", str(options.memory), "--one", name]
            subprocess.run(again, check=True)  # noqa: S603  this script


if __name__ == "__main__":
    main()
