"""``service.*``: what a service that works by message is told besides its job."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any, Optional

from pipeline.dataset.sources.addresses import WEB, scheme
from pipeline.dataset.storage import is_local
from pipeline.errors import UserError
from pipeline.service.kafka import Topics
from pipeline.service.messages import Names
from pipeline.workflows.config_checks import each_of, one_of, positive, refused
from pipeline.workflows.place_checks import check_place, check_writable

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.mp3")
WORKERS = ("ray", "inline")
SEARCH = ("elasticsearch", "opensearch", "off")


@dataclass
class ServiceConfig:
    """How a service is reached, what it may read, and how much it takes of its machine.

    ``roots`` are the folders and URL prefixes that songs may lie below; nothing else is read. ``output_uri`` is where
    results go, a folder for each video; null is beside the original. ``topics`` and ``fields`` rename topics and fields
    of messages. ``workers`` are actors of Ray, or processes beside the service (``inline``). ``exactly_once`` puts
    answers and offsets in one transaction.
    """

    roots: list[str] = field(default_factory=lambda: ["/shared/audio"])
    output_uri: Optional[str] = None
    file_name: str = "vocals_removed.mp3"
    workers: str = "ray"
    parallel: int = 2
    attempts: int = 3
    song_timeout_s: float = 1800.0
    retry_wait_s: float = 5.0
    drain_s: float = 30.0
    worker_memory_gb: float = 4.0
    reserve_disk_gb: float = 1.0
    state_dir: Optional[str] = None
    kafka: str = "localhost:9092"
    group: str = "soundmill-karaoke"
    kafka_options: dict[str, Any] = field(default_factory=dict)
    exactly_once: bool = True
    topics: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    search: str = "elasticsearch"
    search_url: str = "http://localhost:9200"
    search_index: str = "songs"
    search_api_key: Optional[str] = None
    search_user: Optional[str] = None
    search_password: Optional[str] = None
    search_ca_certs: Optional[str] = None
    health_host: str = "127.0.0.1"
    health_port: int = 8080
    embedded: bool = False

    def topic_names(self) -> Topics:
        """The topics, those that are renamed among them."""
        return Topics(**self.topics)

    def field_names(self) -> Names:
        """The fields of messages, those that are renamed among them."""
        return Names(**self.fields)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        one_of("service.workers", self.workers, WORKERS)
        one_of("service.search", self.search, SEARCH)
        each_of("service.topics", list(self.topics), [f.name for f in fields(Topics)])
        each_of("service.fields", list(self.fields), [f.name for f in fields(Names)])
        for key in ("parallel", "attempts", "song_timeout_s", "worker_memory_gb"):
            positive(self, f"service.{key}")
        for key in ("retry_wait_s", "drain_s", "reserve_disk_gb"):
            if getattr(self, key) < 0:
                raise refused(self, f"service.{key}", "must not be negative")
        if not 0 <= self.health_port <= 65535:
            raise refused(self, "service.health_port", "must lie within 0..65535; 0 takes one that is free")
        if not self.roots:
            raise UserError(
                "service.roots is empty",
                "it says which folders and URLs songs may lie below",
                "'service.roots=[/shared/audio]'",
            )
        for root in self.roots:
            check_place("service.roots", root, "source.storage_options")
            if is_local(root) and not root.removeprefix("file://").startswith("/"):
                raise UserError(
                    f"service.roots={root} is relative",
                    "whoever sends messages does not know this folder",
                    f"'service.roots=[/A/FOLDER/{root}]'",
                )
        if self.output_uri:
            check_place("service.output_uri", self.output_uri, "output.storage_options")
            check_writable("service.output_uri", self.output_uri)
        if not _NAME.fullmatch(self.file_name):
            must = "must be the name of an .mp3 file, of letters, digits and ._-, with no dot or dash first"
            raise refused(self, "service.file_name", must)
        for root in () if self.output_uri else self.roots:
            if scheme(root) in WEB:
                raise UserError(
                    f"service.roots={root}: nothing can be written there",
                    "results go beside their songs where no other place is given",
                    "service.output_uri=FOLDER",
                )
        for key, values in (("topics", vars(self.topic_names())), ("fields", vars(self.field_names()))):
            if len(set(values.values())) < len(values):
                raise UserError(
                    f"service.{key} gives one name to two of them",
                    f"{', '.join(values)} are {len(values)}",
                    f"service.{key}={{}}",
                )
