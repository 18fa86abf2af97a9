"""Connecting to Ray, or starting it here."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray

from pipeline.dataset.storage import one_line
from pipeline.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# The last line of a traceback, such as "OSError: [Errno 28] No space left on device".
_RAISED = re.compile(r"([A-Za-z_][\w.]*(?:Error|Exception|Exhausted|Timeout)): ")


@dataclass(frozen=True)
class Cluster:
    """What Ray offers.

    Args:
        address: ``local`` for one started here.
        cpus, gpus, nodes: of the whole cluster.
        environment: variables that actors must be given, because they do not inherit them from this process.
    """

    address: str
    cpus: float
    gpus: float
    nodes: int
    environment: dict[str, str] = field(default_factory=dict)


def connect(
    address: str | None = None,
    num_cpus: int | None = None,
    object_store_memory: int | None = None,
    threads: int = 1,
) -> Cluster:
    """Join the cluster at ``address`` or start Ray on this machine.

    Args:
        address: None or ``local`` starts one.
        num_cpus, object_store_memory: of one started here; None leaves them to Ray.
        threads: of OpenMP, MKL and numba in each worker. Workers of a Ray started here inherit them; those of
            a cluster must be told, see ``Cluster.environment``.

    Raises:
        UserError: nobody answers at ``address``.
    """
    # Our log says what happened, with the traceback; Ray's own narration stays in its session logs.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    options = {"ignore_reinit_error": True, "log_to_driver": False, "logging_level": logging.ERROR}
    wanted = {name: str(threads) for name in THREAD_VARIABLES}
    if address in (None, "local"):
        os.environ.update(wanted)
        local = {"num_cpus": num_cpus, "object_store_memory": object_store_memory}
        options.update({name: value for name, value in local.items() if value is not None})
        options.update(address="local", include_dashboard=False)
    else:
        options["address"] = address
    try:
        if not ray.is_initialized():
            with _quiet_stderr():
                ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UserError(f"ray.address={address}: cannot connect to Ray ({one_line(error)})") from None
    # Ray sets its handlers up during init, so the level is set again.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    found = ray.cluster_resources()
    own = {} if address in (None, "local") else wanted
    return Cluster(address or "local", found.get("CPU", 0.0), found.get("GPU", 0.0), len(ray.nodes()), own)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what Ray's C++ core writes past Python's logging; show it after all if the block raises."""
    with tempfile.TemporaryFile() as held:
        terminal = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal, held.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def root_cause(error: BaseException) -> str:
    """``Class: message`` of what a worker raised, below the layers that Ray wraps around it.

    The exception itself does not survive its journey; the worker's traceback, which does, names it.
    """
    for line in str(error).splitlines():
        found = _RAISED.match(line)
        if found and not found[1].startswith("ray."):
            return one_line(Exception(line))
    return f"{type(error).__name__}: {one_line(error)}"


def disconnect() -> None:
    """Leave the cluster; ends a Ray that was started here."""
    ray.shutdown()
