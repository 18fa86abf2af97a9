import json

import pyarrow as pa
import pytest
from helpers.standard_schemas import segments_of, tracks_of

from pipeline.dataset.output import Output
from pipeline.dataset.tables.embedding_space import embedding_space, output_spaces, require_space
from pipeline.errors import UserError

MUSIC, SOUND = "HTSAT-base:0123456789ab", "HTSAT-tiny:ba9876543210"


def tracks(space, **arguments):
    return tracks_of((), clap=True, separation=False, embedding_space=space, **arguments)


def test_tables_say_whose_embeddings_they_hold():
    for schema in (tracks(MUSIC), segments_of(MUSIC)):
        assert embedding_space(schema) == MUSIC
        assert schema.field("clap_embedding").metadata[b"embedding_space"] == MUSIC.encode()
        # What the column said before is still there.
        assert schema.field("clap_embedding").metadata[b"unit"] == b"1"
    assert embedding_space(tracks(None)) is None
    assert embedding_space(tracks_of((), clap=False, separation=False, embedding_space=MUSIC)) is None


def test_text_queries_are_named_where_their_numbers_are():
    assert "clap_similarity" not in tracks(MUSIC).names
    column = tracks(MUSIC, text_queries=["a sad piano", "трек"]).field("clap_similarity")
    assert json.loads(column.metadata[b"queries"]) == ["a sad piano", "трек"]
    assert column.type == pa.list_(pa.float32())


@pytest.fixture
def output(tmp_path):
    return Output(str(tmp_path / "out"))


def test_another_space_is_refused_and_named(output):
    output.write_table("tracks/part-1.parquet", tracks(None).empty_table())
    require_space(output, MUSIC)
    output.write_table("tracks/part-2.parquet", tracks(MUSIC).empty_table())
    output.write_table("segments/part-2.parquet", segments_of(MUSIC).empty_table())
    assert output_spaces(output) == {MUSIC: "tracks/part-2.parquet"}
    require_space(output, MUSIC)
    with pytest.raises(UserError, match=f"embeddings of {MUSIC}, this run would add those of {SOUND} "):
        require_space(output, SOUND)


def test_segments_alone_count_too(output):
    """An output whose tracks were lost still holds vectors of its space."""
    output.write_table("segments/part-1.parquet", segments_of(SOUND).empty_table())
    with pytest.raises(UserError, match=SOUND):
        require_space(output, MUSIC)


def test_an_empty_output_takes_any_space(output):
    assert output_spaces(output) == {}
    require_space(output, MUSIC)
