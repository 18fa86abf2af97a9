"""Updates of the search index that wait on disk until it takes them: one small file for each video."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.service import spool_files as files
from pipeline.service.search import SearchAway, SearchRefused, TakesUpdates
from pipeline.service.spool_entry import Entry, combined

_ARRIVED = "arrived"
_REFUSED = "refused"


class Spool:
    """A folder of updates that wait. An update that `put` has returned from is there after a kill or a power cut.

    What waits for a video is one file, named by a hash, with its updates in order; see `pipeline.service.spool_entry`.
    What the index refused lies in ``refused/``, its reason beside it in a ``.txt``. Several threads, and other objects
    on the same folder, may do anything at a time: whoever changes files holds a lock of the file system.

    Args:
        folder: is made if need be. What was half written there when a process died is swept away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrived, self._refused = folder / _ARRIVED, folder / _REFUSED
        self._make()
        with files.locked(folder):
            files.sweep(folder)
            files.sweep(self._refused)
        self._settle()

    def _make(self) -> None:
        for needed in (self.folder, self._arrived, self._refused):
            needed.mkdir(parents=True, exist_ok=True)

    def put(self, video_id: str, document: dict[str, Any]) -> None:
        """Let an update wait, behind what waits for that video.

        Raises:
            OSError: it cannot be written; nothing is lost of what waits.
            TypeError, ValueError: it is no JSON.
        """
        self._make()  # another instance may have taken this one for dead, and cleared up
        path = self.folder / _name(video_id)
        with files.locked(self.folder):
            waiting = self._readable(path) or Entry(video_id, ())
            _write(path, waiting.followed_by(document))

    def holds(self, video_id: str) -> bool:
        """Whether something waits for this video."""
        return (self.folder / _name(video_id)).exists()

    def waiting(self) -> int:
        """How many videos have something waiting."""
        return len(files.entries(self.folder))

    def refused(self) -> int:
        """How many videos have something that the index refused."""
        return len(files.entries(self._refused))

    def drain(self, index: TakesUpdates, stop: threading.Event) -> int:
        """Send what waits, the oldest first, until the index is away.

        Args:
            index: that takes it. What it refuses goes to ``refused/`` and is in nobody's way.
            stop: ends it between two videos.

        Returns:
            For how many videos nothing waits any more.
        """
        gone = 0
        for path in files.oldest_first(self.folder):
            if stop.is_set():
                break
            try:
                gone += self._sent(path, index)
            except SearchAway as away:
                if not away.only_this:
                    break
        return gone

    def _sent(self, path: Path, index: TakesUpdates) -> bool:
        """Whether nothing waits there any more."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # adopted meanwhile
            return False
        try:
            entry = Entry.parsed(content)
        except ValueError as error:
            return self._finish(path, content, refusal=_unreadable(error))
        try:
            for step in entry.steps:
                index.update(entry.video_id, step.document)
        except SearchRefused as refused:
            return self._finish(path, content, refusal=str(refused))
        return self._finish(path, content, went_through=entry)

    def _finish(
        self, path: Path, content: bytes, *, refusal: str | None = None, went_through: Entry | None = None
    ) -> bool:
        with files.locked(self.folder):
            if refusal is not None:
                self._keep_refused(path.name, content, refusal)
            if went_through is not None:
                self._forget_refused(went_through)
            # What came behind it meanwhile is for the next time: all of it once more comes to the same.
            unchanged = path.exists() and path.read_bytes() == content
            if unchanged:
                files.remove(path)
        return unchanged

    def refuse(self, video_id: str, document: dict[str, Any], reason: str) -> None:
        """Keep an update that the index refused, and why.

        Raises:
            OSError: it cannot be written.
        """
        self._make()
        content = Entry(video_id, ()).followed_by(document).written()
        with files.locked(self.folder):
            self._keep_refused(_name(video_id), content, reason)

    def _keep_refused(self, name: str, content: bytes, reason: str) -> None:
        path = self._refused / name
        try:
            entry, before = Entry.parsed(content), Entry.parsed(path.read_bytes()) if path.exists() else None
        except ValueError:  # one of them cannot be read: each has its own file
            path = files.beside(path)
            entry = before = None
        files.write(path.with_suffix(".txt"), f"{reason}\n".encode(errors="replace"))
        if entry is None:
            files.write(path, content)
        else:
            _write(path, combined(before, entry) if before else entry)

    def applied(self, video_id: str, document: dict[str, Any]) -> None:
        """Take note of an update that went to the index past the spool: it is newer than what was refused."""
        if (self._refused / _name(video_id)).exists():
            with files.locked(self.folder):
                self._forget_refused(Entry(video_id, ()).followed_by(document))

    def _forget_refused(self, newer: Entry) -> None:
        """Drop of what was refused all that an update covers which went through; the rest comes before that one."""
        path = self._refused / _name(newer.video_id)
        with contextlib.suppress(FileNotFoundError, ValueError):
            both = combined(Entry.parsed(path.read_bytes()), newer)
            if all(step in newer.steps for step in both.steps):
                files.remove(path)
                path.with_suffix(".txt").unlink(missing_ok=True)
            else:
                _write(path, both)

    def take_back(self) -> int:
        """Let everything wait again that was refused: its cause may have been mended.

        Returns:
            For how many videos there was something.
        """
        with files.locked(self.folder):
            found = files.entries(self._refused)
            for path in found:
                files.move(path, self._arrived)
                path.with_suffix(".txt").unlink(missing_ok=True)
        self._settle()
        return len(found)

    def _settle(self) -> None:
        """Put what has arrived among what waits, in order of time; after a kill the next call does the rest."""
        with files.locked(self.folder):
            for path in files.entries(self._arrived):
                target = self.folder / f"{files.stem(path)}.json"
                entry = self._readable(path)
                if entry is None:
                    continue
                before = self._readable(target)
                if before is None:
                    path.replace(target)
                else:
                    _write(target, combined(before, entry))
                    path.unlink()
            files.sync(self.folder)

    def _readable(self, path: Path) -> Entry | None:
        """The entry in a file; None without one. What cannot be read goes to ``refused/``."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return Entry.parsed(content)
        except ValueError as error:
            self._keep_refused(f"{files.stem(path)}.json", content, _unreadable(error))
            files.remove(path)
            return None

    @classmethod
    def adopt(cls, own: Path, left: Iterable[Path]) -> int:
        """Take over what waits in the folders of instances that died; killed in between, the next call does the rest.

        What was refused there waits again. Of a video that waits in several places the updates are put in order.

        Args:
            own: folder of a spool, in use or not.
            left: folders of spools; they are removed.

        Returns:
            How many entries were moved.
        """
        spool = cls(own)
        moved = 0
        for folder in left:
            if not folder.is_dir() or folder.resolve() == own.resolve():
                continue
            places = (folder, folder / _ARRIVED, folder / _REFUSED)
            with files.locked(folder):
                for path in [path for place in places for path in files.entries(place)]:
                    files.move(path, spool._arrived)
                    moved += 1
                files.clear(folder, places)
        spool._settle()
        return moved


def _name(video_id: str) -> str:
    """Of a file: an id may be a path, or longer than a name."""
    return f"{hashlib.sha256(video_id.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}.json"


def _write(path: Path, entry: Entry) -> None:
    files.write(path, entry.written(), at=entry.steps[0].at)


def _unreadable(error: ValueError) -> str:
    return f"this cannot be read: {error}"
