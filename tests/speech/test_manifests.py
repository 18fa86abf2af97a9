"""Manifests, read back by the libraries that they are for.

NeMo is not installed: its rows are checked against the fields that its documentation names.
"""

import importlib.util
import json
import sys
import types
import wave
from pathlib import Path

import numpy as np
import pytest

from pipeline.speech import manifests
from pipeline.speech.clips import clips
from pipeline.speech.segments import Passage, Turn, Word

RATE = 16000
DURATION = 30.0
TURNS = [Turn(0, 8, "ann", 0.9), Turn(8, 20, "bob"), Turn(25, 26, "ann")]


def words():
    texts = "Das ist ein Satz, 名前 שלום und mehr."
    return [
        Word(f" {text}", start + i * 0.9, start + i * 0.9 + 0.8, 0.5, segment=0)
        for start in (1.0, 9.0)
        for i, text in enumerate(texts.split())
    ]


@pytest.fixture(name="made")
def made_clips():
    return clips(
        words(), TURNS, None, duration_s=DURATION, sample_rate=RATE,
        passages=[Passage(index=0, start_s=0, end_s=20, language="de", avg_logprob=-0.25)],
    )  # fmt: skip


def write_silence(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.zeros(samples, np.int16).tobytes())


def recording(path):
    return manifests.lhotse_recording("talk", str(path), sample_rate=RATE, samples=int(DURATION * RATE))


def test_lhotse_reads_clips_with_their_words(tmp_path, made):
    lhotse = pytest.importorskip("lhotse")
    write_silence(tmp_path / "talk.wav", int(DURATION * RATE))
    rows = manifests.lhotse_supervisions(made, "talk", words())
    (tmp_path / "recordings.jsonl").write_text(manifests.jsonl([recording(tmp_path / "talk.wav")]))
    (tmp_path / "supervisions.jsonl").write_text(manifests.jsonl(rows))
    recordings = lhotse.load_manifest(tmp_path / "recordings.jsonl")
    supervisions = lhotse.load_manifest(tmp_path / "supervisions.jsonl")
    lhotse.validate(recordings, read_data=True)
    lhotse.validate(supervisions)
    lhotse.qa.validate_recordings_and_supervisions(recordings, supervisions)
    first, second = supervisions
    clip = made[0]
    assert (first.id, first.recording_id, first.speaker, first.text) == (
        "talk-000000",
        "talk",
        "ann",
        clip.text,
    )
    assert (first.start, first.end) == (pytest.approx(clip.start_s), pytest.approx(clip.end_s))
    assert (second.speaker, second.language) == ("bob", "de")
    assert first.custom["avg_logprob"] == -0.25
    aligned = first.alignment["word"]
    assert [item.symbol for item in aligned] == [w.word.strip() for w in words()[:8]]
    assert [(item.start, item.end, item.score) for item in aligned] == [
        (pytest.approx(w.start_s), pytest.approx(w.end_s), 0.5) for w in words()[:8]
    ]
    cuts = lhotse.CutSet.from_manifests(
        recordings=recordings, supervisions=supervisions
    ).trim_to_supervisions()
    assert [cut.load_audio().shape[1] for cut in cuts] == [c.end_sample - c.start_sample for c in made]


def test_lhotse_reads_turns(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    said = [
        Word(w.word, w.start_s, w.end_s, w.probability, "ann" if w.start_s < 8 else "bob") for w in words()
    ]
    rows = manifests.lhotse_turns([*TURNS, Turn(3, 3, "cy")], "talk", said)
    (tmp_path / "supervisions.jsonl").write_text(manifests.jsonl(rows))
    supervisions = lhotse.load_manifest(tmp_path / "supervisions.jsonl")
    lhotse.validate(supervisions)
    assert [(s.start, s.duration, s.speaker) for s in supervisions] == [
        (0, 8, "ann"),
        (8, 12, "bob"),
        (25, 1, "ann"),
    ]
    assert [len(s.alignment["word"]) if s.alignment else 0 for s in supervisions] == [8, 8, 0]
    assert supervisions["talk-000000"].text == "Das ist ein Satz, 名前 שלום und mehr."
    assert supervisions["talk-000000"].custom == {"confidence": 0.9, "overlap": False}
    assert supervisions["talk-000002"].text is None


def test_a_recording_of_two_channels_at_an_address():
    lhotse = pytest.importorskip("lhotse")
    row = manifests.lhotse_recording("a", "s3://bucket/a.flac", sample_rate=44100, samples=441, channels=2)
    read = lhotse.Recording.from_dict(json.loads(manifests.jsonl([row])))
    assert (read.num_channels, read.duration, read.sources[0].type) == (2, 0.01, "url")


def test_nemo_has_its_documented_fields(made):
    rows = [json.loads(line) for line in manifests.jsonl(manifests.nemo_rows(made, "talk.wav")).splitlines()]
    assert [set(row) for row in rows] == [
        {"audio_filepath", "offset", "duration", "text", "lang", "speaker", "segment_id"}
    ] * 2
    assert rows[0]["offset"] == made[0].start_s
    assert rows[0]["duration"] == made[0].duration_s
    assert rows[0]["text"] == made[0].text
    (row,) = manifests.nemo_rows(made, {"000001": "000001.wav"})
    assert row["audio_filepath"] == "000001.wav"
    assert "offset" not in row
    diarized = manifests.nemo_diarization("talk.wav", duration_s=30.0, rttm_path="talk.rttm", speakers=2)
    assert json.loads(json.dumps(diarized)) == {
        "audio_filepath": "talk.wav", "offset": 0, "duration": 30.0, "label": "infer", "text": "-",
        "num_speakers": 2, "rttm_filepath": "talk.rttm", "uem_filepath": None,
    }  # fmt: skip


@pytest.fixture(name="torchcodec_or_its_stand_in")
def _torchcodec_or_its_stand_in(monkeypatch):
    """``datasets`` imports torchcodec before it reads the path of an audio file, and does not use it for that."""
    pytest.importorskip("datasets")  # looks for torchcodec, too, and must not find the stand-in
    if importlib.util.find_spec("torchcodec") is None:
        stand_in = types.ModuleType("torchcodec.encoders")
        stand_in.AudioEncoder = None
        monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.encoders", stand_in)


@pytest.mark.usefixtures("torchcodec_or_its_stand_in")
def test_datasets_reads_the_audio_folder(tmp_path, made):
    datasets = pytest.importorskip("datasets")
    files = {clip.segment_id: f"clips/{clip.segment_id}.wav" for clip in made}
    folder = tmp_path / "folder"
    (folder / "clips").mkdir(parents=True)
    for clip in made:
        write_silence(folder / files[clip.segment_id], clip.end_sample - clip.start_sample)
    (folder / "metadata.jsonl").write_text(manifests.jsonl(manifests.huggingface_rows(made, files)))
    read = datasets.load_dataset("audiofolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))[
        "train"
    ]
    read = read.cast_column("audio", datasets.Audio(decode=False)).sort("segment_id")
    assert list(read["transcription"]) == [clip.text for clip in made]
    assert list(read["speaker"]) == ["ann", "bob"]
    assert list(read["start_s"]) == [clip.start_s for clip in made]
    assert [Path(audio["path"]).stem for audio in read["audio"]] == [clip.segment_id for clip in made]


def test_only_what_is_kept(made):
    short = clips(words()[:2], TURNS, None, duration_s=DURATION, sample_rate=RATE)
    assert [clip.drop_reason for clip in short] == ["short"]
    assert manifests.lhotse_supervisions(short, "talk") == []
    assert manifests.nemo_rows(short, "talk.wav") == []
    assert manifests.huggingface_rows(short, {"000000": "a.wav"}) == []
    assert manifests.huggingface_rows(made, {}) == []


def test_nothing():
    assert manifests.jsonl([]) == ""
    assert manifests.lhotse_turns([], "talk") == []


def test_a_number_that_is_none_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        manifests.jsonl([{"a": float("nan")}])
