"""What every job is told: where its files are, where its tables go, on what machine, at what price.

Plain typed dataclasses, each of which checks itself. Nothing here imports Hydra: ``jobs/`` composes a config into
these classes, a notebook can fill them by hand. Defaults that read environment variables live in ``conf/``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from pipeline.audio.choice import FIRST, Choice, choice_of
from pipeline.dataset.sources.sound_tracks import ALL_STREAMS
from pipeline.dataset.storage import public_uri
from pipeline.errors import UserError
from pipeline.workflows.cache_config import CacheConfig
from pipeline.workflows.config_checks import each_of, nearest, nearest_of, one_of, refused
from pipeline.workflows.hardware_config import HardwareConfig
from pipeline.workflows.place_checks import (
    check_options,
    check_path_on_a_cluster,
    check_place,
    check_writable,
)
from pipeline.workflows.plan_config import PlanConfig

# Optional[...] rather than X | None below: OmegaConf reads these annotations at run time.
# ruff: noqa: UP045


@dataclass
class SourceConfig:
    """Where the audio is.

    ``compare`` is how a later run tells that a file is the one in its tables: ``listing``, by size and by ETag or
    time of the last change; ``content``, by reading it. ``gone`` is what becomes of the row of a file that is there
    no longer: ``mark`` gives it the status ``gone``, ``drop`` removes it, ``keep`` leaves it as it is.
    ``audio_stream`` is which sound track is taken of files that have several: ``default``, the first; a number, of
    those with sound, from 0; ``language:xx``, the first in that language; ``all``, a row for each.
    """

    uri: Optional[str] = None
    glob: Optional[str] = None
    manifest: Optional[str] = None
    storage_options: dict[str, Any] = field(default_factory=dict)
    limit: Optional[int] = None
    compare: str = "listing"
    gone: str = "mark"
    audio_stream: str = "default"

    def choice(self) -> Choice:
        """Which sound track is decoded where a listing does not say. Raises `ValueError` for what is none."""
        return FIRST if self.audio_stream == ALL_STREAMS else choice_of(self.audio_stream)

    def places(self) -> dict[str, str]:
        """What says where the audio is, key → place."""
        given = {"source.uri": self.uri, "source.manifest": self.manifest}
        return {key: uri for key, uri in given.items() if uri}

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if not self.uri and not self.manifest:
            raise UserError(
                "source.uri is not set",
                "it says where the audio is",
                "source.uri=FOLDER or source.uri=s3://BUCKET/PREFIX",
            )
        if self.manifest and self.glob:
            raise UserError(
                "source.glob does not apply to source.manifest",
                "a manifest names every file",
                "source.glob=null or source.manifest=null",
            )
        one_of("source.compare", self.compare, ("listing", "content"))
        try:
            self.choice()
        except ValueError as error:
            raise UserError(
                f"source.audio_stream={error}, nor all",
                "it says which sound track is taken of a file that has several; numbers count from 0",
                "source.audio_stream=default",
            ) from None
        one_of("source.gone", self.gone, ("keep", "mark", "drop"))
        if self.limit is not None and self.limit < 1:
            raise refused(self, "source.limit", "must be at least 1, or null for no limit")


@dataclass
class OutputConfig:
    """Where the tables go. With no storage options of its own it uses the source's.

    ``accept_other_numbers`` goes on where this machine computes other values than those in the tables.
    """

    uri: Optional[str] = None
    overwrite: bool = False
    accept_other_numbers: bool = False
    storage_options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if not self.uri:
            raise UserError(
                "output.uri is not set",
                "it says where the tables go",
                "output.uri=FOLDER or output.uri=s3://BUCKET/PREFIX",
            )


@dataclass
class BlobsConfig:
    """Arrays too large for a row; ``names`` are those that are kept, of what the job's products have."""

    max_inline_elements: int = 4096
    names: list[str] = field(default_factory=list)

    def check(self, known: Sequence[str]) -> None:
        """Refuse what cannot work; ``known`` are the arrays that there can be. Raises `UserError`."""
        each_of("blobs.names", self.names, known)
        if self.max_inline_elements < 0:
            raise refused(self, "blobs.max_inline_elements", "must not be negative")


@dataclass
class RayConfig:
    """What drives the workers.

    ``address`` is where Ray is: ``HOST:PORT`` or ``auto`` (the cluster of this machine); ``local`` starts one on this
    machine. ``inline`` does without Ray, in one process beside the job. Unset, Ray is started here, but for work that
    one process would have done before Ray is up: the run's log says which, and why. ``num_cpus`` and
    ``object_store_memory`` (bytes) are of a Ray that is started here. ``groups`` are stages that share a process, such
    as ``decode+features``; ``auto`` shares one where there are fewer cores than stages, ``off`` never.
    """

    address: Optional[str] = None
    num_cpus: Optional[int] = None
    object_store_memory: Optional[int] = None
    groups: list[str] = field(default_factory=lambda: ["auto"])

    @property
    def names_a_cluster(self) -> bool:
        """Whether workers may be on other machines."""
        return bool(self.address) and self.address not in ("local", "inline")

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        words = ("inline", "local", "auto")
        if self.address and self.address not in words and ":" not in self.address:
            raise UserError(
                f"ray.address={self.address} is neither HOST:PORT nor one of {', '.join(words)}"
                f"{nearest(self.address, words)}",
                "inline does without Ray, local starts one here, auto joins the one that runs here",
                f"ray.address={nearest_of(self.address, words) or self.address + ':6379'}",
            )


@dataclass
class PerfConfig:
    """Threads per actor for torch, OpenMP and MKL."""

    threads: int = 1

    def check(self) -> None:
        """Refuse what cannot work. Raises `UserError`."""
        if self.threads < 1:
            raise refused(self, "perf.threads", "must be at least 1")


@dataclass
class RunConfig:
    """What all jobs can be told; a job adds what is its own, and says which stages and arrays it has."""

    source: SourceConfig = field(default_factory=SourceConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    blobs: BlobsConfig = field(default_factory=BlobsConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    perf: PerfConfig = field(default_factory=PerfConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    dry_run: bool = False
    max_failure_rate: float = 0.9
    max_strikes: int = 3
    seed: int = 0

    def output_options(self) -> dict[str, Any]:
        """Storage options of the output: its own, or the source's."""
        return dict(self.output.storage_options or self.source.storage_options)

    def pools(self) -> tuple[str, ...]:
        """The stages that have a pool of actors."""
        return ()

    def gpu_stages(self) -> tuple[str, ...]:
        """Those of them that can run on a GPU."""
        return ()

    def chosen_by_machine(self) -> tuple[str, ...]:
        """The stages whose model the machine may choose, by ``hardware.models``."""
        return ()

    def arrays(self) -> tuple[str, ...]:
        """The arrays that products of this job can store, see `BlobsConfig`."""
        return ()

    def questions(self) -> tuple[str, ...]:
        """The keys that ``--interactive`` asks for, in their order, as far as it is told until now."""
        return ("output.uri",) if self.source.manifest else ("source.uri", "output.uri")

    def check(self) -> None:
        """Refuse what cannot work, in words that name the key. Raises `UserError`."""
        self.ray.check()
        on_a_cluster = self.ray.names_a_cluster
        self.source.check()
        self.output.check()
        self.check_places()
        if on_a_cluster:
            for key, uri in {**self.source.places(), "output.uri": self.output.uri or ""}.items():
                check_path_on_a_cluster(key, uri)
        self.blobs.check(self.arrays())
        self.cache.check(on_a_cluster)
        self.plan.check()
        if not 0 <= self.max_failure_rate <= 1:
            raise refused(self, "max_failure_rate", "must lie within 0..1")
        if self.max_strikes < 1:
            raise refused(self, "max_strikes", "must be at least 1")
        self.perf.check()
        self.hardware.check(self.pools(), self.gpu_stages(), self.chosen_by_machine())

    def check_places(self) -> None:
        """Refuse places that cannot be, and options that would not be used. Raises `UserError`."""
        source, output = self.source, self.output
        for key, uri in source.places().items():
            check_place(key, uri, "source.storage_options")
        if output.uri:
            check_place("output.uri", output.uri, "output.storage_options")
        if source.uri:
            places = (source.uri, source.manifest, output.uri)
            check_options("source.storage_options", source.storage_options, places)
        check_options("output.storage_options", output.storage_options, (output.uri,))
        if output.uri:
            check_writable("output.uri", output.uri)


# Storage options whose values are safe to write down; whatever else a file system takes may be a secret.
PUBLIC_OPTIONS = {"endpoint", "endpoint_url", "region", "region_name", "anon", "use_ssl", "verify", "mode"}
PUBLIC_OPTIONS |= {
    "connect_timeout",
    "read_timeout",
    "max_attempts",
    "requester_pays",
    "project",
    "account_name",
}


def redacted(config: Any) -> Any:
    """``config`` as plain dicts and lists, with every storage option replaced by ``***`` unless known as harmless."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        config = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {
            name: _redact_options(value) if name == "storage_options" else redacted(value)
            for name, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [redacted(value) for value in config]
    return public_uri(config) if isinstance(config, str) and "://" in config else config


def _redact_options(options: Any, name: str = "") -> Any:
    if isinstance(options, dict):
        return {key: _redact_options(value, str(key)) for key, value in options.items()}
    if options is None or name in PUBLIC_OPTIONS:
        return redacted(options)
    return "***"
