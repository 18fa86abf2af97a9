"""The last three lines of a run: what was written, what was unsure or failed, and what to look at next.

They tell of the files that were asked for as they stand now, whichever run computed them, so that they are right for a
run with nothing to do, for one that was stopped and for one that failed, too.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.output import Output
from pipeline.dataset.run_folder import RunFolder, run_ids
from pipeline.dataset.storage import public_uri
from pipeline.dataset.tables.schemas import GONE
from pipeline.features.key import UNSURE
from pipeline.report.formatting import plural

COLUMNS = ("uri", "status", "key_name", "key_confidence", "tempo_bpm")
FALLBACKS_SHOWN = 2


@dataclass
class Standing:
    """The rows of the files that were asked for.

    Args:
        asked_for: files.
        files: of these, how many have a row.
        rows: that they have.
        failed, partial: of the rows.
        gone: rows of the output whose files are marked as gone.
        keyless, unsure_keys, tempoless: tracks without a key, with a weak one, without a tempo; 0 where nobody asked.
    """

    asked_for: int
    files: int = 0
    rows: int = 0
    failed: int = 0
    partial: int = 0
    _: KW_ONLY
    gone: int = 0
    keyless: int = 0
    unsure_keys: int = 0
    tempoless: int = 0

    @property
    def complete(self) -> bool:
        """Whether each file has one row."""
        return self.files == self.rows == self.asked_for

    @classmethod
    def of(cls, tables: Iterable[pa.Table], uris: Iterable[str], wanted: Collection[str] = ()) -> Standing:
        """Count.

        Args:
            tables: rows of `tracks` with ``uri`` and ``status``, and others of `COLUMNS` as far as they are there.
            uris: that were asked for.
            wanted: products that were asked for; ``key`` and ``tempo`` count.
        """
        asked = set(uris)
        found, seen = cls(len(asked)), set()
        for table in tables:
            status = table["status"]
            found.gone += _count(pc.equal(status, GONE))
            # Arrow's is_in would hash all that were asked for once more for each of hundreds of parts.
            is_asked = [uri in asked for uri in table["uri"].to_pylist()]
            here = table.filter(pa.array(is_asked, pa.bool_()))
            seen.update(here["uri"].to_pylist())
            found.rows += here.num_rows
            found.failed += _count(pc.equal(here["status"], "failed"))
            found.partial += _count(pc.equal(here["status"], "partial"))
            heard = here.filter(pc.not_equal(here["status"], "failed"))
            there = set(table.column_names)
            if "key" in wanted and {"key_name", "key_confidence"} <= there:
                found.keyless += heard["key_name"].null_count
                known = heard.filter(pc.is_valid(heard["key_name"]))
                found.unsure_keys += _count(pc.less(known["key_confidence"], UNSURE))
            if "tempo" in wanted and "tempo_bpm" in there:
                found.tempoless += heard["tempo_bpm"].null_count
        found.files = len(seen)
        return found


def _count(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0


def rows_of(output: Output) -> Iterable[pa.Table]:
    """`tracks` part by part, with those of `COLUMNS` that it has."""
    for part in output.parts("tracks"):
        with output.fs.open(output.path(part), "rb") as handle:
            file = pq.ParquetFile(handle)
            there = set(file.schema_arrow.names)
            yield file.read(columns=[c for c in COLUMNS if c in there])


def newest_report(output: Output) -> str:
    """The report of the newest run that has one; empty without."""
    for run_id in reversed(run_ids(output)):
        name = f"runs/{run_id}/report.html"
        if output.fs.exists(output.path(name)):
            return f"{output.uri}/{name}"
    return ""


def written_text(uri: str, counts: Mapping[str, int], artifacts: Mapping[str, str] | None = None) -> str:
    """The first line.

    Args:
        uri: of the output.
        counts: rows of each table; ``arrays``, files, and those of each artifact. Without any rows of `tracks`
            nothing was written.
        artifacts: name → what one of its files is called.
    """
    where = public_uri(uri)
    if not counts.get("tracks"):
        return f"written: nothing new in {where}"
    files = {name: (noun, f"in {name}/") for name, noun in (artifacts or {}).items()}
    files["arrays"] = ("array", "in blobs/")
    tables = [name for name in counts if name not in files and name not in ("tracks", "failures")]
    kinds = [(table, "row", f"in {table}") for table in ("tracks", *tables, "failures")]
    kinds += [(name, *words) for name, words in files.items()]
    said = [f"{plural(counts[kind], one)} {place}" for kind, one, place in kinds if counts.get(kind)]
    return f"written: {', '.join(said)}, under {where}"


def doubts_text(s: Standing, fallbacks: Sequence[Mapping[str, Any]] = ()) -> str:
    """The second line: of all files that were asked for, and of the fallbacks of this run.

    Args:
        fallbacks: ``stage``, ``wanted``, ``used`` and ``count``, the most frequent first.
    """
    said = []
    if s.files < s.asked_for:
        said.append(f"{s.asked_for - s.files} of {plural(s.asked_for, 'file')} not done")
    if s.failed:
        said.append(f"{s.failed} of {plural(s.asked_for, 'file')} failed")
    if s.partial:
        said.append(f"{plural(s.partial, 'file')} lacking something")
    if fallbacks:
        kinds = [f"{f['stage']}: {f['used']} instead of {f['wanted']}" for f in fallbacks[:FALLBACKS_SHOWN]]
        more = ["…"] if len(fallbacks) > FALLBACKS_SHOWN else []
        steps = plural(sum(f["count"] for f in fallbacks), "fallback")
        said.append(f"{steps} ({'; '.join([*kinds, *more])})")
    if s.keyless or s.unsure_keys:
        parts = [f"{n} {what}" for n, what in ((s.keyless, "without"), (s.unsure_keys, "unsure of")) if n]
        said.append(f"{' and '.join(parts)} {'its' if s.keyless + s.unsure_keys == 1 else 'their'} key")
    if s.tempoless:
        said.append(f"{plural(s.tempoless, 'track')} without a tempo")
    if s.gone:
        said.append(f"{plural(s.gone, 'file')} gone, {'its row' if s.gone == 1 else 'their rows'} kept")
    return f"unsure or failed: {', '.join(said) or 'nothing'}"


def next_text(uri: str, s: Standing, report: str = "", stopped: bool = False, broken: bool = False) -> str:
    """The third line.

    Args:
        uri: of the output.
        report: location of ``report.html``; empty without one.
        stopped: the run was stopped, or gave up.
        broken: rows are missing or doubled after a run that came to its end.
    """
    of = shlex.quote(f"output.uri={public_uri(uri)}")
    todo = []
    if broken:
        todo.append(f"python jobs/verify.py {of} says what is wrong with the tables")
    if stopped:
        todo.append("the same command goes on with the rest")
    if s.failed or s.partial:
        todo.append(f"python jobs/failures.py {of} says why, and with retry=true tries again")
    if report:
        todo.append(public_uri(report))
    return f"next: {'; '.join(todo) or f'python jobs/verify.py {of} checks what is there'}"


def tell(folder: RunFolder, written: str, doubts: str, following: str) -> None:
    """Say the three lines."""
    for event, text in (("written", written), ("doubts", doubts), ("next", following)):
        folder.log(event, text)
