"""How well and how fast the vocals are taken out of songs whose stems are known, as Markdown tables.

Mixtures of backings and voices as in `karaoke_score.py`, with voices its calibration did not see: every song at three
levels (voice to backing -6, 0 and +6 dB), 11.5 s each. The figure is the SI-SDR improvement (Le Roux et al. 2019): the
result's SI-SDR against the true stem less that of the mix. A backend is in the tables only with trained weights; one
that is not here is named with the reason.

The first table is the backends alone, on each mixture by itself, in a process of its own. The second is whole commands,
from start to file, on all mixtures one after the other in one WAV: the karaoke job without Ray, and any other program:

    python benchmarks/karaoke.py --music FOLDER FOLDER
    python benchmarks/karaoke.py --peer "demucs=demucs --two-stems vocals -o {output} {input}"
    python benchmarks/karaoke.py --peer "audio-separator=audio-separator --output_dir {output} {input}"
    python benchmarks/karaoke.py --formats       # length, lag and tags of the files, see song_formats.py

A peer gets an input file and an output folder; its results are known by their names ("instrumental", "no_vocals" or
"accompaniment", and "vocals"). One that fails is named with what it said last. Memory of commands is the largest sum of
the proportional set sizes of the process and its children, looked at five times a second.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

import song_formats
from karaoke_memory import watched
from karaoke_sets import RATE, Mixture, mixtures, songs
from long_track import peak_mib

AIM_DB = {"spleeter": 8.7}
"""Improvement that a backend should reach, mean of vocals and instrumental."""
INSTRUMENTAL = ("instrumental", "no_vocals", "accompaniment")


@dataclass(frozen=True)
class Known:
    """A mixture whose parts are known: ``backing`` and ``voice`` are float32 ``[2, samples]``."""

    level_db: float
    voice_kind: str
    backing: np.ndarray
    voice: np.ndarray

    @property
    def mix(self) -> np.ndarray:
        return self.backing + self.voice


def saved(part: list[Mixture], folder: Path) -> None:
    """Keep the mixtures, so that a process that is measured need not make them."""
    for number, one in enumerate(part):
        said = {"level": one.level_db, "kind": one.voice_kind}
        np.savez(folder / f"{number:03d}.npz", backing=one.backing, voice=one.voice, **said)


def kept(folder: Path) -> list[Known]:
    """What `saved` put there."""
    found = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found.append(Known(float(file["level"]), str(file["kind"]), file["backing"], file["voice"]))
    return found


def improvements(mixture: Known, vocals: np.ndarray | None, instrumental: np.ndarray | None) -> list[float]:
    """SI-SDR improvement of the vocals and of the instrumental, dB; NaN for one that is not there."""
    from pipeline.audio.metrics import si_sdr

    told = []
    for estimate, true in ((vocals, mixture.voice), (instrumental, mixture.backing)):
        told.append(np.nan if estimate is None else si_sdr(estimate, true) - si_sdr(mixture.mix, true))
    return told


def measure(name: str, folder: Path, threads: int) -> dict:
    """Figures of one backend in this process."""
    import torch

    from pipeline.models.separation import load_backend, separate_track

    torch.set_num_threads(threads)
    known = kept(folder)
    backend = load_backend(name)
    place = backend.sources.index("vocals")
    separate_track(backend, known[0].mix)  # the first call also builds the kernels
    told, spent, audio = [], 0.0, 0.0
    for one in known:
        start = time.perf_counter()
        vocals = separate_track(backend, one.mix)[place]
        spent, audio = spent + time.perf_counter() - start, audio + one.mix.shape[1] / RATE
        told.append([one.level_db, *improvements(one, vocals, one.mix - vocals)])
    kinds = [one.voice_kind for one in known]
    return {
        "rows": told,
        "kinds": kinds,
        "speed": audio / spent,
        "peak": peak_mib(),
        "model": backend.model_id(),
    }


def in_own_process(name: str, folder: Path, threads: int) -> dict | str:
    """Figures of one backend, or why there are none."""
    command = [sys.executable, __file__, "--one", name, "--kept", str(folder), "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  this script
    if done.returncode:
        return last_words(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def last_words(text: str) -> str:
    """The last line of an error, without the class of the exception."""
    lines = text.strip().splitlines() or ["it said nothing"]
    return lines[-1].split(": ", 1)[-1][:300]


def backends_table(names: list[str], folder: Path, threads: int) -> list[str]:
    """Print the first table, and return the backends that are here."""
    levels = sorted({one.level_db for one in kept(folder)})
    heads = [f"{what}, {level:+g} dB" for what in ("vocals", "instrumental") for level in levels]
    heads = [
        "backend",
        "vocals, all",
        "instrumental, all",
        "mean",
        "aim",
        *heads,
        "× real time",
        "peak RSS, MiB",
    ]
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|")
    here, notes = [], []
    for name in names:
        found = in_own_process(name, folder, threads)
        if isinstance(found, str):
            notes.append(f"{name}: no weights here ({found})")
            continue
        here.append(name)
        told = np.array(found["rows"])
        cells = [f"{value:+.1f}" for value in (*told[:, 1:].mean(axis=0), told[:, 1:].mean())]
        aim = AIM_DB.get(name)
        cells.append("–" if aim is None else f"{aim:+g}, {'met' if told[:, 1:].mean() >= aim else 'NOT met'}")
        cells += [f"{told[told[:, 0] == level, place].mean():+.1f}" for place in (1, 2) for level in levels]
        cells += [f"{found['speed']:.1f}", f"{found['peak']:.0f}"]
        print(f"| {name} ({found['model']}) | " + " | ".join(cells) + " |", flush=True)
        notes.append(f"{name}, mean by voice: {by_voice(found['kinds'], told[:, 1:])}")
    print("\n" + "\n".join(notes))
    return here


def by_voice(kinds: list[str], told: np.ndarray) -> str:
    """Mean improvement of the mixtures with each kind of voice, and how many they are."""
    means = {kind: told[[other == kind for other in kinds]] for kind in sorted(set(kinds))}
    return ", ".join(f"{kind} {rows.mean():+.1f} dB ({len(rows)})" for kind, rows in means.items())


def medley(known: list[Known], path: Path) -> None:
    """All mixtures one after the other, in 24 bits, with one gain below full scale."""
    joined = np.concatenate([one.mix for one in known], axis=1)
    soundfile.write(path, (joined * (0.9 / np.abs(joined).max())).T, RATE, subtype="PCM_24")


def own_command(method: str) -> str:
    """The karaoke job, as a peer is named."""
    job = shlex.join([sys.executable, str(REPO / "jobs" / "karaoke.py")])
    return (
        f"{job} source.uri={{folder}} output.uri={{output}} karaoke.method={method} karaoke.format=wav"
        " 'karaoke.keep=[vocals]' ray.address=inline"
    )


def results(folder: Path) -> dict[str, np.ndarray]:
    """What a command wrote: ``vocals`` and ``instrumental``, float32 ``[2, samples]`` at `RATE`."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".wav", ".flac")):
        name = path.name.lower()
        if any(word in name for word in INSTRUMENTAL):
            what = "instrumental"
        elif "vocals" in name:
            what = "vocals"
        else:
            continue
        audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
        found[what] = (audio if rate == RATE else soxr.resample(audio, rate, RATE)).T
    return found


def command_row(name: str, template: str, known: list[Known], folder: Path) -> str:
    """One row of the second table.

    Raises:
        RuntimeError: the command failed, or wrote nothing that is known by its name.
    """
    song, output = folder / "song", folder / name
    song.mkdir(exist_ok=True)
    if not (song / "medley.wav").is_file():
        medley(known, song / "medley.wav")
    output.mkdir()
    places = {"input": str(song / "medley.wav"), "folder": str(song), "output": str(output)}
    run = watched([part.format(**places) for part in shlex.split(template)])
    if run.code:
        raise RuntimeError(f"exit code {run.code}: {last_words(run.errors)}")
    found = results(output)
    if not found:
        raise RuntimeError("it wrote no file that is called instrumental, no_vocals, accompaniment or vocals")
    told, at = [], 0
    for one in known:
        part = {what: audio[:, at : at + one.mix.shape[1]] for what, audio in found.items()}
        told.append(improvements(one, part.get("vocals"), part.get("instrumental")))
        at += one.mix.shape[1]
    cells = ["–" if np.isnan(value) else f"{value:+.1f}" for value in np.mean(told, axis=0)]
    speed, peak = at / RATE / run.wall_s, run.peak / 2**20
    return f"| {name} | {' | '.join(cells)} | {run.wall_s:.1f} | {speed:.1f} | {peak:.0f} |"


def commands_table(commands: dict[str, str], known: list[Known]) -> None:
    """Print the second table, and who is not in it."""
    seconds, missing = sum(one.mix.shape[1] for one in known) / RATE, []
    print(f"\n| command, on one WAV of {seconds:.0f} s | vocals, dB | instrumental, dB | wall time, s "
          "| × real time | peak PSS, MiB |")  # fmt: skip
    print("| --- " * 6 + "|")
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
        for name, template in commands.items():
            try:
                print(command_row(name, template, known, Path(folder)), flush=True)
            except (RuntimeError, OSError) as error:
                missing.append(f"{name} does not run here: {error}")
    print("\n" + "\n".join(missing) if missing else "")


def peer(text: str) -> tuple[str, str]:
    """Name and command of a ``--peer``. Raises `argparse.ArgumentTypeError`."""
    name, sign, command = text.partition("=")
    if not sign or "{input}" not in command or "{output}" not in command:
        raise argparse.ArgumentTypeError("a peer is NAME=COMMAND with {input} and {output} in the command")
    return name, command


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = REPO.parent / "shared" / "audio"
    parser.add_argument("--audio", type=Path, default=default, help="folder with music/ and speech/")
    parser.add_argument(
        "--music", type=Path, nargs="*", help="folders of songs without a singer, instead of music/"
    )
    parser.add_argument("--most", type=int, default=4, help="songs of a folder")
    parser.add_argument("--backends", nargs="+", default=["spleeter", "midside", "openunmix", "demucs"])
    parser.add_argument("--threads", type=int, default=2, help="torch threads of a backend alone")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--formats", action="store_true", help="only what decoders make of the files")
    parser.add_argument("--one", metavar="BACKEND", help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.formats:
        song_formats.table()
        return
    if options.one:
        print(json.dumps(measure(options.one, options.kept, options.threads)))
        return
    found = songs(options.music or [options.audio / "music"], options.most)
    if not found:
        parser.error("there are no songs: name folders with Ogg files of a megabyte or more by --music")
    with tempfile.TemporaryDirectory(prefix="soundmill-bench-") as folder:
        saved([m for m in mixtures(found, options.audio, "held out") if m.voice.any()], Path(folder))
        known = kept(Path(folder))
        names = ", ".join(song.name for song in found)
        print(f"{len(known)} mixtures of {len(found)} songs ({names}); {options.threads} threads. dB are SI-SDR "
              "improvements.\n")  # fmt: skip
        here = backends_table(options.backends, Path(folder), options.threads)
        own = {f"karaoke job, {name}": own_command(name) for name in here}
        commands_table(own | dict(options.peer), known)


if __name__ == "__main__":
    main()
