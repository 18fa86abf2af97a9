"""Reading the tables one part at a time, and what is wrong with parts as such."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipeline.dataset.output import EMPTY_PART, Output, read_part
from pipeline.dataset.storage import explain, one_line
from pipeline.dataset.tables.embedding_space import embedding_space
from pipeline.dataset.tables.schemas import FAILURES, IDENTITY, TIMINGS, table_schema
from pipeline.dataset.verify.findings import Finding, Findings

RERUN = "run the job again: only what is missing is computed"
ONE_SCHEMA = (
    "one output holds one set of columns: run the job with its config again, or type output.overwrite=true"
)
ASIDE = "move the part out of the table, then " + RERUN


def _needed(output: Output) -> dict[str, tuple[pa.Schema, tuple[str, ...]]]:
    """Table → its schema, and the columns without which nothing can be said of a part; what else a table has, it may
    have had under an older schema."""
    declared = {name: table_schema(table) for name, table in output.contents.tables.items()}
    return {
        "tracks": (pa.schema(IDENTITY), ("asset_id", "uri", "status", "run_id", "extractor_keys")),
        **{name: (schema, tuple(schema.names)) for name, schema in declared.items()},
        "timings": (TIMINGS, ("asset_id", "stage", "compute_s")),
        "failures": (FAILURES, ("asset_id", "uri", "stage", "run_id")),
    }


class Parts:
    """The parts of all tables. One part at a time is in memory.

    Args:
        output: root of the tables.
        findings: where unreadable parts, orphans and strange schemas go.
    """

    def __init__(self, output: Output, findings: Findings) -> None:
        self.output = output
        self.findings = findings
        self.tables = output.tables
        self._needed = _needed(output)
        self.names = {table: output.parts(table) for table in self.tables}
        self.unreadable: set[str] = set()
        self._schemas: dict[str, dict[str, pa.Schema]] = {table: {} for table in self.tables}
        # Distinct schemas by what they say: a part keeps a reference only.
        self._distinct: dict[str, pa.Schema] = {}

    def broken(self, table: str) -> bool:
        """Whether a part of ``table`` could not be read, so that what it held is unknown."""
        return any(part.startswith(f"{table}/") for part in self.unreadable)

    def read(self, table: str, only: set[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Name and rows of each readable part. Raises `UserError` where the storage itself fails."""
        for part in self.names[table]:
            if part in self.unreadable or (only is not None and part not in only):
                continue
            found = self._one(part)
            if found is not None:
                self._schemas[table].setdefault(part, self._shared(found.schema))
                yield part, found

    def _one(self, part: str) -> pa.Table | None:
        try:
            data = self.output.read(part)
        except Exception as error:  # noqa: BLE001  every fsspec backend raises its own classes
            raise explain(f"{self.output.uri}/{part}", error) from None
        try:
            found = read_part(pa.BufferReader(data))
            found.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            self.unreadable.add(part)
            said = f"cannot be read ({one_line(error, 100)})"
            self.findings.add(Finding("unreadable_part", part, said, advice=ASIDE))
            return None
        schema, names = self._needed[part.partition("/")[0]]
        wrong = [
            n
            for n in names
            if n not in found.column_names
            # Of a type that `contents.json` cannot tell, null.
            or schema.field(n).type not in (found.schema.field(n).type, pa.null())
        ]
        if wrong:
            self.unreadable.add(part)
            said = f"has no column {', '.join(wrong)} of the type that the table has"
            self.findings.add(Finding("schema", part, said, advice=ASIDE))
            return None
        return found

    def _shared(self, schema: pa.Schema) -> pa.Schema:
        return self._distinct.setdefault(_words(schema), schema)

    def check_orphans(self) -> None:
        """Parts of other tables whose `tracks` part was never written."""
        tracks = {part.partition("/")[2] for part in self.names["tracks"]}
        for table in self.tables[1:]:
            for part in list(self.names[table]):
                name = part.partition("/")[2]
                # `fill_empty` names its part so: it has no rows and belongs to no tracks.
                if name in tracks or name == EMPTY_PART:
                    continue
                self.names[table].remove(part)  # its rows do not count
                ours = name.startswith("part-")
                self.findings.add(
                    Finding(
                        "orphan_part",
                        part,
                        f"no tracks/{name}: an interrupted run left it",
                        mend="remove the part" if ours else None,
                        advice="" if ours else "its name is not one of ours: move it elsewhere",
                        remove=part if ours else None,
                    )
                )

    def check_foreign(self) -> None:
        """Files in the folder of a table that are no parts: a reader that takes the folder stumbles over them."""
        for table in self.tables:
            folder = self.output.path(table)
            listed = self.output.fs.ls(folder, detail=False) if self.output.fs.exists(folder) else ()
            for path in listed:
                name = str(path).rstrip("/").rsplit("/", 1)[-1]
                # Readers pass over what begins with a dot or an underscore, as Spark's own marks do.
                if name and name[0] not in "._" and not name.endswith(".parquet"):
                    said = f"is no part: whoever reads the folder {table}/ whole cannot read it"
                    self.findings.add(
                        Finding("foreign_file", f"{table}/{name}", said, advice="move it elsewhere")
                    )

    def check_schemas(self) -> None:
        """Parts whose columns differ from those of most others; of those that were read so far."""
        for of_table in self._schemas.values():
            # A table without rows knows nothing of what came later, such as whose embeddings it might hold.
            found = {part: schema for part, schema in of_table.items() if not part.endswith(f"/{EMPTY_PART}")}
            if not found:
                continue
            usual, _ = Counter(map(_words, found.values())).most_common(1)[0]
            for part, schema in found.items():
                if _words(schema) != usual:
                    said = _difference(schema, self._distinct[usual])
                    self.findings.add(Finding("schema", part, said, advice=ONE_SCHEMA))


def _words(schema: pa.Schema) -> str:
    return (
        f"{schema.to_string(show_field_metadata=False, show_schema_metadata=False)}|{embedding_space(schema)}"
    )


def _difference(schema: pa.Schema, usual: pa.Schema) -> str:
    here, there = ({f.name: str(f.type) for f in s} for s in (schema, usual))
    said = []
    for label, names in (("lacks", there.keys() - here.keys()), ("has besides", here.keys() - there.keys())):
        if names:
            said.append(f"{label} {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''}")
    other = sorted(n for n in here.keys() & there.keys() if here[n] != there[n])
    said += [f"{n} is {here[n]}, not {there[n]}" for n in other[:5]]
    if not said and embedding_space(schema) != embedding_space(usual):
        said.append(f"its embeddings are of {embedding_space(schema)}, not of {embedding_space(usual)}")
    return f"differs from most parts: {'; '.join(said) or 'other order of columns'}"
