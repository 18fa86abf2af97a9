"""What turns and words become together: words with speakers, parts, clips with their audio, texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.dataset.output import Output
from pipeline.engine.batch import Blob, Track
from pipeline.engine.late_worker import LateWorker
from pipeline.engine.timing import Cost, StageClock
from pipeline.speech.clips import Clip, Thresholds, clips
from pipeline.speech.rttm import write_rttm
from pipeline.speech.segments import Passage, Region, Turn, Word, union
from pipeline.speech.splitting import Part, split, with_speakers
from pipeline.speech.subtitles import write_srt, write_vtt
from pipeline.speech.text_report import text_report
from pipeline.stages.clips.files import RecordingFiles
from pipeline.stages.clips.measures import ClipMeter
from pipeline.stages.clips.spec import (
    CLIP_FILES,
    CLIPS,
    NAME,
    NATIVE,
    PART_FILES,
    PARTS,
    REPORT,
    REPORT_BEGINS,
    RTTM,
    SRT,
    TEXTS,
    VTT,
    WORDS,
)
from pipeline.stages.vad.spec import VIEW


class ClipsWorker(LateWorker):
    """Fills the tables of words, parts and clips, and writes their files.

    Args:
        parameters: of each product that is wanted.
        redact: what is withheld, of ``text`` and ``words``: nothing is written then that words make a text of.
        output: where files go.
        common: see `pipeline.engine.late_worker.LateWorker`.

    Raises:
        ValueError: there is no ``output``.
    """

    def __init__(
        self,
        parameters: Mapping[str, Mapping[str, Any]],
        *,
        redact: Sequence[str] = (),
        output: Output | None = None,
        **common: Any,
    ) -> None:
        if output is None:
            raise ValueError("clips are to be written and there is no output")
        super().__init__(**{"stage": NAME, **common})
        self.parameters, self.output = parameters, output
        self.withheld = bool(redact)
        self.load_unless_idle()

    def load(self) -> None:
        """Load the networks that judge clips, where they are asked for."""
        given = self.parameters.get(CLIPS, {})
        self.meter = ClipMeter(bool(given.get("dnsmos")), given.get("dnsmos_hop_seconds", 1), self.threads)

    def process(self, tracks: Sequence[Track], clock: StageClock) -> None:
        """Put together what was found of each track."""
        self.load_once(clock)
        makes = {WORDS: self._words, PARTS: self._parts, CLIPS: self._clips, TEXTS: self._texts}
        for track in tracks:
            try:
                found = Found(track)
            except Exception as error:  # noqa: BLE001  rows that make no sense cost their own recording only
                for product in track.due:
                    self.fail(track, product, error)
                continue
            for product in (name for name in makes if name in track.due):
                with ExitStack() as stack:
                    self._one(track, product, lambda: makes[product](track, found, stack))  # noqa: B023  called here

    def _one(self, track: Track, product: str, make: Any) -> None:
        before = len(track.blobs)
        try:
            with self.timed(track):
                values, rows = make()
        except Exception as error:  # noqa: BLE001  one product's trouble must not cost the others
            for blob in track.blobs[before:]:
                if blob.data is None:  # it is there already, under a name that nobody will know
                    self.output.discard(blob.path)
            del track.blobs[before:]
            self.failed(track, product, error)
            return
        track.values.update(values)
        track.rows.update(rows)
        track.costs.append(Cost(f"{NAME}.{product}", batch_audio_s=track.duration_s or 0.0))
        self.done(track, product)

    def _words(self, track: Track, found: Found, stack: ExitStack) -> Any:
        rows = [
            {
                "word_index": number,
                "word": word.word if found.told else None,
                "start_s": word.start_s,
                "end_s": word.end_s,
                "probability": word.probability,
                "speaker": word.speaker,
                "passage_index": word.segment,
            }
            for number, word in enumerate(found.words)
        ]
        spoken = found.speech_s
        values = {
            "words_count": len(rows),
            "words_per_minute": 60.0 * len(rows) / spoken if spoken else None,
            "words_unsure_speaker": sum(word.speaker is None for word in found.words)
            if found.diarized
            else None,
        }
        return values, {"words": rows}

    def _parts(self, track: Track, found: Found, stack: ExitStack) -> Any:
        given = self.parameters[PARTS]
        parts = split(
            found.words,
            found.turns,
            found.regions if found.heard else None,
            found.duration_s,
            method=given["method"],
            max_seconds=given["max_seconds"],
        )
        paths: list[str | None] = [None] * len(parts)
        files = self._files(track, stack)
        if given["files"]:
            # Neighbours meet at a sample, and the last ends with the recording.
            starts = [round(part.start_s * track.sample_rate) for part in parts]
            ends = [*starts[1:], files.audio.samples if not files.refused else 0]
            spans = enumerate(zip(starts, ends, strict=True))
            key = self.key_of(track, PARTS)
            for n, (start, end) in spans:
                self.in_time(track)
                paths[n] = files.write(PART_FILES, f"{key}-{n:06d}", start, end)
        rows = [_part_row(n, part, path) for n, (part, path) in enumerate(zip(parts, paths, strict=True))]
        written = [path for path in paths if path is not None]
        values = {
            "parts_count": len(rows),
            "parts_files": written or None,
            "parts_gain_db": files.gain_db if written else None,
        }
        return values, {"parts": rows}

    def _clips(self, track: Track, found: Found, stack: ExitStack) -> Any:
        given = self.parameters[CLIPS]
        cut = clips(
            found.words if found.transcribed else None,
            found.turns if found.diarized else None,
            found.regions if found.heard else None,
            duration_s=found.duration_s,
            sample_rate=track.sample_rate,
            min_s=given["min_seconds"],
            max_s=given["max_seconds"],
            margin_s=given["margin_seconds"],
            pause_s=given["pause_seconds"],
            passages=found.passages,
            thresholds=Thresholds(**given["thresholds"]),
            id_prefix=f"{track.asset_id[:16]}-",
        )
        heard, files = self.reader(track, VIEW, stack), self._files(track, stack)
        rows, paths = [], []
        key = self.key_of(track, CLIPS)
        for number, clip in enumerate(cut):
            self.in_time(track)
            path = None
            if given["files"] and (clip.keep or given["files_of_dropped"]):
                name = f"{key}-{number:06d}"
                path = files.write(CLIP_FILES, name, clip.start_sample, clip.end_sample)
            if path is not None:
                paths.append(path)
            measured = self.meter.measure(heard, clip, found.regions)
            rows.append(
                _clip_row(
                    clip,
                    found.told and not self.withheld,
                    {**measured, "path": path, "sample_rate": track.sample_rate},
                )
            )
        snr = [row["snr_db"] for row in rows if row["snr_db"] is not None]
        kept = [clip for clip in cut if clip.keep]
        values = {
            "clips_count": len(rows),
            "clips_kept": len(kept),
            "clips_kept_s": float(sum(clip.duration_s for clip in kept)),
            "clips_snr_db": float(np.median(snr)) if snr else None,
            "clips_files": paths or None,
            "clips_gain_db": files.gain_db if paths else None,
        }
        return values, {"clips": rows}

    def _texts(self, track: Track, found: Found, stack: ExitStack) -> Any:
        # That of the content: other files may have it, too, and nobody knows which of them is computed.
        name, key = track.asset_id, self.key_of(track, TEXTS)
        words = found.words if found.told and not self.withheld else []
        texts = {
            "texts_rttm": (RTTM, "turns.rttm", write_rttm(found.turns, name)),
            "texts_srt": (SRT, "words.srt", write_srt(words) if words else ""),
            "texts_vtt": (VTT, "words.vtt", write_vtt(words) if words else ""),
            "texts_report": (
                REPORT,
                "report.txt",
                REPORT_BEGINS
                + text_report(name, found.duration_s, found.turns, words, language=found.language),
            ),
        }
        values: dict[str, str | None] = {}
        for column, (artifact, file, text) in texts.items():
            values[column] = None
            if text:
                data = text.encode()
                values[column] = path = artifact.path(track.asset_id, f"{key}-{file}")
                track.blobs.append(Blob(path, column, [len(data)], data))
        return values, {}

    def _files(self, track: Track, stack: ExitStack) -> RecordingFiles:
        return RecordingFiles(track, self.output, lambda: self.reader(track, NATIVE, stack))


class Found:
    """What earlier stages found out of a track, in the words of `pipeline.speech`."""

    def __init__(self, track: Track) -> None:
        regions, turns, passages = (track.found(f"rows@{name}") for name in ("regions", "turns", "passages"))
        self.heard, self.diarized, self.transcribed = (
            rows is not None for rows in (regions, turns, passages)
        )
        self.duration_s = float(track.duration_s or 0.0)
        self.language = track.found("transcribe_language")
        self.regions = [Region(row["start_s"], row["end_s"]) for row in regions or ()]
        self.turns = [
            Turn(row["start_s"], row["end_s"], row["speaker"], row["confidence"], row["overlap"])
            for row in turns or ()
        ]
        self.passages = [_passage(row) for row in passages or ()]
        self.told = all(row["word_texts"] is not None for row in passages or ())
        bare = [word for row in passages or () for word in _words_of(row)]
        self.words = with_speakers(bare, self.turns)

    @property
    def speech_s(self) -> float:
        """Seconds of speech: in regions, else in turns."""
        spans = self.regions if self.heard else union(self.turns)
        return float(sum(span.duration_s for span in spans))


def _passage(row: Mapping[str, Any]) -> Passage:
    names = ("language", "language_probability", "avg_logprob", "no_speech_prob", "compression_ratio")
    return Passage(
        index=row["passage_index"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        text=row["text"] or "",
        **{name: row[name] for name in names},
    )


def _words_of(row: Mapping[str, Any]) -> list[Word]:
    starts = row["word_starts_s"]
    texts = row["word_texts"] if row["word_texts"] is not None else [""] * len(starts)
    timed = zip(texts, starts, row["word_ends_s"], row["word_probabilities"], strict=True)
    return [Word(*word, segment=row["passage_index"]) for word in timed]


def _part_row(number: int, part: Part, path: str | None) -> dict[str, Any]:
    return {
        "part_index": number,
        "start_s": part.start_s,
        "end_s": part.end_s,
        "words": len(part.words),
        "speakers": list(part.speakers),
        "too_long": part.too_long,
        "path": path,
    }


def _clip_row(clip: Clip, told: bool, more: Mapping[str, Any]) -> dict[str, Any]:
    row = {**asdict(clip), **more}
    if not told:
        row["text"] = None
    return row
