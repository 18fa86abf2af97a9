"""What an output holds, as declared by the stages that fill it: products, tables, artifacts. No torch, no Ray, no I/O.

Whoever reads, merges, verifies or repairs an output asks these declarations and knows no stage by name. An output keeps
them in ``contents.json`` at its root, so that what a job wrote can be verified without the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import pyarrow as pa

PATH = "contents.json"
"""Below the output root."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Folders below an output root that are no table and no artifact of anybody's.
RESERVED = frozenset({"tracks", "timings", "failures", "blobs", "runs"})
ARRAYS_SUFFIX = "_blob"
"""A column of `tracks` with this ending refers to an array of the output by its path."""


@dataclass(frozen=True)
class Table:
    """Many rows per asset, in parts that are named as those of `tracks`.

    Args:
        name: folder below the output root.
        fields: the columns after ``asset_id``, each with its unit and definition.
        key: the column that tells the rows of an asset apart.
        count: column of `tracks` that is above 0 where the asset has rows here; None where nothing says so.
        unit_vectors: columns whose vectors have norm 1 or are null.
        description: one sentence for the data dictionary.
        noun: what a row is called.
        metadata: of the schema.
    """

    name: str
    fields: tuple[pa.Field, ...]
    key: str
    count: str | None = None
    unit_vectors: tuple[str, ...] = ()
    description: str = ""
    noun: str = "row"
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_folder(self.name)
        if self.key not in {f.name for f in self.fields}:
            raise ValueError(f"table {self.name}: its key {self.key} is none of its columns")

    def schema(self, asset: pa.Field) -> pa.Schema:
        """Of the parts; ``asset`` is the field of ``asset_id``."""
        return pa.schema([asset, *self.fields], metadata=dict(self.metadata) or None)

    @property
    def row(self) -> pa.StructType:
        """Of one row without its ``asset_id``, as it travels between stages."""
        return pa.struct([(f.name, f.type) for f in self.fields])


@dataclass(frozen=True)
class Artifact:
    """Files of an asset: ``<name>/<first two of asset_id>/<asset_id>/<file>``.

    Args:
        name: folder below the output root.
        suffix: of every file, with its dot.
        magic: the bytes that every file begins with.
        files: column of `tracks` → file that is there where the column has a value; a text is the path of the file, a
            list of texts are those of as many files as the asset has, and here stands one of their kind.
        audio: whether a deep verify decodes the files.
        noun: what one of them is called.
    """

    name: str
    suffix: str
    magic: bytes
    files: Mapping[str, str] = field(default_factory=dict)
    audio: bool = False
    _: KW_ONLY
    noun: str = "file"

    def __post_init__(self) -> None:
        _check_folder(self.name)
        for file in self.files.values():
            if not file.endswith(self.suffix):
                raise ValueError(f"artifact {self.name}: {file} does not end with {self.suffix}")

    def path(self, asset_id: str, file: str) -> str:
        """Where ``file`` of an asset lies, relative to the output root."""
        return f"{self.name}/{asset_id[:2]}/{asset_id}/{file}"

    def files_of(self, asset_id: str, file: str, value: Any) -> tuple[str, ...]:
        """The files that a value of the column that refers to ``file`` stands for.

        A column of texts holds the path itself, one of lists the paths; none of another artifact, and none that is no
        path of this asset.
        """
        if value is None:
            return ()
        if not isinstance(value, (str, list)):
            return (self.path(asset_id, file),)
        paths = [value] if isinstance(value, str) else value
        return tuple(p for p in paths if p is not None and p == self.path(asset_id, p.rpartition("/")[2]))


@dataclass(frozen=True)
class Product:
    """What can be computed, kept, missing or stale on its own.

    Args:
        name: as in ``extractor_keys``.
        columns: of `tracks` that it can fill, in their order there.
        key: what has to be the same for a value in a table to be the one that would be computed now; None of what is
            declared and not computed in this run.
        stage: the stage that computes it.
        timed: its stage in ``timings`` and ``failures``: the stage's name, or ``<stage>.<product>`` where a stage has
            several products that cost something each.
        tables, artifacts: that it fills.
        version: of the code; None where ``version_column`` names the model in the row.
        version_column: column of `tracks` with the version of each row.
        unit_vectors: columns whose vectors have norm 1 or are null.
        rank: products are ordered by it in `tracks`, and by name within.
        title: a few words for the data dictionary.
        metadata: that the schema of `tracks` carries because of it.
        present: the columns that it fills in this run; None for all of them.
    """

    name: str
    columns: tuple[pa.Field, ...] = ()
    key: str | None = None
    stage: str = ""
    timed: str = ""
    tables: tuple[Table, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    version: str | None = None
    version_column: str | None = None
    unit_vectors: tuple[str, ...] = ()
    rank: int = 0
    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    present: frozenset[str] | None = None

    @property
    def filled(self) -> tuple[pa.Field, ...]:
        """The columns that it fills in this run."""
        return tuple(f for f in self.columns if self.present is None or f.name in self.present)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its columns."""
        return tuple(f.name for f in self.columns)


def _check_folder(name: str) -> None:
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(
            f"{name!r} cannot be a folder of an output: lower-case letters, none of {sorted(RESERVED)}"
        )


@dataclass(frozen=True)
class Contents:
    """All that an output holds beside what every output has (`tracks`, ``timings``, ``failures``, ``blobs``).

    Args:
        products: in the order of their stages.
        job: that writes it; empty where nobody said. One output holds one job.

    Raises:
        ValueError: two products fill one column or table, or two artifacts have one folder.
    """

    products: tuple[Product, ...] = ()
    job: str = ""

    def __post_init__(self) -> None:
        taken: dict[str, str] = {}
        for product in self.products:
            for thing in (*(f"column {n}" for n in product.names), *(f"table {t.name}" for t in product.tables),
                          *(f"artifact {a.name}" for a in product.artifacts)):  # fmt: skip
                if taken.setdefault(thing, product.name) != product.name:
                    raise ValueError(f"{thing} is filled by {taken[thing]} and by {product.name}")

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products)

    def get(self, name: str) -> Product | None:
        """The product called ``name``."""
        return next((p for p in self.products if p.name == name), None)

    @property
    def owners(self) -> dict[str, str]:
        """Column of `tracks` → the product that fills it: the only such map there is."""
        return {name: product.name for product in self.products for name in product.names}

    @property
    def tables(self) -> dict[str, Table]:
        """Name → table, in the order of the products."""
        return {table.name: table for product in self.products for table in product.tables}

    @property
    def artifacts(self) -> dict[str, Artifact]:
        """Name → artifact, in the order of the products."""
        return {artifact.name: artifact for product in self.products for artifact in product.artifacts}

    def filler(self, of: str) -> Product:
        """The product that fills table or artifact ``of``. Raises ``KeyError``."""
        for product in self.products:
            if any(thing.name == of for thing in (*product.tables, *product.artifacts)):
                return product
        raise KeyError(of)

    def timed(self, product: str) -> str:
        """The stage of a product in ``timings`` and ``failures``; its own name where it is not declared."""
        known = self.get(product)
        return (known.timed or known.stage or product) if known is not None else product

    def products_of(self, timed: str) -> tuple[str, ...]:
        """The products that a stage of ``timings`` or ``failures`` stands for: one, or all of a whole stage's."""
        return tuple(p.name for p in self.products if timed in (p.timed, p.stage))

    def ordered(self) -> tuple[Product, ...]:
        """The products in the order of their columns in `tracks`."""
        return tuple(sorted(self.products, key=lambda p: (p.rank, p.name)))

    def with_older(self, older: Contents) -> Contents:
        """These, and what only ``older`` has: products, and of the same product columns and artifact files."""
        mine = {p.name: p for p in self.products}
        taken = set(self.owners)
        merged: list[Product] = []
        for before in older.products:
            now = mine.pop(before.name, None)
            if now is None:
                kept = tuple(f for f in before.columns if f.name not in taken)
                merged.append(replace(before, columns=kept, key=None))
                continue
            have = set(now.names)
            more = tuple(f for f in before.columns if f.name not in have and f.name not in taken)
            merged.append(
                replace(
                    now,
                    columns=(*now.columns, *more),
                    tables=_joined(now.tables, before.tables),
                    artifacts=_with_files(now.artifacts, before.artifacts),
                )
            )
        return Contents((*merged, *mine.values()), self.job or older.job)

    def as_json(self) -> dict[str, Any]:
        """For ``contents.json``."""
        return {"job": self.job, "products": {p.name: _product_json(p) for p in self.products}}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Contents:
        """What `as_json` gave. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for anything else."""
        products = tuple(_product(name, entry) for name, entry in found["products"].items())
        return cls(products, str(found["job"]))


def _joined(now: tuple[Table, ...], before: tuple[Table, ...]) -> tuple[Table, ...]:
    have = {t.name for t in now}
    return (*now, *(t for t in before if t.name not in have))


def _with_files(now: tuple[Artifact, ...], before: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    older = {a.name: a for a in before}
    mine = []
    for artifact in now:
        files = older.pop(artifact.name).files if artifact.name in older else {}
        mine.append(replace(artifact, files={**files, **artifact.files}))
    return (*mine, *older.values())


def _fields_json(fields: Iterable[pa.Field]) -> dict[str, dict[str, str]]:
    told = {f.name: {k.decode(): v.decode() for k, v in (f.metadata or {}).items()} for f in fields}
    return {f.name: {"type": str(f.type), **told[f.name]} for f in fields}


def _product_json(product: Product) -> dict[str, Any]:
    return {
        "columns": _fields_json(product.columns),
        "stage": product.stage,
        "timed": product.timed,
        "title": product.title,
        "version_column": product.version_column,
        "unit_vectors": list(product.unit_vectors),
        "rank": product.rank,
        "tables": {
            t.name: {
                "columns": _fields_json(t.fields),
                "key": t.key,
                "count": t.count,
                "unit_vectors": list(t.unit_vectors),
                "description": t.description,
                "noun": t.noun,
            }
            for t in product.tables
        },
        "artifacts": {
            a.name: {
                "suffix": a.suffix,
                "magic": a.magic.hex(),
                "files": dict(a.files),
                "audio": a.audio,
                "noun": a.noun,
            }
            for a in product.artifacts
        },
    }


_PLAIN = {
    str(t): t
    for t in (
        pa.string(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(),
        pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.timestamp("us", tz="UTC"),
    )
}  # fmt: skip


def _type(text: str) -> pa.DataType:
    """Of `str` of a plain type, or of lists of such."""
    inner = re.fullmatch(r"list<(?:item|element): (.*?)(?: not null)?>", text)
    return pa.list_(_type(inner[1])) if inner else _PLAIN.get(text, pa.null())


def _fields(found: Mapping[str, Mapping[str, str]]) -> tuple[pa.Field, ...]:
    return tuple(
        pa.field(name, _type(entry["type"]), metadata={k: v for k, v in entry.items() if k != "type"} or None)
        for name, entry in found.items()
    )


def _product(name: str, entry: Mapping[str, Any]) -> Product:
    tables = tuple(
        Table(
            table,
            _fields(t["columns"]),
            t["key"],
            count=t["count"],
            unit_vectors=tuple(t["unit_vectors"]),
            description=t["description"],
            noun=t["noun"],
        )
        for table, t in entry["tables"].items()
    )
    artifacts = tuple(
        Artifact(
            artifact, a["suffix"], bytes.fromhex(a["magic"]), dict(a["files"]), a["audio"], noun=a["noun"]
        )
        for artifact, a in entry["artifacts"].items()
    )
    return Product(
        name,
        _fields(entry["columns"]),
        stage=entry["stage"],
        timed=entry["timed"],
        tables=tables,
        artifacts=artifacts,
        version_column=entry["version_column"],
        unit_vectors=tuple(entry["unit_vectors"]),
        rank=int(entry["rank"]),
        title=entry["title"],
    )
