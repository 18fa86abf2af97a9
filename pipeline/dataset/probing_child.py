"""The process that reads headers for `pipeline.dataset.probing`: a job on its input, JSON lines on its output."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import resource
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipeline.dataset.probing import Header, to_json

MEMORY_BYTES = 4 << 30
"""Of this process: a header that claims more is an error of its file. A few hundred MB is what it takes."""


def main() -> None:
    """Read the headers that the job names, a line for each as it is done: its number and what was found."""
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    items, options, threads, reader = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  from our own parent
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if allowed == resource.RLIM_INFINITY else min(MEMORY_BYTES, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, name = reader.partition(":")
    read = getattr(importlib.import_module(module), name)

    def answer(number: int, header: Header) -> None:
        answers.write(json.dumps((number, to_json(header))) + "\n")

    if threads == 1:  # strictly one after the other: whoever asks so wants to know which one was fatal
        for number, item in items.items():
            answer(number, read(item, options))
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting = {pool.submit(read, item, options): number for number, item in items.items()}
        for future in as_completed(waiting):
            answer(waiting[future], future.result())
