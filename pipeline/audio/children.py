"""Starting this interpreter again, for work that may crash, hang, or must begin afresh."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any


def child_command(module: str, *arguments: str) -> list[str]:
    """Command that runs ``main(*arguments)`` of ``module``, on the import path of this process.

    Args:
        arguments: everybody on the machine can read them: no secrets.
    """
    paths = 1 + len(arguments)
    code = (
        f"import sys; given = sys.argv[1:{paths}]; sys.path[:] = sys.argv[{paths}:]; "
        f"from {module} import main; main(*given)"
    )
    return [sys.executable, "-c", code, *arguments, *(p for p in sys.path if isinstance(p, str))]


class Child:
    """A process that runs ``main`` of a module with one text of JSON, and ends with this one, whatever ends that.

    Args:
        module: its ``main`` calls `end_with_parent` first.
        told: what the JSON says, beside the ``lifeline`` and the ``parent`` that `end_with_parent` takes; no secrets.
        environment: variables that it has in place of this process's, or beside them.
        passed: descriptors that it inherits, beside the standard ones.
        stderr: descriptor for what it writes there; None for this process's own.

    ``end()`` kills it and waits. It does so once, and by itself when nobody holds this object any more.
    """

    def __init__(
        self,
        module: str,
        told: Mapping[str, Any],
        environment: Mapping[str, str],
        passed: Sequence[int] = (),
        stderr: int | None = None,
    ) -> None:
        self.owner = os.getpid()
        read, lifeline = os.pipe()
        told = {**told, "lifeline": read, "parent": self.owner}
        try:
            self.process = subprocess.Popen(  # noqa: S603  our own interpreter, no shell
                child_command(module, json.dumps(told)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=os.environ | dict(environment),
                pass_fds=(*passed, read),
                # The terminal's Ctrl-C is for the parent, which then ends the child.
                start_new_session=True,
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(read)
        self.end = weakref.finalize(self, _end, self.owner, self.process, lifeline)

    def cause(self, name: str) -> str:
        """How it ended, in words that begin with ``name``; waits a while for the end."""
        try:
            code = self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            return f"{name} hung up"
        return how_it_ended(name, code)


def how_it_ended(name: str, code: int) -> str:
    """An exit code in words that begin with ``name``.

    Args:
        code: as `subprocess.Popen.returncode` has it: negative for a signal.
    """
    if code >= 0:
        return f"{name} exited with code {code}"
    try:
        kind = signal.Signals(-code).name
    except ValueError:
        kind = f"signal {-code}"
    by_whom = " (by the kernel for want of memory, or by hand)" if kind == "SIGKILL" else ""
    return f"{name} was ended by {kind}{by_whom}"


def end_with_parent(lifeline: int, parent: int) -> None:
    """Have the kernel end this process with the last holder of the pipe's other end.

    A thread that waits for it would not run while a decoder hangs with Python's lock in its hand, and
    PR_SET_PDEATHSIG follows the thread that started this process, not the process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have ended before.
    if select.select([lifeline], [], [], 0)[0] or os.getppid() != parent:
        os._exit(0)


def leave_no_core_file() -> None:
    """A crash must not leave a core file wherever this runs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end(owner: int, process: subprocess.Popen, lifeline: int) -> None:
    """End the child, unless this is a fork of the process that owns it."""
    if os.getpid() != owner:
        return
    os.close(lifeline)
    process.kill()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10.0)
