"""Those that `benchmarks/mastering.py` compares, each in a process of its own, with one thread.

    python benchmarks/mastering_peers.py serve          # a line of JSON in, a line of JSON out
    python benchmarks/mastering_peers.py memory loudnorm song.wav

The peers live in a virtual environment of their own, which `install` makes: matchering and pedalboard are GPL, and the
product neither needs nor imports them. Under that environment's Python this file needs nothing of the project's; ours
runs under the project's. Audio travels in .npy files, float32 ``[channels, samples]``; the times are those of the work
alone, without reading and writing them.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "benchmarks")]

PACKAGES = ("matchering==2.0.6", "pedalboard==0.9.26", "pyloudnorm==0.2.0", "av", "soundfile", "scipy")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB", "NUMEXPR")}
PIECE = 1 << 16

Result = tuple[np.ndarray, dict[str, Any]]
"""Audio, and what else there is to say: seconds of the parts of the work, under ``parts``."""


def limit_hyrax(audio: np.ndarray, rate: int, *, ceiling_db: float) -> Result:
    """matchering's limiter alone; its own times of attack and release."""
    import matchering
    from matchering.limiter import limit

    config = matchering.Config(internal_sample_rate=rate, threshold=10.0 ** (ceiling_db / 20.0))
    return limit(audio.T.astype(np.float64), config).T, {}


def limit_pedalboard(audio: np.ndarray, rate: int, *, ceiling_db: float) -> Result:
    """JUCE's limiter, which makes up for its threshold, so that the ceiling is full scale: turned down to ours."""
    import pedalboard

    return pedalboard.Limiter(threshold_db=ceiling_db)(audio, rate), {}


def limit_brickwall(
    audio: np.ndarray, rate: int, *, ceiling_db: float, true_peak: bool = False, piece: int = 0
) -> Result:
    """pedalboard's BrickwallLimiter, in pieces of so many samples or, where that is 0, at once."""
    import pedalboard

    limiter = pedalboard.BrickwallLimiter(ceiling_db=ceiling_db, true_peak=true_peak)
    if not piece:
        return limiter(audio, rate), {}
    # It keeps back what it looks ahead; silence brings that out. A piece larger than those before would reset it.
    behind = np.zeros((audio.shape[0], rate // 10), np.float32)
    parts = [limiter(part, rate, reset=False) for part in (*_pieces(audio, piece), *_pieces(behind, piece))]
    return np.concatenate(parts, axis=1)[:, : audio.shape[1]], {}


def limit_brickwall_true_peak(audio: np.ndarray, rate: int, *, ceiling_db: float, piece: int = 0) -> Result:
    """The same with its side chain oversampled."""
    return limit_brickwall(audio, rate, ceiling_db=ceiling_db, true_peak=True, piece=piece)


def limit_alimiter(audio: np.ndarray, rate: int, *, ceiling_db: float, piece: int = PIECE) -> Result:
    """FFmpeg's, without its making up for the ceiling, with its delay taken out."""
    return _filtered(_pieces(audio, piece), rate, audio.shape[0], _alimiter(ceiling_db)), {}


def _alimiter(ceiling_db: float) -> tuple[str, str]:
    return "alimiter", f"limit={10.0 ** (ceiling_db / 20.0):.6f}:level=0:latency=1"


def loud_loudnorm(audio: np.ndarray, rate: int, *, lufs: float, ceiling_db: float) -> Result:
    """FFmpeg's loudnorm in two passes, with a loudness range above the song's, so that it need not narrow it."""
    wish = f"I={lufs}:TP={ceiling_db}:LRA=30"
    start = time.process_time()
    found = _loudnorm_figures(_pieces(audio, PIECE), rate, audio.shape[0], wish)
    analysed = time.process_time()
    steps = (
        ("loudnorm", f"{wish}:{_measured(found)}:linear=true:print_format=json"),
        ("aresample", str(rate)),
    )
    figures: dict[str, Any] = {}
    out = _filtered(_pieces(audio, PIECE), rate, audio.shape[0], *steps, figures=figures)
    parts = {"analysis": analysed - start, "render": time.process_time() - analysed}
    return out[:, : audio.shape[1]], {"parts": parts, "mode": figures["normalization_type"]}


def _loudnorm_figures(pieces: Iterator[np.ndarray], rate: int, channels: int, wish: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for _ in _filter(pieces, rate, channels, ("loudnorm", f"{wish}:print_format=json"), figures=figures):
        pass
    return figures


def _measured(found: dict[str, Any]) -> str:
    named = {"I": "input_i", "TP": "input_tp", "LRA": "input_lra", "thresh": "input_thresh"}
    given = [f"measured_{name}={found[key]}" for name, key in named.items()]
    return ":".join([*given, f"offset={found['target_offset']}"])


def loud_brickwall(audio: np.ndarray, rate: int, *, lufs: float, ceiling_db: float) -> Result:
    """pyloudnorm's gain, then pedalboard's BrickwallLimiter with true peak: what a script would do."""
    import pyloudnorm

    start = time.process_time()
    gain_db = lufs - pyloudnorm.Meter(rate).integrated_loudness(audio.T)
    analysed = time.process_time()
    out, _ = limit_brickwall_true_peak(
        audio * np.float32(10.0 ** (gain_db / 20.0)), rate, ceiling_db=ceiling_db
    )
    return out, {"parts": {"analysis": analysed - start, "render": time.process_time() - analysed}}


def loud_pyloudnorm(audio: np.ndarray, rate: int, *, lufs: float, ceiling_db: float) -> Result:
    """A gain and no limiter."""
    import pyloudnorm

    found = pyloudnorm.Meter(rate).integrated_loudness(audio.T)
    return pyloudnorm.normalize.loudness(audio.T, found, lufs).T, {}


def match_matchering(audio: np.ndarray, rate: int, *, reference: np.ndarray) -> Result:
    """matchering between reading and writing, with its defaults."""
    import matchering
    from matchering.stages import main

    song, other = (np.asarray(one.T, np.float64) for one in (audio, reference))
    return main(song, other, matchering.Config(internal_sample_rate=rate))[0].T, {}


def _pieces(audio: np.ndarray, piece: int) -> Iterator[np.ndarray]:
    for start in range(0, audio.shape[1], piece):
        yield np.ascontiguousarray(audio[:, start : start + piece])


def _filtered(*arguments: Any, **named: Any) -> np.ndarray:
    return np.concatenate(list(_filter(*arguments, **named)), axis=1)


def _filter(
    pieces: Iterator[np.ndarray],
    rate: int,
    channels: int,
    *steps: tuple[str, str],
    figures: dict[str, Any] | None = None,
) -> Iterator[np.ndarray]:
    """Pieces through FFmpeg's filters; what the last of them says at its end, in JSON, goes into ``figures``."""
    import av
    import av.filter
    import av.logging

    layout = {1: "mono", 2: "stereo"}[channels]
    graph = av.filter.Graph()
    nodes = [graph.add_abuffer(format="fltp", sample_rate=rate, layout=layout, time_base=Fraction(1, rate))]
    nodes += [graph.add(*step) for step in (*steps, ("aformat", "sample_fmts=fltp"))] + [
        graph.add("abuffersink")
    ]
    for place, node in enumerate(nodes[1:]):
        nodes[place].link_to(node)
    graph.configure()
    position = 0
    for piece in _then_none(pieces):
        if piece is not None:
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
            position += piece.shape[1]
        graph.push(frame if piece is not None else None)
        while True:
            try:
                yield graph.pull().to_ndarray()
            except (av.BlockingIOError, av.EOFError):
                break
    if figures is None:
        return
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    with av.logging.Capture(False) as said:
        # loudnorm speaks when it goes.
        del graph, nodes, node
        gc.collect()
    av.logging.set_level(level)
    figures.update(json.loads("".join(text for _, name, text in said if name == "loudnorm")))


def _then_none(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray | None]:
    yield from pieces
    yield None


Job = Callable[..., Result]

# Kind of work → who does it → how. Ours are in mastering_ours.py.
LIMITERS: dict[str, Job] = {
    "Hyrax (matchering)": limit_hyrax,
    "pedalboard Limiter": limit_pedalboard,
    "BrickwallLimiter": limit_brickwall,
    "BrickwallLimiter, true peak": limit_brickwall_true_peak,
    "alimiter": limit_alimiter,
}
LOUD: dict[str, Job] = {
    "loudnorm, two passes": loud_loudnorm,
    "pyloudnorm + BrickwallLimiter": loud_brickwall,
    "pyloudnorm alone": loud_pyloudnorm,
}
MATCH: dict[str, Job] = {"matchering": match_matchering}
IN_PIECES = ("BrickwallLimiter", "BrickwallLimiter, true peak", "alimiter")
"""Limiters that take a song in pieces."""
OURS = "Soundmill"
CHECKED = f"{OURS}, encodes=[mp3,m4a]"
"""With trial encodes: it is rendered again until what decoders make of it stays below full scale."""


def memory_matchering(source: str) -> None:
    """A song of its own for reference, as the tool is used."""
    import matchering

    matchering.process(
        source, source, [matchering.pcm24(f"{source}.out.wav")], matchering.Config(allow_equality=True)
    )
    Path(f"{source}.out.wav").unlink()


def memory_loudnorm(source: str) -> None:
    """Both passes, piece by piece; what comes out is thrown away."""
    wish = "I=-14:TP=-1:LRA=30"
    pieces, rate, channels = _file(source)
    found = _loudnorm_figures(pieces, rate, channels, wish)
    step = ("loudnorm", f"{wish}:{_measured(found)}:linear=true")
    for _ in _filter(_file(source)[0], rate, channels, step, ("aresample", str(rate))):
        pass


def memory_brickwall(source: str) -> None:
    """In pieces; there is no analysis."""
    import pedalboard

    pieces, rate, _ = _file(source)
    limiter = pedalboard.BrickwallLimiter(ceiling_db=-1.0, true_peak=True)
    for piece in pieces:
        limiter(piece, rate, reset=False)


def _file(source: str) -> tuple[Iterator[np.ndarray], int, int]:
    import soundfile

    info = soundfile.info(source)
    blocks = soundfile.blocks(source, PIECE, dtype="float32", always_2d=True)
    return (np.ascontiguousarray(block.T) for block in blocks), info.samplerate, info.channels


MEMORY: dict[str, Callable[[str], None]] = {
    "matchering": memory_matchering,
    "loudnorm, two passes": memory_loudnorm,
    "BrickwallLimiter, true peak": memory_brickwall,
}
WHOLE_SONGS = ("matchering",)
"""Those that hold a song in memory: three hours of it would be some 50 GB."""


JOBS: dict[str, dict[str, Callable[..., Any]]] = {
    "limit": LIMITERS,
    "loud": LOUD,
    "match": MATCH,
    "memory": MEMORY,
}


def _ours(kind: str) -> Callable[..., Any]:
    import mastering_ours

    return mastering_ours.JOBS[kind]


def serve() -> None:
    """Answer until there are no more lines. The first says which versions there are."""
    # Libraries print to standard output; the answers keep it for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print(json.dumps(versions()), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = _work(**asked)
        except Exception as error:  # noqa: BLE001  what a peer cannot do is a cell of the table
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def versions() -> dict[str, str]:
    """Of everything that is compared, as far as it is installed here."""
    found = {"Python": platform.python_version()}
    for name in ("numpy", "scipy", "matchering", "pedalboard", "pyloudnorm", "av", "numba", "torch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _work(
    kind: str, contender: str, audio: str, rate: int, out: str, options: dict[str, Any]
) -> dict[str, Any]:
    samples = np.load(audio)
    if "reference" in options:
        options["reference"] = np.load(options["reference"])
    own = {OURS: kind, CHECKED: f"{kind} checked"}
    job = _ours(own[contender]) if contender in own else JOBS[kind][contender]
    wall, cpu = time.perf_counter(), time.process_time()
    made, said = job(samples, rate, **options)
    said |= {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    np.save(out, np.ascontiguousarray(made, dtype=np.float32))
    return said


def memory(contender: str, source: str) -> None:
    """Work on a file, and say the largest resident size of this process, bytes."""
    kept = os.dup(1)
    os.dup2(2, 1)
    (_ours("memory") if contender == OURS else MEMORY[contender])(source)
    with os.fdopen(kept, "w") as answers:
        print(_largest_resident(), file=answers)


def _largest_resident() -> int:
    """Bytes. That of getrusage would include what the parent had when it began this process."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def install(folder: Path) -> str:
    """The Python of the peers' virtual environment, which is made where it is not there.

    Raises:
        subprocess.CalledProcessError: it cannot be; pip has said why.
    """
    python = folder / "bin" / "python"
    told = folder / "installed.txt"
    if not told.is_file() or told.read_text() != "\n".join(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)  # noqa: S603
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)  # noqa: S603
        told.write_text("\n".join(PACKAGES))
    return str(python)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        memory(*sys.argv[2:])
