"""The same people in all recordings of an output: a name for each voice, once all speakers are in the tables.

Reads ``speakers`` part by part and writes a part of ``voices`` beside each, where it says something else than what is
there: nothing is computed again, and a run that found nothing new writes nothing. Beside one part there is in memory
what is compared, which is some 1 KB a speaker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.counting import plural
from pipeline.dataset.contents import Contents
from pipeline.dataset.lock import OutputLock
from pipeline.dataset.output import Output, read_part
from pipeline.dataset.storage import explain
from pipeline.dataset.tables.rewrite import read_if_there, write_or_discard
from pipeline.dataset.tables.schemas import table_schema
from pipeline.errors import UserError
from pipeline.models.speech.diarize_names import BACKEND_NAMES
from pipeline.speech.linking import THRESHOLD, likeness, link, names
from pipeline.stages.diarize.spec import NAME, SPEAKERS, VOICES, diarize_product

Key = tuple[str, str]
"""Content, and its speaker."""


@dataclass
class Speaker:
    """One speaker of one recording.

    Args:
        seconds: that they speak.
        centroid: mean voice, float32 ``[d]``; None where there is none.
    """

    seconds: float
    centroid: np.ndarray | None


@dataclass
class Linked:
    """What was found.

    Args:
        recordings: that somebody speaks in.
        speakers: of all of them.
        voices: different ones.
        parts: that were written, because they said something else before.
    """

    recordings: int = 0
    speakers: int = 0
    voices: int = 0
    parts: int = 0

    def text(self) -> str:
        """In one line."""
        which = f"{plural(self.speakers, 'speaker')} of {plural(self.recordings, 'recording')}"
        rewritten = f"{plural(self.parts, 'part')} of voices written" if self.parts else "as the tables say"
        return f"{which} have {plural(self.voices, 'voice')}, {rewritten}"


@dataclass
class _Voice:
    name: str | None
    similarity: float | None


@dataclass
class _Found:
    """What an output says of speakers: content → speaker → who that is; and of the names that they have."""

    speakers: dict[str, dict[str, Speaker]] = field(default_factory=lambda: defaultdict(dict))
    parts: list[str] = field(default_factory=list)


def run(output: Output, threshold: float | None = None) -> Linked:
    """Name the voices of an output that no job is writing to.

    Args:
        threshold: see `link_voices`; None is `THRESHOLD`, for the voices of the first backend alone.

    Raises:
        UserError: there is no output of speech preparation with speakers, a job is writing there, a threshold that
            cannot be, or none for voices of another backend.
    """
    known = threshold is not None
    threshold = THRESHOLD if threshold is None else threshold
    if not -1 <= threshold <= 1:
        raise UserError(f"threshold={threshold:g} must lie within -1..1: it is a cosine", do="threshold=0.65")
    try:
        if not output.parts(SPEAKERS.name):
            raise UserError(
                f"{output.uri} has no table of speakers",
                "voices are those that the step diarize told apart in each recording",
                "the output.uri of python jobs/prepare_speech.py",
            )
        others = set() if known else _backends(output) - {BACKEND_NAMES[0]}
        if others:
            raise UserError(
                f"{output.uri} has voices of {', '.join(sorted(others))}, and no threshold is given",
                f"{THRESHOLD:g} is for those of {BACKEND_NAMES[0]}",
                "threshold=0.85",
            )
        lock = OutputLock(output, "voices")
        lock.acquire(lambda text: None)
        try:
            return link_voices(output, threshold)
        finally:
            lock.release()
    except OSError as error:
        raise explain(f"output.uri={output.uri}", error) from None


def link_voices(output: Output, threshold: float = THRESHOLD) -> Linked:
    """The same for whoever holds the lock of the output.

    Args:
        threshold: the least similarity of mean voices of one person, see `pipeline.speech.linking.link`.
    """
    if SPEAKERS.name not in output.contents.tables:
        return Linked()
    if VOICES.name not in output.contents.tables:
        _declare(output)
    found = _speakers(output)
    voices = _voices(found.speakers, *_of_tracks(output), _names_before(output), threshold=threshold)
    linked = Linked(len(found.speakers), sum(map(len, found.speakers.values())))
    linked.voices = len({voice.name for voice in voices.values() if voice.name is not None})
    for part in found.parts:
        linked.parts += _write(output, part, voices)
    for part in {p.partition("/")[2] for p in output.parts(VOICES.name)} - set(found.parts):
        there = _there(output, part)
        if there is not None and there.num_rows:
            output.discard(f"{VOICES.name}/{part}")
    return linked


def _declare(output: Output) -> None:
    """Say that the output has voices, too."""
    product = output.contents.get(NAME) or diarize_product()
    tables = (*(t for t in product.tables if t.name != VOICES.name), VOICES)
    output.declare(Contents((replace(product, tables=tables),), output.contents.job))


def _speakers(output: Output) -> _Found:
    found = _Found()
    for part in output.parts(SPEAKERS.name):
        with output.fs.open(output.path(part), "rb") as handle:
            table = read_part(handle, ["asset_id", "speaker", "seconds", "centroid"])
        found.parts.append(part.partition("/")[2])
        centroids = table["centroid"]
        heads = zip(*(table[c].to_pylist() for c in ("asset_id", "speaker", "seconds")), strict=True)
        for row, (asset, speaker, seconds) in enumerate(heads):
            # Not as Python numbers: of ten thousand recordings that would be gigabytes.
            values = centroids[row].values if centroids[row].is_valid else None
            vector = None if values is None else values.to_numpy(zero_copy_only=False).astype(np.float32)
            if vector is not None and not np.isfinite(vector).all():
                vector = None  # nobody's voice is like that
            found.speakers[asset][speaker] = Speaker(seconds or 0.0, vector)
    return found


def _of_tracks(output: Output) -> tuple[dict[str, str], dict[str, str]]:
    """Of each content the first of its files, and the networks that told its speakers apart."""
    first: dict[str, str] = {}
    model: dict[str, str] = {}
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            file = pq.ParquetFile(handle)
            if "diarize_model" not in file.schema_arrow.names:
                continue
            table = file.read(columns=["asset_id", "uri", "diarize_model"])
        rows = zip(*(table[c].to_pylist() for c in ("asset_id", "uri", "diarize_model")), strict=True)
        for asset, uri, networks in rows:
            first[asset] = min(uri, first.get(asset, uri))
            model[asset] = networks or model.get(asset, "")
    return first, model


def _backends(output: Output) -> set[str]:
    """What told the voices of an output apart."""
    found: set[str] = set()
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            file = pq.ParquetFile(handle)
            if "diarize_backend" in file.schema_arrow.names:
                found |= set(file.read(columns=["diarize_backend"])["diarize_backend"].to_pylist())
    return found - {None}


def _names_before(output: Output) -> dict[Key, str]:
    found: dict[Key, str] = {}
    for part in output.parts(VOICES.name):
        table = _there(output, part.partition("/")[2])
        if table is None or not {"asset_id", "speaker", "voice"} <= {*table.column_names}:
            continue
        rows = zip(*(table[c].to_pylist() for c in ("asset_id", "speaker", "voice")), strict=True)
        found |= {(asset, speaker): voice for asset, speaker, voice in rows if voice is not None}
    return found


def _voices(
    speakers: Mapping[str, Mapping[str, Speaker]],
    first: Mapping[str, str],
    models: Mapping[str, str],
    before: Mapping[Key, str],
    *,
    threshold: float,
) -> dict[Key, _Voice]:
    """The voice of each speaker. What different networks made of voices is not compared.

    In the order of the files' names: parts have them in an order that depends on the machine.
    """
    by_model: dict[str, list[str]] = defaultdict(list)
    for asset in sorted(speakers, key=lambda asset: (first.get(asset, ""), asset)):
        by_model[models.get(asset, "")].append(asset)
    keys: list[Key] = []
    people: list[int] = []
    alike: list[float] = []
    for assets in by_model.values():
        for heads, vectors in _alike_in_length(speakers, assets):
            mine, seconds = _linked(speakers, heads, vectors, threshold)
            alike += likeness(vectors, seconds, mine).tolist()
            people += (mine + len(set(people))).tolist()
            keys += heads
    lengths = [speakers[asset][speaker].seconds for asset, speaker in keys]
    called = names(people, lengths, [before.get(key) for key in keys])
    found = {(asset, speaker): _Voice(None, None) for asset in speakers for speaker in speakers[asset]}
    for key, name, likely in zip(keys, called, alike, strict=True):
        found[key] = _Voice(name, None if np.isnan(likely) else likely)
    return found


def _alike_in_length(
    speakers: Mapping[str, Mapping[str, Speaker]], assets: Iterable[str]
) -> list[tuple[list[Key], np.ndarray]]:
    """The speakers with a voice, and their voices ``[n, d]``; those of other dimensions apart."""
    heads: dict[int, list[Key]] = defaultdict(list)
    for asset in assets:
        for name, speaker in speakers[asset].items():
            if speaker.centroid is not None:
                heads[len(speaker.centroid)].append((asset, name))
    return [
        (mine, np.stack([speakers[asset][name].centroid for asset, name in mine])) for mine in heads.values()
    ]


def _linked(
    speakers: Mapping[str, Mapping[str, Speaker]],
    heads: list[Key],
    vectors: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """A number from 0 for the person of each speaker, and how long each speaks."""
    assets = [asset for asset, _ in heads]
    starts = [n for n in range(len(assets)) if n == 0 or assets[n] != assets[n - 1]]
    seconds = np.array([speakers[asset][name].seconds for asset, name in heads])
    found = link(np.split(vectors, starts[1:]), np.split(seconds, starts[1:]), threshold=threshold)
    return np.concatenate(found), seconds


def _there(output: Output, part: str) -> pa.Table | None:
    """What a part says of voices; None where there is none, or a damaged one, which is as good as none: it is made of
    what other tables say. Raises `OSError` where storage does not answer."""
    try:
        return read_if_there(output, f"{VOICES.name}/{part}")
    except pa.ArrowException:
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None  # Arrow's own word for a file that breaks off


def _write(output: Output, part: str, voices: Mapping[Key, _Voice]) -> bool:
    """Write a part beside that of the speakers, unless it says the same already; whether it was written."""
    with output.fs.open(output.path(f"{SPEAKERS.name}/{part}"), "rb") as handle:
        heads = read_part(handle, ["asset_id", "speaker"]).to_pylist()
    rows = []
    for head in heads:
        voice = voices[head["asset_id"], head["speaker"]]
        rows.append({**head, "voice": voice.name, "similarity": voice.similarity})
    table = pa.Table.from_pylist(rows, schema=table_schema(output.contents.tables[VOICES.name]))
    there = _there(output, part)
    if table.num_rows == 0 if there is None else there.equals(table):
        return False
    write_or_discard(output, f"{VOICES.name}/{part}", table)
    return True
