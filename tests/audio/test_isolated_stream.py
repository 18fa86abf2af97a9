"""Files that are decoded into others by a process that may die of them."""

from __future__ import annotations

import errno
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.decode_poison import OPENER

from pipeline.audio.isolated import DecoderDied, DecoderHung, DecoderOutOfMemory, DecoderRaised
from pipeline.audio.isolated_stream import DecoderUnavailable, StreamDecoder, Written
from pipeline.audio.validate import AudioTooLong, Limits, TooManyChannels, UnrecognizedFormat
from pipeline.service.messages import AUDIO_PROCESSING_FAILED, DISK_FULL
from pipeline.service.troubles import refusal_of

pytestmark = pytest.mark.timeout(120)
SECONDS, RATE = 9.0, 8000


@pytest.fixture(scope="module")
def decoder() -> Iterator[StreamDecoder]:
    made = StreamDecoder(Limits(10.0, None), 3, memory_bytes=512 << 20, timeout_s=30.0, opener=OPENER)
    yield made
    made.close()


@pytest.fixture
def song(tmp_path) -> Path:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (round(SECONDS * RATE), 2))
    soundfile.write(tmp_path / "song.wav", noise, RATE, subtype="FLOAT")
    return tmp_path / "song.wav"


def decoded(
    decoder: StreamDecoder, path: Path, name: str = "", told=lambda share: None
) -> tuple[Written, np.ndarray]:
    """The form, and the samples ``[channels, n]``."""
    with path.open("rb") as source, tempfile.TemporaryFile() as target:
        form = decoder.decode(source.fileno(), name or path.name, target.fileno(), told)
        target.seek(0)
        return form, np.frombuffer(target.read(), np.float32).reshape(-1, form.channels).T


def test_the_samples_are_those_of_the_file(decoder, song):
    form, samples = decoded(decoder, song)
    expected, _ = soundfile.read(song, dtype="float32")
    assert form == Written(RATE, 2, round(SECONDS * RATE), None)
    np.testing.assert_array_equal(samples.T, expected)


def test_a_mix_that_cancels_is_told(decoder, tmp_path):
    mono = np.random.default_rng(0).uniform(-0.5, 0.5, 4000)
    soundfile.write(tmp_path / "a.wav", np.stack([mono, -mono], axis=1), RATE, subtype="FLOAT")
    assert decoded(decoder, tmp_path / "a.wav")[0].mono_channel == 0


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("abort.wav", DecoderDied),
        ("kill.wav", DecoderDied),
        ("unexpected.wav", DecoderDied),
        ("eat.wav", DecoderOutOfMemory),
        ("raise.wav", DecoderRaised),
    ],
)
def test_what_kills_the_decoder_costs_that_file(decoder, song, name, error):
    with pytest.raises(error):
        decoded(decoder, song, name)
    assert decoded(decoder, song)[0].samples == SECONDS * RATE


def test_what_says_nothing_is_given_up(song):
    decoder = StreamDecoder(Limits(), timeout_s=0.5, opener=OPENER)
    with pytest.raises(DecoderHung):
        decoded(decoder, song, "hang.wav")
    assert decoder.pid is None
    decoder.close()


def test_a_decoder_that_died_of_the_file_before_is_no_reason_to_refuse_one(decoder, song):
    decoded(decoder, song)
    before = decoder.pid
    os.kill(before, 9)
    assert decoded(decoder, song)[0].samples == SECONDS * RATE
    assert decoder.pid != before


def test_files_that_are_none_or_too_much(decoder, tmp_path):
    (tmp_path / "text.wav").write_text("no sound\n" * 100)
    soundfile.write(tmp_path / "long.wav", np.zeros(round(11 * RATE)), RATE)
    soundfile.write(tmp_path / "wide.wav", np.zeros((100, 4)), RATE)
    errors = {"text.wav": UnrecognizedFormat, "long.wav": AudioTooLong, "wide.wav": TooManyChannels}
    for name, error in errors.items():
        pid = decoder.pid
        with pytest.raises(error):
            decoded(decoder, tmp_path / name)
        assert decoder.pid == pid or pid is None, "it goes on"


def test_a_disk_that_cannot_be_written_to_is_no_fault_of_the_file(decoder, song):
    full = os.open("/dev/full", os.O_WRONLY)
    with song.open("rb") as source, pytest.raises(OSError, match="No space left") as caught:
        decoder.decode(source.fileno(), "song.wav", full)
    os.close(full)
    assert caught.value.errno == errno.ENOSPC
    assert refusal_of(caught.value).code == DISK_FULL


def test_a_decoder_that_was_killed_with_nothing_to_do_is_no_fault_of_the_first_file(song):
    decoder = StreamDecoder(Limits(), opener=OPENER)
    decoder.wait_until_ready()
    os.kill(decoder.pid, signal.SIGKILL)
    decoder._child.process.wait(60)
    assert decoded(decoder, song)[0].samples == SECONDS * RATE
    decoder.close()


def test_nor_is_one_that_was_killed_before_it_took_the_file(song):
    decoder = StreamDecoder(Limits(), opener=OPENER)
    decoder.wait_until_ready()
    first = decoder.pid
    os.kill(first, signal.SIGSTOP)
    # It may be running on another core: until it stands still, it may take the file.
    while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)

    def told(share: float | None) -> None:
        if decoder.pid == first:
            os.kill(first, signal.SIGKILL)

    assert decoded(decoder, song, told=told)[0].samples == SECONDS * RATE
    assert decoder.pid != first
    decoder.close()


def test_a_decoder_that_cannot_start_is_no_fault_of_the_file(song):
    decoder = StreamDecoder(Limits(), opener="helpers.decode_poison:nothing")
    with pytest.raises(DecoderUnavailable, match="exited with code 1, before it was ready") as caught:
        decoded(decoder, song)
    assert refusal_of(caught.value).code == AUDIO_PROCESSING_FAILED
    assert decoder.pid is None


def test_who_waits_may_end_it_while_a_decoder_starts(song):
    decoder = StreamDecoder(Limits(), opener=OPENER)
    os.kill(decoder.pid, signal.SIGSTOP)

    def told(share: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(decoder, song, told=told)
    assert decoder.pid is None


def test_who_waits_may_end_it(song):
    decoder = StreamDecoder(Limits(), opener=OPENER)
    decoder.wait_until_ready()

    def told(share: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decoded(decoder, song, "hang.wav", told)
    assert decoder.pid is None
    assert decoded(decoder, song)[0].samples == SECONDS * RATE
    decoder.close()
