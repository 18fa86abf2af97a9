"""``cache.*``: where results are kept for later runs, for how long, and how much of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.dataset.storage import public_uri
from pipeline.errors import UserError

DEFAULT_URI = "~/.cache/soundmill/results"

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class CacheConfig:
    """The result cache. With no storage options of its own it uses the source's.

    ``uri`` null is ``~/.cache/soundmill/results``. ``max_bytes`` holds at the end of a run, which may exceed it while
    it writes. ``audio`` keeps decoded audio, too: some 200 MB per track of four minutes.
    """

    enabled: bool = False
    uri: Optional[str] = None
    ttl_hours: float = 720.0
    max_bytes: int = 50_000_000_000
    audio: bool = False
    storage_options: dict[str, Any] = field(default_factory=dict)

    def location(self) -> str:
        """Where it is."""
        return self.uri or DEFAULT_URI

    def check(self, on_a_cluster: bool) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if not (math.isfinite(self.ttl_hours) and self.ttl_hours > 0):
            default = CacheConfig.ttl_hours
            raise UserError(
                f"cache.ttl_hours={self.ttl_hours:g} must be greater than 0", do=f"cache.ttl_hours={default}"
            )
        if self.max_bytes <= 0:
            default = CacheConfig.max_bytes
            raise UserError(
                f"cache.max_bytes={self.max_bytes} must be greater than 0", do=f"cache.max_bytes={default}"
            )
        if not self.enabled:
            return
        uri = self.location()
        if uri.startswith("memory:"):
            raise UserError(
                "cache.uri=memory:// cannot be",
                "it is seen by one process only",
                "cache.uri=FOLDER or cache.uri=s3://BUCKET/PREFIX",
            )
        if "@" in uri.partition("://")[2].split("/", 1)[0]:
            raise UserError(
                "cache.uri carries credentials",
                "they would be written down: put them into cache.storage_options",
                f"cache.uri={public_uri(uri)} and 'cache.storage_options={{key: K, secret: S}}'",
            )
        if on_a_cluster and "://" not in uri and not uri.startswith(("/", "~")):
            raise UserError(
                f"cache.uri={uri} is relative",
                "on a cluster the job runs in a copy of this folder, which is thrown away",
                "cache.uri=/an/absolute/path on a disk that all nodes share, or cache.uri=s3://BUCKET/PREFIX",
            )
