"""Evidence and truth of each output of each mixture, kept in a folder between runs. For `karaoke_score.py`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from karaoke_sets import Mixture, outputs, some

from pipeline.audio.metrics import si_sdr
from pipeline.audio.reader import ArrayReader
from pipeline.karaoke.common import Common
from pipeline.karaoke.decomposition import decompose
from pipeline.karaoke.evidence import Evidence, Judge, gather
from pipeline.karaoke.spectra import blocks, group_count
from pipeline.models.separation import load_backend, separate_track

FLOOR_DB = -40.0


@dataclass(frozen=True)
class Row:
    """One output: where it comes from, what is true of it, and the evidence."""

    song: str
    voice_kind: str
    level_db: float
    output: str
    sdr_db: float | None
    residual_vocal_db: float | None
    damage_db: float | None
    evidence: Evidence

    @property
    def mixture(self) -> str:
        return f"{self.song} {self.level_db:+.1f} dB"


class Kept:
    """A backend's vocals, kept in a folder by the content of what it was given.

    Args:
        name: of the backend.
        folder: where they are kept.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.backend = load_backend(name)
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        samples = np.ascontiguousarray(samples, np.float32)
        path = self.folder / f"{self.name}-{hashlib.sha256(samples.tobytes()).hexdigest()[:24]}.npy"
        if path.is_file():
            return np.load(path).astype(np.float32)
        found = self.now(samples).astype(
            np.float16
        )  # also where it is not kept yet: so that a second run gives the same
        np.save(path, found)
        return found.astype(np.float32)

    def now(self, samples: np.ndarray) -> np.ndarray:
        """The same, separated anew."""
        return separate_track(self.backend, samples)[self.backend.sources.index("vocals")]


def truth(mixture: Mixture, instrumental: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """SI-SDR of the instrumental; voice left less the voice; damage less the backing: dB."""
    if not mixture.voice.any():
        return None, None, None
    stems = [ArrayReader(one) for one in (instrumental, mixture.backing, mixture.voice)]
    (y, b), (_, v) = (
        next(blocks(*pair, group_count(mixture.voice.shape[1]))) for pair in (stems[:2], stems[1:])
    )
    parts = decompose(y, b, v)
    floor = 10 ** (FLOOR_DB / 10)
    left = 10 * np.log10(parts.left / parts.voice + floor)
    damage = 10 * np.log10(parts.damage / parts.backing + floor)
    return si_sdr(instrumental, mixture.backing), float(left), float(damage)


def rows(
    found: Iterator[Mixture],
    separated: dict[str, Callable[[np.ndarray], np.ndarray]],
    judge: Judge,
    code: str,
    *,
    few: bool = False,
) -> Iterator[Row]:
    """The rows of these mixtures; `few` takes `some` outputs of each. A backing without a voice has only do-nothing and
    the first separator's output."""
    for mixture in found:
        key = f"{code} {mixture.song} {mixture.level_db} {mixture.voice_kind}"
        folder = separated["spleeter"].folder.parent / "rows"
        folder.mkdir(exist_ok=True)
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
        if not path.is_file():
            mix = mixture.mix
            if mixture.voice.any():
                made = outputs(mixture, separated)
                made = some(made, mixture) if few else made
            else:
                made = {"do-nothing": mix, "spleeter": mix - separated["spleeter"](mix)}
            told = [
                asdict(
                    Row(
                        mixture.song,
                        mixture.voice_kind,
                        mixture.level_db,
                        name,
                        *truth(mixture, audio),
                        evidence=gather(ArrayReader(mix), ArrayReader(audio), judge),
                    )
                )
                for name, audio in made.items()
            ]
            path.write_text(json.dumps(told))
        for row in json.loads(path.read_text()):
            evidence = row["evidence"]
            evidence["common"] = Common(**evidence["common"])
            yield Row(**{**row, "evidence": Evidence(**evidence)})


def code_version(repo: Path) -> str:
    """Hash of the code that evidence and sets depend on."""
    files = [
        *sorted((repo / "pipeline" / "karaoke").glob("*.py")),
        *sorted((repo / "benchmarks").glob("*.py")),
    ]
    wanted = {"spectra.py", "decomposition.py", "common.py", "vocal_evidence.py", "overlap.py", "evidence.py",
              "karaoke_sets.py", "sung_voice.py", "karaoke_rows.py"}  # fmt: skip
    digest = hashlib.sha256()
    for path in files:
        if path.name in wanted:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def setup(cache: Path) -> tuple[dict[str, Kept], Judge]:
    """Both separators with their memory, and Spleeter as the judge."""
    torch.set_num_threads(1)
    separated = {name: Kept(name, cache / "vocals") for name in ("spleeter", "midside")}
    return separated, Judge("spleeter", separated["spleeter"])
