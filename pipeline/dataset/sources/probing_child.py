"""The process that reads headers for `probing`, the module beside it: a job on its input, JSON lines on its output."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed

from pipeline.audio.isolated_child import end_with_parent, limit_memory
from pipeline.dataset.sources.probing import Header, to_json

MEMORY_BYTES = 4 << 30
"""Of this process: a header that claims more is an error of its file. A few hundred MB is what it takes."""


def main(lifeline: str, parent: str) -> None:
    """Read the headers that the job names, a line for each as it is done: its number and what was found.

    Args:
        lifeline, parent: see `pipeline.audio.children.end_with_parent`. The input is no lifeline: the kernel sends its
            signal for data, too, and after it may have been read.
    """
    end_with_parent(int(lifeline), int(parent))
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    answers.write("ready\n")
    items, options, threads, reader = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    limit_memory(MEMORY_BYTES)
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
