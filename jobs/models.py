"""Weights of the pretrained models: what exists, where it is, its licence and size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

from pipeline.commands import as_typed, program
from pipeline.errors import UserError
from pipeline.models import weights

EPILOG = """examples:
  python jobs/models.py list                        all weights, and which are installed
  python jobs/models.py list --kind clap            the CLAP checkpoints
  python jobs/models.py list --kind speech          what the speech steps need
  python jobs/models.py fetch spleeter-2stems       download, check and convert
  python jobs/models.py path spleeter-2stems        where the file is, for scripts

The store is $SOUNDMILL_WEIGHTS, or ~/.cache/soundmill/weights. Exit codes: 0 done, 2 not possible as typed.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog=program("models"), description=__doc__, epilog=as_typed(EPILOG), formatter_class=raw
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{list,fetch,path}")
    show = commands.add_parser(
        "list",
        help="name, kind, size, licence, embedding space and whether it is installed",
        epilog=as_typed("example: python jobs/models.py list --kind separation"),
    )
    kinds = sorted({entry.kind for entry in weights.catalogue()})
    show.add_argument("--kind", choices=kinds, help="only these; example: --kind clap")
    fetch = commands.add_parser(
        "fetch",
        help="bring weights into the store",
        epilog=as_typed("example: python jobs/models.py fetch spleeter-2stems"),
    )
    fetch.add_argument("name", nargs="+", metavar="NAME", help="as in the list; example: spleeter-2stems")
    path = commands.add_parser(
        "path",
        help="print where the weights file is",
        epilog=as_typed("example: python jobs/models.py path clap-htsat-tiny"),
    )
    path.add_argument("name", metavar="NAME", help="as in the list; example: clap-htsat-tiny")
    return top


def table(kind: str | None = None) -> str:
    """The list as aligned text."""
    rows = [("name", "kind", "size", "installed", "what it gives", "embedding space", "licence")]
    for entry in weights.catalogue():
        if kind in (None, entry.kind):
            found = weights.find(entry.name)
            state = (_size(entry, found), "no" if found is None else "yes")
            rows.append((entry.name, entry.kind, *state, entry.description, _space(entry), entry.licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _size(entry: weights.WeightsEntry, found: Path | None) -> str:
    if found is not None:
        return f"{sum(path.stat().st_size for path in weights.files(entry.name)) / 1e6:.1f} MB"
    about = f"about {entry.size_bytes / 1e6:.0f} MB"
    return about if entry.size_is_rounded else f"{entry.size_bytes / 1e6:.1f} MB"


def _space(entry: weights.WeightsEntry) -> str:
    """Which vectors compare with which: of weights that are not here only the architecture is known."""
    if entry.kind != "clap":
        return "none"
    try:
        return weights.embedding_space(entry.name) or f"{entry.architecture}:…"
    except UserError:
        return "damaged"


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit code."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "list":
            print(table(options.kind))
            print(f"looked for {weights.where()}", file=sys.stderr)
        elif options.command == "fetch":
            for name in options.name:
                weights.fetch(name, print)
                space = weights.embedding_space(name)
                if space is not None:
                    print(f"{name}: embedding space {space}")
        else:
            found = weights.find(options.name)
            if found is None:
                raise UserError(
                    f"{options.name} is not installed: python jobs/models.py fetch {options.name}"
                )
            print(found)
            entry = weights.entry(options.name)
            # Not on standard output, which scripts read.
            said = f"{_size(entry, found)}, embedding space {_space(entry)}, licence {entry.licence}"
            print(said, file=sys.stderr)
    except UserError as error:
        print(f"{program('models')}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
