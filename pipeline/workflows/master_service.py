"""The service that masters are listened to by: from its config to the server, and an orderly end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.audio.reader import ArrayReader
from pipeline.audio.validate import Limits
from pipeline.mastering.song import Mastering
from pipeline.mastering.wish import Wish
from pipeline.service.listening.analysis import Analysis
from pipeline.service.listening.app import application
from pipeline.service.listening.server import PACKAGES, Server
from pipeline.service.listening.songs import Songs
from pipeline.service.listening.sources import Sources
from pipeline.service.logs import StepLog
from pipeline.service.web_server import require_packages
from pipeline.workflows.master_presets import presets
from pipeline.workflows.master_service_config import MasterServiceConfig

_MB = 1_000_000


def run_service(config: MasterServiceConfig) -> int:
    """Let masters be listened to until SIGTERM or Ctrl-C; returns the exit code. Raises `UserError`."""
    config.check()
    require_packages(*PACKAGES)
    log = StepLog(sys.stdout, service="listening", instance=str(os.getpid()), pretty=sys.stdout.isatty())
    stop = threading.Event()
    with ExitStack() as stack:
        _stop_on_signals(stop, stack)
        log.step("starting", version=__version__)
        songs = songs_of(config, log)
        service = config.listening
        app = application(songs, presets(), log, token=service.token, names=service.hosts())
        server = stack.enter_context(Server(app, service.host, service.port))
        # Before the server ends: who listens is told, and then it has nothing to wait for.
        stack.callback(songs.close)
        log.step("listening", url=server.url, token=service.token is not None, roots=list(service.roots))
        threading.Thread(target=_begin, args=(songs, log), name="warming-up", daemon=True).start()
        stop.wait()
        log.step("stopping")
    log.step("stopped")
    return 0


def songs_of(config: MasterServiceConfig, log: StepLog) -> Songs:
    """The songs of a service that is checked; nothing is begun yet."""
    service = config.listening
    options = dict(config.source.storage_options)
    sources = Sources(service.roots, options, service.max_download_mb * _MB, service.folder)
    limits = Limits(service.max_hours * 3600.0, None)
    return Songs(
        sources,
        Analysis(service.recordings, limits, service.folder),
        config.understood,
        log,
        keep=service.songs,
        workers=service.workers,
        bits=service.bits,
        folder=service.folder,
    )


def warm_up() -> None:
    """Master a moment of noise, so that the first song need not wait for what is compiled and loaded."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100)).astype(np.float32)
    for rate in (44_100, 48_000):
        for channels in (1, 2):
            wish = Wish(presets()["warm"], "warm")
            with Mastering(ArrayReader(noise[:channels]), rate, wish) as mastering:
                mastering.render(mastering.settle(), lambda block: None)


def _begin(songs: Songs, log: StepLog) -> None:
    try:
        songs.analysis.decoders.warm()
        warm_up()
    except Exception as error:  # noqa: BLE001  whatever it is, the songs will say it
        log.step("warming up", level="warning", error=f"{type(error).__name__}: {error}")
    songs.start()
    log.step("ready")


def _stop_on_signals(stop: threading.Event, stack: ExitStack) -> None:
    """SIGTERM and Ctrl-C end the service in order; a second one at once."""

    def stopping(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        stack.callback(signal.signal, number, signal.signal(number, stopping))
