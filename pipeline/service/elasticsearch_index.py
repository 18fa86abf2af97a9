"""A search index on an Elasticsearch server, 8 or 9; needs the package elasticsearch, 8.19."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from elastic_transport import TransportError
from elasticsearch import ApiError, Elasticsearch, UnsupportedProductError

from pipeline.service.search_address import Access, Address
from pipeline.service.search_answers import SearchRefused, judged, require_json, unheard, without

_OTHER_PRODUCT = "this is no Elasticsearch; if it is OpenSearch: service.search=opensearch"


class ElasticsearchIndex:
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
            # For a shard that is not there the server has to give up before the client does, and to say why.
            "timeout": f"{int(timeout_s * 800)}ms",
        }
        self._client = Elasticsearch(
            [address.url for address in addresses],
            headers=access.headers,
            request_timeout=timeout_s,
            max_retries=0,
            retry_on_timeout=False,
            retry_on_status=(),
            **({"ca_certs": access.ca_certs} if access.ca_certs else {}),
        )

    def update(self, video_id: str, document: dict[str, Any]) -> None:
        """See `pipeline.service.search.SearchIndex.update`."""
        require_json(document)
        try:
            self._client.update(id=video_id, doc=document, doc_as_upsert=True, source=False, **self._to)
        except UnsupportedProductError:
            raise SearchRefused(_OTHER_PRODUCT) from None
        except ApiError as error:
            if error.status_code == 406:
                raise SearchRefused(_OTHER_PRODUCT) from None
            raise judged(error.status_code, error.body, self._secrets) from None
        except TransportError as error:  # of which one is what a proxy says that has no server behind it
            raise unheard(self._where, error, error.message, self._secrets) from None
        except (ValueError, TypeError) as error:  # an id without a letter
            raise SearchRefused(without(self._secrets, f"{type(error).__name__}: {error}")) from None

    def ping(self) -> bool:
        """See `pipeline.service.search.SearchIndex.ping`."""
        try:
            self._client.info()
        except UnsupportedProductError:
            return False
        except ApiError as error:
            return error.status_code == 403
        except TransportError:
            return False
        return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
