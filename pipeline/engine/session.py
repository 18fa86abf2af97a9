"""Connecting to Ray, or starting it here."""

from __future__ import annotations

import logging
import os
import secrets
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.dataset.storage import one_line
from pipeline.engine.driver import Cluster
from pipeline.engine.process import card
from pipeline.engine.ray_folder import ray_folder
from pipeline.engine.starting import THREAD_VARIABLES
from pipeline.errors import UserError
from pipeline.places import has_file, home, may_write

PROBE_TIMEOUT_S = 120.0


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
        threads: of OpenMP, MKL, OpenBLAS, numexpr and numba in each worker. Workers of a Ray started here
            inherit them; those of a Ray that ran before must be told, see ``Cluster.environment``.

    Raises:
        UserError: nobody answers at ``address``, or one that starts here has no folder for its session.
    """
    # Our log says what happened, with the traceback; Ray's own narration stays in its session logs.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    # Pools keep their size, see `pipeline.engine.graph`; a pass over a few files has fewer blocks than actors.
    warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
    options = {"ignore_reinit_error": True, "log_to_driver": False, "logging_level": logging.ERROR}
    wanted = {name: str(threads) for name in THREAD_VARIABLES}
    if address in (None, "local"):
        os.environ.update(wanted)
        _bring_a_token()
        local = {"num_cpus": num_cpus, "object_store_memory": object_store_memory}
        options.update({name: value for name, value in local.items() if value is not None})
        options.update(address="local", include_dashboard=False)
    else:
        options["address"] = address
    ours = address in (None, "local") and not ray.is_initialized()
    note = ""
    if ours:
        folder, note = ray_folder()
        options.update({"_temp_dir": folder} if folder else {})
    try:
        if not ray.is_initialized():
            with _quiet_stderr():
                ray.init(**options)
    except (
        ConnectionError,
        ValueError,
        RuntimeError,
        OSError,
        TimeoutError,
        ray.exceptions.AuthenticationError,
    ) as error:
        raise _no_ray(address, error) from None
    # Ray sets its handlers up during init, so the level is set again.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    found = ray.cluster_resources()
    kinds = sorted(name.partition(":")[2] for name in found if name.startswith("accelerator_type:"))
    alive = [node for node in ray.nodes() if node["Alive"]]
    each = (node["Resources"].get("CPU", 0.0) for node in alive)
    return Cluster(
        address or "local",
        found.get("CPU", 0.0),
        found.get("GPU", 0.0),
        len(alive),
        {} if ours else wanted,
        accelerators=tuple(kinds),
        node_cpus=tuple(cpus for cpus in each if cpus),
        note=note,
    )


def _bring_a_token() -> None:
    """Give a Ray that starts here its password where it could not keep one: it has no other place than ``~/.ray``."""
    file = home() / ".ray" / "auth_token"
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not given and not has_file(file) and not may_write(file.parent):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _no_ray(address: str | None, error: BaseException) -> UserError:
    text = one_line(error, 160)
    if isinstance(error, UnicodeError):
        return UserError(
            "Ray cannot be given a path that is not ASCII",
            f"the locale says that names are in {sys.getfilesystemencoding()}, and Ray takes them for UTF-8",
            "PYTHONUTF8=1 before the command",
        )
    if address in (None, "local"):
        return UserError(
            "Ray does not start on this machine", text, "ray.num_cpus=2 ray.object_store_memory=1000000000"
        )
    if any(
        "AuthToken" in str(one) or isinstance(one, ray.exceptions.AuthenticationError)
        for one in _chain(error)
    ):
        return UserError(
            f"ray.address={address}: the Ray there wants another token",
            "it was started with RAY_AUTH_MODE=token, and the token here is missing or not that one",
            "RAY_AUTH_MODE=token before the command, with the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
        )
    return UserError(
        f"ray.address={address}: no Ray answers there",
        text,
        "ray.address=HOST:6379 (the port of `ray start --head`), ray.address=auto on a machine of the cluster, or "
        "nothing at all for this machine alone; with token authentication also RAY_AUTH_MODE=token",
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hold back what Ray's C++ core writes past Python's logging; show it after all if the block raises.

    What other threads print meanwhile goes where it always does.
    """
    with tempfile.TemporaryFile() as held:
        # Closed with the last thread that still has it in hand.
        terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
        before = sys.stderr
        if _is_descriptor_2(before):
            sys.stderr = terminal
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(terminal.fileno(), held.read())
            raise
        finally:
            os.dup2(terminal.fileno(), 2)
            if sys.stderr is terminal:
                sys.stderr = before


def _is_descriptor_2(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # a test's, or none at all
        return False


def gpu_cards() -> tuple[list[int], str]:
    """Total memory of every card of the cluster, bytes, asked for on one card of each node; and why there is none.

    Cards of one node are taken to be alike. A card on which no kernel runs counts as none.

    Raises:
        UserError: a node with GPUs does not answer, because others use all of them.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if not nodes:
        return [], "no GPU in this cluster"
    asked = [
        # The smallest fraction that Ray gives: whatever runs on the card already may go on.
        ray.remote(card)
        .options(
            num_cpus=0,
            num_gpus=0.0001,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote()
        for node in nodes
    ]
    try:
        answers = ray.get(asked, timeout=PROBE_TIMEOUT_S)
    except ray.exceptions.GetTimeoutError:
        raise UserError(
            f"hardware=auto: no GPU was free within {PROBE_TIMEOUT_S:g} s to be asked for its memory: wait for the "
            "other jobs, or type hardware=gpu_small"
        ) from None
    cards: list[int] = []
    problems: list[str] = []
    for node, (size, problem) in zip(nodes, answers, strict=True):
        cards += [size] * int(node["Resources"]["GPU"]) if size else []
        problems += [problem] if problem else []
    return cards, "; ".join(sorted(set(problems)))


def disconnect() -> None:
    """Leave the cluster; ends a Ray that was started here."""
    node = getattr(ray._private.worker, "_global_node", None)
    if node is not None:
        # The autoscaler's monitor has nothing to scale here, and takes its second to end when it is asked to.
        with suppress(Exception):
            node.kill_monitor(check_alive=False)
    ray.shutdown()
