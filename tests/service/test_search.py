"""What the index is told, and what it makes of it: real servers."""

import threading
import uuid
from datetime import datetime, timedelta, timezone

import pytest
import requests

from pipeline.service.search import SearchAway, SearchRefused, connect, failure_document, success_document

AT = datetime(2026, 3, 1, 13, 30, 15, 250_000, tzinfo=timezone(timedelta(hours=1)))
SUCCESS = success_document("/music/a.flac", 0.91, 12.5, "htdemucs", AT)
FAILURE = failure_document("DISK_FULL", "no space left", AT)
SERVERS = ["elasticsearch", "opensearch"]


class Server:
    """A server and a fresh index in it, looked at without any of the clients that are tested."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url, self.index = kind, url, f"songs-{uuid.uuid4().hex[:10]}"

    def connect(self, **options):
        return connect(self.kind, self.url, index=self.index, **options)

    def ask(self, method: str, path: str, body: dict | None = None) -> dict:
        answer = requests.request(method, f"{self.url}/{self.index}{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def source(self, video_id: str) -> dict:
        # In a path requests would take ".." for the folder above.
        return self.ask("POST", "/_mget", {"ids": [video_id]})["docs"][0]["_source"]


@pytest.fixture(params=SERVERS)
def server(request) -> Server:
    return Server(request.param, request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def elasticsearch(elasticsearch_url) -> Server:
    return Server("elasticsearch", elasticsearch_url)


def test_documents_are_nested_and_in_utc():
    audio = {"quality_score": 0.91, "processing_time": 12.5, "method": "htdemucs", "error": None}
    assert {
        "file_paths": {"vocals_removed": "/music/a.flac"},
        "updated_at": "2026-03-01T12:30:15.250Z",
        "processing_metadata": {"audio": audio},
    } == SUCCESS
    error = {"code": "DISK_FULL", "message": "no space left", "timestamp": "2026-03-01T12:30:15.250Z"}
    assert {
        "updated_at": "2026-03-01T12:30:15.250Z",
        "processing_metadata": {"audio": {"error": error}},
    } == FAILURE


def test_what_json_does_not_have_is_null_and_what_utf_8_does_not_have_is_replaced():
    audio = success_document("/a", float("nan"), 1.0, "m", AT)["processing_metadata"]["audio"]
    assert audio["quality_score"] is None
    error = failure_document("FILE_UNREADABLE", "b\udcffd" + "x" * 5000, AT)["processing_metadata"]["audio"][
        "error"
    ]
    assert error["message"].startswith("b?dxx")
    assert len(error["message"]) == 1000
    with pytest.raises(ValueError, match="time zone"):
        success_document("/a", 0.5, 1.0, "m", AT.replace(tzinfo=None))


def test_an_update_merges_into_what_is_there(server):
    song = {
        "title": "Autumn Leaves",
        "file_paths": {"original": "/music/a.wav"},
        "processing_metadata": {"video": {"fps": 25}, "audio": {"loudness": -14.0}},
    }
    server.ask("PUT", "/_doc/v1", song)
    server.connect().update("v1", SUCCESS)
    assert server.source("v1") == {
        "title": "Autumn Leaves",
        "file_paths": {"original": "/music/a.wav", "vocals_removed": "/music/a.flac"},
        "updated_at": "2026-03-01T12:30:15.250Z",
        "processing_metadata": {
            "video": {"fps": 25},
            "audio": {"loudness": -14.0, **SUCCESS["processing_metadata"]["audio"]},
        },
    }


def test_a_song_that_is_not_there_is_made(server):
    server.connect().update("new", SUCCESS)
    assert server.source("new") == SUCCESS


def test_no_field_has_a_dot_in_its_name(server):
    index = server.connect()
    index.update("v", SUCCESS)
    index.update("v", FAILURE)

    def names(found):
        return [n for k, v in found.items() for n in (k, *(names(v) if isinstance(v, dict) else ()))]

    assert not [name for name in names(server.source("v")) if "." in name]
    mapping = server.ask("GET", "/_mapping")[server.index]["mappings"]["properties"]
    assert mapping["updated_at"]["type"] == "date"
    audio = mapping["processing_metadata"]["properties"]["audio"]["properties"]
    assert set(audio) == {"quality_score", "processing_time", "method", "error"}


def test_a_failure_keeps_an_earlier_result_and_a_success_takes_it_back(server):
    index = server.connect()
    index.update("v", SUCCESS)
    index.update("v", FAILURE)
    found = server.source("v")
    assert found["file_paths"] == {"vocals_removed": "/music/a.flac"}
    assert found["processing_metadata"]["audio"]["method"] == "htdemucs"
    assert found["processing_metadata"]["audio"]["error"]["code"] == "DISK_FULL"
    index.update("v", SUCCESS)
    assert server.source("v") == SUCCESS
    index.update("v", FAILURE)
    assert server.source("v")["processing_metadata"]["audio"]["error"]["code"] == "DISK_FULL"


@pytest.mark.parametrize(
    "video_id",
    ["a/b", "..", "../_mapping", "a b", "%2F", "a?b#c", "a,b*", "+&=", "_doc", "ä日本😀", "a\nb", "x" * 512],
)
def test_any_id_is_one_document(server, video_id):
    server.connect().update(video_id, SUCCESS)
    assert server.source(video_id) == SUCCESS


@pytest.mark.parametrize("video_id", ["", "x" * 513, "\ud800"])
def test_an_id_that_no_index_has_is_refused(server, video_id):
    with pytest.raises(SearchRefused):
        server.connect().update(video_id, SUCCESS)


def test_two_writers_of_one_song_are_both_in_it(server):
    fields = {"first": 0, "second": 0}
    server.ask("PUT", "/_doc/v", fields)
    errors = []

    def write(field):
        index = server.connect(retry_on_conflict=10)
        try:
            for number in range(1, 41):
                index.update("v", {field: number})
        except SearchAway as error:
            errors.append(error)

    writers = [threading.Thread(target=write, args=(field,)) for field in fields]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not errors
    assert server.source("v") == {"first": 40, "second": 40}


def test_a_conflict_is_of_this_update_alone(elasticsearch):
    elasticsearch.ask("PUT", "/_doc/v", {"first": 0})
    seen = threading.Event()
    conflicts = []

    def write(field):
        index = elasticsearch.connect(retry_on_conflict=0)
        for number in range(2000):
            if seen.is_set():
                return
            try:
                index.update("v", {field: number})
            except SearchAway as error:
                conflicts.append(error)
                seen.set()

    writers = [threading.Thread(target=write, args=(f"f{n}",)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert "409 version_conflict_engine_exception" in str(conflicts[0])
    assert conflicts[0].only_this


def test_what_does_not_fit_the_mapping_is_refused(server):
    index = server.connect()
    index.update("v", SUCCESS)
    with pytest.raises(SearchRefused, match=r"400 .*failed to parse field \[updated_at\]"):
        index.update("v", {"updated_at": "yesterday"})
    with pytest.raises(SearchRefused, match="400"):
        index.update("v", {"file_paths": "no object"})
    with pytest.raises(SearchRefused, match="JSON"):
        index.update("v", {"quality": float("nan")})
    assert server.source("v") == SUCCESS


def test_an_index_without_a_living_shard_is_away(server):
    nowhere = {"settings": {"index.routing.allocation.require.box": "none", "number_of_replicas": 0}}
    server.ask("PUT", "?wait_for_active_shards=0", nowhere)
    with pytest.raises(SearchAway, match="503 unavailable_shards_exception"):
        server.connect(timeout_s=1).update("v", SUCCESS)


def test_a_read_only_index_is_away(server):
    server.ask("PUT", "", {})
    server.ask("PUT", "/_settings", {"index.blocks.read_only": True})
    with pytest.raises(SearchAway, match="403 cluster_block_exception"):
        server.connect().update("v", SUCCESS)


def test_the_client_of_elasticsearch_says_so_when_it_meets_opensearch(opensearch_url):
    index = connect("elasticsearch", opensearch_url)
    assert not index.ping()
    with pytest.raises(SearchRefused, match="service.search=opensearch"):
        index.update("v", SUCCESS)


def test_ping(server):
    index = server.connect()
    assert index.ping()
    index.close()


def test_off_takes_everything():
    index = connect("off", "")
    index.update("v", SUCCESS)
    assert index.ping()
    index.close()
