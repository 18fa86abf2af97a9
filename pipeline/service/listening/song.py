"""One master on its way: what is done to a song, told in events, while what is rendered can be heard already."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline.audio.isolated_stream import DecoderUnavailable
from pipeline.audio.validate import DecodeError
from pipeline.dataset.storage import one_line
from pipeline.mastering.drafting import Reference
from pipeline.mastering.levels import Levels
from pipeline.mastering.plan import Plan
from pipeline.mastering.shaped import thread_beside
from pipeline.mastering.song import Mastering, Rendered
from pipeline.service.listening.analysis import Analysis, Known
from pipeline.service.listening.asked import Asked
from pipeline.service.listening.events import Bell, Events
from pipeline.service.listening.files import GrowingFile
from pipeline.service.listening.loudness import LoudnessSoFar
from pipeline.service.listening.precedence import Precedence
from pipeline.service.listening.wav import Encoder, WavForm
from pipeline.service.troubles import refusal_of

WAITING, ANALYSIS, PLAN, RENDER = "waiting", "analysis", "plan", "render"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
# Of a part, between two events about it.
_SHARE = 0.05


class Cancelled(Exception):
    """Nobody wants to hear it any more."""


class Song:
    """A master that was asked for. Any thread may look; one thread works on it, by `run`.

    Args:
        asked: the song and the wish.
        folder: where its temporary files lie.
        precedence: of all songs of the service, for who waits for a first sound.
    """

    def __init__(self, asked: Asked, folder: str | None = None, precedence: Precedence | None = None) -> None:
        self.asked, self.id, self._folder = asked, asked.id, folder
        self._precedence = precedence or Precedence()
        self.bell = Bell()
        self.events = Events(self.bell)
        self.state = WAITING
        self.form: WavForm | None = None
        """Of the file; None until there is a plan."""
        self.seconds: dict[str, float] = {}
        """What each part took."""
        self.failure: dict[str, str] | None = None
        self._file = GrowingFile(folder)
        self._asked_at = time.perf_counter()
        self._cancelled = threading.Event()
        self._told: tuple[str, float] = ("", 0.0)

    def run(self, analysis: Analysis) -> None:
        """Analyse, plan and render it; whatever happens is an event."""
        self.seconds["waited"] = self._since()
        try:
            self._check()
            self.state = ANALYSIS
            references = self._references(analysis)
            with analysis.known(self.asked.source, self.asked.wanted.fingerprint, self._tell) as known:
                self.seconds.update(known.seconds)
                self._master(known, references)
        except Cancelled:
            self._end(CANCELLED)
        except Exception as error:  # noqa: BLE001  whatever is wrong with one song, it is told, and others go on
            if self._cancelled.is_set():  # its file is closed already
                self._end(CANCELLED)
            else:
                self.failure = _failure(error, self.asked.source.name)
                self._end(FAILED, **self.failure)

    def cancel(self) -> None:
        """End it as soon as can be; what was rendered is given back."""
        self._cancelled.set()
        if self.state == WAITING:
            self.state = CANCELLED
        self.events.add(CANCELLED)
        self._file.close()
        self.bell.ring()

    def size(self) -> int:
        """Bytes of the WAV file that are there, its header among them."""
        return self._file.size

    def read(self, start: int, count: int) -> bytes:
        """Bytes of the WAV file. Raises `ValueError` once it was cancelled."""
        return self._file.read(start, count)

    def summary(self) -> dict[str, Any]:
        """How it is, as JSON."""
        form, more = self.form, {}
        if form is not None:
            more = {
                "duration_s": round(form.samples / form.sample_rate, 3),
                "sample_rate": form.sample_rate,
                "channels": form.channels,
                "bytes": form.bytes,
                "rendered_s": round(self._samples() / form.sample_rate, 3),
            }
        return {
            "id": self.id,
            "state": self.state,
            "name": self.asked.source.name,
            "asked": dict(self.asked.said),
            "events": f"/songs/{self.id}/events",
            "audio": f"/songs/{self.id}/audio",
            "seconds": {part: round(seconds, 3) for part, seconds in dict(self.seconds).items()},
            **more,
            **({"failure": self.failure} if self.failure else {}),
        }

    def _samples(self) -> int:
        return max(0, self.size() - len(self.form.header())) // self.form.frame

    def _ahead_s(self) -> float:
        """Seconds that are rendered beyond what somebody has heard who listens from the first sound on; or below 0."""
        if "first_sound" not in self.seconds:
            return 0.0
        return self._samples() / self.form.sample_rate - (self._since() - self.seconds["first_sound"])

    def _references(self, analysis: Analysis) -> list[Reference]:
        started = time.perf_counter()
        found = [analysis.reference(source, self._tell) for source in self.asked.references]
        if found:
            self.seconds["references"] = time.perf_counter() - started
        return found

    def _master(self, known: Known, references: Sequence[Reference]) -> None:
        recording, wanted = known.recording, self.asked.wanted
        # Whoever listens waits for the plan: it is made by two threads.
        with (
            thread_beside() as beside,
            Mastering(
                recording,
                recording.sample_rate,
                wanted.wish,
                known.fingerprint,
                references,
                heard=known.heard,
                progress=self._progress,
                beside=beside,
                folder=self._folder,
            ) as mastering,
        ):
            self.state, started = PLAN, time.perf_counter()
            with self._precedence.first():
                plan = mastering.settle()
            self.seconds["plan"] = time.perf_counter() - started
            self.form = WavForm(plan.sample_rate, plan.channels, plan.samples, self.asked.bits)
            self._tell_plan(plan, known)
            self.state, started = RENDER, time.perf_counter()
            rendered = self._render(mastering, plan)
            self.seconds["render"] = time.perf_counter() - started
        self._end(DONE, **_told_of(rendered), seconds=self.summary()["seconds"])

    def _tell_plan(self, plan: Plan, known: Known) -> None:
        self.events.add(
            "plan",
            plan=json.loads(plan.to_json()),
            reasons=list(plan.reasons),
            target_lufs=plan.target_lufs,
            lufs=plan.lufs,
            gain_db=plan.gain_db,
            limited_by=plan.limited_by,
            before=_levels(known.heard.levels),
            duration_s=plan.samples / plan.sample_rate,
            seconds=self.summary()["seconds"],
        )

    def _render(self, mastering: Mastering, plan: Plan) -> Rendered:
        encoder, loudness = Encoder(self.form), LoudnessSoFar(plan.sample_rate, plan.channels)
        self._file.append(self.form.header())
        self.bell.ring()
        done = told = 0

        def write(block: np.ndarray) -> None:
            nonlocal done
            if not block.shape[1]:
                return
            self._file.append(encoder.bytes(block))
            self.seconds.setdefault("first_sound", self._since())
            self.bell.ring()
            loudness.add(block)
            done += block.shape[1]

        def reduced(most_db: float) -> None:
            nonlocal told
            if done > told:
                self.events.add(
                    "stretch",
                    from_s=told / plan.sample_rate,
                    to_s=done / plan.sample_rate,
                    share=done / plan.samples,
                    lufs=loudness.lufs,
                    gain_reduction_db=most_db,
                )
                told = done

        return mastering.render(plan, write, reduced=reduced)

    def _progress(self, part: str, share: float) -> None:
        if part == "render":  # each stretch of it is an event of its own
            self._check()
            self._precedence.give_way(self._ahead_s())
        else:
            self._tell(part, share)

    def _tell(self, part: str, share: float | None) -> None:
        """An event now and then, and a chance to end."""
        self._check()
        last, shown = self._told
        whole = share is not None and share >= 1.0
        if part != last or (share is not None and (whole or share - shown >= _SHARE) and share > shown):
            self._told = part, share or 0.0
            self.events.add("analysis", part=part, share=share)

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _end(self, state: str, **more: Any) -> None:
        self.state = state
        self.events.add(state, **more)
        if state != DONE:
            self._file.close()
        self.bell.ring()

    def _since(self) -> float:
        return time.perf_counter() - self._asked_at


def _told_of(rendered: Rendered) -> dict[str, Any]:
    return {
        "after": _levels(rendered.measured.levels),
        "max_gain_reduction_db": rendered.max_gain_reduction_db,
    }


def _levels(levels: Levels) -> dict[str, float | None]:
    return {**asdict(levels), "plr_lu": levels.plr_lu, "psr_lu": levels.psr_lu}


def _failure(error: Exception, name: str) -> dict[str, str]:
    """What is told of it: ``code`` of `pipeline.service.messages.CODES`, ``what`` and ``why``."""
    return {"code": refusal_of(error).code, **_said(error, name)}


def _said(error: Exception, name: str) -> dict[str, str]:
    if isinstance(error, DecodeError):
        return {"what": f"{name} cannot be decoded", "why": one_line(error, 300)}
    if isinstance(error, OSError):
        return {"what": f"{name} cannot be mastered here", "why": error.strerror or one_line(error, 300)}
    if isinstance(error, DecoderUnavailable):
        return {"what": f"{name} was not decoded", "why": one_line(error, 300)}
    if isinstance(error, ValueError):
        return {"what": f"{name} cannot be mastered", "why": one_line(error, 300)}
    return {"what": f"{name} was not mastered", "why": f"{type(error).__name__}: {one_line(error, 300)}"}
