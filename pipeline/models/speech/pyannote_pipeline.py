"""Who speaks when by pyannote.audio's own pipeline, where the package and a model of its are here.

It makes turns of its own, out of the whole recording at once: 230 MB an hour are held for it. What it would fetch from
the hub is looked for on this disk before, and handed to it as folders, so that it asks for nothing; that it tells its
makers what it was used for is switched off. Its checkpoints are Python pickles, which may run code: only models of a
source that is trusted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.models import weights
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.diarize_names import OWN_MODELS
from pipeline.models.speech.hub_model import model_folder
from pipeline.models.speech.samples import mono_samples
from pipeline.optional import look_up

NAME = "pyannote"
PACKAGE = "pyannote.audio"
SAMPLE_RATE = 16_000
CONFIG = "config.yaml"
KLASS = "pyannote.audio.pipelines.SpeakerDiarization"
PARTS = {
    "segmentation": ("pytorch_model.bin",),
    "embedding": ("pytorch_model.bin",),
    "plda": ("xvec_transform.npz", "plda.npz"),
}
"""Part of the pipeline → its files. Where a model does not name one, the package takes that of its newest model."""

_WITHIN = "$model/"
_LEAST_VERSION = 4
_INSTALL = f"type `pip install '{PACKAGE}>=4,<5'` in an environment without laion-clap, as it needs numpy 2"


@dataclass(frozen=True)
class Told:
    """Turns that a backend has made by itself.

    Args:
        turns: start and end in seconds, and who.
        duration_s: of the recording.
        voices: who → float ``[d]``, a mean voice embedding of any length; missing where there is none.
    """

    turns: tuple[tuple[float, float, str], ...]
    duration_s: float
    voices: Mapping[str, np.ndarray] = field(default_factory=dict)


class PyannoteDiarizer:
    """Pyannote.audio's pipeline. Use `load`.

    Args:
        pipeline: a ``pyannote.audio.Pipeline``.
        model_id: the package's version and the hash of the weights.
    """

    name = NAME
    version = "1"
    sample_rate = SAMPLE_RATE

    def __init__(self, pipeline: Any, model_id: str) -> None:
        self._pipeline, self._model_id = pipeline, model_id

    def model_id(self) -> str:
        """The package's version and the hash of the weights."""
        return self._model_id

    def stream(
        self, *, num: int | None = None, minimum: int = 1, maximum: int | None = None
    ) -> PyannoteStream:
        """Begin a recording.

        Args:
            num, minimum, maximum: of speakers, see `pipeline.speech.clustering.SpeakerCounts`.
        """
        known = {"num_speakers": num} if num else {"min_speakers": minimum, "max_speakers": maximum}
        return PyannoteStream(self._pipeline, known)


class PyannoteStream:
    """One recording, piece by piece, and all of it at the end.

    Args:
        pipeline: as of `PyannoteDiarizer`.
        known: what it is told of the number of speakers.
    """

    def __init__(self, pipeline: Any, known: Mapping[str, int | None]) -> None:
        self._pipeline, self._known = pipeline, known
        self._pieces: list[np.ndarray] = []
        self._finished = False

    def push(self, samples: np.ndarray) -> None:
        """Take the next samples, float ``[n]`` within -1..1, any n.

        Raises:
            ValueError: another shape or type, samples that are not finite, or the recording is finished.
        """
        self._require_open()
        # A copy: the caller may go on to use its array.
        self._pieces.append(mono_samples(samples).copy())

    def finish(self) -> Told:
        """What the pipeline makes of it. Raises `ValueError` where the recording is finished already."""
        import torch

        self._require_open()
        self._finished = True
        samples = np.concatenate([np.zeros(0, np.float32), *self._pieces])
        self._pieces = []
        duration_s = len(samples) / SAMPLE_RATE
        if not samples.any():
            return Told((), duration_s)
        waveform = torch.from_numpy(samples)[None]
        heard = self._pipeline(
            {"waveform": waveform, "sample_rate": SAMPLE_RATE, "uri": "recording"}, **self._known
        )
        return _told(heard, duration_s)

    def _require_open(self) -> None:
        if self._finished:
            raise ValueError("this recording is finished")


def _told(heard: Any, duration_s: float) -> Told:
    """A ``DiarizeOutput`` of the package in numbers; turns end where the recording does."""
    found = heard.speaker_diarization
    spoken = ((t.start, t.end, str(who)) for t, _, who in found.itertracks(yield_label=True))
    turns = tuple(
        (max(start, 0.0), min(end, duration_s), who)
        for start, end, who in spoken
        if min(end, duration_s) > max(start, 0.0)
    )
    embeddings = heard.speaker_embeddings
    voices: dict[str, np.ndarray] = {}
    if embeddings is not None:
        rows = zip(found.labels(), np.asarray(embeddings, np.float64), strict=True)
        # Of somebody whom it never heard alone, it gives zeros or NaN.
        voices = {str(who): row for who, row in rows if np.isfinite(row).all() and row.any()}
    return Told(turns, duration_s, voices)


def load(device: str = "cpu", model: str | None = None) -> PyannoteDiarizer:
    """Load a pipeline from this disk.

    Args:
        device: ``cpu`` or ``cuda``.
        model: a folder with its ``config.yaml``, or ``owner/name`` in the hub's cache; None is the newest.

    Raises:
        BackendUnavailable: the package or a part of the model is missing, or does not load; what to type.
        UserError: there can be no model of that name.
    """
    # Before the package is imported, which reads it: nothing leaves the machine.
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"
    package = _package()
    config, files = resolved(model or OWN_MODELS[NAME])
    import torch
    from pyannote.audio import Pipeline

    try:
        pipeline = Pipeline.from_pretrained(config)
        pipeline.to(torch.device(device))
    except (
        Exception
    ) as error:  # what a model's parts raise that are damaged, or of another version, is their own
        why = " ".join(str(error).split())[:200]
        raise BackendUnavailable(f"{PACKAGE} does not load {model or OWN_MODELS[NAME]}: {why}") from error
    return PyannoteDiarizer(pipeline, f"{PACKAGE}-{package}:{_digest(files)}")


def _package() -> str:
    """The version of the package. Raises `BackendUnavailable` where there is none that works here."""
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        found = ""
    if found and int(found.partition(".")[0]) < _LEAST_VERSION:
        raise BackendUnavailable(f"{PACKAGE} {found} is too old; {_INSTALL}")
    package = look_up(PACKAGE, load=True)
    if not package.available:
        raise BackendUnavailable(f"{package.reason.split(';')[0]}; {_INSTALL}")
    return found


def resolved(model: str) -> tuple[dict[str, Any], list[Path]]:
    """A model's description with every part as a folder of this disk, for ``Pipeline.from_pretrained``; and its files.

    Args:
        model: a folder, or ``owner/name`` in the hub's cache.

    Raises:
        BackendUnavailable: a part is not here, or this is the description of something else.
        UserError: there can be no model of a name.
    """
    import yaml

    folder = model_folder(model, [CONFIG])
    said = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    described = said.get("pipeline") if isinstance(said, dict) else None
    # The package would run whatever class it is told to.
    if not isinstance(described, dict) or described.get("name") != KLASS:
        raise BackendUnavailable(f"{folder / CONFIG} describes no {KLASS}: give another model")
    params = dict(described.get("params") or {})
    files = [folder / CONFIG]
    for part, needs in PARTS.items():
        place = _place(params.get(part, f"{OWN_MODELS[NAME]}/{part}"), folder, needs)
        params[part] = {"checkpoint": str(place)}
        files += [place / name for name in needs]
    kept = {key: said[key] for key in ("params", "freeze") if key in said}
    return {"pipeline": {"name": KLASS, "params": params}, **kept}, files


def _place(said: Any, folder: Path, needs: tuple[str, ...]) -> Path:
    """The folder of a part, which is ``$model/part``, ``owner/name`` or ``owner/name/part``."""
    if not isinstance(said, str) or "@" in said:
        raise BackendUnavailable(f"{folder / CONFIG} names a part as {said!r}, which is not understood here")
    if said.startswith(_WITHIN):
        within = said.removeprefix(_WITHIN)
        return model_folder(str(folder), [f"{within}/{name}" for name in needs]) / within
    owner, _, rest = said.partition("/")
    name, _, within = rest.partition("/")
    inside = [f"{within}/{file}" if within else file for file in needs]
    return model_folder(f"{owner}/{name}", inside) / within


def _digest(files: list[Path]) -> str:
    """Sha256 of the contents of files in this order, hex."""
    digests = "".join(weights.file_sha256(path.resolve()) for path in files)
    return hashlib.sha256(digests.encode()).hexdigest()
