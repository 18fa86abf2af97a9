"""Every answer of a search index is one of two errors, and no password is in it. A stand-in gives the answers."""

import base64
import json
import logging
import socket
import sys
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest

from pipeline.errors import UserError
from pipeline.optional import extra as install_hint
from pipeline.service.search import SearchAway, SearchRefused, connect, success_document

SERVERS = ["elasticsearch", "opensearch"]
SUCCESS = success_document("/music/a.flac", 0.91, 12.5, "htdemucs", datetime(2026, 3, 1, tzinfo=timezone.utc))


class StandIn(ThreadingHTTPServer):
    """In the place of a search index, none of which says 429 when it is told to: gives one answer to all questions."""

    def __init__(
        self, status: int = 200, body: bytes = b'{"result": "noop"}', kind: str = "application/json"
    ) -> None:
        self.answer, self.seen = (status, body, kind), []
        super().__init__(("127.0.0.1", 0), _StandInHandler)
        self.at = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __exit__(self, *why):
        self.shutdown()
        super().__exit__(*why)


class _StandInHandler(BaseHTTPRequestHandler):
    def _answer(self):
        status, body, kind = self.server.answer
        asked = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append((f"{self.command} {self.path}", self.headers, asked))
        self.send_response(status)
        for name, value in (
            ("content-type", kind),
            ("x-elastic-product", "Elasticsearch"),
            ("content-length", len(body)),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def log_message(self, *words):
        pass


def error_body(kind: str, reason: str = "why") -> bytes:
    return json.dumps({"error": {"type": kind, "reason": reason}}).encode()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    ("status", "body", "content_type", "expected", "only_this"),
    [
        (429, error_body("circuit_breaking_exception"), "application/json", SearchAway, False),
        (502, b"<html>Bad Gateway</html>", "text/html", SearchAway, False),
        (502, b"<html>Bad Gateway</html>", "application/json", SearchAway, False),
        (503, b"", "text/plain", SearchAway, False),
        (503, b"no", "application/octet-stream", SearchAway, False),
        (504, error_body("process_cluster_event_timeout_exception"), "application/json", SearchAway, False),
        (500, error_body("null_pointer_exception"), "application/json", SearchAway, True),
        (409, error_body("version_conflict_engine_exception"), "application/json", SearchAway, True),
        (403, error_body("cluster_block_exception"), "application/json", SearchAway, False),
        (403, error_body("security_exception"), "application/json", SearchRefused, None),
        (401, error_body("security_exception"), "application/json", SearchRefused, None),
        (404, error_body("index_not_found_exception"), "application/json", SearchRefused, None),
        (413, b"too large", "text/plain", SearchRefused, None),
    ],
)  # fmt: skip
def test_every_answer_is_one_of_two_errors(kind, status, body, content_type, expected, only_this):
    with StandIn(status, body, content_type) as stand_in:
        index = connect(kind, f"http://{stand_in.at}", timeout_s=5)
        with pytest.raises(expected) as caught:
            index.update("v", SUCCESS)
        assert type(caught.value) is expected
        assert getattr(caught.value, "only_this", None) is only_this
        assert index.ping() is (status == 403)
        assert len(stand_in.seen) == 2, "the client itself tries nothing again"


@pytest.mark.parametrize("kind", SERVERS)
def test_what_is_asked_for(kind):
    with StandIn() as stand_in:
        connect(kind, f"http://{stand_in.at}/prefix/", index="tunes").update("v", SUCCESS)
    asked, _, body = stand_in.seen[0]
    assert asked.startswith("POST /prefix/tunes/_update/v?")
    assert "retry_on_conflict=3" in asked
    sent = json.loads(body)
    assert sent["doc"] == SUCCESS
    assert sent["doc_as_upsert"] is True


@pytest.mark.parametrize("kind", SERVERS)
def test_nobody_there(kind):
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        index = connect(kind, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SearchAway, match="refused"):
            index.update("v", SUCCESS)
        assert not index.ping()


@pytest.mark.parametrize("kind", SERVERS)
def test_one_who_listens_and_never_answers(kind):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        index = connect(kind, f"http://127.0.0.1:{deaf.getsockname()[1]}", timeout_s=0.2)
        with pytest.raises(SearchAway, match="(?i)time"):
            index.update("v", SUCCESS)


@pytest.mark.parametrize("kind", SERVERS)
def test_of_several_nodes_one_is_enough(kind):
    with StandIn() as stand_in, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        index = connect(kind, f"http://127.0.0.1:{taken.getsockname()[1]}, http://{stand_in.at}")
        outcomes = []
        for _ in range(2):
            try:
                index.update("v", SUCCESS)
                outcomes.append("updated")
            except SearchAway:
                outcomes.append("away")
        assert "updated" in outcomes


PASSWORD = "s3sam€/open?#@:é"


ENCODED = quote(PASSWORD, safe="")
HEADER = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("in_url", [True, False])
def test_a_password_arrives_and_shows_nowhere(kind, in_url, caplog, capfd):
    login = f"ann:{ENCODED}@" if in_url else ""
    named = {} if in_url else {"username": "ann", "password": PASSWORD}
    with StandIn() as stand_in:
        index = connect(kind, f"http://{login}{stand_in.at}", **named)
        caplog.set_level(logging.DEBUG)
        for name in ("elastic_transport", "opensearch", "opensearchpy", "urllib3"):
            caplog.set_level(logging.DEBUG, logger=name)
        index.update("v", SUCCESS)
        assert stand_in.seen[0][1]["authorization"] == f"Basic {HEADER}"
        stand_in.answer = (401, error_body("security_exception"), "application/json")
        with pytest.raises(SearchRefused) as refused:
            index.update("v", SUCCESS)
    with pytest.raises(SearchAway) as away:
        index.update("v", SUCCESS)
    assert stand_in.at.partition(":")[2] in caplog.text, "the client said something"
    errors = [show(error.value) for error in (refused, away) for show in (str, repr)]
    said = [*errors, repr(index), repr(vars(index)["_client"]), caplog.text, *capfd.readouterr()]
    for secret in (PASSWORD, ENCODED, HEADER):
        assert not [text for text in said if secret in text]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_that_repeats_the_password_is_not_quoted(kind):
    with (
        StandIn(
            401, error_body("security_exception", f"no {PASSWORD}, no {ENCODED}, no {HEADER}")
        ) as stand_in,
        pytest.raises(SearchRefused) as caught,
    ):
        connect(kind, f"http://ann:{ENCODED}@{stand_in.at}").update("v", SUCCESS)
    assert str(caught.value) == "401 security_exception: no ***, no ***, no ***"


@pytest.mark.parametrize("kind", SERVERS)
def test_an_api_key(kind):
    with StandIn() as stand_in:
        connect(kind, f"http://{stand_in.at}", api_key="aWQ6a2V5").update("v", SUCCESS)
    assert stand_in.seen[0][1]["authorization"] == "ApiKey aWQ6a2V5"


@pytest.mark.parametrize(
    "url",
    [
        "http://ann:s3same#open@127.0.0.1:9200",
        "http://ann:s3same/open@127.0.0.1:9200",
        "http://ann:s3same?open@127.0.0.1:9200",
        "ann:s3same@127.0.0.1:9200",
        "ftp://ann:s3same@127.0.0.1",
        "http://ann:s3same@127.0.0.1:port",
        "http://[ann:s3same@127.0.0.1",
        "",
    ],
)
def test_no_address_at_all(url):
    with pytest.raises(UserError, match="no address|address of the search index") as caught:
        connect("elasticsearch", url)
    assert "s3same" not in caught.value.explained()
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_mistakes_are_explained(tmp_path):
    with pytest.raises(UserError, match="one of elasticsearch, opensearch, off"):
        connect("solr", "http://127.0.0.1:9200")
    with pytest.raises(UserError, match="it takes one"):
        connect("elasticsearch", "http://a:b@127.0.0.1:9200", api_key="k")
    with pytest.raises(UserError, match="no such file"):
        connect("elasticsearch", "https://127.0.0.1:9200", ca_certs=str(tmp_path / "none.pem"))


@pytest.mark.parametrize("kind", SERVERS)
def test_a_client_that_is_not_installed(kind, monkeypatch):
    package, module, needed = {
        "elasticsearch": ("elasticsearch", "pipeline.service.elasticsearch_index", "service"),
        "opensearch": ("opensearchpy", "pipeline.service.opensearch_index", "opensearch"),
    }[kind]
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match="is not installed") as caught:
        connect(kind, "http://127.0.0.1:9200")
    assert caught.value.do == install_hint(needed)
