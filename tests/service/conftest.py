"""Fixtures of the tests of the service: real servers."""

from __future__ import annotations

from servers.fixtures import elasticsearch_url, kafka, opensearch_url  # noqa: F401  fixtures
