"""Speech preparation: a conversation whose turns are known, from file to words, clips and RTTM."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.speech_like import stored

from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.errors import UserError
from pipeline.speech.rttm import read_rttm
from pipeline.speech.segments import Region, intersection, total_s
from pipeline.workflows import manifests
from pipeline.workflows.jobs.speech import SPEECH
from pipeline.workflows.run import Asked, run_job
from pipeline.workflows.speech_config import SpeechConfig

pytestmark = pytest.mark.timeout(600)
RATE = 8000
GAP_S = 0.6
LED_IN_S = 1.5
SPOKEN = (
    ("en_US_f_Allison", "demo-thanks"),
    ("it_IT_m_Carlo", "agent-incorrect"),
    ("en_US_f_Allison", "demo-nogo"),
    ("it_IT_m_Carlo", "agent-user"),
)
NETWORKS = (
    "firered-vad", "silero-vad", "segmentation-3.0", "campplus-zh-en", "whisper-tiny.en", "dtln", "dnsmos",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """One turn of the conversation: who, and when."""

    voice: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Prepared:
    """An output, and the truth about its recordings."""

    source: Path
    output: Path
    turns: tuple[Said, ...]

    def rows(self, table: str, name: str = "talk.wav") -> list[dict[str, Any]]:
        tracks = pq.read_table(self.output / "tracks").to_pylist()
        [asset] = [row["asset_id"] for row in tracks if row["uri"].endswith(name)]
        found = tracks if table == "tracks" else pq.read_table(self.output / table).to_pylist()
        return [row for row in found if row["asset_id"] == asset]

    def text(self, column: str) -> str:
        [row] = self.rows("tracks")
        return (self.output / row[column]).read_text()


def config(source: Path, output: Path, **sections: dict[str, Any]) -> SpeechConfig:
    made = SpeechConfig()
    made.source.uri, made.output.uri, made.ray.address = str(source), str(output), "inline"
    made.denoise.backend, made.transcribe.model = "dtln", "tiny.en"
    for section, values in sections.items():
        for name, value in values.items():
            setattr(getattr(made, section), name, value)
    return made


def run(source: Path, output: Path, **sections: dict[str, Any]) -> int:
    return run_job(SPEECH, config(source, output, **sections), Asked(quiet=True)).exit_code


@pytest.fixture(scope="module")
def prepared(shared_audio, tmp_path_factory) -> Prepared:
    for name in NETWORKS:
        stored(name)
    root = tmp_path_factory.mktemp("speech")
    source = root / "in"
    source.mkdir()
    pieces, turns, position = [np.zeros(int(LED_IN_S * RATE), np.float32)], [], LED_IN_S
    for voice, prompt in SPOKEN:
        samples, rate = soundfile.read(shared_audio / "speech" / voice / f"{prompt}.wav", dtype="float32")
        assert rate == RATE
        loud = np.flatnonzero(np.abs(samples) > 0.01)
        samples = samples[loud[0] : loud[-1] + 1]
        turns.append(Said(voice, position, position + len(samples) / RATE))
        pieces += [samples, np.zeros(int(GAP_S * RATE), np.float32)]
        position += len(samples) / RATE + int(GAP_S * RATE) / RATE
    talk = np.concatenate(pieces)
    talk += 1e-4 * np.random.default_rng(0).standard_normal(len(talk)).astype(np.float32)
    soundfile.write(source / "talk.wav", talk, RATE)
    soundfile.write(source / "silence.wav", np.zeros((4 * 48_000, 2)), 48_000)
    soundfile.write(source / "sample.wav", np.zeros(1), RATE)
    (source / "broken.mp3").write_bytes(b"no recording")
    output = root / "out"
    assert run(source, output, split={"max_seconds": 8.0, "files": True}, clips={"min_seconds": 3.0}) == 0
    return Prepared(source, output, tuple(turns))


def test_every_file_is_a_row_and_silence_says_so(prepared):
    tracks = {Path(row["uri"]).name: row for row in pq.read_table(prepared.output / "tracks").to_pylist()}
    status = {name: row["status"] for name, row in tracks.items()}
    assert status == {"broken.mp3": "failed", "sample.wav": "ok", "silence.wav": "ok", "talk.wav": "ok"}
    quiet = tracks["silence.wav"]
    assert (quiet["vad_regions"], quiet["vad_speech_share"], quiet["diarize_speakers"]) == (0, 0.0, 0)
    assert (quiet["words_count"], quiet["words_per_minute"], quiet["clips_count"]) == (0, None, 0)
    assert quiet["texts_rttm"] is None
    assert quiet["diarize_overlap_share"] is None
    assert (prepared.output / quiet["texts_report"]).read_text().startswith("Speech report")
    assert tracks["sample.wav"]["duration_s"] == 1 / RATE


def test_regions_cover_what_is_spoken(prepared):
    regions = [Region(row["start_s"], row["end_s"]) for row in prepared.rows("regions")]
    spoken = [Region(turn.start_s, turn.end_s) for turn in prepared.turns]
    common = total_s(intersection(regions, spoken))
    assert common > 0.85 * total_s(spoken)  # people pause
    assert total_s(regions) - common < 0.4 * len(spoken)
    [row] = prepared.rows("tracks")
    assert row["vad_speech_s"] == pytest.approx(total_s(regions))


def test_speakers_are_told_apart_in_source_time(prepared):
    turns = prepared.rows("turns")
    assert {turn["speaker"] for turn in turns} == {"S1", "S2"}
    names = {"S1": prepared.turns[0].voice, "S2": prepared.turns[1].voice}
    wrong = right = 0.0
    for turn in turns:
        for said in prepared.turns:
            both = max(0.0, min(turn["end_s"], said.end_s) - max(turn["start_s"], said.start_s))
            wrong += both * (names[turn["speaker"]] != said.voice)
            right += both * (names[turn["speaker"]] == said.voice)
    assert wrong < 0.05 * (wrong + right)
    assert [row["speaker"] for row in prepared.rows("speakers")] == ["S1", "S2"]
    assert all(
        np.linalg.norm(row["centroid"]) == pytest.approx(1, abs=1e-4) for row in prepared.rows("speakers")
    )
    # By the name of the content: other files may have it, too.
    read = read_rttm(prepared.text("texts_rttm"))[prepared.rows("tracks")[0]["asset_id"]]
    assert [(t.start_s, t.speaker) for t in read] == [
        (pytest.approx(turn["start_s"], abs=1e-5), turn["speaker"]) for turn in turns
    ]


def test_words_are_where_they_are_said_and_whose(prepared):
    words = prepared.rows("words")
    heard = [
        word for word in words if prepared.turns[0].start_s - 0.1 <= word["start_s"] < prepared.turns[0].end_s
    ]
    text = " ".join(word["word"] for word in heard).lower()
    assert "thank" in text
    assert {word["speaker"] for word in heard} == {"S1"}
    assert all(a["end_s"] <= b["start_s"] + 1e-9 for a, b in pairwise(words))
    assert heard[0]["start_s"] == pytest.approx(prepared.turns[0].start_s, abs=0.15)
    assert "thank" in prepared.text("texts_srt").lower()
    assert prepared.text("texts_vtt").startswith("WEBVTT")
    assert "thank" in prepared.text("texts_report").lower()


def test_no_word_is_lost_between_parts_and_parts_are_the_whole(prepared):
    parts, words = prepared.rows("parts"), prepared.rows("words")
    [row] = prepared.rows("tracks")
    assert sum(part["words"] for part in parts) == len(words) == row["words_count"]
    assert [part["start_s"] for part in parts] == [0.0, *(part["end_s"] for part in parts[:-1])]
    assert parts[-1]["end_s"] == pytest.approx(row["duration_s"])
    assert all(part["end_s"] - part["start_s"] <= 8.0 + 1e-6 or part["too_long"] for part in parts)
    for word in words:
        assert not any(word["start_s"] < part["end_s"] < word["end_s"] for part in parts)
    samples, _ = soundfile.read(prepared.source / "talk.wav", dtype="int16")
    again = [soundfile.read(prepared.output / part["path"], dtype="int16")[0] for part in parts]
    assert np.array_equal(np.concatenate(again), samples)


def test_clips_are_samples_of_the_source(prepared):
    clips = prepared.rows("clips")
    kept = [clip for clip in clips if clip["keep"]]
    assert kept
    samples, rate = soundfile.read(prepared.source / "talk.wav", dtype="int16")
    for clip in kept:
        audio, its_rate = soundfile.read(prepared.output / clip["path"], dtype="int16")
        assert its_rate == rate == clip["sample_rate"]
        assert np.array_equal(audio, samples[clip["start_sample"] : clip["end_sample"]])
        assert 3.0 - 1e-3 <= clip["end_s"] - clip["start_s"] <= 20.0 + 1e-3
        assert clip["text"]
        assert 1 <= clip["dnsmos_ovrl"] <= 5
        assert 1 <= clip["dnsmos_p808"] <= 5
        assert clip["snr_db"] > 10
    assert all(clip["path"] is None and clip["drop_reason"] for clip in clips if not clip["keep"])
    [row] = prepared.rows("tracks")
    assert (row["clips_kept"], row["clips_files"]) == (len(kept), [clip["path"] for clip in kept])


def test_the_denoised_recording_has_the_length_of_the_recording(prepared):
    [row] = prepared.rows("tracks")
    audio, rate = soundfile.read(prepared.output / row["denoise_file"])
    assert rate == row["denoise_sample_rate"] == 16_000
    assert len(audio) == pytest.approx(row["duration_s"] * rate, abs=1)
    assert row["denoise_change_db"] < 1


def test_the_output_is_whole_and_a_clip_that_was_deleted_is_made_again(prepared, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(prepared.output, output)
    assert not verify(Output(str(output)), deep=True).remaining.total
    [row] = Prepared(prepared.source, output, prepared.turns).rows("tracks")
    lost = output / row["clips_files"][0]
    before = lost.read_bytes()
    lost.unlink()
    assert verify(Output(str(output)), repair=True).found == {"missing_clip": 1}
    assert (
        run(prepared.source, output, split={"max_seconds": 8.0, "files": True}, clips={"min_seconds": 3.0})
        == 0
    )
    assert lost.read_bytes() == before
    assert not verify(Output(str(output)), deep=True).remaining.total


def test_other_clips_need_no_listening_again(prepared, tmp_path):
    """What they are made of comes out of the tables; what lies behind the changed parameter stays."""
    output = tmp_path / "out"
    steps = {"steps": ["vad", "diarize", "transcribe", "clips"]}
    assert run(prepared.source, output, speech=steps, clips={"dnsmos": False}) == 0
    first = {row["segment_id"]: row for row in pq.read_table(output / "clips").to_pylist()}
    changed = {"dnsmos": False, "max_seconds": 6.0, "min_seconds": 1.0}
    before = Prepared(prepared.source, output, prepared.turns).rows("passages")
    assert run(prepared.source, output, speech=steps, clips=changed) == 0
    second = pq.read_table(output / "clips").to_pylist()
    assert len(second) > len(first)
    newest = max((output / "runs").glob("2*"))
    computed = json.loads((newest / "performance.json").read_text())["stages"]
    assert "clips.clips" in computed
    assert not computed.keys() & {"vad", "diarize", "transcribe"}
    assert Prepared(prepared.source, output, prepared.turns).rows("passages") == before
    words = pq.read_table(output / "words").to_pylist()
    assert [word["word"] for word in words] == [word["word"] for word in prepared.rows("words")]


@pytest.mark.parametrize("redact", [["text", "words"], ["text"]], ids="+".join)
def test_what_is_withheld_is_nowhere(prepared, tmp_path, redact):
    output = tmp_path / "out"
    steps = {"steps": ["vad", "diarize", "transcribe", "clips"], "redact": redact}
    assert run(prepared.source, output, speech=steps, clips={"dnsmos": False}) == 0
    said = [word["word"].lower() for word in prepared.rows("words")]
    four = [said[at : at + 4] for at in range(len(said) - 3)]
    phrases = {between.join(words) for words in four for between in (" ", '", "')}
    assert len(phrases) > 40
    files = [path for path in output.rglob("*") if path.is_file() and path.suffix != ".flac"]
    for path in (
        files if "words" in redact else [p for p in files if p.parent.name not in ("words", "passages")]
    ):
        if path.suffix == ".parquet":
            content = json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str).lower()
        else:
            content = path.read_bytes().decode(errors="replace").lower()
        assert not {phrase for phrase in phrases if phrase in content}, path
    words = pq.read_table(output / "words").to_pylist()
    assert words
    assert all((word["word"] is None) == ("words" in redact) for word in words)
    assert set(pq.read_table(output / "passages")["text"].to_pylist()) == {None}
    assert pq.read_table(output / "tracks").column("texts_srt").null_count == 4


def test_other_software_reads_the_manifests(prepared, tmp_path):
    import lhotse

    output = tmp_path / "out"
    shutil.copytree(prepared.output, output)
    written = manifests.run(Output(str(output)))
    kept = [clip for clip in prepared.rows("clips") if clip["keep"]]
    assert written["manifests/recordings.jsonl"] == 3  # what could be decoded
    assert written["manifests/nemo_clips.jsonl"] == written["clip_files/metadata.jsonl"] == len(kept)
    recordings = lhotse.RecordingSet.from_jsonl(output / "manifests" / "recordings.jsonl")
    supervisions = lhotse.SupervisionSet.from_jsonl(output / "manifests" / "supervisions.jsonl")
    cuts = lhotse.CutSet.from_manifests(recordings, supervisions).trim_to_supervisions()
    samples, _ = soundfile.read(prepared.source / "talk.wav", dtype="float32")
    for cut, clip in zip(sorted(cuts, key=lambda c: c.start), kept, strict=True):
        [supervision] = cut.supervisions
        assert supervision.text == clip["text"]
        assert supervision.speaker == f"{supervision.recording_id}-{clip['speaker']}"
        assert " ".join(w.symbol for w in supervision.alignment["word"]) == clip["text"]
        assert np.array_equal(cut.load_audio()[0], samples[clip["start_sample"] : clip["end_sample"]])
    for line in (output / "manifests" / "nemo_clips.jsonl").read_text().splitlines():
        assert Path(json.loads(line)["audio_filepath"]).is_file()
    for line in (output / "clip_files" / "metadata.jsonl").read_text().splitlines():
        assert (output / "clip_files" / json.loads(line)["file_name"]).is_file()
    assert len(read_rttm((output / "manifests" / "all.rttm").read_text())) == 1
    assert not verify(Output(str(output)), deep=True).remaining.total


def test_manifests_are_made_of_speech_alone(tmp_path):
    (tmp_path / "tracks").mkdir()
    with pytest.raises(UserError, match="holds what the job"):
        manifests.run(Output(str(tmp_path)))
    with pytest.raises(UserError, match="does not exist"):
        manifests.run(Output(str(tmp_path / "nowhere")))
