"""Fixtures of real servers; the ``conftest.py`` of a folder imports those that its tests use.

``SOUNDMILL_TEST_KAFKA`` (bootstrap servers) and ``SOUNDMILL_TEST_ELASTICSEARCH`` (URL) name servers that are there and
are used instead. Where there are none and none can be started, the test is skipped with what to install; the reason is
not among those that `skips` knows, so that it fails the run of ``make test``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from servers.artifacts import ServerMissing
from servers.elasticsearch_server import ElasticsearchServer
from servers.java_server import JavaServer
from servers.kafka_client import KafkaThere
from servers.kafka_server import KafkaCluster, KafkaServer
from servers.opensearch_server import OpenSearchServer

Server = TypeVar("Server", bound=JavaServer | KafkaCluster)


@contextmanager
def skip_without() -> Iterator[None]:
    """Skip the test if the block misses the software of a server."""
    try:
        yield
    except ServerMissing as error:
        pytest.skip(str(error))


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server for the block's duration; skip the test if its software cannot be had."""
    with skip_without():
        server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaThere | KafkaServer]:
    """A Kafka for all tests of the session: they tell their topics and groups apart by name."""
    given = os.environ.get("SOUNDMILL_TEST_KAFKA")
    if given:
        yield KafkaThere(given)
        return
    with running(KafkaServer(tmp_path_factory.mktemp("kafka"))) as server:
        yield server


@pytest.fixture(scope="session")
def elasticsearch_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An Elasticsearch for all tests of the session: they tell their indices apart by name."""
    given = os.environ.get("SOUNDMILL_TEST_ELASTICSEARCH")
    if given:
        yield given
        return
    with running(ElasticsearchServer(tmp_path_factory.mktemp("elasticsearch"))) as server:
        yield server.url


@pytest.fixture(scope="session")
def opensearch_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An OpenSearch for all tests of the session: they tell their indices apart by name."""
    with running(OpenSearchServer(tmp_path_factory.mktemp("opensearch"))) as server:
        yield server.url
