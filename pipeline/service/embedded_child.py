"""Becomes the embedded servers, once the kernel knows to end it with the service."""

from __future__ import annotations

import json
import os

from pipeline.audio.children import end_with_parent, leave_no_core_file


def main(settings: str) -> None:
    """Replace this process. ``settings`` is JSON, see `pipeline.service.embedded`."""
    told = json.loads(settings)
    end_with_parent(told["lifeline"], told["parent"])
    leave_no_core_file()
    command = told["command"]
    # What `end_with_parent` has set up holds for the program that takes its place: the pipe stays open.
    os.set_inheritable(told["lifeline"], True)
    os.execv(command[0], command)  # noqa: S606  no shell, and a binary of our own environment
