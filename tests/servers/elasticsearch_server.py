"""Elasticsearch for tests, without what its distribution adds: no scripts, no passwords."""

from __future__ import annotations

from servers.search_server import SearchServer


class ElasticsearchServer(SearchServer):
    """One node of Elasticsearch 8."""

    name = "elasticsearch"
    main = "org.elasticsearch.node.EmbeddedMain"
