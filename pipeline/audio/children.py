"""Starting this interpreter again, for work that may crash, hang, or must begin afresh."""

from __future__ import annotations

import sys


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
