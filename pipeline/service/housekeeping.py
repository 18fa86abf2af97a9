"""What a running service has on its disk: a folder of its own, what dead ones left, and room for the next song."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.audio.isolated import MAX_TRACK_BYTES
from pipeline.audio.song_formats import OPUS_RATE, SongFormat
from pipeline.errors import UserError

SEPARATED_BYTES_PER_S = 4 * 2 * 44_100
"""What is separated, and what is found in it, are float32 in stereo at 44.1 kHz."""
IN_MEMORY_BYTES = 256 << 20
"""A larger remote file is copied to the disk while it is read."""
TAG_BYTES = 32 << 20
"""Pictures and texts of a song travel into its files; they are not larger than the song."""
SMALL_BYTES = 4 << 20
"""Whatever else a worker writes."""
BIT_RATES = {
    **dict.fromkeys((".wav", ".wave", ".w64", ".rf64", ".aif", ".aiff", ".aifc", ".au", ".caf"), 700_000),
    **dict.fromkeys((".flac", ".wv", ".ape", ".tta"), 350_000),
}
LOWEST_BIT_RATE = 64_000
"""bit/s that a file is taken to have at least where nobody knows how long it is: 16-bit mono at 44.1 kHz, half of that
without loss, and the lowest that music is sold in. Of one with fewer the disk itself says when it is full."""

_LOCK = "lock"
_ALL = ".lock"


class NoSpace(Exception):
    """There is not enough room on the disk; the message names no path, because whoever asked reads it."""


class Swept(NamedTuple):
    """What a sweep has removed.

    Args:
        instances: of dead ones that had something.
        files: of theirs, links among them.
        size_bytes: of those files.
    """

    instances: int
    files: int
    size_bytes: int


class InstanceFolder:
    """The folder ``<state_dir>/instances/<id>/`` of a running instance, which is its own from here to `close`.

    A lock of the kernel's says that it lives: it is gone with the process, however that ends. It stays where a copy of
    the process does (``os.fork`` without ``exec``).

    Args:
        state_dir: shared by the instances of a machine; is made if need be.

    Raises:
        UserError: nothing can be written there, or its file system knows no locks.

    Attributes:
        id: no other instance has the same.
        folder: of the instance.
        tmp: for temporary files, which are worth nothing once the instance is dead.
        spool: for what somebody else takes over then.
    """

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir / "instances"
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:40] or "host"
        self.id = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
        self.folder = self._root / self.id
        self.tmp, self.spool = self.folder / "tmp", self.folder / "spool"
        self._held: int | None = None
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            # Nobody looks for dead ones between the folder and its lock.
            with self._alone():
                self.folder.mkdir(mode=0o700)
                self._held = _locked(self.folder / _LOCK)
                self.tmp.mkdir()
                self.spool.mkdir()
        except OSError as error:
            self.close()
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                why = "its file system knows no locks"
            else:
                why = error.strerror or type(error).__name__
            raise UserError(
                f"service.state_dir={state_dir} cannot be used",
                why,
                "service.state_dir=FOLDER of a local disk",
            ) from None

    def dead(self) -> list[Path]:
        """Folders of instances whose process is gone, by name. Another instance may take one of them at any moment."""
        found = []
        for folder in self._others():
            with self._claimed(folder) as claimed:
                if claimed:
                    found.append(folder)
        return found

    def sweep(self) -> Swept:
        """Remove the temporary files of dead instances, and the folders of those that left nothing else.

        Links are removed and not followed. What cannot be removed stays, and is not counted.
        """
        swept = Swept(0, 0, 0)
        for folder in self._others():
            with self._claimed(folder) as claimed:
                if not claimed:
                    continue
                files, size = _cleared(folder / "tmp")
                swept = Swept(swept.instances + bool(files), swept.files + files, swept.size_bytes + size)
                self._removed(folder)
        return swept

    @contextmanager
    def adopting(self, folder: Path) -> Iterator[Path | None]:
        """The spool of a dead instance, which nobody else adopts meanwhile; None where somebody does.

        At the end its folder goes, if nothing is left in it.

        Args:
            folder: of `dead`.
        """
        with self._claimed(folder) as claimed:
            if not claimed:
                yield None
                return
            try:
                yield folder / "spool"
            finally:
                self._removed(folder)

    def remove_if_empty(self, folder: Path) -> bool:
        """Remove the folder of a dead instance whose spool holds nothing; says whether it was."""
        with self._claimed(folder) as claimed:
            return claimed and self._removed(folder)

    def close(self) -> None:
        """Remove the temporary files, and the folder if nothing is spooled; a second time it does nothing."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            _cleared(self.tmp)
            self._removed(self.folder)
        finally:
            os.close(held)

    def __enter__(self) -> InstanceFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _others(self) -> list[Path]:
        with suppress(OSError), os.scandir(self._root) as found:
            return sorted(
                Path(one.path) for one in found if one.is_dir(follow_symlinks=False) and one.name != self.id
            )
        return []

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No folder of an instance appears, and none goes, but by whoever is in here."""
        lock = _locked(self._root / _ALL, wait=True)
        try:
            yield
        finally:
            os.close(lock)

    @contextmanager
    def _claimed(self, folder: Path) -> Iterator[bool]:
        """Whether the instance of ``folder`` is dead, and in the hands of this one as long as the context lasts."""
        lock = None
        # A folder that is gone, somebody else's, or alive.
        with suppress(OSError), self._alone():
            if folder.parent == self._root and stat.S_ISDIR(folder.lstat().st_mode):
                lock = _locked(folder / _LOCK)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                os.close(lock)

    def _removed(self, folder: Path) -> bool:
        """Remove a folder that this instance holds, unless something is left in it; says whether it is gone."""
        with suppress(OSError), self._alone():
            if any(_holds_something(folder / name) for name in ("tmp", "spool")):
                return False
            for name in ("tmp", "spool"):
                _cleared(folder / name)
            (folder / _LOCK).unlink(missing_ok=True)
            folder.rmdir()
        return not folder.exists()


def _locked(path: Path, wait: bool = False) -> int:
    """A file that is open and locked, and made if need be; closing it frees the lock. Raises `OSError`."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(file)
        raise
    return file


def _cleared(folder: Path) -> tuple[int, int]:
    """Remove a folder, or a link in its place: how many files that were, and their bytes."""
    files, size = _measured(folder)
    if folder.is_symlink() or folder.is_file():
        with suppress(OSError):
            folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)  # follows no links
    left, left_size = _measured(folder)
    return files - left, size - left_size


def _measured(folder: Path) -> tuple[int, int]:
    """Files in a folder at any depth, and their bytes; links are files of no bytes."""
    found = list(_contents(folder))
    return len(found), sum(one.st_size for one in found if stat.S_ISREG(one.st_mode))


def _holds_something(folder: Path) -> bool:
    """Whether anything is in a folder at any depth but folders and files of no bytes, which locks are."""
    return any(one.st_size or not stat.S_ISREG(one.st_mode) for one in _contents(folder))


def _contents(folder: Path) -> Iterator[os.stat_result]:
    """What is in a folder at any depth, but for folders; the link or file that is in its place."""
    if folder.is_symlink() or folder.is_file():
        yield folder.lstat()
        return
    for root, folders, names in os.walk(folder):  # follows no links
        for name in (*folders, *names):
            with suppress(OSError):
                found = Path(root, name).lstat()
                if not stat.S_ISDIR(found.st_mode):
                    yield found


def free_bytes(folder: Path) -> int:
    """What this process may still write to the disk of ``folder``, or of where it would be made.

    Raises:
        OSError: the disk does not answer, or may not be asked.
    """
    for place in (folder, *folder.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(place).free
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def require_space(folder: Path, needed: int, reserve: int) -> None:
    """Refuse what does not fit.

    Args:
        folder: where it would go.
        needed: bytes.
        reserve: bytes that are to stay free.

    Raises:
        NoSpace: there is less than both together.
        OSError: as `free_bytes`.
    """
    free = free_bytes(folder)
    if free < needed + reserve:
        raise NoSpace(
            f"the work needs up to {_mb(needed)} of temporary files, {_mb(reserve)} are to stay free, "
            f"and {_mb(free)} are free"
        )


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def needed_bytes(
    size_bytes: int,
    duration_s: float | None,
    *,
    suffix: str = "",
    sample_rate: int | None = None,
    channels: int | None = None,
    keeps_vocals: bool = False,
    form: SongFormat | None = None,
    in_memory_bytes: int = MAX_TRACK_BYTES,
) -> int:
    """The room that a song takes on the disk while its vocals are removed: an upper bound, in bytes.

    What lies there at once, for V bytes of float32 stereo at 44.1 kHz, N of the song at its own rate in all its
    channels, S of it in two, k files (the instrumental, and the vocals where they are kept) of E bytes each:

    - of a song whose samples travel in memory, V while centre extraction is tried beside a network, then k S for what
      is encoded, and 2 k E: a file is encoded in one folder and copied to another;
    - of a longer one, 4 V while it is scored (mix, vocals, those by centre extraction, and what is removed), and then
      V + N + k S + 2 k E (what is removed, the mix, what is encoded, the files);
    - in both cases beside the copy of a remote file.

    Args:
        size_bytes: of the song's file.
        duration_s: None where it is not known: at the lowest bit rate of `BIT_RATES`, or `LOWEST_BIT_RATE`.
        suffix: of the file's name, for that.
        sample_rate: Hz; by default 48000.
        channels: by default 2.
        keeps_vocals: the vocals are encoded, too.
        form: of the files; by default as large as one may be.
        in_memory_bytes: ``hardware.max_track_bytes``.
    """
    seconds = _seconds(size_bytes, duration_s, suffix)
    rate, width = sample_rate or 48_000, channels or 2
    # A format that does not hold the song's rate gets a higher one, up to this.
    written_rate, stereo = max(rate, OPUS_RATE), min(2, width)
    separated, native = SEPARATED_BYTES_PER_S * seconds, 4.0 * rate * width * seconds
    written, files = 4.0 * written_rate * stereo * seconds, 2 if keeps_vocals else 1
    tags = min(size_bytes, TAG_BYTES)
    encoded = files * (written + 2 * (_encoded_bytes(form, written_rate, stereo, seconds) + tags))
    # In memory are the mix as it is and as it is separated, the vocals, and what is removed.
    if native + 3 * separated <= in_memory_bytes:
        most = max(separated, encoded)
    else:
        most = max(4 * separated, separated + native + encoded)
    return int(most) + (size_bytes if size_bytes > IN_MEMORY_BYTES else 0) + SMALL_BYTES


def _seconds(size_bytes: int, duration_s: float | None, suffix: str) -> float:
    if duration_s is not None and duration_s > 0:
        return duration_s
    return 8.0 * size_bytes / BIT_RATES.get(suffix.lower(), LOWEST_BIT_RATE)


def _encoded_bytes(form: SongFormat | None, rate: int, channels: int, seconds: float) -> float:
    """One file without its tags: by its bit rate where it has one, with a quarter for what an encoder may add."""
    if form is None or form.name not in ("mp3", "m4a", "opus"):
        return 4.0 * rate * channels * seconds  # what lossless formats take at most, and Vorbis by far
    return 1.25 * form.bits_per_second(rate, channels) / 8 * seconds
