"""How many threads share an operation: the same in every thread of a process."""

from __future__ import annotations

from pipeline.late import torch


def settle_threads() -> None:
    """Let the calling thread split operations among as many threads as torch was told to, for the whole process.

    A new thread starts with as many as the machine has cores, and some of the libraries below torch ask nothing else;
    the last bits of a sum hang on that number.
    """
    torch.set_num_threads(torch.get_num_threads())
