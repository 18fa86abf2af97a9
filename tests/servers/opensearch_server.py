"""OpenSearch for tests, without what its distribution adds: no passwords."""

from __future__ import annotations

from servers.search_server import SearchServer


class OpenSearchServer(SearchServer):
    """One node of OpenSearch 2."""

    name = "opensearch"
    main = "EmbeddedMain"
