"""What goes wrong has a code that tells it from the rest; what may pass is tried again, and nothing else."""

import errno

import pytest

from pipeline.audio.isolated import DecoderOutOfMemory
from pipeline.audio.validate import AudioTooLong, CorruptAudio, UnrecognizedFormat
from pipeline.engine.answer import Answer
from pipeline.engine.one_file import GivenUp, OverMemory, PlaceLost
from pipeline.service import troubles
from pipeline.service.housekeeping import NoSpace
from pipeline.service.messages import CODES, Refused
from pipeline.service.troubles import BY_CLASS, refusal_of, refusal_of_answer, retry_wait_s, tried


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnrecognizedFormat("text"), "FORMAT_UNSUPPORTED"),
        (CorruptAudio("damaged"), "FILE_UNREADABLE"),
        (AudioTooLong("10 hours"), "AUDIO_TOO_LONG"),
        (DecoderOutOfMemory("2 GB"), "OUT_OF_MEMORY"),
        (MemoryError(), "OUT_OF_MEMORY"),
        (OverMemory("5 GB"), "OUT_OF_MEMORY"),
        (GivenUp("it took longer"), "TIMED_OUT"),
        (PlaceLost("SIGKILL"), "AUDIO_PROCESSING_FAILED"),
        (RuntimeError("boom"), "AUDIO_PROCESSING_FAILED"),
        (FileNotFoundError("gone"), "FILE_NOT_FOUND"),
        (PermissionError("no"), "FILE_UNREADABLE"),
        (ConnectionResetError("reset"), "STORAGE_FAILED"),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL"),
        (NoSpace("1 GB wanted"), "DISK_FULL"),
        (Refused("ACTION_UNKNOWN", "no"), "ACTION_UNKNOWN"),
    ],
)
def test_codes(error, code):
    assert refusal_of(error).code == code


def test_all_codes_are_documented():
    assert set(BY_CLASS.values()) <= CODES.keys()


def answer(*failures, file=None):
    rows = [{"stage": s, "error_class": c, "message": m} for s, c, m in failures]
    return Answer({"file": file}, rows)


def test_an_answer_with_a_file_is_one_whatever_failed_beside_it():
    assert refusal_of_answer(answer(("karaoke", "ValueError", "no score"), file="x.mp3"), "file") is None


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (("decode", "UnrecognizedFormat", "text"), "FORMAT_UNSUPPORTED"),
        (("decode", "ClientError", "503"), "STORAGE_FAILED"),
        (("separation", "RuntimeError", "boom"), "AUDIO_PROCESSING_FAILED"),
        (("instrumental", "OSError", "[Errno 28] No space left on device"), "DISK_FULL"),
    ],
)
def test_an_answer_without_a_file_says_why(failure, code):
    refused = refusal_of_answer(answer(failure), "file")
    assert refused.code == code
    assert str(refused) == f"{failure[0]}: {failure[2]}"


def test_a_stage_that_takes_no_such_song_is_no_stage_that_failed():
    step = {
        "stage": "separation",
        "wanted": "midside",
        "used": "none",
        "reason": "midside: the track is mono",
    }
    missing = {"stage": "instrumental", "error_class": "ViewMissing", "message": "no view vocals"}
    refused = refusal_of_answer(Answer({}, [missing], [step]), "file")
    assert (refused.code, str(refused)) == ("METHOD_UNSUITABLE", step["reason"])
    # It was given up another step away from, and that is not why there is no file.
    failed = {"stage": "instrumental", "error_class": "EncodeError", "message": "boom"}
    assert refusal_of_answer(Answer({}, [failed], [step]), "file").code == "AUDIO_PROCESSING_FAILED"
    assert refusal_of_answer(Answer({}, [missing], []), "file").code == "AUDIO_PROCESSING_FAILED"


def test_storage_that_does_not_answer_is_asked_again(monkeypatch):
    monkeypatch.setattr(troubles, "FIRST_WAIT_S", 0.001)
    outcomes = [ConnectionError("1"), TimeoutError("2"), "there"]
    seen = []

    def call():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert tried(call, lambda error, wait: seen.append(str(error)), lambda: None) == "there"
    assert seen == ["1", "2"]


@pytest.mark.parametrize("error", [FileNotFoundError("x"), CorruptAudio("x"), OSError(errno.ENOSPC, "full")])
def test_what_will_not_pass_is_not_asked_again(error):
    calls = []

    def call():
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        tried(call, lambda error, wait: None, lambda: None)
    assert len(calls) == 1


def test_storage_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(troubles, "FIRST_WAIT_S", 0.001)
    calls = []

    def call():
        calls.append(1)
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        tried(call, lambda error, wait: None, lambda: None)
    assert len(calls) == troubles.TRIES


def test_waits_grow_and_differ():
    waits = [[retry_wait_s(5.0, attempt) for _ in range(200)] for attempt in (1, 2, 3)]
    for number, found in enumerate(waits):
        assert 2.5 * 2**number <= min(found) < max(found) <= 5.0 * 2**number
        assert len(set(found)) > 100
