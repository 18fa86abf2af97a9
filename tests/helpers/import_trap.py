"""A process in which the import of some libraries is the end: what is proved not to need them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Runs argv[2:] as a script, while whoever imports one of argv[1], comma by comma, ends the process with 99.
TRAP = """
import importlib.machinery, os, runpy, sys

class Trap:
    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in trapped else None
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec):
        os.write(2, f"imported {spec.name}\\n".encode())
        os._exit(99)

    def exec_module(self, module): ...

trapped = sys.argv.pop(1).split(",")
sys.meta_path.insert(0, Trap())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
NETWORKS = "torch,ray,librosa,numba,transformers"


def trapped(repo: Path, names: str, *command: str) -> subprocess.CompletedProcess:
    """``command`` where importing one of ``names`` ends the process. ``find_spec`` of the packages still answers."""
    return subprocess.run(
        [sys.executable, "-c", TRAP, names, *command], cwd=repo, capture_output=True, text=True, timeout=120
    )
