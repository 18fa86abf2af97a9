"""What is done with one song, step by step: file, then search index, then answer."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from pipeline.audio.song_formats import SongFormat
from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.probing import read_headers
from pipeline.dataset.storage import filesystem
from pipeline.engine.answer import Answer
from pipeline.engine.node import Node
from pipeline.engine.packing import block_of, planned
from pipeline.service.announcer import Announcement
from pipeline.service.crew import Abandoned, Bench
from pipeline.service.destinations import Place, Rules
from pipeline.service.housekeeping import NoSpace, needed_bytes, require_space
from pipeline.service.intake import Task
from pipeline.service.kafka import CODE, CUT, REASON, Header, Outgoing, Topics, headers_of
from pipeline.service.logs import StepLog
from pipeline.service.messages import (
    DEAD_LETTERS,
    ELSEWHERE,
    MESSAGE_BYTES,
    METHOD_UNSUITABLE,
    OF_THE_METHOD,
    RETRIED,
    Names,
    Refused,
    Request,
    Result,
    done_message,
    failed_message,
    parsed,
    video_id_of,
)
from pipeline.service.metrics import Metrics
from pipeline.service.records import Record, Results, content_of, key_of
from pipeline.service.search import failure_document, success_document
from pipeline.service.search_updates import SearchUpdates
from pipeline.service.taking_turns import Turns
from pipeline.service.troubles import refusal_of, refusal_of_answer, retry_wait_s, tried

LONGER = 12
"""A disk that is full, or a server that is away, is given so many times as long as a worker that died."""


@dataclass(frozen=True)
class Recipe:
    """How a song is worked on.

    Args:
        name: of the method, for the log.
        nodes: number of a bench → its stages, the last one a `pipeline.engine.answer.AnswerWorker`.
        folder: number of a bench → the folder that its stages write below.
        parameters: what makes the result another one.
        file, score, method: the columns that say where the result is, how good it is, and what made it.
    """

    name: str
    nodes: Callable[[int], Sequence[Node]]
    folder: Callable[[int], Path]
    parameters: Mapping[str, Any]
    _: KW_ONLY
    file: str
    score: str
    method: str


@dataclass(frozen=True)
class Limits:
    """How often and how long.

    Args:
        attempts: with the first recipe; the simpler one follows once.
        song_timeout_s: of one attempt.
        retry_wait_s: before the second attempt; twice as long before each one after it.
        reserve_bytes: of the disk that stay free.
    """

    attempts: int = 3
    song_timeout_s: float = 1800.0
    retry_wait_s: float = 5.0
    reserve_bytes: int = 1 << 30


@dataclass(frozen=True)
class Settings:
    """What all songs have in common.

    Args:
        recipe, simpler: how songs are worked on, and how in the end.
        rules: where songs lie and results go.
        scratch: folder whose disk the work needs.
        form: of the results, for the room that they take.
        source_options, output_options: storage options.
        made_by: program and version, for the records.
    """

    recipe: Recipe
    simpler: Recipe | None
    rules: Rules
    scratch: Path
    made_by: str
    _: KW_ONLY
    names: Names = field(default_factory=Names)
    topics: Topics = field(default_factory=Topics)
    limits: Limits = field(default_factory=Limits)
    form: SongFormat | None = None
    source_options: Mapping[str, Any] = field(default_factory=dict)
    output_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """A request that is to be worked on."""

    request: Request
    place: Place
    recipe: Recipe


class Songs:
    """Works on tasks; see `pipeline.service.crew.Work`. Several threads may, each on its own bench."""

    def __init__(self, settings: Settings, updates: SearchUpdates, *, metrics: Metrics, log: StepLog) -> None:
        self._settings, self._updates = settings, updates
        self._metrics, self._log = metrics, log
        self._turns = Turns()

    def prepare(self, bench: Bench) -> None:
        """Make the workers of the first recipe."""
        bench.place.prepare(self._settings.recipe.nodes(bench.number), bench.reason)

    def __call__(self, task: Task, bench: Bench) -> Announcement:
        """The song of a message, worked on. Raises `Abandoned`."""
        began = time.monotonic()
        request: Request | None = None
        try:
            request = parsed(task.value, self._settings.names)
            self._log.step("requested", request.video_id, attempt=task.journey.attempt)
            result = self._result(request, task, bench.until(self._settings.limits.song_timeout_s))
            return self._done(task, request, result, time.monotonic() - began)
        except Abandoned:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, whoever asked is told, and the next song is begun
            refused = refusal_of(error)
            if bench.stopped:
                raise Abandoned from None
            return self._refuse(task, request, refused, time.monotonic() - began)

    def _done(self, task: Task, request: Request, result: Result, seconds: float) -> Announcement:
        value = done_message(request, result, self._settings.names)
        self._metrics.song_done("done", result.method, seconds)
        self._metrics.scored(result.score)
        done = Outgoing(self._settings.topics.results, value, task.key, task.headers)
        return Announcement(task.claim, [done], request.video_id, self._said(request.video_id, "done"))

    def _result(self, request: Request, task: Task, bench: Bench) -> Result:
        """A result that is there already, or a new one."""
        settings = self._settings
        place = settings.rules.place(request)
        simple = self._has_simpler(task.journey.code) and task.journey.attempt > settings.limits.attempts
        recipe = settings.simpler if simple else settings.recipe
        with self._turns.of(place.target, bench.going_on):
            with self._timed("hash", request.video_id):
                content = self._tried(
                    "hash", bench, lambda: content_of(place.source, settings.source_options, bench.going_on)
                )
            results = Results(place.folder, place.name, settings.output_options)
            key = key_of(request.video_id, content, recipe.parameters)
            record = self._tried("look", bench, lambda: results.find(key, bench.going_on))
            if record is None:
                record = self._made(_Job(request, place, recipe), bench, results, key)
            else:
                self._log.step("found", request.video_id, method=record.method)
            self._index(request, place, record)
        return Result(place.told, record.seconds, record.score, record.method)

    def _made(self, job: _Job, bench: Bench, results: Results, key: str) -> Record:
        recipe, request = job.recipe, job.request
        began = time.monotonic()
        try:
            answer = self._separated(job, bench)
            file = recipe.folder(bench.number) / str(answer.values[recipe.file])
            blob = next(b for b in answer.blobs if b["path"] == answer.values[recipe.file])
            record = Record(
                key,
                blob["sha256"],
                blob["size_bytes"],
                score=answer.values.get(recipe.score),
                method=str(answer.values.get(recipe.method) or recipe.name),
                seconds=round(time.monotonic() - began, 3),
                made_by=self._settings.made_by,
            )
            with self._timed("store", request.video_id):
                self._tried("store", bench, lambda: results.put(file, record))
        finally:
            # What a song that failed has left there, too.
            shutil.rmtree(recipe.folder(bench.number), ignore_errors=True)
        return record

    def _separated(self, job: _Job, bench: Bench) -> Answer:
        settings, recipe, request, place = self._settings, job.recipe, job.request, job.place
        table, size = self._tried("source", bench, lambda: _table_of(place.source, settings.source_options))
        self._require_room(place.source, size)
        with self._timed("work", request.video_id, method=recipe.name):
            answer = bench.place.work(recipe.nodes(bench.number), table, bench.reason)
        for stage, seconds in answer.seconds.items():
            self._metrics.stage(stage, seconds)
        for fallback in answer.fallbacks:
            self._log.step("fallback", request.video_id, **fallback)
        refused = refusal_of_answer(answer, recipe.file)
        if refused is not None:
            raise refused
        for failure in answer.failures:  # the song is there all the same, such as without a score
            stage, error = failure["stage"], failure["message"]
            self._log.step("failure", request.video_id, level="warning", stage=stage, error=error)
        return answer

    def _require_room(self, source: str, size: int) -> None:
        """Raises `NoSpace` where the work would not fit on the disk."""
        settings = self._settings
        known = {"suffix": PurePosixPath(source).suffix, "form": settings.form}
        try:
            require_space(settings.scratch, needed_bytes(size, None, **known), settings.limits.reserve_bytes)
        except NoSpace:  # by its size, and so for the longest song that it could be: its header knows better
            item = SourceItem(source, size)
            (header,) = read_headers([item], dict(settings.source_options), 1)
            if header.probe is None or header.probe.duration_s is None:
                raise
            known |= {"sample_rate": header.probe.sample_rate, "channels": header.probe.channels}
            needed = needed_bytes(size, header.probe.duration_s, **known)
            require_space(settings.scratch, needed, settings.limits.reserve_bytes)

    def _index(self, request: Request, place: Place, record: Record) -> None:
        document = success_document(
            place.told, record.score, record.seconds, record.method, datetime.now(timezone.utc)
        )
        with self._timed("index", request.video_id):
            outcome = self._updates.record(request.video_id, document)
        self._log.step("indexed", request.video_id, outcome=outcome)

    def _index_failure(self, request: Request, document: dict[str, Any]) -> None:
        try:
            outcome = self._updates.record(request.video_id, document)
        except (
            OSError
        ) as error:  # neither the index nor the disk takes it: the answer, which goes out, says the same
            outcome = f"lost: {error}"
        self._log.step("indexed", request.video_id, outcome=outcome)

    def _refuse(self, task: Task, request: Request | None, refused: Refused, seconds: float) -> Announcement:
        """What is said of a song that was not done: it is tried again, or failed."""
        settings, attempt = self._settings, task.journey.attempt
        refused = self._with_what_was_before(task, refused)
        video_id = request.video_id if request else video_id_of(task.value, settings.names)
        self._log.step(
            "refused", video_id, level="warning", code=refused.code, error=str(refused), attempt=attempt
        )
        following = self._following(refused.code, attempt)
        if following is not None:
            first = settings.limits.retry_wait_s * (LONGER if refused.code in ELSEWHERE else 1)
            wait = retry_wait_s(first, attempt)
            headers = [*headers_of(following, wait, refused.code, str(refused)), *task.headers]
            self._metrics.retried(refused.code)
            again = Outgoing(settings.topics.retries, task.value or b"", task.key, headers)
            return Announcement(task.claim, [again], video_id, self._said(video_id, "retry"))
        now = datetime.now(timezone.utc)
        if request is not None and task.claim.assigned.valid:  # else its new owner says what became of it
            self._index_failure(request, failure_document(refused.code, str(refused), now))
        more = request.more if request else {}
        value = failed_message(video_id, refused, settings.names, more, now)
        said = [Outgoing(settings.topics.results, value, task.key, task.headers)]
        if refused.code in DEAD_LETTERS or refused.code in RETRIED:
            said.append(self._dead_letter(task, refused))
        self._metrics.song_done("failed", "none", seconds)
        self._metrics.error(refused.code)
        return Announcement(task.claim, said, video_id, self._said(video_id, "failed"))

    def _dead_letter(self, task: Task, refused: Refused) -> Outgoing:
        """The message as it came, with why it is one. Of one that is too long its beginning: a broker refuses the
        whole with what is added, and would stop the partition."""
        words: list[Header] = [(CODE, refused.code.encode()), (REASON, str(refused).encode())]
        value = task.value or b""
        if len(value) > MESSAGE_BYTES:
            words.append((CUT, str(len(value)).encode()))
        words += task.headers
        return Outgoing(self._settings.topics.dead_letters, value[:MESSAGE_BYTES], task.key, words)

    def _following(self, code: str, attempt: int) -> int | None:
        """Which attempt is the next one; None where there is none. What the method does not take another attempt does
        not change, so that the simpler method is next."""
        last = self._settings.limits.attempts
        if self._has_simpler(code) and (attempt >= last or code == METHOD_UNSUITABLE):
            return last + 1 if attempt <= last else None
        return attempt + 1 if code in RETRIED and attempt < last else None

    def _with_what_was_before(self, task: Task, refused: Refused) -> Refused:
        """Of a song that the simpler method does not take the reason is what the usual one failed of."""
        journey = task.journey
        if journey.attempt <= self._settings.limits.attempts or refused.code != METHOD_UNSUITABLE:
            return refused
        if journey.code not in RETRIED:
            return refused
        return Refused(journey.code, f"{journey.reason}; {refused}")

    def _has_simpler(self, code: str) -> bool:
        """Whether another method may help where that was the matter."""
        return self._settings.simpler is not None and code in OF_THE_METHOD

    def _said(self, video_id: str | None, outcome: str) -> Callable[[], None]:
        return lambda: self._log.step("announced", video_id, outcome=outcome)

    def _tried(self, what: str, bench: Bench, call: Callable[[], Any]) -> Any:
        """The value of ``call``, a few times where storage does not answer."""

        def again(error: BaseException, wait_s: float) -> None:
            self._metrics.retried(what)
            self._log.step(
                "again", level="warning", what=what, error=f"{type(error).__name__}: {error}", wait_s=wait_s
            )

        return tried(call, again, bench.going_on)

    @contextmanager
    def _timed(self, step: str, video_id: str, **fields: Any) -> Iterator[None]:
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._metrics.stage(step, seconds)
        self._log.step(step, video_id, seconds=round(seconds, 3), **fields)


def _table_of(source: str, options: Mapping[str, Any]) -> tuple[pa.Table, int]:
    """The block of one file, and its size in bytes."""
    fs, path = filesystem(source, dict(options))
    size = int(fs.size(path) or 0)
    return block_of(planned([SourceItem(source, size)])), size
