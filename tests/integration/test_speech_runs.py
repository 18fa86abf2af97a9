"""Speech preparation over several runs: voices that are linked, steps that fail, parameters that change, copies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from helpers.speech_like import stored

from pipeline.dataset.output import Output
from pipeline.dataset.verify import verify
from pipeline.speech.rttm import read_rttm
from pipeline.stages.transcribe.worker import TranscribeWorker
from pipeline.workflows import manifests
from pipeline.workflows.jobs.speech import SPEECH
from pipeline.workflows.outcome import Result
from pipeline.workflows.run import Asked, run_job
from pipeline.workflows.speech_config import SpeechConfig

pytestmark = pytest.mark.timeout(600)
RATE = 8000
CALLS = {
    "ann.wav": ("en_US_f_Allison", "queue-periodic-announce"),
    "ann_again.wav": ("en_US_f_Allison", "vm-review"),
    "carlo.wav": ("it_IT_m_Carlo", "vm-review"),
}
LATER = ("carlo_again.wav", ("it_IT_m_Carlo", "vm-opts"))
NETWORKS = ("firered-vad", "silero-vad", "segmentation-3.0", "campplus-zh-en", "whisper-tiny.en")
STEPS = ["vad", "diarize", "transcribe", "clips"]


class Calls:
    """A folder of recordings of one voice each, at first one, and outputs of them."""

    def __init__(self, prompts: Path, folder: Path) -> None:
        self.prompts, self.folder = prompts, folder
        folder.mkdir()
        self.add(*next(iter(CALLS.items())))

    def add(self, name: str, prompt: tuple[str, str]) -> None:
        samples, rate = soundfile.read(self.prompts / prompt[0] / f"{prompt[1]}.wav", dtype="float32")
        assert rate == RATE
        noise = 1e-4 * np.random.default_rng(0).standard_normal(len(samples))
        soundfile.write(self.folder / name, samples + noise, RATE)

    def run(self, output: Path, **sections: dict[str, Any]) -> Result:
        made = SpeechConfig()
        made.source.uri, made.output.uri, made.ray.address = str(self.folder), str(output), "inline"
        made.transcribe.model, made.clips.dnsmos, made.clips.min_seconds = "tiny.en", False, 2.0
        for section, values in sections.items():
            for name, value in values.items():
                setattr(getattr(made, section), name, value)
        return run_job(SPEECH, made, Asked(quiet=True))


def rows(output: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(output / table).to_pylist()


def names(output: Path) -> dict[str, str]:
    """Asset → the first of its files, by name."""
    found = sorted((Path(row["uri"]).name, row["asset_id"]) for row in rows(output, "tracks"))
    return {asset: name for name, asset in reversed(found)}


def clean(output: Path) -> bool:
    return not verify(Output(str(output)), deep=True).remaining.total


@pytest.fixture(scope="module")
def prompts(shared_audio, in_process) -> Path:
    for name in NETWORKS:
        stored(name)
    return shared_audio / "speech"


@pytest.fixture
def calls(prompts, tmp_path) -> Calls:
    return Calls(prompts, tmp_path / "in")


def voices(output: Path) -> dict[str, set[str]]:
    """File → the voices in it."""
    of, found = names(output), {}
    for row in rows(output, "voices"):
        found.setdefault(of[row["asset_id"]], set()).add(row["voice"])
    return found


def test_the_same_voice_has_one_name_in_all_recordings(calls, tmp_path):
    output, steps = tmp_path / "out", {"steps": ["diarize"]}
    for call in CALLS.items():
        calls.add(*call)
    calls.run(output, speech=steps)
    assert not (output / "voices").exists()
    linked = {"speech": steps, "diarize": {"link": True}}
    calls.run(output, **linked)
    first = voices(output)
    assert first["ann.wav"] == first["ann_again.wav"]
    assert len(first["ann.wav"]) == len(first["carlo.wav"]) == 1
    assert first["ann.wav"].isdisjoint(first["carlo.wav"])
    newest = max((output / "runs").glob("2*"))
    assert not (newest / "performance.json").exists(), "nobody listened again"
    assert clean(output)
    parts = {path: path.read_bytes() for path in (output / "voices").glob("*.parquet")}
    calls.run(output, **linked)
    assert {path: path.read_bytes() for path in (output / "voices").glob("*.parquet")} == parts

    calls.add(*LATER)
    calls.run(output, **linked)
    after = voices(output)
    assert {name: after[name] for name in first} == first
    assert after[LATER[0]] == first["carlo.wav"]
    assert clean(output)
    manifests.run(Output(str(output)))
    spoken = {
        name.rsplit("-", 1)[0]: {turn.speaker for turn in turns}
        for name, turns in read_rttm((output / "manifests" / "all.rttm").read_text()).items()
    }
    assert spoken == {Path(name).stem: voice for name, voice in after.items()}


@pytest.mark.parametrize("error", [ValueError("too odd"), RuntimeError("no memory")], ids=["good", "now"])
def test_a_transcription_that_fails_leaves_what_the_others_found(calls, tmp_path, monkeypatch, error):
    output, for_good = tmp_path / "out", isinstance(error, ValueError)
    steps = {"speech": {"steps": STEPS}}

    def fails(self: TranscribeWorker, track: Any) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(TranscribeWorker, "_transcribe", fails)
        calls.run(output, **steps)
        assert {row["status"] for row in rows(output, "tracks")} == {"partial"}
        failed = {(row["stage"], row["error_class"]) for row in rows(output, "failures")}
        assert failed == {
            ("transcribe", type(error).__name__),
            ("clips.words", "RowsMissing"),
            ("clips.clips", "RowsMissing"),
            ("clips.texts", "RowsMissing"),
        }
        without = rows(output, "clips")
        assert without
        assert all(clip["text"] is None and clip["speaker"] for clip in without)
        kept = [output / clip["path"] for clip in without if clip["keep"]]
        assert kept
        assert all(path.is_file() for path in kept)
        assert all(row["texts_rttm"] and not row["texts_srt"] for row in rows(output, "tracks"))
        assert clean(output)
        before = len(list((output / "runs").glob("2*/performance.json")))
        if for_good:
            calls.run(output, **steps)
            assert len(list((output / "runs").glob("2*/performance.json"))) == before, (
                "nothing is tried again"
            )
    if for_good:
        return
    calls.run(output, **steps)
    assert {row["status"] for row in rows(output, "tracks")} == {"ok"}
    assert any(clip["text"] for clip in rows(output, "clips"))
    assert rows(output, "failures") == []
    assert not any(path.exists() for path in kept), "those were cut elsewhere"
    assert clean(output)


def test_clips_with_other_parameters_are_other_files_and_no_network_is_loaded_for_them(
    calls, tmp_path, monkeypatch
):
    output = tmp_path / "out"
    steps = {"steps": STEPS}
    calls.run(output, speech=steps)
    before = {clip["path"] for clip in rows(output, "clips") if clip["path"]}
    assert before

    def refuses(*given: Any, **named: Any) -> None:
        raise AssertionError("a network is loaded")

    for stage in ("vad", "diarize", "transcribe"):
        monkeypatch.setattr(f"pipeline.stages.{stage}.worker.load_backend", refuses)
    calls.run(output, speech=steps, clips={"min_seconds": 1.0, "max_seconds": 4.0})
    after = {clip["path"] for clip in rows(output, "clips") if clip["path"]}
    assert after
    assert after.isdisjoint(before)
    assert {str(path.relative_to(output)) for path in (output / "clip_files").rglob("*.flac")} == after
    assert clean(output)


def test_texts_of_a_content_bear_no_name_of_one_of_its_files(calls, tmp_path):
    shutil.copy(calls.folder / "ann.wav", calls.folder / "a_copy.wav")
    output = tmp_path / "out"
    calls.run(output, speech={"steps": ["diarize"]})
    of_file = {Path(row["uri"]).name: row for row in rows(output, "tracks")}
    first, second = of_file["ann.wav"], of_file["a_copy.wav"]
    assert first["texts_rttm"] == second["texts_rttm"]
    assert list(read_rttm((output / first["texts_rttm"]).read_text())) == [first["asset_id"]]
    report = (output / first["texts_report"]).read_text()
    assert first["asset_id"] in report
    assert "ann" not in report
