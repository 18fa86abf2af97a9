"""What the service that masters are listened to by is made of: its cache, its files, its loudness so far."""

from __future__ import annotations

import gc
import io
import os
import struct
import threading
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from helpers.listening import shorten_stretches, write_song

from pipeline.audio.isolated_stream import Written
from pipeline.audio.stream import open_file
from pipeline.audio.validate import Limits
from pipeline.dsp.bs1770 import integrated_loudness, measure_steps
from pipeline.features.extraction import TrackAudio, run_extractors
from pipeline.features.fingerprint import Fingerprint
from pipeline.service.destinations import Rules
from pipeline.service.listening import precedence as precedence_module
from pipeline.service.listening.analysis import Analysis
from pipeline.service.listening.cache import Cache
from pipeline.service.listening.files import GrowingFile, Recording
from pipeline.service.listening.guard import is_loopback
from pipeline.service.listening.loudness import LoudnessSoFar
from pipeline.service.listening.precedence import Precedence
from pipeline.service.listening.song import DONE, Cancelled
from pipeline.service.listening.sources import Sources
from pipeline.service.listening.wav import Encoder, WavForm, wanted_bytes
from pipeline.service.logs import StepLog
from pipeline.service.messages import PATH_NOT_ALLOWED, Refused
from pipeline.workflows.master_service import songs_of
from pipeline.workflows.master_service_config import MasterServiceConfig


def noise(channels: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize(("channels", "samples"), [(1, 1), (1, 1001), (2, 1000), (3, 999), (6, 100), (8, 0)])
def test_a_file_is_whole_and_as_long_as_was_said(bits, channels, samples):
    form, block = WavForm(44_100, channels, samples, bits), noise(channels, samples)
    encoder = Encoder(form)
    data = form.header() + encoder.bytes(block[:, : samples // 3]) + encoder.bytes(block[:, samples // 3 :])
    assert len(data) == form.bytes
    assert len(data) % 2 == 0
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert (file.samplerate, file.channels, file.frames) == (44_100, channels, samples)
        assert file.subtype == {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}[bits]
        read = file.read(dtype="float64", always_2d=True).T
    error = np.abs(read - block).max(initial=0.0)
    assert error <= (0.0 if bits == 32 else 1.5 / 2 ** (bits - 1))
    if bits < 32 and samples >= 999:
        assert error > 0.5 / 2 ** (bits - 1)  # there is dither


def test_dither_hangs_on_no_piece():
    form, block = WavForm(44_100, 2, 1000, 16), noise(2, 1000)
    whole, pieces = Encoder(form).bytes(block), Encoder(form)
    assert b"".join(pieces.bytes(block[:, at : at + 77]) for at in range(0, 1000, 77)) == whole


def test_a_file_beyond_4_gib_says_its_length():
    form = WavForm(192_000, 8, 1 << 29, 24)
    header, size = form.header(), (1 << 29) * 24
    assert header[:4] == b"RF64"
    assert header[12:16] == b"ds64"
    assert struct.unpack("<QQQ", header[20:44]) == (form.bytes - 8, size, 1 << 29)
    assert header[-8:] == b"data\xff\xff\xff\xff"
    assert form.bytes == len(header) + size
    assert WavForm(44_100, 2, 1000).header()[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("", None), ("bytes=0-0", (0, 1)), ("bytes = 3 - 4", (3, 5)), ("bytes=99-", (99, 100)),
     ("bytes=-1", (99, 100)), ("bytes=0-999999", (0, 100)), ("bytes=2-1", None), ("bytes=1-2,4-5", None),
     ("bytes=" + "9" * 30 + "-", None)],
)  # fmt: skip
def test_wanted_bytes(header, expected):
    assert wanted_bytes(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_bytes_that_are_not_there(header):
    with pytest.raises(ValueError, match="of 100"):
        wanted_bytes(header, 100)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100])
@pytest.mark.parametrize("piece", [37, 4000, 50_001])
def test_loudness_so_far_is_that_of_all_at_once(rate, piece):
    samples = noise(2, 5 * rate) * np.linspace(0.01, 1.0, 5 * rate, dtype=np.float32)
    so_far, pieces = LoudnessSoFar(rate, 2), range(0, samples.shape[1], max(piece, rate // 50))
    assert so_far.lufs is None
    for start in pieces:
        so_far.add(samples[:, start : start + max(piece, rate // 50)])
    expected = integrated_loudness(measure_steps([samples], 2, rate))
    assert so_far.lufs == pytest.approx(expected, abs=1e-3)


def test_a_rate_without_loudness_has_none_so_far():
    so_far = LoudnessSoFar(2000, 1)
    so_far.add(noise(1, 4000))
    assert so_far.lufs is None


def test_a_recording_is_read_by_many_while_it_is_written():
    file = GrowingFile()
    recording, whole, wrong = Recording(Written(44_100, 2, 0, None), file), noise(2, 50_000), []

    def read() -> None:
        at = 0
        while at < 50_000:
            stop = recording.samples
            if not np.array_equal(recording.read(at, stop), whole[:, at:stop]):
                wrong.append(at)
            at = stop

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for start in range(0, 50_000, 500):
        file.append(np.ascontiguousarray(whole[:, start : start + 500].T).data)
    for thread in threads:
        thread.join(60)
    assert wrong == []
    recording.close()
    with pytest.raises(ValueError, match="closed"):
        recording.read(0, 1)


def test_a_fingerprint_is_that_of_the_job(tmp_path):
    write_song(tmp_path / "song.wav")
    (source, analysis) = (
        Sources([str(tmp_path)]).find(str(tmp_path / "song.wav")),
        Analysis(1, Limits(None, None)),
    )
    with analysis.known(source, True, lambda part, share: None) as known:
        samples, rate = known.recording.read(0, known.recording.samples), known.recording.sample_rate
        audio = TrackAudio(samples.mean(axis=0), rate, samples, rate)
        (outcome,) = run_extractors([Fingerprint()], audio.track, audio.blocks)
        expected = outcome.extraction.values
        assert known.fingerprint == {
            name.removeprefix("fingerprint_"): pytest.approx(value, rel=1e-4, abs=1e-4)
            for name, value in expected.items()
        }
        assert len(expected) == 25
    analysis.close()


def test_a_file_that_is_written_to_meanwhile_is_refused(tmp_path):
    path = write_song(tmp_path / "song.wav", 1.0)
    (source, analysis) = Sources([str(tmp_path)]).find(str(path)), Analysis(1, Limits(None, None))
    with path.open("ab") as file:
        file.write(b"more")
    with (
        pytest.raises(OSError, match=r"song\.wav was changed"),
        analysis.known(source, False, lambda part, share: None),
    ):
        pass


def test_a_file_that_is_cut_off_while_it_is_decoded_is_decoded_to_its_end(tmp_path):
    path = write_song(tmp_path / "song.wav", 4.0)
    whole, _ = soundfile.read(path, dtype="float32")
    source = Sources([str(tmp_path)], folder=str(tmp_path)).find(str(path))
    with source.copied() as copy:
        path.write_bytes(b"")
        with open_file(f"/proc/self/fd/{copy.fileno()}") as stream:
            read = np.concatenate([block.copy() for block in stream], axis=1)
    np.testing.assert_array_equal(read.T, whole)


def test_a_file_that_was_changed_while_it_was_looked_at_is_refused(tmp_path, monkeypatch):
    path, pread = write_song(tmp_path / "song.wav", 1.0), os.pread

    def overwritten(*arguments: int) -> bytes:
        data = pread(*arguments)
        with path.open("r+b") as file:
            file.seek(1000)
            file.write(b"\1\2\3\4")
        return data

    monkeypatch.setattr(os, "pread", overwritten)
    source = Sources([str(tmp_path)]).find(str(path))
    monkeypatch.undo()
    with pytest.raises(OSError, match=r"song\.wav was changed"), source.copied():
        pass


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path, monkeypatch):
    root, plain = tmp_path / "music", Rules.source
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for folder in (root / "a", tmp_path / "secret"):
        (folder / "song.wav").write_bytes(bytes(100))

    def replaced(rules: Rules, path: str) -> str:
        found = plain(rules, path)
        (root / "a").rename(root / "b")
        (root / "a").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(Rules, "source", replaced)
    with pytest.raises(Refused) as refused:
        Sources([str(root)]).find(str(root / "a" / "song.wav"))
    assert refused.value.code == PATH_NOT_ALLOWED


def test_a_song_that_was_given_up_before_it_began_holds_no_file(tmp_path):
    config = MasterServiceConfig()
    config.listening.roots = [str(tmp_path)]
    songs = songs_of(config, StepLog(io.StringIO(), service="listening", instance="test"))  # nobody works
    song, _ = songs.ask({"path": str(write_song(tmp_path / "song.wav", 1.0))})
    source = weakref.ref(song.asked.source)
    songs.remove(song)
    del song
    gc.collect()
    assert source() is None
    songs.close()


def test_a_name_that_is_no_text_can_be_written_down(tmp_path):
    write_song(tmp_path / "song.wav", 0.1).rename(tmp_path / "caf\udce9.wav")
    (tmp_path / "link.wav").symlink_to(tmp_path / "caf\udce9.wav")
    assert Sources([str(tmp_path)]).find(str(tmp_path / "link.wav")).name == "caf?.wav"


def test_a_file_is_closed_for_good():
    file = GrowingFile()
    file.append(b"abc")
    assert (file.size, file.read(1, 9)) == (3, b"bc")
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.append(b"d")


def test_a_value_is_made_by_one_thread_while_others_wait():
    cache: Cache[object] = Cache(2)
    entered, free, found = threading.Event(), threading.Event(), []

    def make() -> object:
        entered.set()
        assert free.wait(60)
        return object()

    threads = [threading.Thread(target=lambda: found.append(cache.get("a", make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(60)
    assert "a" not in cache
    free.set()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(map(id, found))) == cache.made == 1
    assert "a" in cache


def test_what_was_used_last_stays_and_what_is_in_use():
    gone: list[str] = []
    cache: Cache[str] = Cache(2, gone.append)
    with cache.held("a", lambda: "A"):
        for key in "bcd":
            cache.get(key, key.upper)
        assert gone == ["B", "C"]
    assert cache.get("a", lambda: "another") == "A"
    cache.get("e", lambda: "E")
    assert gone == ["B", "C", "D"]
    cache.clear()
    assert gone == ["B", "C", "D", "A", "E"]


def test_what_could_not_be_made_is_made_by_the_next():
    cache: Cache[int] = Cache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert "a" not in cache
    assert cache.get("a", lambda: 7) == 7


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True),
     ("::", False), ("10.0.0.1", False), ("192.168.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_who_is_reached_from_here_alone(host, expected):
    assert is_loopback(host) is expected


def test_a_rendering_gives_way_until_nobody_waits_for_a_first_sound():
    precedence, gone, went_on = Precedence(most_s=600.0), threading.Event(), threading.Event()

    def render() -> None:
        gone.set()
        precedence.give_way()
        went_on.set()

    with precedence.first(), precedence.first():
        thread = threading.Thread(target=render)
        thread.start()
        assert gone.wait(60)
        assert not went_on.wait(0.05)
    thread.join(60)
    assert went_on.is_set()
    precedence.give_way()  # nobody waits


@pytest.fixture
def waits(monkeypatch) -> tuple[Precedence, list[float], list[float]]:
    """With a clock that goes on by what is waited: its time, and what was waited."""
    now, waited, found = [0.0], [], Precedence(most_s=2.0)
    monkeypatch.setattr(precedence_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def wait(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(found._change, "wait", wait)
    return found, now, waited


def test_and_no_longer_than_a_moment(waits):
    precedence, _, waited = waits
    with precedence.first():
        precedence.give_way()
        precedence.give_way()
    assert waited == [2.0]


def test_nor_longer_than_what_is_rendered_lasts(waits):
    precedence, _, waited = waits
    with precedence.first():
        for ahead in (-1.0, 0.0, 0.5, 9.0):
            precedence.give_way(ahead)
    assert waited == [0.5, 1.5]


def test_who_comes_anew_gives_no_more_time_to_who_has_had_it(waits):
    precedence, now, waited = waits
    with precedence.first():
        now[0] = 5.0
        with precedence.first():
            pass
        precedence.give_way()
        assert waited == []
        with precedence.first():
            precedence.give_way()
        assert waited == [2.0]


def test_a_master_gives_way_by_what_is_rendered_of_it(tmp_path, monkeypatch):
    given: list[float] = []
    shorten_stretches(monkeypatch)
    monkeypatch.setattr(Precedence, "give_way", lambda self, ahead_s: given.append(ahead_s))
    config = MasterServiceConfig()
    config.listening.roots = [str(tmp_path)]
    songs = songs_of(config, StepLog(io.StringIO(), service="listening", instance="test"))  # nobody works
    song, _ = songs.ask({"path": str(write_song(tmp_path / "song.wav", 4.0))})
    song.run(songs.analysis)
    assert song.state == DONE, song.failure
    assert len(given) > 1
    assert max(given) <= 4.0
    songs.close()


def test_a_song_that_is_cancelled_once_it_is_decoded_leaves_no_file_open(tmp_path, monkeypatch):
    made: list[Recording] = []
    decoded = Recording.decoded
    monkeypatch.setattr(Recording, "decoded", lambda *given: made.append(decoded(*given)) or made[-1])

    def told(part: str, share: float | None) -> None:
        if made:
            raise Cancelled

    source = Sources([str(tmp_path)]).find(str(write_song(tmp_path / "song.wav", 1.0)))
    analysis = Analysis(1, Limits(None, None))
    with pytest.raises(Cancelled), analysis.known(source, False, told):
        pass
    analysis.close()
    with pytest.raises(ValueError, match="closed"):
        made[0].read(0, 1)
