"""What speech preparation found, as other software reads it: manifests for lhotse and NeMo, a Hugging Face audio
folder, and one RTTM for all recordings."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.dataset.output import Output, read_part
from pipeline.dataset.sources.addresses import file_name
from pipeline.dataset.sources.sound_tracks import file_of
from pipeline.dataset.storage import explain, is_local
from pipeline.dataset.tables.rewrite import read_if_there
from pipeline.errors import UserError
from pipeline.speech.clips import Clip
from pipeline.speech.manifests import (
    huggingface_rows,
    jsonl,
    lhotse_recording,
    lhotse_supervisions,
    lhotse_turns,
    nemo_diarization,
    nemo_rows,
)
from pipeline.speech.rttm import write_rttm
from pipeline.speech.segments import Turn, Word

FOLDER = "manifests"
HUGGING_FACE = "clip_files/metadata.jsonl"
"""Beside the folders of the clips: that is where ``load_dataset("audiofolder", …)`` looks for it."""
FILES = (
    f"{FOLDER}/recordings.jsonl",
    f"{FOLDER}/supervisions.jsonl",
    f"{FOLDER}/turns.jsonl",
    f"{FOLDER}/nemo_clips.jsonl",
    f"{FOLDER}/nemo_diarization.jsonl",
    f"{FOLDER}/all.rttm",
    HUGGING_FACE,
)
ROWS = ("turns", "words", "clips")
VOICES = "voices"
_COLUMNS = (
    "asset_id",
    "uri",
    "sample_rate",
    "channels",
    "duration_s",
    "status",
    "texts_rttm",
    "diarize_speakers",
)


@dataclass(frozen=True)
class _Recording:
    """One recording with all that was found out of it."""

    name: str
    track: Mapping[str, Any]
    turns: list[Turn]
    words: list[Word]
    clips: list[Clip]
    files: dict[str, str]


def run(output: Output) -> dict[str, int]:
    """Write the manifests below the root of an output; file → lines.

    Raises:
        UserError: there is no output of speech preparation.
    """
    if is_local(output.uri) and not Path(output.uri).is_dir():
        raise UserError(f"output.uri={output.uri} does not exist: type the output.uri of a run")
    try:
        if output.contents.job != "speech":
            raise UserError(
                f"{output.uri} holds what the job {output.contents.job or 'extract'} wrote",
                "manifests are made of speech",
                "the output.uri of python jobs/prepare_speech.py",
            )
        return _write(output)
    except OSError as error:
        raise explain(f"output.uri={output.uri}", error) from None


def _write(output: Output) -> dict[str, int]:
    """Part by part, so that memory does not grow with the recordings."""
    counts = dict.fromkeys(FILES, 0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soundmill-manifests-")))
        paths = {name: folder / f"{number}" for number, name in enumerate(FILES)}
        open_files = {n: stack.enter_context(p.open("w", encoding="utf-8")) for n, p in paths.items()}
        for recording in _recordings(output):
            for name, text in zip(FILES, _texts(output, recording), strict=True):
                open_files[name].write(text)
                counts[name] += text.count("\n")
        for file in open_files.values():
            file.close()
        for name, path in paths.items():
            output.upload(name, path)
    return counts


def _texts(output: Output, found: _Recording) -> tuple[str, ...]:
    """What each of `FILES` says of a recording."""
    track = found.track
    source, duration = track["uri"], track["duration_s"]
    recording = lhotse_recording(
        found.name,
        source,
        sample_rate=track["sample_rate"],
        samples=round(duration * track["sample_rate"]),
        channels=track["channels"],
    )
    rttm = None if track.get("texts_rttm") is None else f"{output.uri}/{track['texts_rttm']}"
    diarized = nemo_diarization(
        source, duration_s=duration, rttm_path=rttm, speakers=track.get("diarize_speakers")
    )
    beside = {segment: path.partition("/")[2] for segment, path in found.files.items()}
    return (
        jsonl([recording]),
        jsonl(lhotse_supervisions(found.clips, found.name, found.words)),
        jsonl(lhotse_turns(found.turns, found.name, found.words)),
        jsonl(nemo_rows(found.clips, {s: f"{output.uri}/{path}" for s, path in found.files.items()})),
        jsonl([diarized]),
        write_rttm(found.turns, found.name),
        jsonl(huggingface_rows(found.clips, beside)),
    )


def _recordings(output: Output) -> Iterator[_Recording]:
    """Every content once, as the first file with it is called; its rows may lie in another part than that file's."""
    homes = {table: _homes(output, table) for table in (*ROWS, VOICES)}
    seen: set[str] = set()
    for part in output.parts("tracks"):
        tracks = read_if_there(output, part)
        if tracks is None:
            continue
        found = [
            track
            for track in tracks.select([c for c in _COLUMNS if c in tracks.column_names]).to_pylist()
            if track["status"] not in ("failed", "gone") and track["duration_s"]
        ]
        assets = {track["asset_id"] for track in found}
        rows = {table: _rows_of(output, homes[table], assets) for table in homes}
        for track in found:
            asset = track["asset_id"]
            if asset in seen:
                continue
            seen.add(asset)
            yield _recording(track, {table: rows[table].get(asset, []) for table in rows})


def _recording(track: Mapping[str, Any], rows: Mapping[str, list[dict[str, Any]]]) -> _Recording:
    """Speakers have the recording's name before theirs, since S1 of another one is somebody else; but where voices are
    linked they have that of their voice."""
    name = f"{Path(file_name(file_of(track['uri']))).stem}-{track['asset_id'][:8]}"
    voices = {row["speaker"]: row["voice"] for row in rows[VOICES] if row["voice"] is not None}
    named = {
        table: [
            {**row, "speaker": row["speaker"] and voices.get(row["speaker"], f"{name}-{row['speaker']}")}
            for row in rows[table]
        ]
        for table in ROWS
    }
    return _Recording(
        name,
        {**track, "uri": file_of(track["uri"])},
        turns=[_turn(row) for row in named["turns"]],
        words=[_word(row) for row in named["words"]],
        clips=[_clip(row) for row in named["clips"]],
        files={row["segment_id"]: row["path"] for row in named["clips"] if row["path"] is not None},
    )


def _homes(output: Output, table: str) -> dict[str, str]:
    """Content → the part of a table that has its rows."""
    found: dict[str, str] = {}
    for part in output.parts(table) if table in output.tables else ():
        with output.fs.open(output.path(part), "rb") as handle:
            assets = read_part(handle, ["asset_id"])["asset_id"]
        found |= dict.fromkeys(assets.unique().to_pylist(), part)
    return found


def _rows_of(output: Output, homes: Mapping[str, str], assets: set[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for part in sorted({homes[asset] for asset in assets if asset in homes}):
        table = read_if_there(output, part)
        if table is not None:
            rows = _by_asset(table)
            found |= {asset: rows[asset] for asset in assets & rows.keys()}
    return found


def _by_asset(table: Any) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["asset_id"], []).append(row)
    return found


def _turn(row: Mapping[str, Any]) -> Turn:
    return Turn(row["start_s"], row["end_s"], row["speaker"], row["confidence"], row["overlap"])


def _word(row: Mapping[str, Any]) -> Word:
    times = row["start_s"], row["end_s"]
    return Word(row["word"] or "", *times, row["probability"], row["speaker"], segment=row["passage_index"])


_CLIP_FIELDS = tuple(f.name for f in fields(Clip))


def _clip(row: Mapping[str, Any]) -> Clip:
    return Clip(**{name: row[name] for name in _CLIP_FIELDS})
