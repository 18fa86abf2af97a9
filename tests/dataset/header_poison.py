"""Readers of headers that do what none may, by the name of the file; run in the child of `read_headers`."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from pipeline.dataset.sources.listing import SourceItem
from pipeline.dataset.sources.probing import Header, read_header


def read(item: SourceItem, options: dict[str, Any] | None) -> Header:
    """As always, but for three names."""
    match Path(item.uri).stem:
        case "segfault":
            ctypes.string_at(1)
        case "abort":
            os.abort()
        case "hang":
            Path(f"{item.uri}.started").touch()
            time.sleep(1000)
    return read_header(item, options)


def command_line(item: SourceItem, options: dict[str, Any] | None) -> Header:
    """What others can see of the process, and the option that they must not."""
    return Header(None, str((options or {}).get("secret")), Path("/proc/self/cmdline").read_text())


def wait(item: SourceItem, options: dict[str, Any] | None) -> Header:
    """As for a server that says nothing."""
    time.sleep(1000)
    return Header()
