"""The karaoke service: from its config to the threads that take songs, and an orderly end.

Reads top to bottom: look for the models → find the broker → prepare workers → take songs → drain → leave.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.counting import plural
from pipeline.dataset.output import Output
from pipeline.dataset.storage import absolute
from pipeline.engine.driver import INLINE, Cluster, local_cpus
from pipeline.engine.node import Node
from pipeline.engine.one_file import Place, ProcessPlace
from pipeline.errors import UserError
from pipeline.models.separation.names import BACKEND_NAMES
from pipeline.places import soundmill_cache
from pipeline.service.announcer import Announcer
from pipeline.service.client_log import ClientLog
from pipeline.service.crew import Crew
from pipeline.service.destinations import Rules
from pipeline.service.embedded import OPTIONS, Embedded, port_of
from pipeline.service.health import HealthServer, ServiceState
from pipeline.service.housekeeping import InstanceFolder, free_bytes
from pipeline.service.intake import Intake
from pipeline.service.kafka import Broker
from pipeline.service.logs import StepLog
from pipeline.service.metrics import Metrics
from pipeline.service.search import connect
from pipeline.service.search_updates import SearchUpdates
from pipeline.service.songs import LONGER, Limits, Recipe, Settings, Songs
from pipeline.service.spool import Spool
from pipeline.workflows.hardware import resolve_hardware
from pipeline.workflows.jobs.karaoke import KaraokeModels, find_models
from pipeline.workflows.karaoke_service_config import CHANNELS, RATE, KaraokeServiceConfig
from pipeline.workflows.stages import build_line
from pipeline.workflows.trying_out import roots_of, what_to_type

FILE, SCORE, METHOD = "instrumental_file", "karaoke_score", "karaoke_method"
SIMPLER = "midside"
"""What a song gets in the end whose worker died or took too long with every attempt before."""
GB = 1e9


def run_service(config: KaraokeServiceConfig) -> int:
    """Take songs until SIGTERM or Ctrl-C; returns the exit code. Raises `UserError`."""
    config.check()
    with ExitStack() as stack:
        return _Service(config, stack).run()


class _Service:
    """Everything that one process of the service has, in the order in which it is made and, backwards, ended."""

    def __init__(self, config: KaraokeServiceConfig, stack: ExitStack) -> None:
        self.stop = threading.Event()
        config.karaoke = dataclasses.replace(config.karaoke, sample_rate=RATE, channels=CHANNELS)
        self.folder = InstanceFolder(Path(config.service.state_dir or soundmill_cache("karaoke-service")))
        stack.callback(self.folder.close)
        self.log = StepLog(sys.stdout, service="karaoke", instance=self.folder.id, pretty=sys.stdout.isatty())
        self.log.step("starting", version=__version__)
        self.metrics, self.state = Metrics(methods=BACKEND_NAMES), ServiceState()
        self.log.step("swept", **self.folder.sweep()._asdict())
        # Whatever makes a temporary file, here and in the workers, makes it where the next run finds it.
        tempfile.tempdir = os.environ["TMPDIR"] = str(self.folder.tmp)
        self.config = config
        options = dict(config.service.kafka_options)
        if config.service.embedded:  # before the models, which take a while: what is wrong is said at once
            options = {**OPTIONS, **options}
            self._embedded(stack)
        self.models = self._models()
        service = config.service
        self.clients = ClientLog(self.log)
        self.broker = Broker(service.kafka, service.group, options, service.exactly_once)
        self._search(stack)
        self._health(stack)

    def run(self) -> int:
        """The service itself."""
        service, topics = self.config.service, self.config.service.topic_names()
        with ExitStack() as stack:
            songs = Songs(self._settings(), self.updates, metrics=self.metrics, log=self.log)
            consumer = self.broker.consumer(self.folder.id, self.clients)
            announcer = Announcer(self.broker, consumer, self.folder.id, self.log, clients=self.clients)
            crew = Crew(self._places(stack), songs, announcer, metrics=self.metrics, log=self.log)
            intake = Intake(
                consumer,
                topics,
                crew,
                announcer,
                state=self.state,
                metrics=self.metrics,
                log=self.log,
                longest_wait_s=LONGER * service.retry_wait_s * 2**service.attempts,
            )
            self.state.register("assignment", intake.assignment)
            self.state.register("answers", announcer.standing)
            self.state.register("model", crew.models)
            self.metrics.ask("worker_memory_bytes", crew.memory_bytes)
            self._stop_on_signals(stack)
            announcer.start()
            crew.start(songs.prepare)
            drain = _Drain(crew, announcer, service.drain_s)
            try:
                intake.run(self.stop, drain.done)
            finally:
                self.log.step("stopping", in_hand=crew.busy())
                crew.close()
                announcer.close(10.0)
                intake.close()
                self.clients.close()
        self.log.step("stopped")
        return 0

    def _models(self) -> KaraokeModels:
        self.log.step("models", text="looking for the models")
        models = find_models(self.config)
        for warning in models.warnings:
            self.log.step("models", level="warning", text=warning)
        self.log.step("models", text=models.about(self.config))
        return models

    def _embedded(self, stack: ExitStack) -> None:
        """Servers of our own, and how to ask them."""
        service, topics = self.config.service, self.config.service.topic_names()
        data = self.folder.folder.parents[1] / "embedded"
        servers = Embedded(data, port_of(service.kafka), port_of(service.search_url))
        servers.start(topics)
        stack.callback(servers.stop)
        service.kafka, service.search_url, service.search = servers.kafka, servers.search_url, "elasticsearch"
        self.log.step("embedded", kafka=servers.kafka, search_url=servers.search_url)
        service.roots = roots_of(service)
        print(
            what_to_type(servers.kafka, service), file=sys.stderr, flush=True
        )  # for people: the log is on stdout

    def _search(self, stack: ExitStack) -> None:
        service = self.config.service
        index = connect(
            service.search,
            service.search_url,
            index=service.search_index,
            api_key=service.search_api_key,
            username=service.search_user,
            password=service.search_password,
            ca_certs=service.search_ca_certs,
        )
        stack.callback(index.close)
        for dead in self.folder.dead():
            with self.folder.adopting(dead) as left:
                moved = Spool.adopt(self.folder.spool, [left] if left else [])
            self.log.step("adopted", updates=moved)
        spool = Spool(self.folder.spool)
        self.updates = SearchUpdates(index, spool)
        self.updates.start()
        stack.callback(self.updates.stop)
        self.metrics.ask("spooled_updates", spool.waiting)
        self.state.register("search", lambda: (index.ping(), service.search))

    def _health(self, stack: ExitStack) -> None:
        service = self.config.service
        self.metrics.ask("free_disk_bytes", lambda: free_bytes(self.folder.tmp))
        self.state.register("disk", self._disk)
        # Nobody may think it ready before it has asked for these.
        for later in ("assignment", "answers", "model"):
            self.state.register(later, lambda: (False, "starting"))
        server = HealthServer(self.state, self.metrics, host=service.health_host, port=service.health_port)
        server.start()
        stack.callback(server.stop)
        self.log.step("health", url=f"http://{service.health_host}:{server.port}/healthz")

    def _disk(self) -> tuple[bool, str]:
        free = free_bytes(self.folder.tmp)
        return free > self.config.service.reserve_disk_gb * GB, f"{free / GB:.1f} GB free"

    def _settings(self) -> Settings:
        service = self.config.service
        return Settings(
            self._recipe(self.config, self.models),
            self._simpler(),
            Rules(
                service.roots, absolute(service.output_uri) if service.output_uri else None, service.file_name
            ),
            self.folder.tmp,
            f"Soundmill {__version__}",
            names=service.field_names(),
            topics=service.topic_names(),
            limits=Limits(
                service.attempts,
                service.song_timeout_s,
                service.retry_wait_s,
                int(service.reserve_disk_gb * GB),
            ),
            form=self.config.karaoke.form(),
            source_options=dict(self.config.source.storage_options),
            output_options=self.config.output_options(),
        )

    def _recipe(self, config: KaraokeServiceConfig, models: KaraokeModels) -> Recipe:
        lines: dict[int, list[Node]] = {}

        def folder(number: int) -> Path:
            return self.folder.tmp / f"worker-{number}"

        def nodes(number: int) -> Sequence[Node]:
            if number not in lines:  # the same list each time: workers are made once
                lines[number] = build_line(config, models, Output(str(folder(number))), (FILE, SCORE, METHOD))
            return lines[number]

        keys = models.pipeline(config, Output(str(folder(0)))).keys()
        return Recipe(config.karaoke.method, nodes, folder, dict(keys), file=FILE, score=SCORE, method=METHOD)

    def _simpler(self) -> Recipe | None:
        if self.config.karaoke.method == SIMPLER:
            return None
        karaoke = dataclasses.replace(self.config.karaoke, method=SIMPLER)
        config = dataclasses.replace(self.config, karaoke=karaoke)
        return self._recipe(config, find_models(config))

    def _places(self, stack: ExitStack) -> list[Place]:
        service, threads = self.config.service, self.config.perf.threads
        limit = int(service.worker_memory_gb * GB)
        fraction = self.config.hardware.gpu_memory_fraction
        if service.workers == INLINE:
            own = fraction / service.parallel
            return [ProcessPlace(threads, limit, own) for _ in range(service.parallel)]
        return self._actors(stack, limit)

    def _actors(self, stack: ExitStack, limit: int) -> list[Place]:
        from pipeline.engine.ray_place import RayPlace
        from pipeline.engine.session import connect as join
        from pipeline.engine.session import disconnect

        service, ray, threads = self.config.service, self.config.ray, self.config.perf.threads
        self.log.step(
            "ray", text="starting Ray" if not ray.names_a_cluster else f"joining Ray at {ray.address}"
        )
        cluster = join(ray.address, ray.num_cpus, ray.object_store_memory, threads)
        stack.callback(disconnect)
        self.config.hardware, reasons = resolve_hardware(
            self.config.hardware, self.models.pipeline(self.config).stages
        )
        for reason in reasons:
            self.log.step("device", text=reason)
        share = max(self.config.hardware.gpu_shares.values(), default=0)
        _require_room(cluster, service.parallel, threads, share)
        return [
            RayPlace(
                threads,
                limit,
                gpus=1 / share if share else 0.0,
                gpu_memory_fraction=self.config.hardware.gpu_memory_fraction / max(1, share),
                environment=cluster.environment,
            )
            for _ in range(service.parallel)
        ]

    def _stop_on_signals(self, stack: ExitStack) -> None:
        """SIGTERM and Ctrl-C let what is in hand be finished, for ``service.drain_s``; a second one ends at once."""

        def stop(number: int, frame: Any) -> None:
            if self.stop.is_set():
                os._exit(130)
            self.stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, stop))


class _Drain:
    """Says when a service that is to stop need not wait any longer."""

    def __init__(self, crew: Crew, announcer: Announcer, seconds: float) -> None:
        self._crew, self._announcer, self._seconds = crew, announcer, seconds
        self._end: float | None = None

    def done(self) -> bool:
        """Whether nothing is in hand, or the time for it is over."""
        now = time.monotonic()
        self._end = self._end or now + self._seconds
        return now > self._end or (not self._crew.busy() and not self._announcer.pending)


def _require_room(cluster: Cluster, parallel: int, threads: int, share: int) -> None:
    if share and cluster.gpus * share < parallel:
        raise UserError(
            f"service.parallel={parallel} needs {parallel} shares of a card, and there are {int(cluster.gpus * share)}",
            f"each worker takes 1/{share} of one",
            f"service.parallel={max(1, int(cluster.gpus * share))}",
        )
    if cluster.cpus < parallel * threads:
        cores = max(1, int(cluster.cpus // threads))
        raise UserError(
            f"service.parallel={parallel} needs {plural(parallel * threads, 'CPU')}, and Ray has {cluster.cpus:g}",
            "each worker is an actor that reserves perf.threads of them",
            f"service.parallel={min(cores, local_cpus())}",
        )
