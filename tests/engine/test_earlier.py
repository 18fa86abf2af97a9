"""What a stage reads of runs before: rows of products that are not computed again, wherever they lie."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from pipeline.dataset.contents import Product, Table
from pipeline.dataset.output import Output
from pipeline.engine.earlier import Earlier

WORDS = Table(
    "words", (pa.field("n", pa.int32()), pa.field("word", pa.string())), key="n", count="words_count"
)
PRODUCT = Product("transcribe", (pa.field("words_count", pa.int32()),), tables=(WORDS,))


def write_track(output: Output, part: str, uri: str, asset: str, *, count: int, keys: dict[str, str]) -> None:
    keys_type = pa.map_(pa.string(), pa.string())
    row = {"uri": [uri], "asset_id": [asset], "words_count": pa.array([count], pa.int32())}
    table = pa.table({**row, "extractor_keys": pa.array([list(keys.items())], keys_type)})
    output.write_table(f"tracks/{part}", table)


def write_words(output: Output, part: str, asset: str, words: list[str]) -> None:
    columns = {"asset_id": [asset] * len(words), "n": list(range(len(words))), "word": words}
    output.write_table(f"words/{part}", pa.table(columns))


@pytest.fixture
def output(tmp_path) -> Output:
    output = Output(str(tmp_path))
    write_track(output, "part-0.parquet", "a", "A", count=2, keys={"transcribe": "k"})
    write_words(output, "part-0.parquet", "A", ["one", "two"])
    write_track(output, "part-1.parquet", "copy of a", "A", count=2, keys={"transcribe": "k"})
    write_track(output, "part-2.parquet", "silent", "S", count=0, keys={"transcribe": "k"})
    write_track(output, "part-3.parquet", "failed", "F", count=0, keys={})
    return output


@pytest.mark.parametrize(("part", "uri"), [("part-0.parquet", "a"), ("part-1.parquet", "copy of a")])
def test_columns_keys_and_rows_are_found_in_whichever_part_they_lie(output, part, uri):
    earlier = pickle.loads(pickle.dumps(Earlier(output)))  # noqa: S301  as it goes to another process
    found = earlier.found(part, uri, "A", [PRODUCT])
    assert found == {
        "words_count": 2,
        "key@transcribe": "k",
        "rows@words": [{"n": 0, "word": "one"}, {"n": 1, "word": "two"}],
    }


def test_nothing_to_find_is_no_rows_and_what_is_not_there_is_none(output):
    earlier = Earlier(output)
    assert earlier.found("part-2.parquet", "silent", "S", [PRODUCT])["rows@words"] == []
    assert earlier.found("part-3.parquet", "failed", "F", [PRODUCT]) is None
    assert earlier.found("part-0.parquet", "a", "another content", [PRODUCT]) is None
    assert earlier.found("part-9.parquet", "a", "A", [PRODUCT]) is None
