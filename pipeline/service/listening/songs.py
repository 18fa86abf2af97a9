"""The masters that were asked for, as many as are kept, and the threads that make them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.dsp.threads import settle_threads
from pipeline.errors import UserError
from pipeline.mastering.song import warm
from pipeline.service.listening.analysis import Analysis
from pipeline.service.listening.asked import Asked, Wanted
from pipeline.service.listening.precedence import Precedence
from pipeline.service.listening.song import CANCELLED, DONE, ENDED, FAILED, Song
from pipeline.service.listening.sources import Source, Sources
from pipeline.service.logs import StepLog

Understand = Callable[[Mapping[str, Any]], Wanted]
"""Makes a wish of what was asked, without its song. Raises `UserError`."""
PLACES = ("path", "url")


class TooMany(UserError):
    """Nothing more is taken now."""


class Songs:
    """Takes what is asked, and has it made: what was asked for last comes first, since somebody waits for it.

    Args:
        sources: finds files.
        analysis: listens to them.
        understand: see `Understand`.
        log: where it is told.
        keep: so many masters are kept; beyond them the ones that were asked for least lately go, unless they are not
            done yet.
        workers: so many are made at a time.
        bits: of the samples that are sent.
        folder: where temporary files lie.
    """

    def __init__(
        self,
        sources: Sources,
        analysis: Analysis,
        understand: Understand,
        log: StepLog,
        *,
        keep: int = 16,
        workers: int = 2,
        bits: int = 16,
        folder: str | None = None,
    ) -> None:
        self._sources, self.analysis, self._understand, self._log = sources, analysis, understand, log
        self._keep, self._bits, self._folder = keep, bits, folder
        self._songs: OrderedDict[str, Song] = OrderedDict()
        self._waiting: list[Song] = []
        self._change = threading.Condition()
        self._stopped = False
        self._precedence = Precedence()
        self._threads = [
            threading.Thread(target=self._work, name=f"master-{number}", daemon=True)
            for number in range(workers)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def ask(self, said: Mapping[str, Any]) -> tuple[Song, bool]:
        """The master of a song, and whether it is a new one.

        Raises:
            UserError: what is asked for cannot be; `TooMany` where too much is being done.
            Refused: its file cannot be had.
        """
        places = [key for key in PLACES if key in said]
        if len(places) != 1:
            raise UserError(
                "neither path nor url is given" if not places else "path and url are given",
                "one of them says which song is meant",
                '{"path": "/A/FOLDER/SONG.flac"}',
            )
        wish = {key: value for key, value in said.items() if key not in PLACES}
        self._understand(wish)  # what is wrong with it is told before a file is fetched
        return self._asked(self._sources.find(_text(said, places[0])), wish)

    def again(self, song: Song, said: Mapping[str, Any]) -> tuple[Song, bool]:
        """Another master of the same song: what is not said is as before, null is as if it were never said.

        Raises:
            UserError: what is asked for cannot be; `TooMany` where too much is being done.
            Refused: a reference cannot be had.
        """
        for key in PLACES:
            if key in said:
                raise UserError(
                    f"{key} is given for another preset", "it is of the same song", "POST /songs with it"
                )
        wish = {key: value for key, value in {**song.asked.said, **said}.items() if value is not None}
        return self._asked(song.asked.source, wish)

    def get(self, name: str) -> Song | None:
        """The master of that id, which counts as asked for; None where there is none."""
        with self._change:
            song = self._songs.get(name)
            if song is not None:
                self._songs.move_to_end(name)
            return song

    def all(self) -> list[Song]:
        """All that are kept, the last one that was asked for first."""
        with self._change:
            return list(reversed(self._songs.values()))

    def remove(self, song: Song) -> None:
        """End a master, and forget it."""
        with self._change:
            if self._songs.get(song.id) is song:
                del self._songs[song.id]
            if song in self._waiting:  # nor does anybody hold its file open
                self._waiting.remove(song)
        song.cancel()
        self._log.step("removed", song=song.id)

    def close(self, wait_s: float = 10.0) -> None:
        """End everything, and give back the temporary files."""
        with self._change:
            self._stopped = True
            songs = list(self._songs.values())
            self._songs.clear()
            self._waiting.clear()
            self._change.notify_all()
        for song in songs:
            song.cancel()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(wait_s)
        self.analysis.close()

    def _asked(self, source: Source, said: Mapping[str, Any]) -> tuple[Song, bool]:
        wanted = self._understand(said)
        references = tuple(self._sources.find(place) for place in wanted.references)
        asked = Asked(source, references, wanted, said, self._bits)
        name = asked.id
        with self._change:
            known = self._songs.get(name)
            if known is not None and known.state not in (FAILED, CANCELLED):
                self._songs.move_to_end(name)
                return known, False
            gone = self._make_room(name)
            song = self._songs[name] = Song(asked, self._folder, self._precedence)
            self._waiting.append(song)
            self._change.notify()
        for one in gone:
            one.cancel()
        self._log.step("asked", song=name, name=source.name, wish=dict(said))
        return song, True

    def _make_room(self, name: str) -> list[Song]:
        """Take out the old one of that id, and what is too much. Raises `TooMany`."""
        others = [song for song in self._songs.values() if song.id != name]
        ended = [song for song in others if song.state in ENDED]
        # Those that somebody hears at the moment go last.
        ended.sort(key=lambda song: song.bell.listeners > 0)
        excess = max(0, len(others) + 1 - self._keep)
        if self._stopped or excess > len(ended):
            raise TooMany(
                f"{len(others)} songs are being mastered",
                "no more are begun before one of them is done",
                "the same again later, or listening.songs with a greater number",
            )
        gone = ended[:excess] + [song for song in self._songs.values() if song.id == name]
        for song in gone:
            del self._songs[song.id]
        return gone

    def _work(self) -> None:
        settle_threads()
        warm()
        while True:
            with self._change:
                self._change.wait_for(lambda: self._stopped or self._waiting)
                if self._stopped:
                    return
                song = self._waiting.pop()
            song.run(self.analysis)
            level = "info" if song.state in (DONE, CANCELLED) else "warning"
            failure = {"failure": song.failure} if song.failure else {}
            self._log.step(
                song.state, level=level, song=song.id, seconds=song.summary()["seconds"], **failure
            )


def _text(said: Mapping[str, Any], key: str) -> str:
    value = said[key]
    if not isinstance(value, str) or not value:
        raise UserError(
            f"{key} is no text", "it says which song is meant", f'{{"{key}": "/A/FOLDER/SONG.flac"}}'
        )
    return value
