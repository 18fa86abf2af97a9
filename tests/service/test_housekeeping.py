"""Folders of instances, what dead ones leave, and the room that a song takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.audio import synth
from pipeline.audio.isolated import MAX_TRACK_BYTES
from pipeline.audio.reader import Spool
from pipeline.audio.song_encoder import SongEncoder
from pipeline.audio.song_formats import SONG_FORMATS, SongFormat, held_rate
from pipeline.audio.views import Wanted
from pipeline.dataset.output import Output
from pipeline.engine.inline import InlineDriver
from pipeline.errors import UserError
from pipeline.service import housekeeping
from pipeline.service.housekeeping import (
    InstanceFolder,
    NoSpace,
    Swept,
    free_bytes,
    needed_bytes,
    require_space,
)
from pipeline.stages.instrumental.spec import NATIVE
from pipeline.stages.karaoke.spec import REMOVED
from pipeline.stages.separation.spec import VIEW, VOCALS
from pipeline.workflows.drivers import Drivers
from pipeline.workflows.jobs.karaoke import KARAOKE
from pipeline.workflows.karaoke_config import KaraokeConfig
from pipeline.workflows.run import Asked, run_job

SECONDS = 30
RATE = 44100

LIVES = """
import sys, time
from pathlib import Path
from pipeline.service.housekeeping import InstanceFolder
here = InstanceFolder(Path(sys.argv[1]))
(here.tmp / "deep").mkdir()
(here.tmp / "deep" / "left.pcm").write_bytes(bytes(1000))
(here.tmp / "copy.mp3").write_bytes(bytes(24))
if sys.argv[2:]:
    (here.spool / "update.json").write_text("{}")
print(here.folder, flush=True)
time.sleep(600)
"""

STARTS = """
import sys
from pathlib import Path
from pipeline.service.housekeeping import InstanceFolder
print("ready", flush=True)
sys.stdin.readline()
for _ in range(15):
    with InstanceFolder(Path(sys.argv[1])) as here:
        (here.tmp / "mine").write_bytes(b"x")
        (here.spool / "mine").write_bytes(b"x")
        here.sweep()
        here.dead()
        (here.tmp / "mine").unlink()
        (here.spool / "mine").unlink()
"""


def started(code: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def state(tmp_path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def instance(state):
    with InstanceFolder(state) as found:
        yield found


def left_by_a_killed_one(state: Path, *arguments: str) -> Path:
    """The folder of an instance that was killed with files in it."""
    process = started(LIVES, state, *arguments)
    try:
        folder = Path(process.stdout.readline().strip())
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert (folder / "tmp" / "deep" / "left.pcm").exists()
    return folder


def test_a_folder_is_there_while_its_instance_lives_and_goes_with_it(state):
    with InstanceFolder(state) as one:
        assert one.folder == state / "instances" / one.id
        assert one.tmp.is_dir()
        assert one.spool.is_dir()
        assert one.dead() == []
        (one.tmp / "song.pcm").write_bytes(b"x")
    one.close()
    assert not one.folder.exists()


def test_what_a_killed_instance_left_is_swept_and_what_living_ones_have_stays(state, instance):
    (instance.tmp / "mine").write_bytes(b"x")
    with InstanceFolder(state) as neighbour:
        (neighbour.tmp / "theirs").write_bytes(b"x")
        folder = left_by_a_killed_one(state)
        assert instance.dead() == [folder]
        assert instance.sweep() == Swept(1, 2, 1024)
        assert not folder.exists()
        assert (neighbour.tmp / "theirs").exists()
    assert (instance.tmp / "mine").exists()
    assert instance.sweep() == Swept(0, 0, 0)


def test_the_spool_of_a_dead_instance_stays_until_somebody_adopts_it(state, instance):
    folder = left_by_a_killed_one(state, "spooled")
    assert instance.sweep().size_bytes == 1024
    assert not (folder / "tmp").exists()
    assert instance.dead() == [folder]
    assert not instance.remove_if_empty(folder)
    with instance.adopting(folder) as spool:
        with InstanceFolder(state) as other:
            assert other.dead() == []
            assert not other.remove_if_empty(folder)
            with other.adopting(folder) as nothing:
                assert nothing is None
        (spool / "update.json").rename(instance.spool / "update.json")
        # What stays of it are a lock and a folder, which are nothing.
        (spool / ".lock").touch()
        (spool / "refused").mkdir()
    assert not folder.exists()
    assert instance.dead() == []


def test_an_adopted_spool_that_is_not_taken_over_whole_stays(state, instance):
    folder = left_by_a_killed_one(state, "spooled")
    with pytest.raises(ZeroDivisionError), instance.adopting(folder):
        raise ZeroDivisionError
    assert (folder / "spool" / "update.json").exists()
    assert instance.dead() == [folder]


def test_an_instance_that_ends_with_a_spool_leaves_it(state, instance):
    with InstanceFolder(state) as other:
        (other.spool / "update.json").write_text("{}")
        (other.tmp / "song.pcm").write_bytes(b"x")
    assert instance.dead() == [other.folder]
    assert not other.tmp.exists()
    assert (other.spool / "update.json").exists()


def test_links_are_removed_and_not_followed(state, instance, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "song.mp3").write_bytes(b"song")
    dead = state / "instances" / "dead"
    (dead / "tmp").mkdir(parents=True)
    (dead / "tmp" / "folder").symlink_to(outside)
    (dead / "tmp" / "file").symlink_to(outside / "song.mp3")
    whole = state / "instances" / "whole"
    whole.mkdir()
    (whole / "tmp").symlink_to(outside)
    locked = state / "instances" / "locked"
    (locked / "tmp").mkdir(parents=True)
    (locked / "tmp" / "file").write_bytes(b"x")
    (locked / "lock").symlink_to(outside / "song.mp3")
    (state / "instances" / "elsewhere").symlink_to(outside)
    assert instance.sweep() == Swept(2, 3, 0)
    assert not dead.exists()
    assert not whole.exists()
    assert (locked / "tmp" / "file").exists()
    assert (outside / "song.mp3").read_bytes() == b"song"
    assert sorted(path.name for path in outside.iterdir()) == ["song.mp3"]


def test_a_folder_of_somewhere_else_is_not_touched(instance, tmp_path):
    (tmp_path / "other" / "spool").mkdir(parents=True)
    assert not instance.remove_if_empty(tmp_path / "other")
    with instance.adopting(tmp_path / "other") as spool:
        assert spool is None
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["spool"]


def test_instances_that_start_and_sweep_at_once_leave_each_other_alone(state):
    """One that found its own folder swept would raise."""
    processes = [started(STARTS, state) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0] * 4
    assert [path.name for path in (state / "instances").iterdir()] == [".lock"]


def test_one_dead_spool_is_adopted_once(state):
    """Several at once, and one of them gets it."""
    with InstanceFolder(state) as one, InstanceFolder(state) as two:
        folder = left_by_a_killed_one(state, "spooled")
        got, both_tried = [], threading.Barrier(2)

        def adopt(instance: InstanceFolder) -> None:
            with instance.adopting(folder) as spool:
                got.append(spool is not None)
                both_tried.wait(30)

        threads = [threading.Thread(target=adopt, args=(instance,)) for instance in (one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(got) == [False, True]


def test_a_state_folder_that_cannot_be_used_is_a_mistake_of_the_user(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="service.state_dir") as caught:
        InstanceFolder(tmp_path / "file" / "state")
    assert caught.value.why
    assert caught.value.do


def test_a_disk_without_locks_is_told(state, monkeypatch):
    def refuses(*given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(housekeeping.fcntl, "flock", refuses)  # such a disk cannot be mounted here
    with pytest.raises(UserError, match="knows no locks"):
        InstanceFolder(state)


def test_free_space_is_that_of_the_disk_the_folder_would_be_on(tmp_path):
    here = os.statvfs(tmp_path)
    room = here.f_blocks * here.f_frsize
    assert 0 < free_bytes(tmp_path / "not" / "there") <= room


def test_a_song_that_does_not_fit_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "free_bytes", lambda folder: 1_000_000_000)
    require_space(tmp_path, 400_000_000, 600_000_000)
    with pytest.raises(NoSpace) as caught:
        require_space(tmp_path, 400_000_001, 600_000_000)
    assert "400 MB" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_disk_that_is_full_is_seen(tmp_path):
    with pytest.raises(NoSpace):
        require_space(tmp_path, 0, 1 << 62)


class Peak:
    """The most that lay in some folders at once, files without a name among them.

    Looked at whenever something was written, so that nothing is missed.
    """

    def __init__(self, *folders: Path) -> None:
        self.folders, self.bytes = folders, 0

    def look(self) -> None:
        named = sum(self._size(path) for folder in self.folders for path in folder.rglob("*"))
        self.bytes = max(self.bytes, named + sum(self._nameless()))

    @staticmethod
    def _size(path: Path) -> int:
        with suppress(FileNotFoundError):
            return path.lstat().st_size if path.is_file() else 0
        return 0

    def _nameless(self):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                if (
                    str(link.readlink()).startswith(tuple(map(str, self.folders)))
                    and not link.stat().st_nlink
                ):
                    yield link.stat().st_size

    def after(self, monkeypatch, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def watched(*given, **named):
            answer = original(*given, **named)
            self.look()
            return answer

        monkeypatch.setattr(owner, name, watched)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    voice = synth.voice(SECONDS, RATE, None, 0)
    sides = [synth.chord_progression("C", "major", SECONDS, RATE, seed=seed) for seed in (0, 100)]
    song = 0.3 * (np.stack(sides) + voice)
    soundfile.write(folder / "song.flac", song.T, RATE, subtype="PCM_16")
    return folder


def peak_of(songs: Path, tmp_path: Path, monkeypatch, **options) -> int:
    """Of the karaoke job with one song, its output counted as well: the service has that on the same disk."""
    config = KaraokeConfig()
    config.source.uri, config.output.uri = str(songs), str(tmp_path / "out")
    config.ray.address, config.karaoke.method = "inline", "midside"
    config.hardware.max_track_bytes = options.pop("in_memory_bytes", MAX_TRACK_BYTES)
    for name, value in options.items():
        setattr(config.karaoke, name, value)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(Drivers, "_made", lambda self, inline: InlineDriver(1.0, child=False))
    peak = Peak(temporary, tmp_path / "out")
    for owner, name in ((Spool, "write"), (SongEncoder, "close"), (Output, "upload")):
        peak.after(monkeypatch, owner, name)
    assert run_job(KARAOKE, config, Asked(quiet=True)).exit_code == 0
    return peak.bytes


@pytest.mark.parametrize(
    ("keeps_vocals", "in_memory_bytes", "form"),
    [(False, MAX_TRACK_BYTES, "mp3"), (True, MAX_TRACK_BYTES, "wav"), (True, 1_000_000, "wav")],
    ids=["usual", "with vocals", "long"],
)
def test_a_song_takes_no_more_than_is_said(songs, tmp_path, monkeypatch, keeps_vocals, in_memory_bytes, form):
    size = (songs / "song.flac").stat().st_size
    kept = ["vocals"] if keeps_vocals else []
    found = peak_of(songs, tmp_path, monkeypatch, format=form, keep=kept, in_memory_bytes=in_memory_bytes)
    said = needed_bytes(
        size,
        SECONDS,
        sample_rate=RATE,
        channels=2,
        keeps_vocals=keeps_vocals,
        form=SongFormat(form),
        in_memory_bytes=in_memory_bytes,
    )
    assert found <= said
    # And not by far more than is needed: pictures as large as the song are counted, and this one has none.
    assert found > 0.5 * said
    # Nor does one ask in vain who knows nothing but the file.
    assert found <= needed_bytes(
        size, None, suffix=".flac", keeps_vocals=keeps_vocals, in_memory_bytes=in_memory_bytes
    )


def test_a_song_is_never_thought_to_travel_in_memory_when_it_does_not():
    """By the views that the stages declare."""
    wanted = Wanted((NATIVE, VIEW), MAX_TRACK_BYTES, 1e9, (VOCALS, REMOVED))
    for rate, channels in ((8000, 1), (RATE, 2), (48000, 2), (96000, 2), (48000, 6)):
        longest = wanted.kept(rate, channels).max_seconds
        said = needed_bytes(1, longest + 1, sample_rate=rate, channels=channels)
        assert said >= 4 * 4 * 2 * VIEW.sample_rate * longest


@pytest.mark.parametrize("name", SONG_FORMATS)
def test_every_format_gets_room_for_its_samples_and_two_of_its_files(name):
    form = SongFormat(name)
    for rate in (8000, RATE, 96000):
        held = held_rate(form, rate, 2)
        said = needed_bytes(1, 100.0, sample_rate=rate, channels=2, form=form)
        assert said >= 4 * held * 2 * 100
        assert said <= needed_bytes(1, 100.0, sample_rate=rate, channels=2)


def test_more_of_anything_needs_no_less():
    base = needed_bytes(10_000_000, 200.0)
    assert needed_bytes(10_000_000, 400.0) > base
    assert needed_bytes(10_000_000, 200.0, sample_rate=192_000) > base
    assert needed_bytes(10_000_000, 200.0, keeps_vocals=True) > base
    assert needed_bytes(10_000_000, 200.0, in_memory_bytes=1) > base
    # The copy of a remote one that is not kept in memory.
    assert needed_bytes(300 << 20, 200.0) - needed_bytes(200 << 20, 200.0) >= 300 << 20


def test_without_a_length_it_is_taken_from_the_size():
    mp3 = needed_bytes(9_000_000, None, suffix=".mp3")
    assert mp3 == needed_bytes(9_000_000, None)
    assert mp3 == needed_bytes(9_000_000, 8 * 9_000_000 / 64_000)
    assert needed_bytes(9_000_000, 0.0) == needed_bytes(9_000_000, float("nan")) == mp3
    assert needed_bytes(9_000_000, None, suffix=".FLAC") < mp3
    assert needed_bytes(9_000_000, None, suffix=".wav") < needed_bytes(9_000_000, None, suffix=".flac")


def test_an_empty_file_needs_next_to_nothing():
    assert needed_bytes(0, None) < 10_000_000
