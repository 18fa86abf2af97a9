"""Words are recognised on a card where there is one, and on the CPU where that does not do it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine.batch import collect, pcm_array
from pipeline.engine.time_limit import TookTooLong
from pipeline.models.speech.base import BackendUnavailable
from pipeline.models.speech.transcribe.transcript import RecognisedSegment
from pipeline.stages.transcribe import worker
from pipeline.stages.transcribe.spec import transcribe_product, transcribe_stage
from pipeline.stages.vad.spec import VIEW, vad_product

RATE = VIEW.sample_rate


class Recogniser:
    """Understands one word, but on a card only as often as it is told."""

    name, version, sample_rate = "whisper", "1", RATE

    def __init__(self, device: str, works: int) -> None:
        self.device, self.works = device, works

    def model_id(self) -> str:
        return self.device

    def recognise(self, pieces, *, language=None, told=lambda share: None):
        self.works -= 1
        told(0.5)
        if self.device != "cpu" and self.works < 0:
            raise RuntimeError("CUDA failed with error out of memory")
        [(start, samples)] = pieces
        return [
            RecognisedSegment(start, start + len(samples) / RATE, "yes", -0.1, 0.0, 1.0, (), "en", None),
        ]


def heard(monkeypatch, works: int | None, files: int = 2) -> pa.Table:
    """What the stage makes of recordings of a second on a card that works so often; None is a machine without one."""
    asked = []

    def load(name, device, options):
        asked.append((device, options.precision))
        if device != "cpu" and works is None:
            raise BackendUnavailable("CTranslate2 does not run on cuda: no driver")
        return Recogniser(device, works or 0)

    monkeypatch.setattr(worker, "load_backend", load)
    stage = worker.TranscribeWorker(
        "whisper",
        VIEW,
        options={"precision": "float16"},
        products=(transcribe_product("k"),),
        needs={"vad": (vad_product("v"),)},
        device="cuda",
        torch=False,
    )
    assert asked[0] == ("cuda", "float16")
    assert asked[1:] in ([], [("cpu", "auto")])
    return stage(table_of(files))


def table_of(files: int) -> pa.Table:
    """Recordings of a second, all of it speech."""
    regions = [{"region_index": 0, "start_s": 0.0, "end_s": 1.0}]
    return pa.table(
        {
            "index": list(range(files)),
            "uri": ["a.wav", "b.wav"][:files],
            "duration_s": [1.0] * files,
            "done_at": [0.0] * files,
            "long": [False] * files,
            "views": [json.dumps({VIEW.name: [VIEW.name, RATE, 1]})] * files,
            f"pcm@{VIEW.name}": pcm_array([np.ones((1, RATE), np.float32)] * files),
            "rows@regions": [regions] * files,
            "key@vad": ["v"] * files,
        }
    )


def test_a_card_that_works_is_worked_on(monkeypatch):
    found = heard(monkeypatch, works=10)
    assert found["transcribe_model"].to_pylist() == ["1:cuda"] * 2
    assert collect(found, "fallbacks") == [[], []]
    assert {cost["device"] for costs in collect(found, "timings") for cost in costs} == {"cuda"}


@pytest.mark.parametrize("works", [None, 0], ids=["no card", "no libraries"])
def test_where_there_is_none_the_cpu_does_it_and_each_row_says_so(monkeypatch, works):
    found = heard(monkeypatch, works)
    assert found["transcribe_model"].to_pylist() == ["1:cpu"] * 2
    for [fallback] in collect(found, "fallbacks"):
        assert (fallback["stage"], fallback["wanted"], fallback["used"]) == ("transcribe", "cuda", "cpu")
        assert "CUDA" in fallback["reason"] or "cuda" in fallback["reason"]
    assert collect(found, "failures") == [[], []]


def test_a_full_card_is_left_in_the_midst_of_a_run_and_no_file_is_lost(monkeypatch):
    found = heard(monkeypatch, works=2)  # one to see whether it works, and one file
    assert found["transcribe_model"].to_pylist() == ["1:cuda", "1:cpu"]
    first, [second] = collect(found, "fallbacks")
    assert first == []
    assert "out of memory" in second["reason"]
    assert collect(found, "failures") == [[], []]


def made(monkeypatch, load) -> worker.TranscribeWorker:
    """A stage on a card, with what ``load`` gives for a device."""
    monkeypatch.setattr(worker, "load_backend", lambda name, device, options: load(device))
    return worker.TranscribeWorker(
        "whisper",
        VIEW,
        options={},
        products=(transcribe_product("k"),),
        needs={"vad": (vad_product("v"),)},
        device="cuda",
        torch=False,
    )


def test_all_files_that_were_on_a_card_as_it_gave_out_move_to_the_cpu(monkeypatch):
    """Two of them, of which the second hears of it while the first is about to load what the CPU takes."""
    both, loads = threading.Barrier(2, timeout=30), []

    class Full(Recogniser):
        def recognise(self, pieces, *, language=None, told=lambda share: None):
            if self.works:  # the first is to see whether it works
                self.works = 0
                return []
            both.wait()
            raise RuntimeError("CUDA failed with error out of memory")

    def load(device):
        loads.append(device)
        return Full(device, 1) if device == "cuda" else Recogniser(device, 0)

    stage = made(monkeypatch, load)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda number: stage(table_of(1)), range(2)))
    assert loads == ["cuda", "cpu"], "it is loaded once"
    for rows in found:
        assert rows["transcribe_model"].to_pylist() == ["1:cpu"]
        assert collect(rows, "failures") == [[]]
        assert [f["used"] for f in collect(rows, "fallbacks")[0]] == ["cpu"]


def test_what_is_wrong_with_a_file_is_no_reason_to_leave_the_card(monkeypatch):
    class Picky(Recogniser):
        def recognise(self, pieces, *, language=None, told=lambda share: None):
            if len(pieces[0][1]) == RATE and pieces[0][1][0] == 1.0:
                raise RuntimeError("the input has 3 dimensions")
            return super().recognise(pieces, language=language)

    stage = made(monkeypatch, lambda device: Picky(device, 9))
    [[failure]] = collect(stage(table_of(1)), "failures")
    assert (failure["error_class"], failure["extractor_key"]) == ("RuntimeError", "k")
    assert stage.device == "cuda"


def test_within_an_hour_of_speech_it_says_how_far_it_is_and_minds_its_time(monkeypatch):
    told = []
    monkeypatch.setattr(worker.TranscribeWorker, "progress", lambda self, track, share: told.append(share))
    stage = made(monkeypatch, lambda device: Recogniser(device, 9))
    stage(table_of(1))
    assert told == [0.0, 0.5]
    monkeypatch.setattr(stage, "in_time", late := Late(after=1))
    [[failure]] = collect(stage(table_of(1)), "failures")
    assert failure["error_class"] == "TookTooLong"
    assert late.asked == 2, "once before the speech, once within"


class Late:
    """A time that is up when it is asked for the second time."""

    def __init__(self, after: int) -> None:
        self.after, self.asked = after, 0

    def __call__(self, track) -> None:
        self.asked += 1
        if self.asked > self.after:
            raise TookTooLong("its time is up")


def test_a_card_is_for_what_hears_the_recording_itself():
    from pipeline.stages.denoise.spec import DENOISED

    given = {"options": {}, "card_bytes": 1 << 30}
    assert transcribe_stage("whisper", "m", **given).gpu.needs_bytes == 1 << 30
    assert transcribe_stage("whisper", "m", hears=DENOISED, **given).gpu is None
    assert transcribe_stage("pocketsphinx", "m", options={}).gpu is None
