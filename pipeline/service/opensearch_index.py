"""A search index on an OpenSearch server, 2 or 3; needs the package opensearch-py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opensearchpy import OpenSearch
from opensearchpy.exceptions import ConnectionError as NotConnected
from opensearchpy.exceptions import SerializationError, TransportError

from pipeline.service.search_address import Access, Address
from pipeline.service.search_answers import SearchRefused, judged, require_json, unheard, without


class OpenSearchIndex:
    """Partial updates of one index; several threads may call at once.

    Args:
        addresses: of the nodes.
        access: who is asking, and how to tell that the server is the right one.
        index: name or alias.
        timeout_s: for one answer.
        retry_on_conflict: how often the server itself tries again when another writer was faster.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        access: Access,
        *,
        index: str,
        timeout_s: float,
        retry_on_conflict: int,
    ) -> None:
        self._secrets = access.secrets
        self._where = ", ".join(address.url for address in addresses)
        self._to = {
            "index": index,
            "retry_on_conflict": retry_on_conflict,
            "_source": False,
            # The client takes `timeout` for its own unless this stands beside it.
            "request_timeout": timeout_s,
            # For a shard that is not there the server has to give up before the client does, and to say why.
            "timeout": f"{int(timeout_s * 800)}ms",
        }
        self._client = OpenSearch(
            [{"host": a.host, "port": a.port, "use_ssl": a.secure, "url_prefix": a.path} for a in addresses],
            headers=access.headers,
            timeout=timeout_s,
            max_retries=0,
            retry_on_timeout=False,
            retry_on_status=(),
            **({"ca_certs": access.ca_certs} if access.ca_certs else {}),
        )

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        """See `pipeline.service.search.SearchIndex.update`."""
        require_json(document)
        try:
            self._client.update(id=video_id, body={"doc": document, "doc_as_upsert": True}, **self._to)
        except NotConnected as error:
            raise unheard(self._where, error, error.error, self._secrets) from None
        except TransportError as error:
            raise judged(int(error.status_code), error.info, self._secrets) from None
        except SerializationError as error:  # what a proxy says that has no server behind it
            raise unheard(self._where, error, error, self._secrets) from None
        except (ValueError, TypeError) as error:  # an id without a letter
            raise SearchRefused(without(self._secrets, f"{type(error).__name__}: {error}")) from None

    def ping(self) -> bool:
        """See `pipeline.service.search.SearchIndex.ping`."""
        try:
            self._client.info()
        except TransportError as error:
            return error.status_code == 403
        except SerializationError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
