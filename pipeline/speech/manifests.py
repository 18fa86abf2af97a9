"""Manifests that training tools read: lhotse, NeMo, and the audio folder of Hugging Face.

All are dicts that JSON can hold, and ``jsonl`` makes lines of them. Times are seconds of the source. What has no value
is left out or null, never NaN.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from pipeline.speech.segments import Clip, Span, Turn, Word, in_order
from pipeline.speech.words import text_of

# The columns of a clip that go into manifests beside what a format has a field for.
MEASURES = ("overlap_ratio", "language_probability", "avg_logprob", "no_speech_prob", "compression_ratio")


def jsonl(rows: Iterable[Mapping[str, object]]) -> str:
    """A line of JSON per row, in UTF-8 as it is, with one at the end of each.

    Raises:
        ValueError: a number that is not finite.
    """
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def lhotse_recording(
    recording_id: str, path: str, *, sample_rate: int, samples: int, channels: int = 1
) -> dict[str, object]:
    """A recording as in lhotse's ``recordings.jsonl``.

    Args:
        recording_id: that supervisions name.
        path: of the audio file, or an address with ``://``.
        sample_rate: Hz.
        samples: per channel.
        channels: how many; their ids are counted from 0.
    """
    ids = list(range(channels))
    return {
        "id": recording_id,
        "sources": [{"type": "url" if "://" in path else "file", "channels": ids, "source": path}],
        "sampling_rate": sample_rate,
        "num_samples": samples,
        "duration": samples / sample_rate,
        "channel_ids": ids,
    }


def lhotse_supervisions(
    clips: Iterable[Clip], recording_id: str, words: Iterable[Word] = (), *, channel: int = 0
) -> list[dict[str, object]]:
    """The clips that are kept, as in lhotse's ``supervisions.jsonl``.

    Args:
        clips: of one recording.
        recording_id: of it.
        words: of it, in any order; each clip has those whose middle it holds as its alignment ``word``.
        channel: of the recording, counted from 0.
    """
    spoken = _ByMiddle(words)
    rows = []
    for clip in _kept(clips):
        row = _supervision(recording_id, clip, len(rows), channel) | {
            "id": f"{recording_id}-{clip.segment_id}"
        }
        row |= {"text": clip.text, "language": clip.language, "speaker": clip.speaker}
        row |= {"custom": _said({name: getattr(clip, name) for name in MEASURES})}
        rows.append(_said(row | _alignment(spoken.within(clip))))
    return rows


def lhotse_turns(
    turns: Iterable[Turn], recording_id: str, words: Iterable[Word] = (), *, channel: int = 0
) -> list[dict[str, object]]:
    """The turns in order, as in lhotse's ``supervisions.jsonl``, with the words that their speakers say in them.

    Args:
        turns: of one recording, in any order. Those of no length are left out, as lhotse takes none.
        recording_id: of it.
        words: of it, in any order, with their speakers. The text of a turn is made of those whose middle it holds.
        channel: of the recording, counted from 0.
    """
    spoken = _ByMiddle(words)
    rows = []
    for turn in in_order(turn for turn in turns if turn.end_s > turn.start_s):
        said = [word for word in spoken.within(turn) if word.speaker == turn.speaker]
        row = _supervision(recording_id, turn, len(rows), channel) | {"speaker": turn.speaker}
        row |= {"text": text_of(said) if said else None}
        row |= {"custom": _said({"confidence": turn.confidence, "overlap": turn.overlap})}
        rows.append(_said(row | _alignment(said)))
    return rows


def nemo_rows(clips: Iterable[Clip], audio: str | Mapping[str, str]) -> list[dict[str, object]]:
    """The clips that are kept, as in NeMo's manifests of recognition.

    Args:
        clips: of one recording.
        audio: the path of the recording, which each row is an ``offset`` and a ``duration`` of; or the path of each
            clip's own file by its ``segment_id``, and clips without one are left out.
    """
    rows = []
    for clip in _kept(clips):
        row: dict[str, object] = {"segment_id": clip.segment_id}
        if isinstance(audio, str):
            row |= {"audio_filepath": audio, "offset": clip.start_s}
        elif clip.segment_id in audio:
            row |= {"audio_filepath": audio[clip.segment_id]}
        else:
            continue
        row |= {
            "duration": clip.duration_s,
            "text": clip.text or "",
            "lang": clip.language,
            "speaker": clip.speaker,
        }
        rows.append(_said(row))
    return rows


def nemo_diarization(
    path: str, *, duration_s: float, rttm_path: str | None = None, speakers: int | None = None
) -> dict[str, object]:
    """A recording as in NeMo's manifests of diarization, in which all fields are there, null where nothing is known."""
    return {
        "audio_filepath": path,
        "offset": 0,
        "duration": duration_s,
        "label": "infer",
        "text": "-",
        "num_speakers": speakers,
        "rttm_filepath": rttm_path,
        "uem_filepath": None,
    }


def huggingface_rows(clips: Iterable[Clip], files: Mapping[str, str]) -> list[dict[str, object]]:
    """The clips that are kept, as in the ``metadata.jsonl`` of an audio folder; a column is in all rows, or null.

    Args:
        clips: of one recording or several.
        files: the audio file of each by its ``segment_id``, as a path from the folder of the ``metadata.jsonl``. Clips
            without one are left out.
    """
    return [
        {
            "file_name": files[clip.segment_id],
            "transcription": clip.text,
            "speaker": clip.speaker,
            "language": clip.language,
            "segment_id": clip.segment_id,
            "start_s": clip.start_s,
            "end_s": clip.end_s,
            **{name: getattr(clip, name) for name in MEASURES},
        }
        for clip in _kept(clips)
        if clip.segment_id in files
    ]


class _ByMiddle:
    """Words in order of their middle, to be found by it."""

    def __init__(self, words: Iterable[Word]) -> None:
        self._words = sorted(words, key=_middle)
        self._middles = [_middle(word) for word in self._words]

    def within(self, span: Span) -> list[Word]:
        """Those whose middle lies in the span, in order."""
        first, after = (bisect_left(self._middles, time) for time in (span.start_s, span.end_s))
        return in_order(self._words[first:after])


def _middle(word: Word) -> float:
    return (word.start_s + word.end_s) / 2


def _kept(clips: Iterable[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.keep and clip.end_sample > clip.start_sample]


def _supervision(recording_id: str, span: Span, index: int, channel: int) -> dict[str, object]:
    return {
        "id": f"{recording_id}-{index:06d}",
        "recording_id": recording_id,
        "start": span.start_s,
        "duration": span.end_s - span.start_s,
        "channel": channel,
    }


def _alignment(words: Sequence[Word]) -> dict[str, object]:
    """Symbol, start, duration and score of each word, as lhotse writes them: its starts are those of the recording."""
    items = [[word.word.strip(), word.start_s, word.end_s - word.start_s, word.probability] for word in words]
    return {"alignment": {"word": items} if items else None}


def _said(row: Mapping[str, object]) -> dict[str, object]:
    """What of a row has a value."""
    return {name: value for name, value in row.items() if value is not None}
